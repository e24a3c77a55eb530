"""Requests that are wrong whatever they ask for: bodies where none belong, no text in addresses."""

from __future__ import annotations

import re

from asking import Asked, Child
from postgres import databases
from trouble import Wire
from vmimg.service.api import OPERATIONS
from vmimg.service.http.operation import Operation

_BODYLESS = [each for each in OPERATIONS if not each.media and not each.ignores_body]
_IGNORING = [each for each in OPERATIONS if each.ignores_body]
_ID = "00000000-0000-4000-8000-000000000000"


def _path(operation: Operation) -> str:
    return re.sub(r"\{\w+\}", _ID, operation.path)


def test_a_body_that_does_not_belong_there_is_refused(service: Asked) -> None:
    for each in _BODYLESS:
        answer = service.admin.request(each.method, _path(each), content=b"{}")
        assert answer.status_code == 400, each
        assert "A body is not expected with this request." in answer.text, each
        # No bytes are no body.
        none = {"content-length": "0"}
        answer = service.admin.request(each.method, _path(each), content=b"", headers=none)
        assert "A body" not in answer.text, each


def test_every_operation_says_whether_it_takes_a_body() -> None:
    for each in OPERATIONS:
        assert not (each.media and each.ignores_body), each
        assert bool(each.media) or not each.body, each
        assert not each.media or each.method in ("POST", "PUT", "PATCH"), each
    # Whoever reads no more than a query passes over it.
    assert {each.method for each in _IGNORING} == {"GET"}


def test_a_body_is_passed_over_where_glance_does(service: Asked) -> None:
    for each in _IGNORING:
        plain = service.admin.get(_path(each))
        sent = service.admin.request("GET", _path(each), content=b"no JSON")
        assert (sent.status_code, sent.content) == (plain.status_code, plain.content), each


def test_a_body_without_a_length_counts_where_methods_have_one(service: Asked) -> None:
    image = service.admin.active()["id"]
    for pieces in ([b"{}"], []):
        path = f"/v2/images/{image}/actions/deactivate"
        headers = {"transfer-encoding": "chunked"}
        answer = service.admin.request("POST", path, content=iter(pieces), headers=headers)
        assert answer.status_code == 400
    answer = service.admin.request("GET", f"/v2/images/{image}", content=iter([b"{}"]))
    assert (answer.status_code, answer.json()["status"]) == (200, "active")


def test_what_is_refused_or_passed_over_does_not_harm_the_next_request(
    running_service: Child,
) -> None:
    for path, status in (("/v2/images", b"200"), ("/v2/info/stores", b"400")):
        wire = Wire(
            running_service,
            f"GET {path} HTTP/1.1\nHost: x\nContent-Length: 300000\n\n{'x' * 300_000}"
            "GET /versions HTTP/1.1\nHost: x\nConnection: close\n\n",
        )
        came = wire.answer()
        wire.close()
        assert re.findall(rb"HTTP/1.1 (\d+)", came) == [status, b"200"]


@databases
def test_a_query_that_is_no_text_is_refused(service: Asked) -> None:
    service.admin.post("/v2/metadefs/namespaces", {"namespace": "mine"})
    for wrong in ("%ff", "%c0%80", "%ed%a0%80", "%e2%82"):
        for path in (
            f"/v2/images?name={wrong}", f"/v2/images?{wrong}=1", f"/v2/images?tag={wrong}",
            f"/v2/tasks?type={wrong}", f"/v2/metadefs/namespaces?marker={wrong}",
            f"/v2/metadefs/namespaces/mine/tags?marker={wrong}",
            f"/v2/metadefs/namespaces/mine?resource_type={wrong}",
        ):  # fmt: skip
            answer = service.admin.get(path)
            assert answer.status_code == 400, path
            assert "not UTF-8" in answer.text
    assert service.admin.get("/v2/images?name=%e2%82%ac&x=%zz").status_code == 200


def test_a_path_that_is_no_text_names_nothing_and_makes_nothing(running_service: Child) -> None:
    client = running_service.client
    image = client.image()["id"]
    for method, path in (
        ("GET", "/v2/images/%ff"), ("DELETE", "/v2/images/%c0%80"), ("GET", "/%ff"),
        ("PUT", f"/v2/images/{image}/tags/%ff"), ("GET", "/v2.9/images/%ff"),
        ("GET", "/v2/nothing/%ff"), ("PATCH", "/v2/cache/%ff"),
    ):  # fmt: skip
        answer = client.request(method, path)
        assert answer.status_code == 400, path
        assert "not UTF-8" in answer.text
    assert client.shown(image)["tags"] == []
    assert client.put(f"/v2/images/{image}/tags/%e2%82%ac").status_code == 204
    assert client.shown(image)["tags"] == ["€"]
