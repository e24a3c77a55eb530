"""A region of its own in Keystone's catalogue, for clients that find services nowhere else.

    with region(openstack, image=URL, compute=URL) as name:
        ...

Each is another one: all workers of a session share the Keystone.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from glance_peer import Openstack
from openstack_env import ADMIN, ask

__all__ = ["region"]

# Some clients look for these as well.
_NAMES = {"image": "glance", "compute": "nova", "network": "neutron"}


@contextlib.contextmanager
def region(openstack: Openstack, **urls: str) -> Iterator[str]:
    """The name of a region where each kind of service is at its address."""
    name = f"region-{uuid.uuid4()}"
    keystone, token = f"{openstack.keystone}/v3", openstack.token(ADMIN, ADMIN)
    made = []

    def make(kind: str, **fields: Any) -> str:
        answer, _ = ask(f"{keystone}/{kind}s", {kind: fields}, token)
        made.append(f"{keystone}/{kind}s/{answer[kind]['id']}")
        return str(answer[kind]["id"])

    make("region", id=name)
    try:
        for kind, url in urls.items():
            service = make("service", name=_NAMES[kind], type=kind)
            for interface in ("public", "internal", "admin"):
                make("endpoint", service_id=service, interface=interface, region_id=name, url=url)
        yield name
    finally:
        for url in reversed(made):
            ask(url, token=token, method="DELETE")
