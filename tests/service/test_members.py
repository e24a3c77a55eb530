"""Images shared with projects: who shares, who accepts, who sees what of it."""

from __future__ import annotations

from typing import Any

import pytest

from asking import Asked, Client
from postgres import databases


def _shared(owner: Client, *members: str) -> str:
    image = owner.image(name="shared")
    for member in members:
        answer = owner.post(f"/v2/images/{image['id']}/members", {"member": member})
        assert answer.status_code == 200
    return f"/v2/images/{image['id']}"


def _told(answer: Any) -> list[tuple[str, str]]:
    return [(member["member_id"], member["status"]) for member in answer.json()["members"]]


@databases
def test_an_owner_shares_an_image_and_the_member_accepts_it(service: Asked) -> None:
    owner, member = service.caller("blue"), service.caller("green")
    path = _shared(owner)
    image_id = path.rpartition("/")[2]
    assert member.get(path).status_code == 404
    answer = owner.post(f"{path}/members", {"member": "green"})
    times = {name: answer.json()[name] for name in ("created_at", "updated_at")}
    assert answer.json() == {
        **times, "member_id": "green", "image_id": image_id, "status": "pending",
        "schema": "/v2/schemas/member",
    }  # fmt: skip
    # It is not in the member's list before it is accepted, but can be shown.
    assert member.get(path).status_code == 200
    assert member.names() == []
    assert member.names("member_status=pending") == ["shared"]
    accepted = member.put(f"{path}/members/green", {"status": "accepted"})
    assert accepted.json()["status"] == "accepted"
    assert member.names() == ["shared"]
    assert member.put(f"{path}/members/green", {"status": "rejected"}).status_code == 200
    assert member.names() == []
    assert member.get(path).status_code == 200


@databases
def test_a_member_sees_its_own_membership_only(service: Asked) -> None:
    owner, green, red = (service.caller(name) for name in ("blue", "green", "red"))
    path = _shared(owner, "green", "red")
    assert _told(owner.get(f"{path}/members")) == [("green", "pending"), ("red", "pending")]
    assert _told(service.admin.get(f"{path}/members")) == [
        ("green", "pending"), ("red", "pending"),
    ]  # fmt: skip
    assert _told(green.get(f"{path}/members")) == [("green", "pending")]
    assert green.get(f"{path}/members/green").status_code == 200
    assert green.get(f"{path}/members/red").status_code == 404
    assert red.put(f"{path}/members/green", {"status": "accepted"}).status_code == 404
    assert service.caller("yellow").get(f"{path}/members").status_code == 404


@databases
def test_only_the_owner_adds_and_removes_members(service: Asked) -> None:
    owner, member = service.caller("blue"), service.caller("green")
    path = _shared(owner, "green")
    answer = member.post(f"{path}/members", {"member": "red"})
    assert (answer.status_code, "add_member" in answer.text) == (403, True)
    answer = member.delete(f"{path}/members/green")
    assert (answer.status_code, "delete_member" in answer.text) == (403, True)
    # And only the member says what it thinks of it.
    answer = owner.put(f"{path}/members/green", {"status": "accepted"})
    assert (answer.status_code, "modify_member" in answer.text) == (403, True)
    assert owner.delete(f"{path}/members/green").status_code == 204
    assert owner.delete(f"{path}/members/green").status_code == 404
    assert member.get(path).status_code == 404


@databases
def test_a_project_is_a_member_once_and_again_after_it_was_removed(service: Asked) -> None:
    owner = service.caller("blue")
    path = _shared(owner, "green")
    answer = owner.post(f"{path}/members", {"member": "green"})
    assert (answer.status_code, "is duplicated for image" in answer.text) == (409, True)
    owner.delete(f"{path}/members/green")
    assert owner.post(f"{path}/members", {"member": "green"}).status_code == 200


def test_only_shared_images_have_members(service: Asked) -> None:
    admin = service.admin
    for visibility in ("private", "community", "public"):
        path = f"/v2/images/{admin.image(visibility=visibility)['id']}/members"
        answers = (
            admin.get(path),
            admin.post(path, {"member": "green"}),
            admin.put(f"{path}/green", {"status": "accepted"}),
            admin.delete(f"{path}/green"),
            admin.get(f"{path}/green"),
        )
        assert [answer.status_code for answer in answers] == [403, 403, 403, 403, 404]


@databases
def test_members_wait_while_an_image_is_private(service: Asked) -> None:
    owner, member = service.caller("blue"), service.caller("green")
    path = _shared(owner, "green")
    member.put(f"{path}/members/green", {"status": "accepted"})

    def make(visibility: str) -> None:
        change = {"op": "replace", "path": "/visibility", "value": visibility}
        assert owner.patch(path, [change]).status_code == 200

    make("private")
    assert (member.get(path).status_code, member.names()) == (404, [])
    make("shared")
    assert (member.get(path).status_code, member.names()) == (200, ["shared"])


def test_what_names_no_project_is_refused(service: Asked) -> None:
    path = _shared(service.admin)
    for body, why in (
        ({}, "Member to be added not specified"),
        ({"member": ""}, "Member can"),
        ({"member": None}, "Member can"),
        ({"member": 3}, "project"),
        ({"member": "x" * 256}, "255"),
        (["green"], "Expected a member in the form"),
    ):
        answer = service.admin.post(f"{path}/members", body)
        assert (answer.status_code, why in answer.text) == (400, True), answer.text


def test_what_is_no_answer_is_refused(service: Asked) -> None:
    path = _shared(service.admin, "green")
    for body in ({}, {"status": "perhaps"}, {"status": 3}, ["accepted"]):
        assert service.admin.put(f"{path}/members/green", body).status_code == 400


@pytest.mark.parametrize("said", [{"limits": {"members": 2}}])
@databases
def test_one_member_too_many_is_refused(service: Asked) -> None:
    path = _shared(service.admin, "green", "red")
    answer = service.admin.post(f"{path}/members", {"member": "yellow"})
    assert (answer.status_code, "Maximum: 2" in answer.text) == (413, True)


def test_members_change_nothing_of_the_image(service: Asked) -> None:
    owner, member = service.caller("blue"), service.caller("green")
    path = _shared(owner, "green")
    change = {"op": "replace", "path": "/name", "value": "mine"}
    answer = member.patch(path, [change])
    assert (answer.status_code, "modify_image" in answer.text) == (403, True)
    assert member.delete(path).status_code == 403
    assert owner.get(path).json()["name"] == "shared"
