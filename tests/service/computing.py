"""Nova and Cinder, as tests drive them: a process of `compute_driver` each.

They are configured as a deployment has them: the image service is found in Keystone's catalogue;
the user's token goes along, and with it a token of somebody who has the role ``service``; where
bytes lie, Cinder asks as an administrator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driving import Driver, driver
from glance_peer import Openstack
from openstack_env import ADMIN, HOME, PASSWORD

__all__ = ["Caller", "Service", "driven"]

_DRIVER = Path(__file__).with_name("compute_driver.py")

_SETTINGS = """\
[DEFAULT]
state_path = {folder}
instances_path = {folder}
glance_num_retries = 0
image_conversion_dir = {folder}
[glance]
region_name = here
num_retries = 0
{administrator}
[service_user]
send_service_user_token = true
{robot}
[oslo_concurrency]
lock_path = {folder}
"""

_LOGIN = """\
auth_type = password
auth_url = {keystone}/v3
username = {user}
password = {password}
project_name = {project}
user_domain_id = default
project_domain_id = default
"""


@dataclass(frozen=True)
class Caller:
    """Nova or Cinder, on behalf of somebody. Paths as arguments are open files."""

    driver: Driver
    who: dict[str, str]

    def __call__(self, call: str, *args: Any, **kwargs: Any) -> Any:
        """What the call returns."""
        return self.driver.value(**{"call": call, "as": self.who, "args": args, "kwargs": kwargs})

    def fails(self, call: str, *args: Any, **kwargs: Any) -> str:
        """The kind of exception that the call raises."""
        return self.driver.failure(**{"call": call, "as": self.who, "args": args, "kwargs": kwargs})


@dataclass(frozen=True)
class Service:
    """Nova or Cinder, running."""

    driver: Driver
    openstack: Openstack

    def of(self, user: str, project: str) -> Caller:
        """On behalf of a user in a project, both by name."""
        known = self.openstack
        who = {"user": known.users[user], "project": known.projects[project]}
        return Caller(self.driver, {**who, "token": known.token(user, project)})


@contextlib.contextmanager
def driven(which: str, folder: Path, openstack: Openstack, url: str) -> Iterator[Service]:
    """``nova`` or ``cinder``, working in `folder`, with the image service at `url`."""

    def login(user: str, project: str) -> str:
        keystone = openstack.keystone
        return _LOGIN.format(keystone=keystone, password=PASSWORD, user=user, project=project)

    settings = folder / f"{which}.conf"
    said = {"administrator": login(ADMIN, ADMIN), "robot": login("robot", "one-0")}
    settings.write_text(_SETTINGS.format(folder=folder, **said))
    with driver([HOME / "bin/python", _DRIVER, which, url, settings], folder) as running:
        yield Service(running, openstack)
