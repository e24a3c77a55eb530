"""Clients of the service, for tests: of one in this process, and of ``vmimg serve``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from vmimg.service.identity.caller import ANYONE, Caller
from vmimg.service.service import Service

__all__ = [
    *("OLD_PATCH", "PATCH", "WHO", "Asked", "Child", "Client", "free_port", "start_service"),
    "who_asks",
]

PATCH = "application/openstack-images-v2.1-json-patch"
OLD_PATCH = "application/openstack-images-v2.0-json-patch"
WHO = "x-test-caller"
"""The header that says who asks, to the service in this process."""


async def who_asks(request: Request) -> Caller:
    """Whoever the header names; without one, an administrator of no project."""
    said = request.headers.get(WHO)
    if said is None:
        return ANYONE
    who = json.loads(said)
    return Caller(user=who["user"], project=who["project"], roles=frozenset(who["roles"]))


class Client:
    """One caller of the service. Methods are httpx's, paths begin with ``/``."""

    def __init__(self, http: httpx.Client, caller: Caller | None = None) -> None:
        self._http = http
        self._headers = {"accept": "application/json"}
        if caller is not None:
            said = {"user": caller.user, "project": caller.project, "roles": sorted(caller.roles)}
            self._headers[WHO] = json.dumps(said)

    def request(self, method: str, path: str, **how: Any) -> httpx.Response:
        """Any request."""
        headers = {**self._headers, **how.pop("headers", {})}
        return self._http.request(method, path, headers=headers, **how)

    def get(self, path: str, **how: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **how)

    def post(self, path: str, body: Any = None, **how: Any) -> httpx.Response:
        """POST, of JSON if there is a body."""
        return self.request("POST", path, **({"json": body} if body is not None else {}), **how)

    def put(self, path: str, body: Any = None, **how: Any) -> httpx.Response:
        """PUT, of JSON if there is a body."""
        return self.request("PUT", path, **({"json": body} if body is not None else {}), **how)

    def delete(self, path: str, **how: Any) -> httpx.Response:
        """DELETE."""
        return self.request("DELETE", path, **how)

    def patch(self, path: str, changes: Any, media: str = PATCH) -> httpx.Response:
        """PATCH, of a list of changes."""
        body = json.dumps(changes)
        return self.request("PATCH", path, content=body, headers={"content-type": media})

    def upload(self, image_id: str, data: bytes) -> httpx.Response:
        """Give the image its data."""
        return self.request(
            "PUT", f"/v2/images/{image_id}/file", content=data,
            headers={"content-type": "application/octet-stream"},
        )  # fmt: skip

    def image(self, **fields: Any) -> dict[str, Any]:
        """A new image, as the service shows it."""
        answer = self.post(
            "/v2/images", {"disk_format": "raw", "container_format": "bare"} | fields
        )
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def active(self, data: bytes = bytes(512), **fields: Any) -> dict[str, Any]:
        """A new image with data."""
        made = self.image(**fields)
        answer = self.upload(made["id"], data)
        assert answer.status_code == 204, answer.text
        return self.shown(made["id"])

    def shown(self, image_id: str) -> dict[str, Any]:
        """The image, as the service shows it now."""
        answer = self.get(f"/v2/images/{image_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def names(self, query: str = "") -> list[str]:
        """The names of what a listing has, in its order."""
        answer = self.get(f"/v2/images?{query}")
        assert answer.status_code == 200, answer.text
        return [image["name"] for image in answer.json()["images"]]


@dataclass(frozen=True)
class Asked:
    """A service in this process, and clients of it."""

    service: Service
    http: httpx.Client

    @property
    def admin(self) -> Client:
        """An administrator, of the project ``admins``."""
        return self.caller("admins", "admin", "member", "reader")

    def caller(self, project: str | None, *roles: str) -> Client:
        """Somebody of a project: a member, unless other roles are named."""
        return Client(
            self.http,
            Caller(
                user=f"user-of-{project}",
                project=project,
                roles=frozenset(roles or ("member", "reader")),
            ),
        )


@dataclass
class Child:
    """``vmimg serve`` as a program."""

    process: subprocess.Popen[bytes]
    url: str
    http: httpx.Client

    @property
    def client(self) -> Client:
        """A client of it: nobody is asked who he is."""
        return Client(self.http)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Tell it to stop; its exit code."""
        self.process.send_signal(how)
        return self.process.wait(60)


def start_service(folder: Path, *arguments: str, port: int | None = None) -> Child:
    """``vmimg serve`` with its data in ``folder``; ready when this returns."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "vmimg", "serve", "--port", str(port), "--data", str(folder / "data"),
        *arguments,
    ]  # fmt: skip
    log = folder / "log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out,
            env={k: v for k, v in os.environ.items() if not re.match("VMIMG_", k)},
        )  # fmt: skip
    http = httpx.Client(base_url=url, timeout=60)
    end = time.monotonic() + 30
    while True:
        try:
            http.get("/versions")
            return Child(process, url, http)
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(log.read_text(errors="replace"))
            time.sleep(0.02)


def free_port() -> int:
    """A port of this computer that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
