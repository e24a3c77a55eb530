"""What is stored as it is asked for goes from the kernel's memory to the client: the same bytes, on
a connection that goes on, and the service survives clients that leave.
"""

from __future__ import annotations

import random
import socket
import time

import httpx

from asking import Child

MIB = 1 << 20
DATA = random.Random(3).randbytes(5 * MIB + 321)


def test_ranges_and_wholes_come_on_one_connection(running_service: Child) -> None:
    image_id = running_service.client.active(DATA)["id"]
    path = f"/v2/images/{image_id}/file"
    with httpx.Client(
        base_url=running_service.url, timeout=60, limits=httpx.Limits(max_connections=1)
    ) as http:
        streams = set()
        for span in ((0, len(DATA)), (0, 1), (MIB - 1, 3 * MIB + 2), (len(DATA) - 1, len(DATA))):
            asked = {"range": f"bytes={span[0]}-{span[1] - 1}"}
            with http.stream("GET", path, headers=asked) as answer:
                streams.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
                assert answer.read() == DATA[slice(*span)]
                assert answer.headers["content-length"] == str(span[1] - span[0])
        assert http.head(path).headers["content-length"] == str(len(DATA))
        assert http.get(path).content == DATA
        assert len(streams) == 1


def test_clients_that_leave_in_the_middle_leave_nothing_behind(running_service: Child) -> None:
    image_id = running_service.client.active(bytes(32 * MIB))["id"]
    host, _, port = running_service.url.removeprefix("http://").partition(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), 60) as wire:
            wire.sendall(f"GET /v2/images/{image_id}/file HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert wire.recv(100).startswith(b"HTTP/1.1 200")
    end = time.monotonic() + 30
    while "vmimg_requests_under_way 1.0" not in running_service.client.get("/metrics").text:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(running_service.client.get(f"/v2/images/{image_id}/file").content) == 32 * MIB
