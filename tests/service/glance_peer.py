"""A real Keystone and a real Glance for the tests: one of each for all workers of a session.

    def test_something(openstack: Openstack) -> None:
        openstack.glance                        # where it listens
        openstack.token("alice", "one-7")

`openstack_databases` says who the people are. The first worker that asks starts the keeper,
the last one that lets go makes it stop.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import openstack_databases
import openstack_env
import openstack_keeper
import peers
from asking import Child, start_service

__all__ = ["Openstack", "openstack"]

_SECONDS = 240
"""The very first start makes the databases."""


@dataclass(frozen=True)
class Openstack:
    """Where they listen, and who may ask."""

    keystone: str
    glance: str
    projects: dict[str, str]
    users: dict[str, str]
    files: str
    """A web server that both services may fetch from."""
    files_folder: str
    """What it serves."""
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    def token(self, user: str, project: str) -> str:
        """A token for a user in a project, both by name."""
        key = user, project
        if key not in self._tokens:
            self._tokens[key] = openstack_env.token_of(self.keystone, user, project)
        return self._tokens[key]

    @contextlib.contextmanager
    def visible(self, folder: Path) -> Iterator[str]:
        """Another Glance under the same Keystone, which shows where images lie, on the web too."""
        port = openstack_env.free_port()
        url = f"http://127.0.0.1:{port}"
        home = folder / "glance"
        files = urlsplit(self.files).port or 0
        openstack_env.configure_glance(home, port, self.keystone, files, visible=True)
        shutil.copy(openstack_databases.prepared() / "glance/db", home / "db")
        server = openstack_env.start("glance", home)
        try:
            openstack_env.wait_for(server, home, f"{url}/versions")
            yield url
        finally:
            openstack_env.stop(server)

    @contextlib.contextmanager
    def serving(self, folder: Path, more: str = "", keys: str = "") -> Iterator[Child]:
        """``vmimg serve``, with the same Keystone, stores and limits as the Glance.

        ``more``: sections of the settings; ``keys``: what stands in front of all sections.
        """
        stores = "".join(
            f'[stores.{name}]\nurl = "file://{folder}/{name}"\n{said}'
            for name, said in (("fast", 'description = "on flash"\n'), ("slow", ""))
        )
        port = urlsplit(self.files).port
        said = _VMIMG.format(keystone=self.keystone, glance=self.glance, port=port)
        (folder / "vmimg.toml").write_text(keys + said + stores + more)
        child = start_service(folder, "--config", str(folder / "vmimg.toml"))
        try:
            yield child
        finally:
            child.http.close()
            child.stop()


_VMIMG = """\
default_store = "fast"
[identity]
mode = "keystone"
[identity.keystone]
auth_url = "{keystone}"
auth_type = "password"
username = "admin"
password = "secret"
project_name = "admin"
user_domain_id = "default"
project_domain_id = "default"
[imports]
hosts = ["127.0.0.1"]
ports = [80, 443, {port}]
private_addresses = true
[imports.regions]
here = "{glance}"
"""


@pytest.fixture(scope="session")
def openstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Openstack]:
    """Keystone and Glance, running."""
    peers.require("keystone", "glance")
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have a directory each, in that of the session.
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with _in_use(session / "openstack") as found:
        yield found


@contextlib.contextmanager
def _in_use(control: Path) -> Iterator[Openstack]:
    control.mkdir(exist_ok=True)
    ready = control / "ready.json"
    with (control / "users").open("ab") as users:
        with openstack_env.locked(control / "starting"):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not ready.exists():
                _start(control)
            found = Openstack(**json.loads(ready.read_text()))
        yield found
    _wait_for_the_end(control)


def _start(control: Path) -> None:
    log = control / "log"
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            [sys.executable, openstack_keeper.__file__, str(control)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + _SECONDS
    while not (control / "ready.json").exists():
        if keeper.poll() is not None or time.monotonic() > end:
            keeper.kill()
            pytest.fail(log.read_text(errors="replace")[-6000:], pytrace=False)
        time.sleep(0.05)


def _wait_for_the_end(control: Path) -> None:
    """Return when the keeper has stopped both, or somebody else uses them."""
    others = 0
    end = time.monotonic() + 20
    while (control / "ready.json").exists() and others < 3 and time.monotonic() < end:
        time.sleep(0.1)
        with (control / "users").open("ab") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
                others += 1
            except BlockingIOError:
                others = 0
    with contextlib.suppress(BlockingIOError), (control / "users").open("ab") as users:
        if not (control / "ready.json").exists():
            fcntl.flock(users, fcntl.LOCK_SH)  # the keeper holds it to its end
