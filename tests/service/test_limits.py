"""What nobody gets in: names that are paths, requests without end, bombs. And what stays in."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asking import Asked, Child, Client
from postgres import databases
from test_imports import begin, ended, stage
from trouble import Wire, is_clean, start_with

OCTETS = {"content-type": "application/octet-stream"}
MIB = 1 << 20

PATHS = (
    *("..%2f..", "..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2fcatalogue.db", "%00"),
    *("a%00b", "%ff%fe", "%0d%0aX-Evil:%201", "a" * 5000, "%25%32%65", "..\\..\\x", "%F0%9F%92%BE"),
)


@pytest.fixture
def said() -> dict[str, Any]:
    """Images of at most 2 MiB."""
    return {"limits": {"image_size": 2 * MIB, "properties": 20, "tags": 5}}


@databases
@pytest.mark.parametrize("path", PATHS)
def test_a_name_that_is_a_path_leads_nowhere(service: Asked, path: str) -> None:
    client = service.admin
    asked = [
        client.get(f"/v2/images/{path}"),
        client.get(f"/v2/images/{path}/file"),
        client.request("PUT", f"/v2/images/{path}/file", content=b"x", headers=OCTETS),
        client.request("PUT", f"/v2/images/{path}/stage", content=b"x", headers=OCTETS),
        client.delete(f"/v2/images/{path}"),
        client.get(f"/v2/images/{path}/members"),
        client.get(f"/v2/images/{path}/tasks"),
        client.post(f"/v2/images/{path}/import", {"method": {"name": "glance-direct"}}),
        client.delete(f"/v2/stores/{path}/{path}"),
        client.get(f"/v2/tasks/{path}"),
        client.get(f"/v2/metadefs/namespaces/{path}"),
        client.put(f"/v2/cache/{path}"),
        client.delete(f"/v2/cache/{path}"),
        client.get(f"/v2/schemas/{path}"),
    ]
    assert {answer.status_code for answer in asked} <= {300, 400, 404, 405, 409}
    assert all("root:" not in answer.text for answer in asked)


@databases
def test_queries_that_no_database_takes(service: Asked) -> None:
    for query in (
        "name=%00", "name=in:%00", "marker=%00", "owner=%00", "tag=%00", "anything=%00", "%00=a",
        "limit=99999999999999999999999", "size_min=99999999999999999999999", "limit=%00",
        "created_at=gt:99999-01-01", "created_at=gte:0001-01-01T00:00:00%2B14:00", "sort=%00",
        "name=%ff", "size_max=1e400", "min_ram=99999999999999999999", "size=99999999999999999999",
        "member_status=%00", "visibility=%00", "id=in:" + ",".join(["x"] * 2000),
    ):  # fmt: skip
        assert service.admin.get(f"/v2/images?{query}").status_code in (200, 400), query
    for query in ("marker=%00", "limit=99999999999999999999999", "sort_key=%00", "status=%00"):
        assert service.admin.get(f"/v2/tasks?{query}").status_code in (200, 400), query


@databases
def test_values_that_no_database_takes(service: Asked) -> None:
    for fields in (
        {"min_ram": 10**30}, {"min_disk": 1 << 31}, {"name": "\0"}, {"name": "\ud800"},
        {"a\0b": "c"}, {"x": "\0"}, {"tags": ["\0"]}, {"name": "a" * 256}, {"id": "\0" * 36},
        {"a" * 256: "b"}, {"tags": ["a" * 256]}, {"owner": "\0"}, {"min_ram": -1},
    ):  # fmt: skip
        content = json.dumps(fields)
        answer = service.admin.request(
            "POST", "/v2/images", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 403), (fields, answer.text)


def test_a_store_is_a_name_and_no_path(service: Asked) -> None:
    image = service.admin.image()
    for name in ("../default", "/etc", "staging", "file:///etc", "default/..", ""):
        answer = service.admin.request(
            "PUT", f"/v2/images/{image['id']}/file", content=b"x",
            headers=OCTETS | {"x-image-meta-store": name},
        )  # fmt: skip
        assert answer.status_code == 400, name
    assert service.admin.shown(image["id"])["status"] == "queued"


def test_an_identifier_is_no_path(service: Asked) -> None:
    for wrong in ("../x", "..", "a" * 36, "x/y", "00000000-0000-0000-0000-00000000000/"):
        answer = service.admin.post("/v2/images", {"id": wrong})
        assert answer.status_code == 400, wrong


# JSON


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("[" * 100_000, 400), ('{"a":' * 100_000, 400), ("[" * 500 + "]" * 500, 400),
        ('{"name": "' + "a" * (2 * MIB) + '"}', 413), ('{"min_ram": ' + "9" * 10_000 + "}", 400),
        ('{"min_ram": NaN}', 400), ('{"min_ram": 1e999}', 400), ("nul", 400), ('"text"', 400),
        ("", 400), ('{"name": "\\ud800"}', 400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v2/images", "/v2/tasks", "/v2/metadefs/namespaces"])
def test_json_that_is_too_much_or_none(service: Asked, path: str, body: str, status: int) -> None:
    answer = service.admin.request("POST", path, content=body.encode())
    assert answer.status_code == status, answer.text[:500]


def test_a_patch_without_end(service: Asked) -> None:
    image = service.admin.image()
    path = f"/v2/images/{image['id']}"
    many = [{"op": "add", "path": f"/p{number}", "value": "x"} for number in range(3000)]
    assert service.admin.patch(path, many).status_code == 413
    deep = [{"op": "add", "path": "/" + "a/" * 5000 + "b", "value": "x"}]
    assert service.admin.patch(path, deep).status_code == 400
    assert service.admin.shown(image["id"]) == image


def test_too_many_properties_and_tags(service: Asked) -> None:
    properties = {f"p{number}": "x" for number in range(21)}
    assert service.admin.post("/v2/images", properties).status_code == 413
    assert service.admin.post("/v2/images", {"tags": list("abcdef")}).status_code == 413


# Bytes that unfold


def bombs() -> Iterator[tuple[str, bytes]]:
    """64 MiB in few bytes."""
    zeros = bytes(64 * MIB)
    yield "gzip", gzip.compress(zeros)
    yield "bzip2", bz2.compress(zeros)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.raw", zeros)
    yield "zip", made.getvalue()


@pytest.mark.parametrize("bomb", [pytest.param(data, id=name) for name, data in bombs()])
def test_a_bomb_is_bounded_and_refused(service: Asked, bomb: bytes) -> None:
    image = service.admin.image(container_format="compressed")
    path = f"/v2/images/{image['id']}/stage"
    answer = service.admin.request("PUT", path, content=bomb, headers=OCTETS)
    if answer.status_code == 204:
        assert begin(service.admin, image["id"], "glance-direct").status_code == 202
        task = ended(service.admin, image["id"])
        assert task["status"] == "failure"
        assert "larger than the limit" in task["message"] or "refused" in task["message"]
    else:
        assert answer.status_code in (413, 415)
    assert service.admin.shown(image["id"])["status"] == "queued"
    assert is_clean(service)


# Quotas of projects


@pytest.fixture
def project(service: Asked) -> Client:
    """A member of a project that may have 100 bytes stored, 200 staged, 3 images and 1 coming."""
    limits = service.service.settings.limits.model_copy(
        update={
            "project_size": 100, "project_staging": 200, "project_count": 3, "project_uploads": 1
        }
    )  # fmt: skip
    object.__setattr__(service.service.settings, "limits", limits)
    return service.caller("blue")


@databases
def test_a_project_stores_no_more_than_it_may(service: Asked, project: Client) -> None:
    project.active(b"x" * 60)
    image = project.image()
    assert project.upload(image["id"], b"y" * 41).status_code == 413
    assert project.shown(image["id"])["status"] == "queued"
    unsaid = project.request(
        "PUT", f"/v2/images/{image['id']}/file", content=iter([b"y" * 41]), headers=OCTETS
    )
    assert unsaid.status_code == 413
    assert project.upload(image["id"], b"y" * 40).status_code == 204
    assert service.caller("red").upload(
        service.caller("red").image()["id"], b"z" * 100
    ).status_code == 204  # fmt: skip


def test_a_project_stages_no_more_than_it_may(service: Asked, project: Client) -> None:
    image = project.image()
    path = f"/v2/images/{image['id']}/stage"
    assert project.request("PUT", path, content=b"x" * 201, headers=OCTETS).status_code == 413
    assert project.shown(image["id"])["status"] == "queued"
    assert project.request("PUT", path, content=b"x" * 150, headers=OCTETS).status_code == 204
    # It may be staged; it may not be stored.
    answer = begin(project, image["id"], "glance-direct")
    assert answer.status_code == 413
    assert project.shown(image["id"])["status"] == "uploading"
    other = project.image()
    assert project.upload(other["id"], b"x").status_code == 413  # one is coming already
    assert project.delete(f"/v2/images/{image['id']}").status_code == 204
    assert project.upload(other["id"], b"x").status_code == 204


def test_a_project_makes_no_more_images_than_it_may(project: Client) -> None:
    for _ in range(3):
        project.image()
    assert project.post("/v2/images", {}).status_code == 413


def test_copies_count(service: Asked, project: Client) -> None:
    image = project.active(b"x" * 60)
    object.__setattr__(
        service.service, "stores", {**service.service.stores, "other": service.service.staging}
    )
    answer = begin(service.admin, image["id"], "copy-image", stores=["other"])
    assert answer.status_code == 413


def test_a_copy_is_one_that_comes(service: Asked, project: Client) -> None:
    image = project.active(b"x" * 10)
    object.__setattr__(
        service.service, "stores", {**service.service.stores, "other": service.service.staging}
    )
    stage(project, b"y")
    answer = begin(service.admin, image["id"], "copy-image", stores=["other"])
    assert answer.status_code == 413
    assert "image_count_uploading" in answer.text


# The wire


def test_a_head_without_end_is_refused(running_service: Child) -> None:
    wire = Wire(running_service, "GET /v2/images HTTP/1.1\nHost: x\nX-Long: ")
    sent = 0
    with pytest.raises(OSError):
        while sent < 64 * MIB:
            wire.socket.sendall(b"a" * 65536)
            sent += 65536
    assert sent < 16 * MIB


@pytest.mark.parametrize(
    "head",
    [
        "GET /v2/images HTTP/1.1\nHost: x\nX-Long: " + "a" * 70_000 + "\n\n",
        "GET /v2/images HTTP/1.1\nHost: x\n" + "X-Many: b\n" * 8000 + "\n",
        "GET /" + "a" * 70_000 + " HTTP/1.1\nHost: x\n\n",
        "GET /v2/images\0 HTTP/1.1\nHost: x\n\n",
        "PUT /v2/images HTTP/1.1\nHost: x\nContent-Length: -1\n\n",
        "PUT /v2/images HTTP/1.1\nHost: x\nContent-Length: 1\nContent-Length: 2\n\n",
        "PUT /v2/images HTTP/1.1\nHost: x\nContent-Length: 1\nTransfer-Encoding: chunked\n\n",
        "\0\0\0\0\n\n",
    ],
)
def test_a_head_that_is_too_large_or_none_is_refused(running_service: Child, head: str) -> None:
    wire = Wire(running_service, head)
    wire.socket.settimeout(10)
    try:
        answer = wire.socket.recv(1 << 16)
    except ConnectionError:
        answer = b""
    assert answer == b"" or answer.split()[1] in (b"400", b"405", b"414", b"431")
    wire.close()
    assert running_service.client.get("/healthz").status_code == 200


def test_a_body_of_chunks_without_end_is_bounded(running_service: Child) -> None:
    wire = Wire(
        running_service,
        "POST /v2/images HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n",
    )
    piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    try:
        for _ in range(64):
            wire.socket.sendall(piece)
        wire.socket.settimeout(20)
        answer = wire.socket.recv(1 << 16)
    except ConnectionError:
        return
    assert answer.startswith(b"HTTP/1.1 413 ")


# Secrets


def test_no_token_and_no_query_is_in_the_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
    child = start_with(
        tmp_path, imports={"private_addresses": True, "ports": [port]},
        logging={"level": "debug"},
    )  # fmt: skip
    client = child.client
    secret = {"X-Auth-Token": "hidden-token", "Authorization": "Bearer hidden-token"}
    for path in ("/v2/images", "/nowhere", "/v2/images/x/file", "/v2/tasks"):
        child.http.get(path, params={"secret": "hidden-query"}, headers=secret)
    child.http.post("/v2/images?secret=hidden-query", content="{", headers=secret)
    image_id = client.image()["id"]
    for uri in (
        f"http://127.0.0.1:{port}/disk?key=hidden-query",
        f"http://user:hidden-query@127.0.0.1:{port}/disk",
    ):
        begin(client, image_id, "web-download", uri=uri)
    assert ended(client, image_id)["status"] == "failure"
    stage(client, b"data")
    assert child.stop() == 0
    log = (tmp_path / "log").read_text()
    assert "/v2/images" in log
    assert "hidden" not in log


@pytest.mark.parametrize("kind", ["x-auth-token", "cookie", "x-image-meta-store", "range"])
def test_header_values_that_are_rubbish(service: Asked, kind: str) -> None:
    image = service.admin.active(b"data")
    chance = random.Random(kind)
    for _ in range(50):
        value = bytes(chance.choice(range(0x21, 0xFF)) for _ in range(chance.randrange(1, 200)))
        answer = service.admin.get(f"/v2/images/{image['id']}/file", headers={kind: value})
        assert answer.status_code < 500
