"""The comparison itself: it tells what differs, and only that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accepted_differences import ACCEPTED
from compare import Answer, Difference, Run, differences
from scenarios import SCENARIOS, VISIBLE
from scenarios_limits import LIMITS

_ID = "11111111-2222-4333-8444-555555555555"
_OTHER = "99999999-2222-4333-8444-555555555555"


def _run(status: int, body: Any, url: str = "http://127.0.0.1:1", **headers: str) -> Run:
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if not isinstance(body, bytes):
        named.setdefault("content-type", "application/json")
    run = Run(url, lambda _: None, {"one": "p1"})
    run.answers.append(Answer(status, named, said, "alice GET /v2/images"))
    return run


def _told(glance: Run, ours: Run) -> list[str]:
    return [difference.field for difference in differences(glance, ours)]


def test_identifiers_times_and_hosts_may_differ() -> None:
    glance = _run(
        200, {"id": _ID, "created_at": "2001-01-01T00:00:00Z", "owner": "p1"},
        location=f"http://127.0.0.1:1/v2/images/{_ID}", x_openstack_request_id=f"req-{_ID}",
    )  # fmt: skip
    ours = _run(
        200, {"owner": "p1", "id": _OTHER, "created_at": "2020-02-02T00:00:00Z"},
        "http://127.0.0.1:2", location=f"http://127.0.0.1:2/v2/images/{_OTHER}",
        x_openstack_request_id=f"req-{_OTHER}",
    )  # fmt: skip
    assert _told(glance, ours) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"size": 3, "tags": ["a", "b"], "name": None}, []),
        ({"size": 3, "tags": ["b", "a"], "name": None}, []),
        ({"size": 4, "tags": ["a", "b"], "name": None}, ["body.size"]),
        ({"size": 3.0, "tags": ["a", "b"], "name": None}, ["body.size"]),
        ({"size": "3", "tags": ["a", "b"], "name": None}, ["body.size"]),
        ({"size": 3, "tags": ["a"], "name": None}, ["body.tags[1]"]),
        ({"size": 3, "tags": ["a", "b"]}, ["body.name"]),
        ({"size": 3, "tags": ["a", "b"], "name": None, "more": False}, ["body.more"]),
    ],
)
def test_a_field_that_differs_is_told(body: dict[str, Any], field: list[str]) -> None:
    glance = _run(200, {"size": 3, "tags": ["a", "b"], "name": None})
    assert _told(glance, _run(200, body)) == field


def test_a_time_of_another_form_is_told() -> None:
    glance = _run(200, {"updated_at": "2001-01-01T00:00:00Z"})
    assert _told(glance, _run(200, {"updated_at": "2001-01-01T00:00:00.5"})) == ["body.updated_at"]


def test_headers_that_matter_are_told() -> None:
    glance = _run(405, b"", allow="GET, POST")
    assert _told(glance, _run(405, b"", allow="POST, GET")) == []
    assert _told(glance, _run(405, b"", allow="GET")) == ["header allow"]
    assert _told(glance, _run(405, b"")) == ["header allow"]


def test_words_of_errors_may_differ_but_not_their_shape() -> None:
    head = b"<html><head><title>404 Not Found</title></head>"
    html = head + b"<body><h1>404 Not Found</h1>%s</body></html>"
    kind = {"content_type": "text/html; charset=UTF-8"}
    glance = _run(404, html % b"No image", **kind)
    assert _told(glance, _run(404, html % b"There is none", **kind)) == []
    assert _told(glance, _run(404, html % b"", **kind)) == ["error.words"]
    assert "header content-type" in _told(glance, _run(404, {"message": "x"}))


def test_another_status_is_the_only_difference_told() -> None:
    assert _told(_run(204, b""), _run(404, {"x": 1})) == ["status"]


def test_bytes_are_compared() -> None:
    kind = {"content_type": "application/octet-stream"}
    assert _told(_run(200, b"abc", **kind), _run(200, b"abd", **kind)) == ["body"]


def test_requests_that_were_never_sent_are_told() -> None:
    glance, ours = _run(200, {}), _run(200, {})
    ours.answers.clear()
    (told,) = differences(glance, ours)
    assert (told.field, told.glance, told.ours) == ("requests answered", 1, 0)


def test_every_accepted_difference_has_a_reason_and_a_scenario() -> None:
    for row in ACCEPTED:
        assert row.reason
        assert row.scenario == "*" or row.scenario in {*SCENARIOS, *VISIBLE, *LIMITS}


def test_an_accepted_difference_covers_no_other_value() -> None:
    row = next(row for row in ACCEPTED if row.field == "header accept-ranges")
    assert row.covers("any", Difference(1, "x", "header accept-ranges", "<absent>", "bytes"))
    assert not row.covers("any", Difference(1, "x", "header accept-ranges", "<absent>", "none"))
