"""A stand-in for Nova, for what Packer asks of it.

It boots nothing. A snapshot of a server is made as Nova does: an image is created and uploaded with
the token of whoever asks.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Compute", "compute"]


@dataclass
class Compute:
    """A stand-in for Nova: servers that are never more than their names."""

    image_url: str
    disk: bytes
    """What every server's disk holds."""
    url: str = ""
    booted_from: list[str] = field(default_factory=list)
    """The images of all servers."""
    servers: dict[str, str] = field(default_factory=dict)
    """The states of the servers there are."""

    def snapshot(self, token: str, asked: dict[str, Any]) -> str:
        """The identifier of a new image, of a server's disk."""
        with httpx.Client(base_url=self.image_url, headers={"x-auth-token": token}) as glance:
            fields = {"name": asked["name"], "disk_format": "raw", "container_format": "bare"}
            answer = glance.post(
                "/v2/images", json=fields | {"image_type": "snapshot"} | (asked["metadata"] or {})
            )
            answer.raise_for_status()
            image = str(answer.json()["id"])
            octets = {"content-type": "application/octet-stream"}
            path = f"/v2/images/{image}/file"
            glance.put(path, content=self.disk, headers=octets).raise_for_status()
        return image


@contextlib.contextmanager
def compute(image_url: str, disk: bytes) -> Iterator[Compute]:
    """The stand-in, listening at its `url`."""
    stand_in = Compute(image_url, disk)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(stand_in))
    stand_in.url = f"http://127.0.0.1:{server.server_port}/v2.1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(nova: Compute) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def say(self, code: int, body: Any = None, **headers: str) -> None:
            said = b"" if body is None else json.dumps(body).encode()
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(said))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said)

        def server_named(self) -> str:
            found = re.match("/v2.1/servers/([^/]+)", self.path)
            return found[1] if found else ""

        def do_GET(self) -> None:
            named = self.server_named()
            if self.path == "/v2.1/flavors/small":
                flavor = {"id": "small", "name": "small", "ram": 64, "vcpus": 1, "disk": 1}
                self.say(200, {"flavor": flavor})
            elif named in nova.servers:
                server = {"id": named, "status": nova.servers[named], "addresses": {}}
                self.say(200, {"server": server})
            else:
                self.say(404, {"itemNotFound": {"message": self.path, "code": 404}})

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v2.1/servers":
                made = str(uuid.uuid4())
                nova.booted_from.append(said["server"]["imageRef"])
                nova.servers[made] = "ACTIVE"
                self.say(202, {"server": {"id": made}})
            elif "os-stop" in said:
                nova.servers[self.server_named()] = "SHUTOFF"
                self.say(202)
            elif "createImage" in said:
                image = nova.snapshot(self.headers["X-Auth-Token"], said["createImage"])
                self.say(202, Location=f"{nova.url}/images/{image}")
            else:
                self.say(400, {"badRequest": {"message": str(said), "code": 400}})

        def do_DELETE(self) -> None:
            nova.servers.pop(self.server_named())
            self.say(204)

    return Handler
