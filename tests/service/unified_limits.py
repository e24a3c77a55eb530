"""Limits in the real Keystone, for tests: of a service that only this test has.

registry.register(image_count_total=5)             what each project has
registry.limit("one-9", image_count_total=7)       what one has
with registry.away(): ...                          Keystone does not answer, to who asks `url`
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openstack_env
from glance_peer import Openstack
from openstack_databases import prepared

__all__ = ["NAMES", "Registry", "Way"]

NAMES = ("image_size_total", "image_stage_total", "image_count_total", "image_count_uploading")


class Way:
    """A port that leads to another one, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = True
        self._through: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nobody gets through."""
        self._open = False
        for one in list(self._through):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        yield
        self._open = True

    def stop(self) -> None:
        with self.cut():
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
            except OSError:
                return
            if not self._open:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._to))
            for a, b in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        self._through.add(one)
        with contextlib.suppress(OSError), one:
            while data := one.recv(1 << 16):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        self._through.discard(one)


class Registry:
    """A service and its endpoint in Keystone, and a user who may read everybody's limits."""

    def __init__(self, openstack: Openstack) -> None:
        self._openstack = openstack
        self._token = openstack.token("admin", "admin")
        self._way = Way(urlsplit(openstack.keystone).port or 80)
        self.url = f"http://127.0.0.1:{self._way.port}"
        """Keystone's, as long as it is not `away`."""
        name = uuid.uuid4().hex[:8]
        self.user = f"limits-{name}"
        self.type = f"image-{name}"
        service = self._make("service", name=f"vmimg-{name}", type=self.type)
        self._of = {"service_id": service["id"], "region_id": "here"}
        self.endpoint = self._make("endpoint", interface="public", url="http://image", **self._of)
        user = self._make(
            "user", name=self.user, password=openstack_env.PASSWORD, domain_id="default"
        )
        roles = self._ask("/roles?name=reader")["roles"]
        self._ask(f"/system/users/{user['id']}/roles/{roles[0]['id']}", method="PUT")

    @property
    def login(self) -> dict[str, str]:
        """Options of keystoneauth, for `user`."""
        return {
            "auth_url": self.url,
            "auth_type": "password",
            "username": self.user,
            "password": openstack_env.PASSWORD,
            "user_domain_id": "default",
            "system_scope": "all",
        }

    @property
    def told(self) -> dict[str, Any]:
        """``limits.keystone`` of settings; answers are not kept."""
        return {"endpoint_id": self.endpoint["id"], "auth": self.login, "cache_seconds": 0}

    def register(self, **limits: int) -> None:
        """What each project has."""
        rows = [
            {**self._of, "resource_name": name, "default_limit": limit}
            for name, limit in limits.items()
        ]
        self._ask("/registered_limits", {"registered_limits": rows})

    def limit(self, project: str, **limits: int) -> None:
        """What one project has."""
        rows = [
            {
                **self._of, "project_id": self._openstack.projects[project],
                "resource_name": name, "resource_limit": limit,
            }
            for name, limit in limits.items()
        ]  # fmt: skip
        self._ask("/limits", {"limits": rows})

    def another_endpoint(self) -> None:
        """So that it is not clear any more which one is meant."""
        self._make("endpoint", interface="public", url="http://there", **self._of | _NOWHERE)

    def away(self) -> contextlib.AbstractContextManager[None]:
        """Keystone does not answer."""
        return self._way.cut()

    def close(self) -> None:
        self._way.stop()

    @contextlib.contextmanager
    def glance(self) -> Iterator[str]:
        """A Glance that takes its quotas from here: where it listens."""
        with tempfile.TemporaryDirectory(dir=openstack_env.MEMORY) as scratch:
            folder, port = Path(scratch) / "glance", openstack_env.free_port()
            openstack_env.configure_glance(folder, port, self._openstack.keystone, 1)
            with (folder / "glance-api.conf").open("a") as file:
                file.write("[DEFAULT]\nuse_keystone_limits = true\n[oslo_limit]\n")
                file.write(f"endpoint_id = {self.endpoint['id']}\n")
                file.write(f"endpoint_override = {self.url}/v3\n")
                file.writelines(f"{name} = {value}\n" for name, value in self.login.items())
            shutil.copy(prepared() / "glance/db", folder / "db")
            server = openstack_env.start("glance", folder)
            try:
                openstack_env.wait_for(server, folder, f"http://127.0.0.1:{port}/versions")
                yield f"http://127.0.0.1:{port}"
            finally:
                openstack_env.stop(server)

    def _make(self, kind: str, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = self._ask(f"/{kind}s", {kind: fields})[kind]
        return made

    def _ask(self, path: str, body: Any = None, method: str = "") -> Any:
        said, _ = openstack_env.ask(
            f"{self._openstack.keystone}/v3{path}", body, self._token, method
        )
        return said


_NOWHERE = {"region_id": None}
