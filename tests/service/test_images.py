"""Images: made, shown, deleted; what a maker may say, and who may see what."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asking import Asked
from postgres import databases

ID = "11111111-2222-4333-8444-555555555555"


@databases
def test_an_image_shows_what_it_was_made_with(service: Asked) -> None:
    owner = service.caller("blue")
    made = owner.image(
        id=ID, name="Debian ünïted 🐧", min_disk=3, min_ram=512.0, visibility="private",
        protected=True, os_hidden=True, tags=["b", "a", "b"], os_distro="debian", empty="",
    )  # fmt: skip
    times = {name: made[name] for name in ("created_at", "updated_at")}
    assert made == {
        **times,
        "id": ID, "name": "Debian ünïted 🐧", "min_disk": 3, "min_ram": 512,
        "visibility": "private", "protected": True, "os_hidden": True, "tags": ["a", "b"],
        "os_distro": "debian", "empty": "", "owner": "blue", "status": "queued",
        "disk_format": "raw", "container_format": "bare", "size": None, "virtual_size": None,
        "checksum": None, "os_hash_algo": None, "os_hash_value": None,
        "self": f"/v2/images/{ID}", "file": f"/v2/images/{ID}/file", "schema": "/v2/schemas/image",
    }  # fmt: skip
    assert owner.shown(ID) == made


@databases
def test_an_image_of_which_nothing_is_said_has_defaults(service: Asked) -> None:
    answer = service.caller("blue").post("/v2/images", {})
    assert answer.status_code == 201
    made = answer.json()
    assert uuid.UUID(made["id"]).version == 4
    assert (made["name"], made["disk_format"], made["tags"]) == (None, None, [])
    assert (made["visibility"], made["owner"]) == ("shared", "blue")
    assert answer.headers["location"] == f"http://testserver/v2/images/{made['id']}"
    assert answer.headers["openstack-image-store-ids"] == "default"
    assert "web-download" in answer.headers["openstack-image-import-methods"].split(",")


@databases
def test_an_identifier_is_given_out_once_even_if_its_image_is_deleted(service: Asked) -> None:
    owner, other = service.caller("blue"), service.caller("green")
    owner.image(id=ID)
    for asking in (owner, other):
        answer = asking.post("/v2/images", {"id": ID})
        assert (answer.status_code, "already exists" in answer.text) == (409, True)
    assert owner.delete(f"/v2/images/{ID}").status_code == 204
    assert owner.get(f"/v2/images/{ID}").status_code == 404
    assert owner.post("/v2/images", {"id": ID}).status_code == 409


_NO_IMAGES: list[Any] = [
    {"id": "1234"},
    {"name": "x" * 256},
    {"name": 3},
    {"foo": None},
    {"foo": 3},
    {"foo": {"a": "b"}},
    {"disk_format": "zip"},
    {"visibility": "secret"},
    {"protected": "yes"},
    {"min_ram": 1.5},
    {"min_ram": True},
    {"min_ram": -1},
    {"min_disk": 1 << 31},
    {"tags": "one"},
    {"tags": ["x" * 256]},
    {"x" * 256: "value"},
    {"foo": "a\0b"},
    {"foo": "\ud800"},
    ["name"],
]


def test_what_is_no_image_is_refused(service: Asked) -> None:
    taken = [
        (said, answer.status_code)
        for said in _NO_IMAGES
        if (answer := service.admin.request("POST", "/v2/images", content=json.dumps(said)))
        and answer.status_code != 400
    ]
    assert taken == []
    assert service.admin.names() == []


def test_a_refusal_names_the_schema_the_value_and_the_field(service: Asked) -> None:
    text = service.admin.post("/v2/images", {"foo": 3}).json()["message"]
    assert "Provided object does not match schema 'image': 3 is not of type" in text
    assert "foo" in text


def test_a_huge_wrong_value_makes_no_huge_answer(service: Asked) -> None:
    answer = service.admin.post("/v2/images", {"name": "x" * 900_000})
    assert answer.status_code == 400
    assert len(answer.content) < 2000


def test_a_body_that_is_no_json_is_refused(service: Asked) -> None:
    for body in (b"", b"{", b'"x"', b"null", b"[NaN]", b"[" * 100_000):
        answer = service.admin.request("POST", "/v2/images", content=body)
        assert (answer.status_code, body[:9]) == (400, body[:9])


def test_what_the_service_says_of_an_image_its_maker_cannot(service: Asked) -> None:
    values = {"size": 3, "virtual_size": 3, "locations": []}
    for name in (
        *("self", "file", "schema", "stores", "direct_url", "message"),
        *("status", "size", "virtual_size", "checksum", "created_at", "updated_at"),
        *("location", "deleted", "deleted_at", "os_glance_import_task", "locations"),
    ):
        answer = service.admin.post("/v2/images", {name: values.get(name, "active")})
        assert (answer.status_code, name) == (403, name)


def test_hashes_that_a_maker_claims_are_not_believed(service: Asked) -> None:
    made = service.admin.image(os_hash_algo="md5", os_hash_value="00")
    assert (made["os_hash_algo"], made["os_hash_value"]) == (None, None)


@pytest.mark.parametrize("said", [{"formats": {"disk": ["qcow2"], "container": ["bare"]}}])
def test_a_deployment_says_which_formats_there_are(service: Asked) -> None:
    assert service.admin.image(disk_format="qcow2")["disk_format"] == "qcow2"
    assert service.admin.post("/v2/images", {"disk_format": "raw"}).status_code == 400
    schema = service.admin.get("/v2/schemas/image").json()
    assert schema["properties"]["disk_format"]["enum"] == [None, "qcow2"]


@pytest.mark.parametrize("said", [{"limits": {"properties": 2, "tags": 2, "project_count": 2}}])
@databases
def test_quotas_hold(service: Asked) -> None:
    owner = service.caller("blue")
    assert owner.post("/v2/images", {"a": "1", "b": "2", "c": "3"}).status_code == 413
    assert owner.post("/v2/images", {"tags": ["a", "b", "c"]}).status_code == 413
    owner.image(a="1", b="2", tags=["a", "b"])
    last = owner.image()
    answer = owner.post("/v2/images", {})
    assert answer.status_code == 413
    assert "image_count_total" in answer.text
    service.caller("green").image()
    owner.delete(f"/v2/images/{last['id']}")
    owner.image()


def test_only_an_administrator_makes_images_for_others(service: Asked) -> None:
    member = service.caller("blue")
    for owner in ("green", "", None):
        answer = member.post("/v2/images", {"owner": owner})
        assert answer.status_code == 403
        assert "You are not permitted to create images owned by" in answer.text
    assert member.image(owner="blue")["owner"] == "blue"
    assert service.admin.image(owner="green")["owner"] == "green"
    assert service.admin.image(owner="")["owner"] is None


def test_visibility_is_a_matter_of_policy(service: Asked) -> None:
    member = service.caller("blue")
    answer = member.post("/v2/images", {"visibility": "public"})
    assert answer.status_code == 403
    assert "publicize_image" in answer.text
    assert member.image(visibility="community")["visibility"] == "community"
    assert service.admin.image(visibility="public")["visibility"] == "public"


@pytest.mark.parametrize(
    "said", [{"policy": {"publicize_image": "role:member", "communitize_image": "none"}}]
)
def test_a_deployment_changes_the_policy(service: Asked) -> None:
    member = service.caller("blue")
    assert member.image(visibility="public")["visibility"] == "public"
    assert member.post("/v2/images", {"visibility": "community"}).status_code == 403


def test_a_reader_makes_and_changes_nothing(service: Asked) -> None:
    reader = service.caller("blue", "reader")
    image = service.caller("blue").image()
    path = f"/v2/images/{image['id']}"
    assert reader.shown(image["id"]) == image
    for answer, rule in (
        (reader.post("/v2/images", {}), "add_image"),
        (reader.delete(path), "delete_image"),
        (reader.put(f"{path}/tags/x"), "modify_image"),
        (reader.post(f"{path}/actions/deactivate"), "deactivate"),
    ):
        assert (answer.status_code, rule in answer.text) == (403, True)


@databases
def test_who_sees_an_image(service: Asked) -> None:
    owner, other, admin = service.caller("blue"), service.caller("green"), service.admin
    reader = service.caller("blue", "reader")
    for visibility, seen in (
        ("private", False), ("shared", False), ("community", True), ("public", True),
    ):  # fmt: skip
        maker = admin if visibility == "public" else owner
        path = f"/v2/images/{maker.image(visibility=visibility, owner='blue')['id']}"
        for asking in (owner, reader, admin):
            assert asking.get(path).status_code == 200
        answer = other.get(path)
        assert answer.status_code == (200 if seen else 404)
        # To change what one sees is forbidden; what one does not see is not there.
        assert other.delete(path).status_code == (403 if seen else 404)


def test_an_image_that_is_not_there_and_one_that_is_hidden_look_the_same(service: Asked) -> None:
    other = service.caller("green")
    hidden = service.caller("blue").image(visibility="private")["id"]
    answers = [other.get(f"/v2/images/{image_id}") for image_id in (hidden, str(uuid.uuid4()))]
    texts = [a.text.replace(a.url.path.rpartition("/")[2], "ID") for a in answers]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert texts[0] == texts[1]


@databases
def test_any_identifier_can_be_asked_for(service: Asked) -> None:
    for image_id in ("x", "x" * 5000, "a%00b", "..%2f..%2fetc%2fpasswd"):
        assert service.admin.get(f"/v2/images/{image_id}").status_code == 404


@databases
def test_a_protected_image_is_not_deleted(service: Asked) -> None:
    image = service.admin.image(protected=True)
    answer = service.admin.delete(f"/v2/images/{image['id']}")
    assert answer.status_code == 403
    assert f"Image {image['id']} is protected and cannot be deleted." in answer.text
    service.admin.patch(
        f"/v2/images/{image['id']}", [{"op": "replace", "path": "/protected", "value": False}]
    )
    assert service.admin.delete(f"/v2/images/{image['id']}").status_code == 204
    answer = service.admin.delete(f"/v2/images/{image['id']}")
    assert (answer.status_code, "to delete" in answer.text) == (404, True)


@databases
def test_a_deleted_image_leaves_no_data(service: Asked) -> None:
    image = service.admin.active(bytes(4096), tags=["a"], os_distro="debian")
    store = service.service.stores["default"]
    assert len(list(store.list())) == 1
    assert service.admin.delete(f"/v2/images/{image['id']}").status_code == 204
    assert list(store.list()) == []
    assert service.admin.get(f"/v2/images/{image['id']}/file").status_code == 404


@databases
def test_an_image_out_of_use_is_not_handed_out_but_to_administrators(service: Asked) -> None:
    owner = service.caller("blue")
    image = owner.active(bytes(512))
    path = f"/v2/images/{image['id']}"
    for _ in range(2):
        assert owner.post(f"{path}/actions/deactivate").status_code == 204
    assert owner.shown(image["id"])["status"] == "deactivated"
    assert owner.get(f"{path}/file").status_code == 403
    assert service.admin.get(f"{path}/file").content == bytes(512)
    for _ in range(2):
        assert owner.post(f"{path}/actions/reactivate").status_code == 204
    assert owner.get(f"{path}/file").content == bytes(512)


def test_an_image_without_data_is_not_taken_out_of_use(service: Asked) -> None:
    image = service.admin.image()
    answer = service.admin.post(f"/v2/images/{image['id']}/actions/deactivate")
    assert answer.status_code == 403
    assert "Not allowed to deactivate image in status" in answer.text


@databases
def test_tags_are_given_and_taken_one_at_a_time(service: Asked) -> None:
    owner = service.caller("blue")
    image = owner.image(tags=["a"])
    path = f"/v2/images/{image['id']}/tags"
    for _ in range(2):
        assert owner.put(f"{path}/b%20c").status_code == 204
    assert owner.shown(image["id"])["tags"] == ["a", "b c"]
    assert owner.delete(f"{path}/a").status_code == 204
    assert owner.delete(f"{path}/a").status_code == 404
    assert owner.shown(image["id"])["tags"] == ["b c"]
    assert owner.put(f"{path}/{'x' * 256}").status_code == 400
    assert service.caller("green").put(f"{path}/x").status_code == 404


@pytest.mark.parametrize("said", [{"limits": {"tags": 2}}])
def test_one_tag_too_many_is_refused(service: Asked) -> None:
    image = service.admin.image(tags=["a", "b"])
    path = f"/v2/images/{image['id']}/tags"
    assert service.admin.put(f"{path}/b").status_code == 204
    assert service.admin.put(f"{path}/c").status_code == 413
    assert service.admin.shown(image["id"])["tags"] == ["a", "b"]


@pytest.mark.parametrize("said", [{"limits": {"project_size": 10 << 20, "project_count": 7}}])
@databases
def test_usage_is_told_in_the_units_of_keystones_limits(service: Asked) -> None:
    owner = service.caller("blue")
    owner.active(bytes(3 << 20))
    owner.image()
    service.caller("green").active(bytes(1 << 20))
    assert owner.get("/v2/info/usage").json() == {
        "usage": {
            "image_size_total": {"usage": 3, "limit": 10},
            "image_stage_total": {"usage": 0, "limit": -1},
            "image_count_total": {"usage": 2, "limit": 7},
            "image_count_uploading": {"usage": 0, "limit": -1},
        }
    }


def test_nothing_is_asked_of_a_program_about_the_media_type_of_json(service: Asked) -> None:
    answer = service.admin.request(
        "POST", "/v2/images", content=b'{"name": "n"}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 201


@databases
def test_of_two_that_delete_an_image_one_does(service: Asked) -> None:
    for _ in range(5):
        path = f"/v2/images/{service.admin.active(bytes(512))['id']}"
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(service.admin.delete, [path] * 4))
        assert sorted(answer.status_code for answer in answers) == [204, 404, 404, 404]
    assert list(service.service.stores["default"].list()) == []


@databases
def test_of_two_that_take_an_identifier_one_gets_it(service: Asked) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: service.admin.post("/v2/images", {"id": ID}), "1234"))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


@pytest.mark.parametrize("said", [{"limits": {"project_count": 3}}])
@databases
def test_a_projects_quota_is_exact_however_many_ask_at_once(service: Asked) -> None:
    owner = service.caller("blue")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: owner.post("/v2/images", {}), range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [413] * 9
    assert len(owner.names()) == 3


def test_why_data_was_refused_is_told_until_better_data_comes(service: Asked) -> None:
    image = service.admin.image(disk_format="qcow2")
    assert service.admin.upload(image["id"], b"no qcow2" * 512).status_code == 415
    refused = service.admin.shown(image["id"])
    assert (refused["status"], "qcow2" in refused["message"]) == ("queued", True)
    change = {"op": "replace", "path": "/disk_format", "value": "raw"}
    service.admin.patch(f"/v2/images/{image['id']}", [change])
    assert service.admin.upload(image["id"], bytes(4096)).status_code == 204
    assert "message" not in service.admin.shown(image["id"])
