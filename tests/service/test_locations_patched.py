"""Locations that images show, and that patches take away, where clients may see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asking import Asked
from vmimg.service.catalogue import images

DATA = bytes(range(256)) * 16


@pytest.fixture
def said(tmp_path: Path) -> dict[str, Any]:
    """Two stores, whose addresses clients see."""
    stores = {name: {"url": f"file://{tmp_path / name}"} for name in ("one", "two")}
    return {"show_locations": True, "stores": stores}


def _in_both(service: Asked) -> str:
    image = service.admin.active(DATA)
    with service.service.stores["two"].put("copy") as putting:
        putting.write(DATA)
        putting.commit()
    with service.service.database.begin() as connection:
        images.add_location(connection, image["id"], "two", "copy")
    return f"/v2/images/{image['id']}"


def _remove(at: str) -> list[dict[str, str]]:
    return [{"op": "remove", "path": f"/locations/{at}"}]


def test_locations_are_shown_with_their_stores(service: Asked, tmp_path: Path) -> None:
    image = service.admin.get(_in_both(service)).json()
    assert image["stores"] == "one,two"
    assert [place["metadata"] for place in image["locations"]] == [
        {"store": "one"},
        {"store": "two"},
    ]
    assert image["direct_url"] == image["locations"][0]["url"]
    assert image["locations"][1]["url"].startswith(f"file://{tmp_path / 'two'}")
    assert service.admin.image()["locations"] == []


def test_a_location_is_removed_with_its_bytes_but_not_the_last(service: Asked) -> None:
    path = _in_both(service)
    answer = service.admin.patch(path, _remove("0"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["stores"] == "two"
    assert list(service.service.stores["one"].list()) == []
    assert service.admin.get(f"{path}/file").content == DATA
    answer = service.admin.patch(path, _remove("0"))
    assert (answer.status_code, "Cannot remove last location" in answer.text) == (403, True)


def test_only_administrators_remove_locations_that_there_are(service: Asked) -> None:
    path = _in_both(service)
    for at in ("2", "x", "-1", "99999999999999999999", "٣"):
        assert service.admin.patch(path, _remove(at)).status_code == 400
    assert service.caller("admins").patch(path, _remove("0")).status_code == 403
    assert service.admin.get(path).json()["stores"] == "one,two"


def test_a_patch_adds_no_bytes_that_nobody_checked(service: Asked) -> None:
    path = _in_both(service)
    place = {"url": "file:///etc/passwd", "metadata": {}}
    for change in (
        {"op": "add", "path": "/locations/-", "value": place},
        {"op": "replace", "path": "/locations", "value": [place]},
    ):
        answer = service.admin.patch(path, [change])
        assert (answer.status_code, "Invalid location" in answer.text) == (400, True)
    assert service.admin.get(f"{path}/file").content == DATA


def test_where_bytes_of_an_image_out_of_use_are_is_not_told(service: Asked) -> None:
    path = _in_both(service)
    service.admin.post(f"{path}/actions/deactivate")
    shown = service.caller("admins").get(path).json()
    assert (shown["locations"], "direct_url" in shown, "stores" in shown) == ([], False, False)
    assert service.admin.get(path).json()["stores"] == "one,two"
