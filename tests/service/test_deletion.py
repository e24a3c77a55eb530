"""Deleted images whose data is kept for a while: nobody finds them, and administrators get them
back whole; then they are gone.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asking import Asked
from postgres import databases
from vmimg.service.upkeep import Upkeep

DATA = b"data" * 1000


@pytest.fixture
def said(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Data is kept for so many seconds; a minute unless the test says otherwise."""
    return {"catalogue": {"keep_deleted_seconds": getattr(request, "param", 60)}}


def files(tmp_path: Path) -> int:
    return sum(path.is_file() for path in (tmp_path / "data" / "images").rglob("*"))


def restored(service: Asked, image_id: str) -> int:
    return service.admin.post(f"/v2/images/{image_id}/actions/restore").status_code


def count(service: Asked) -> int:
    usage = service.caller("blue").get("/v2/info/usage").json()["usage"]
    return int(usage["image_count_total"]["usage"])


@databases
def test_a_deletion_is_taken_back(service: Asked, tmp_path: Path) -> None:
    blue, green = service.caller("blue"), service.caller("green")
    made = blue.active(DATA, name="web", visibility="shared", os="debian", tags=["a"])
    image_id = made["id"]
    path = f"/v2/images/{image_id}"
    blue.post(f"{path}/members", {"member": "green"})
    before = blue.shown(image_id)
    assert blue.delete(path).status_code == 204
    for who in (blue, green, service.admin):
        assert who.get(path).status_code == 404
        assert who.get(f"{path}/file").status_code == 404
        assert who.delete(path).status_code == 404
        assert who.names("?visibility=all") == []
    assert service.admin.post("/v2/images", {"id": image_id}).status_code == 409
    assert (count(service), files(tmp_path)) == (0, 1)
    Upkeep(service.service).round()

    assert blue.post(f"{path}/actions/restore").status_code == 403
    assert restored(service, image_id) == 204
    after = blue.shown(image_id)
    assert {**after, "updated_at": ""} == {**before, "updated_at": ""}
    assert blue.get(f"{path}/file").content == DATA
    assert green.get(f"{path}/members/green").status_code == 200
    assert count(service) == 1
    assert restored(service, image_id) == 404

    # And deleted once more it can be taken back once more.
    assert blue.delete(path).status_code == 204
    assert restored(service, image_id) == 204
    assert blue.get(f"{path}/file").content == DATA


@databases
@pytest.mark.parametrize("said", [0.5], indirect=True)
def test_in_the_end_it_is_gone(service: Asked, tmp_path: Path) -> None:
    blue = service.caller("blue")
    image_id = blue.active(DATA)["id"]
    blue.delete(f"/v2/images/{image_id}")
    Upkeep(service.service).round()
    assert files(tmp_path) == 1
    time.sleep(0.6)
    Upkeep(service.service).round()
    assert files(tmp_path) == 0
    assert restored(service, image_id) == 404
    assert blue.post("/v2/images", {"id": image_id}).status_code == 409


def test_out_of_use_it_comes_back_out_of_use(service: Asked) -> None:
    image_id = service.admin.active(DATA)["id"]
    service.admin.post(f"/v2/images/{image_id}/actions/deactivate")
    service.admin.delete(f"/v2/images/{image_id}")
    assert restored(service, image_id) == 204
    assert service.admin.shown(image_id)["status"] == "deactivated"


def test_without_data_there_is_nothing_to_take_back(service: Asked) -> None:
    image_id = service.admin.image()["id"]
    assert service.admin.delete(f"/v2/images/{image_id}").status_code == 204
    assert restored(service, image_id) == 404


@pytest.mark.parametrize("said", [0], indirect=True)
def test_unless_it_is_asked_for_data_goes_at_once(service: Asked, tmp_path: Path) -> None:
    image_id = service.admin.active(DATA)["id"]
    assert service.admin.delete(f"/v2/images/{image_id}").status_code == 204
    assert files(tmp_path) == 0
    assert restored(service, image_id) == 404


def test_what_was_kept_goes_when_nothing_is_kept_any_more(service: Asked, tmp_path: Path) -> None:
    """The settings of today decide, not those of the day when it was deleted."""
    image_id = service.admin.active(DATA)["id"]
    service.admin.delete(f"/v2/images/{image_id}")
    Upkeep(service.service).round()
    assert files(tmp_path) == 1
    settings = service.service.settings
    today = settings.catalogue.model_copy(update={"keep_deleted_seconds": 0})
    Upkeep(
        replace(service.service, settings=settings.model_copy(update={"catalogue": today}))
    ).round()
    assert files(tmp_path) == 0
