"""Properties, objects, tags and resource types of namespaces, over the API."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asking import Asked, Client
from postgres import databases

ALL = "/v2/metadefs/namespaces"
N = f"{ALL}/N"
PROPERTY = {"name": "p", "title": "P", "type": "string"}
PLACES = ("properties/p", "objects/o", "tags/t", "resource_types/r")


@pytest.fixture
def admin(service: Asked) -> Client:
    """An administrator, with an empty public namespace N."""
    assert service.admin.post(ALL, {"namespace": "N", "visibility": "public"}).status_code == 201
    return service.admin


def filled(admin: Client) -> None:
    for path, body in (
        ("properties", PROPERTY),
        ("objects", {"name": "o"}),
        ("tags/t", None),
        ("resource_types", {"name": "r", "prefix": "r_"}),
    ):
        assert admin.post(f"{N}/{path}", body).status_code == 201


def tags(client: Client, query: str = "") -> list[str]:
    answer = client.get(f"{N}/tags?{query}")
    assert answer.status_code == 200, answer.text
    return [tag["name"] for tag in answer.json()["tags"]]


# Properties ---------------------------------------------------------------------------------------


@databases
def test_a_property_is_kept_as_it_was_given(admin: Client) -> None:
    said: dict[str, Any] = {
        **PROPERTY,
        "description": "A word.",
        "operators": ["=", "<in>"],
        "enum": ["a", "b", None],
        "pattern": "^[ab]$",
        "minLength": 1,
        "maxLength": 1,
        "readonly": True,
        "default": "a",
    }
    answer = admin.post(f"{N}/properties", said)
    assert (answer.status_code, answer.json()) == (201, said)
    assert admin.get(f"{N}/properties/p").json() == said
    assert admin.get(f"{N}/properties").json() == {"properties": {"p": said}}


def test_a_default_is_text(admin: Client) -> None:
    for given, kept in ((4, "4"), (1.5, "1.5"), (True, "True"), ("ü", "ü"), (["a"], None)):
        admin.request("DELETE", f"{N}/properties/p")
        admin.post(f"{N}/properties", {**PROPERTY, "default": given})
        assert admin.get(f"{N}/properties/p").json()["default"] == kept


def test_a_property_is_found_under_its_name_on_a_resource(admin: Client) -> None:
    filled(admin)
    admin.post(f"{N}/resource_types", {"name": "bare"})
    assert admin.get(f"{N}/properties/r_p?resource_type=r").json() == PROPERTY
    for path in ("p?resource_type=r", "p?resource_type=bare", "r_p?resource_type=none", "r_p"):
        assert admin.get(f"{N}/properties/{path}").status_code == 404


def test_a_changed_property_has_only_what_it_is_changed_to(admin: Client) -> None:
    admin.post(f"{N}/properties", {**PROPERTY, "default": "x"})
    changed = {"name": "q", "title": "Q", "type": "boolean"}
    answer = admin.put(f"{N}/properties/p", changed)
    assert (answer.status_code, answer.json()) == (200, changed)
    assert admin.get(f"{N}/properties/q").json() == changed
    assert admin.get(f"{N}/properties/p").status_code == 404


# Objects ------------------------------------------------------------------------------------------


def test_an_object_is_answered_with_what_was_given_and_shown_whole(admin: Client) -> None:
    answer = admin.post(f"{N}/objects", {"name": "o"})
    assert answer.status_code == 201
    assert not {"required", "properties", "description"} & set(answer.json())
    shown = admin.get(f"{N}/objects/o").json()
    assert shown == answer.json() | {"required": [], "properties": {}}
    assert shown["schema"] == "/v2/schemas/metadefs/object"
    listed = admin.get(f"{N}/objects").json()
    assert listed == {"objects": [shown], "schema": "v2/schemas/metadefs/objects"}


@databases
def test_an_object_keeps_its_properties_and_what_is_required_of_them(admin: Client) -> None:
    properties = {"a,b": {"title": "A", "type": "integer", "minimum": 2}}
    said = {"name": "o", "required": ["a,b"], "properties": properties, "description": "D"}
    admin.post(f"{N}/objects", said)
    shown = admin.get(f"{N}/objects/o").json()
    assert {key: shown[key] for key in said} == said


def test_a_changed_object_has_only_what_it_is_changed_to(admin: Client) -> None:
    admin.post(f"{N}/objects", {"name": "o", "required": ["x"], "description": "D"})
    assert admin.put(f"{N}/objects/o", {"name": "other"}).status_code == 200
    shown = admin.get(f"{N}/objects/other").json()
    assert shown["required"] == []
    assert "description" not in shown
    assert admin.get(f"{N}/objects/o").status_code == 404


def test_a_query_of_objects_that_makes_no_sense_is_told(admin: Client) -> None:
    for query in ("limit=0", "limit=x", "sort_dir=up", "visibility=none"):
        assert admin.get(f"{N}/objects?{query}").status_code == 400, query
    assert admin.get(f"{N}/objects?limit=1&sort_key=name&visibility=shared").status_code == 200


# Tags ---------------------------------------------------------------------------------------------


@databases
def test_tags_made_at_once_replace_the_others_unless_told_to_append(admin: Client) -> None:
    admin.post(f"{N}/tags/old")
    answer = admin.post(f"{N}/tags", {"tags": [{"name": "b"}, {"name": "a"}]})
    assert answer.status_code == 201
    assert answer.json() == {"tags": [{"name": "b"}, {"name": "a"}]}
    assert sorted(tags(admin)) == ["a", "b"]
    append = {"x-openstack-append": "True"}
    more = admin.post(f"{N}/tags", {"tags": [{"name": "c"}]}, headers=append)
    assert more.json() == {"tags": [{"name": "c"}]}
    assert sorted(tags(admin)) == ["a", "b", "c"]


@databases
def test_tags_made_at_once_are_made_all_or_none(admin: Client) -> None:
    admin.post(f"{N}/tags", {"tags": [{"name": "a"}]})
    append = {"x-openstack-append": "1"}
    both = {"tags": [{"name": "new"}, {"name": "a"}]}
    assert admin.post(f"{N}/tags", both, headers=append).status_code == 409
    assert admin.post(f"{N}/tags", {"tags": [{"name": "x"}, {"name": "x"}]}).status_code == 409
    assert tags(admin) == ["a"]


def test_an_empty_list_of_tags_changes_nothing(admin: Client) -> None:
    admin.post(f"{N}/tags/a")
    assert admin.post(f"{N}/tags", {"tags": []}).json() == {"tags": []}
    assert tags(admin) == ["a"]


@databases
def test_tags_come_in_pages(admin: Client) -> None:
    admin.post(f"{N}/tags", {"tags": [{"name": name} for name in "bcad"]})
    assert tags(admin) == ["d", "a", "c", "b"]
    assert tags(admin, "sort_key=name&sort_dir=asc") == ["a", "b", "c", "d"]
    assert tags(admin, "limit=2&marker=d") == ["a", "c"]
    assert tags(admin, "sort_key=name&marker=c") == ["b", "a"]
    assert tags(admin, "limit=0") == []
    assert admin.get(f"{N}/tags?marker=z").status_code == 404
    assert admin.get(f"{N}/tags?sort_key=z").status_code == 400


@databases
def test_a_tag_is_renamed(admin: Client) -> None:
    made = admin.post(f"{N}/tags/a").json()
    assert made == admin.get(f"{N}/tags/a").json()
    admin.post(f"{N}/tags/b")
    assert admin.put(f"{N}/tags/a", {"name": "b"}).status_code == 409
    assert admin.put(f"{N}/tags/a", {"name": "A"}).json()["name"] == "A"
    assert sorted(tags(admin)) == ["A", "b"]


# Resource types -----------------------------------------------------------------------------------


@databases
def test_a_resource_type_stays_when_no_namespace_is_for_it_any_more(admin: Client) -> None:
    said = {"name": "r", "prefix": "r_", "properties_target": "metadata"}
    answer = admin.post(f"{N}/resource_types", said)
    assert answer.status_code == 201
    assert {key: answer.json()[key] for key in said} == said
    assert admin.get(f"{N}/resource_types").json() == {
        "resource_type_associations": [answer.json()]
    }
    assert admin.delete(f"{N}/resource_types/r").status_code == 204
    assert admin.get(f"{N}/resource_types").json() == {"resource_type_associations": []}
    kinds = admin.get("/v2/metadefs/resource_types").json()["resource_types"]
    assert sorted(next(kind for kind in kinds if kind["name"] == "r")) == [
        *("created_at", "name", "updated_at"),
    ]


@databases
def test_many_at_once_associate_with_a_new_resource_type(service: Asked, admin: Client) -> None:
    for number in range(8):
        admin.post(ALL, {"namespace": f"M{number}"})

    def associate(number: int) -> int:
        path = f"{ALL}/M{number}/resource_types"
        return service.admin.post(path, {"name": "new"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(associate, range(8))) == {201}
    kinds = admin.get("/v2/metadefs/resource_types").json()["resource_types"]
    assert [kind["name"] for kind in kinds].count("new") == 1


@databases
def test_of_two_who_make_the_same_tag_one_does(service: Asked, admin: Client) -> None:
    def make(_: int) -> int:
        return service.admin.post(f"{N}/tags/same").status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(make, range(6))) == [201, 409, 409, 409, 409, 409]


# What they have in common -------------------------------------------------------------------------


@databases
def test_what_is_deleted_is_gone(admin: Client) -> None:
    filled(admin)
    for place in PLACES:
        assert admin.delete(f"{N}/{place}").status_code == 204
        assert admin.delete(f"{N}/{place}").status_code == 404
    for place in PLACES[:3]:
        assert admin.get(f"{N}/{place}").status_code == 404


@databases
def test_what_there_is_cannot_be_made_again(admin: Client) -> None:
    filled(admin)
    assert admin.post(f"{N}/properties", PROPERTY).status_code == 409
    assert admin.post(f"{N}/objects", {"name": "o"}).status_code == 409
    assert admin.post(f"{N}/tags/t").status_code == 409
    assert admin.post(f"{N}/resource_types", {"name": "r"}).status_code == 409
    admin.post(f"{N}/properties", {**PROPERTY, "name": "q"})
    admin.post(f"{N}/objects", {"name": "q"})
    assert admin.put(f"{N}/properties/q", PROPERTY).status_code == 409
    assert admin.put(f"{N}/objects/q", {"name": "o"}).status_code == 409


def test_readers_see_what_is_public_and_change_nothing(service: Asked, admin: Client) -> None:
    filled(admin)
    reader = service.caller("blue", "reader")
    for path in ("properties", "objects", "tags", "resource_types", *PLACES[:3]):
        assert reader.get(f"{N}/{path}").status_code == 200
    for method, path, body, rule in (
        ("POST", "properties", PROPERTY, "add_metadef_property"),
        ("PUT", "properties/p", PROPERTY, "modify_metadef_property"),
        ("DELETE", "properties/p", None, "remove_metadef_property"),
        ("POST", "objects", {"name": "x"}, "add_metadef_object"),
        ("PUT", "objects/o", {"name": "x"}, "modify_metadef_object"),
        ("DELETE", "objects/o", None, "delete_metadef_object"),
        ("POST", "tags", {"tags": []}, "add_metadef_tags"),
        ("POST", "tags/x", None, "add_metadef_tag"),
        ("PUT", "tags/t", {"name": "x"}, "modify_metadef_tag"),
        ("DELETE", "tags/t", None, "delete_metadef_tag"),
        ("POST", "resource_types", {"name": "x"}, "add_metadef_resource_type_association"),
        ("DELETE", "resource_types/r", None, "remove_metadef_resource_type_association"),
    ):
        answer = reader.request(method, f"{N}/{path}", **({"json": body} if body else {}))
        assert answer.status_code == 403, (method, path)
        assert rule in answer.json()["message"]


def test_in_a_namespace_that_one_may_not_see_there_is_nothing(service: Asked) -> None:
    service.admin.post(ALL, {"namespace": "P", "owner": "blue", "tags": [{"name": "t"}]})
    stranger = service.caller("red")
    for method, path, body in (
        ("GET", "properties", None),
        ("GET", "objects", None),
        ("GET", "tags/t", None),
        ("GET", "resource_types", None),
        ("POST", "properties", PROPERTY),
        ("POST", "objects", {"name": "o"}),
        ("PUT", "tags/t", {"name": "u"}),
        ("DELETE", "tags", None),
        ("DELETE", "resource_types/r", None),
    ):
        how = {"json": body} if body else {}
        hidden = stranger.request(method, f"{ALL}/P/{path}", **how)
        missing = stranger.request(method, f"{ALL}/Q/{path}", **how)
        assert (hidden.status_code, missing.status_code) == (404, 404), (method, path)
        assert hidden.json()["message"] == missing.json()["message"].replace("Q", "P")
    assert service.caller("blue").get(f"{ALL}/P/tags/t").status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {"policy": {"metadef_admin": "role:admin or role:member"}},
    ],
)
def test_one_rule_lets_others_than_administrators_define(service: Asked) -> None:
    member = service.caller("blue")
    assert member.post(ALL, {"namespace": "M"}).status_code == 201
    assert member.post(f"{ALL}/M/tags/t").status_code == 201
    assert service.caller("blue", "reader").post(f"{ALL}/M/tags/u").status_code == 403
