"""Changes of images: JSON patches of both kinds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asking import OLD_PATCH, Asked, Client
from postgres import databases


def _change(op: str, path: str, *value: Any) -> dict[str, Any]:
    return {"op": op, "path": path, **({"value": value[0]} if value else {})}


def _path(asking: Client, **fields: Any) -> str:
    return f"/v2/images/{asking.image(**fields)['id']}"


@databases
def test_every_field_that_is_the_owners_can_be_changed(service: Asked) -> None:
    owner = service.caller("blue")
    path = _path(owner, name="before", tags=["a"])
    new = {
        "name": None, "disk_format": "qcow2", "container_format": "ovf", "min_ram": 1,
        "min_disk": 2, "protected": True, "os_hidden": True, "visibility": "private",
        "tags": ["b", "c"],
    }  # fmt: skip
    answer = owner.patch(path, [_change("replace", f"/{name}", new[name]) for name in new])
    assert answer.status_code == 200, answer.text
    changed = answer.json()
    assert {name: changed[name] for name in new} == new
    assert owner.get(path).json() == changed


@databases
def test_custom_properties_are_added_replaced_and_removed(service: Asked) -> None:
    owner = service.caller("blue")
    path = _path(owner, keep="1", change="1", drop="1")
    answer = owner.patch(
        path,
        [
            _change("add", "/new", "2"),
            _change("add", "/keep", "1"),
            _change("replace", "/change", "2"),
            _change("remove", "/drop"),
            _change("add", "/gone", "x"),
            _change("remove", "/gone"),
        ],
    )
    shown = answer.json()
    assert {name: shown.get(name) for name in ("new", "keep", "change", "drop", "gone")} == {
        "new": "2", "keep": "1", "change": "2", "drop": None, "gone": None,
    }  # fmt: skip


def test_names_with_slashes_and_tildes_are_escaped(service: Asked) -> None:
    path = _path(service.admin)
    service.admin.patch(path, [_change("add", "/a~1b", "1"), _change("add", "/~01", "2")])
    shown = service.admin.get(path).json()
    assert (shown["a/b"], shown["~1"]) == ("1", "2")


@databases
def test_of_changes_all_are_made_or_none(service: Asked) -> None:
    path = _path(service.admin, name="before")
    answer = service.admin.patch(
        path,
        [
            _change("replace", "/name", "after"),
            _change("add", "/new", "1"),
            _change("replace", "/nothing", "2"),
        ],
    )
    assert (answer.status_code, "Property nothing does not exist." in answer.text) == (409, True)
    shown = service.admin.get(path).json()
    assert (shown["name"], "new" in shown) == ("before", False)


_REFUSED: list[tuple[Any, int]] = [
    (_change("replace", "/nothing", "x"), 409),
    (_change("remove", "/nothing"), 409),
    (_change("remove", "/name"), 403),
    (_change("remove", "/tags"), 403),
    (_change("replace", "/id", "x"), 403),
    (_change("replace", "/status", "active"), 403),
    (_change("replace", "/size", 3), 403),
    (_change("add", "/checksum", "x"), 403),
    (_change("add", "/os_hash_value", "x"), 403),
    (_change("add", "/stores", "x"), 403),
    (_change("add", "/message", "x"), 403),
    (_change("add", "/deleted", "x"), 403),
    (_change("add", "/location", "x"), 403),
    (_change("add", "/os_glance_import_task", "x"), 403),
    (_change("remove", "/os_glance_import_task"), 403),
    (_change("add", "/new", 3), 400),
    (_change("add", "/new", None), 400),
    (_change("add", f"/{'x' * 256}", "x"), 400),
    (_change("replace", "/min_ram", -1), 400),
    (_change("replace", "/min_ram", 1 << 31), 400),
    (_change("replace", "/disk_format", "zip"), 400),
    (_change("replace", "/visibility", "odd"), 400),
    (_change("add", "/new"), 400),
    (_change("move", "/name", "x"), 400),
    (_change("add", "name", "x"), 400),
    (_change("add", "/a//b", "x"), 400),
    (_change("add", "/a/", "x"), 400),
    (_change("add", "/a/b", "x"), 400),
    (_change("add", "/tags/-", "x"), 400),
    (_change("add", "/a~2", "x"), 400),
    (_change("add", "/a~", "x"), 400),
    ({"op": "add", "path": 3, "value": "x"}, 400),
    ({"op": "add", "value": "x"}, 400),
    ({"path": "/x", "value": "x"}, 400),
    ("add", 400),
    (_change("replace", "/locations", []), 403),
    (_change("add", "/locations/-", {"url": "file:///etc/passwd", "metadata": {}}), 403),
]


def test_what_cannot_be_changed_is_refused(service: Asked) -> None:
    path = _path(service.admin, name="before")
    for change, status in _REFUSED:
        assert (service.admin.patch(path, [change]).status_code, change) == (status, change)
    assert service.admin.get(path).json()["name"] == "before"


def test_a_patch_is_read_before_its_image_is_looked_for(service: Asked) -> None:
    path = "/v2/images/nothing"
    assert service.admin.patch(path, [_change("replace", "/id", "x")]).status_code == 403
    assert service.admin.patch(path, [_change("replace", "/name", "x")]).status_code == 404


def test_no_change_is_no_change(service: Asked) -> None:
    path = _path(service.admin)
    before = service.admin.get(path).json()
    assert service.admin.patch(path, []).json() == before


def test_other_media_types_are_refused_with_those_that_are_taken(service: Asked) -> None:
    path = _path(service.admin)
    answer = service.admin.patch(path, [], media="application/json")
    assert answer.status_code == 415
    assert answer.headers["accept-patch"] == (
        "application/openstack-images-v2.0-json-patch, application/openstack-images-v2.1-json-patch"
    )


@databases
def test_the_older_media_type_adds_nothing_that_is_there(service: Asked) -> None:
    path = _path(service.admin, name="before")

    def old(**change: Any) -> int:
        return service.admin.patch(path, [change], media=OLD_PATCH).status_code

    assert old(add="/new", value="1") == 200
    assert old(add="/new", value="2") == 409
    assert old(add="/name", value="2") == 409
    assert old(replace="/new", value="3") == 200
    assert service.admin.get(path).json()["new"] == "3"
    assert old(remove="/new") == 200
    assert old(remove="/new") == 409
    assert old(add="/a", remove="/b", value="1") == 400
    assert old(op="add", path="/a", value="1") == 400


def test_formats_are_changed_only_before_there_is_data(service: Asked) -> None:
    image = service.admin.active(bytes(512))
    path = f"/v2/images/{image['id']}"
    for name, value in (("disk_format", "qcow2"), ("container_format", "bare")):
        answer = service.admin.patch(path, [_change("replace", f"/{name}", value)])
        assert answer.status_code == 403
        assert f"Attribute {name} can be only replaced for a queued image." in answer.text
    assert service.admin.patch(path, [_change("replace", "/name", "x")]).status_code == 200


def test_only_administrators_give_images_away(service: Asked) -> None:
    owner = service.caller("blue")
    path = _path(owner)
    for op in ("replace", "add"):
        assert owner.patch(path, [_change(op, "/owner", "green")]).status_code == 403
    assert service.admin.patch(path, [_change("replace", "/owner", "green")]).status_code == 200
    assert owner.get(path).status_code == 404
    assert service.caller("green").get(path).json()["owner"] == "green"


def test_making_an_image_public_is_a_matter_of_policy(service: Asked) -> None:
    owner = service.caller("blue")
    path = _path(owner)
    answer = owner.patch(path, [_change("replace", "/visibility", "public")])
    assert (answer.status_code, "publicize_image" in answer.text) == (403, True)
    assert owner.patch(path, [_change("replace", "/visibility", "community")]).status_code == 200
    answer = service.admin.patch(path, [_change("replace", "/visibility", "public")])
    assert answer.json()["visibility"] == "public"


@pytest.mark.parametrize("said", [{"limits": {"properties": 2, "tags": 2}}])
def test_quotas_hold_for_what_is_added(service: Asked) -> None:
    path = _path(service.admin, a="1", b="2")
    assert service.admin.patch(path, [_change("add", "/c", "3")]).status_code == 413
    assert service.admin.patch(path, [_change("replace", "/a", "3")]).status_code == 200
    swap = [_change("remove", "/a"), _change("add", "/c", "3")]
    assert service.admin.patch(path, swap).status_code == 200
    many = [_change("replace", "/tags", ["a", "b", "c"])]
    assert service.admin.patch(path, many).status_code == 413


@databases
def test_two_changes_at_once_are_both_kept(service: Asked) -> None:
    path = _path(service.admin)
    changes = [[_change("add", f"/p{number}", "x")] for number in range(16)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda change: service.admin.patch(path, change), changes))
    assert {answer.status_code for answer in answers} == {200}
    shown = service.admin.get(path).json()
    assert sum(name.startswith("p") and name != "protected" for name in shown) == 16
