"""Namespaces of metadata definitions, over the API: who sees them, what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete

from asking import Asked, Client
from postgres import databases
from vmimg.service.catalogue import tables

ALL = "/v2/metadefs/namespaces"
FULL: dict[str, Any] = {
    "namespace": "Acme::Engine",
    "display_name": "Engines",
    "description": "What drives it.",
    "visibility": "public",
    "resource_type_associations": [
        {"name": "OS::Nova::Flavor", "prefix": "engine:"},
        {"name": "OS::Glance::Image", "properties_target": "image"},
    ],
    "properties": {
        "cylinders": {
            "title": "Cylinders",
            "type": "integer",
            "minimum": 1,
            "maximum": 16,
            "default": 4,
            "operators": ["<in>"],
        },
        "fuels": {
            "title": "Fuels",
            "type": "array",
            "items": {"type": "string", "enum": ["petrol", "diesel"]},
            "uniqueItems": True,
        },
    },
    "objects": [
        {
            "name": "Turbo",
            "description": "Blows.",
            "required": ["pressure"],
            "properties": {"pressure": {"title": "Pressure", "type": "number", "minimum": 0.5}},
        },
        {"name": "Empty"},
    ],
    "tags": [{"name": "fast"}, {"name": "loud"}],
}


def made(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(ALL, {"namespace": "N"} | fields)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(client: Client, query: str = "") -> list[str]:
    answer = client.get(f"{ALL}?{query}")
    assert answer.status_code == 200, answer.text
    return [found["namespace"] for found in answer.json()["namespaces"]]


@pytest.fixture
def empty(service: Asked) -> Asked:
    """A service without the standard catalogue."""
    with service.service.database.begin() as connection:
        connection.execute(delete(tables.metadef_namespaces))
        connection.execute(delete(tables.metadef_resource_types))
    return service


def test_a_namespace_is_made_with_all_that_is_in_it(service: Asked) -> None:
    answer = service.admin.post(ALL, FULL)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"http://testserver{ALL}/Acme::Engine"
    shown = answer.json()
    assert shown["properties"]["cylinders"]["default"] == "4"
    assert {key: shown[key] for key in ("objects", "tags", "resource_type_associations")} == {
        key: FULL[key] for key in ("objects", "tags", "resource_type_associations")
    }
    assert (shown["owner"], shown["protected"]) == ("admins", False)


@databases
def test_a_namespace_is_shown_with_all_that_is_in_it(service: Asked) -> None:
    service.admin.post(ALL, FULL)
    shown = service.caller("blue").get(f"{ALL}/Acme::Engine").json()
    assert (shown["self"], shown["schema"]) == (
        f"{ALL}/Acme::Engine",
        "/v2/schemas/metadefs/namespace",
    )
    assert shown["properties"]["cylinders"] == {
        **FULL["properties"]["cylinders"],
        "default": "4",
    }
    assert shown["properties"]["fuels"] == FULL["properties"]["fuels"]
    nothing, turbo = shown["objects"]
    assert turbo["properties"] == FULL["objects"][0]["properties"]
    assert turbo["required"] == ["pressure"]
    assert turbo["self"] == f"{ALL}/Acme::Engine/objects/Turbo"
    assert (nothing["required"], nothing["properties"]) == ([], {})
    assert [tag["name"] for tag in shown["tags"]] == ["loud", "fast"]
    flavor, image = shown["resource_type_associations"]
    assert (flavor["name"], flavor["prefix"]) == ("OS::Nova::Flavor", "engine:")
    assert "properties_target" not in flavor
    assert flavor["created_at"] == flavor["updated_at"]
    assert (image["name"], image["properties_target"]) == ("OS::Glance::Image", "image")


def test_names_have_the_prefix_of_the_resource_type_that_is_asked_for(service: Asked) -> None:
    service.admin.post(ALL, FULL)
    shown = service.admin.get(f"{ALL}/Acme::Engine?resource_type=OS::Nova::Flavor").json()
    assert sorted(shown["properties"]) == ["engine:cylinders", "engine:fuels"]
    assert list(shown["objects"][1]["properties"]) == ["engine:pressure"]
    assert shown["objects"][1]["required"] == ["engine:pressure"]
    for kind in ("OS::Glance::Image", "OS::Heat::Stack"):
        plain = service.admin.get(f"{ALL}/Acme::Engine?resource_type={kind}").json()
        assert sorted(plain["properties"]) == ["cylinders", "fuels"]


def test_what_is_not_said_is_absent_and_not_null(service: Asked) -> None:
    assert sorted(made(service.admin)) == [
        *("created_at", "namespace", "owner", "protected", "schema", "self"),
        *("updated_at", "visibility"),
    ]
    assert None not in service.admin.get(f"{ALL}/N").json().values()


@databases
def test_of_a_name_that_is_taken_there_is_a_conflict(service: Asked) -> None:
    made(service.admin)
    assert service.admin.post(ALL, {"namespace": "N"}).status_code == 409


@databases
def test_a_namespace_with_something_twice_is_not_made_at_all(service: Asked) -> None:
    for key in ("tags", "objects", "resource_type_associations"):
        answer = service.admin.post(ALL, {"namespace": "N", key: [{"name": "a"}, {"name": "a"}]})
        assert answer.status_code == 409
        assert "name=a already exists in namespace=N" in answer.json()["message"]
        assert service.admin.get(f"{ALL}/N").status_code == 404


def test_only_administrators_make_and_change_namespaces(service: Asked) -> None:
    member = service.caller("admins")
    answer = member.post(ALL, {"namespace": "N"})
    assert answer.status_code == 403
    assert "add_metadef_namespace" in answer.json()["message"]
    made(service.admin)
    assert member.put(f"{ALL}/N", {"namespace": "N"}).status_code == 403
    assert member.delete(f"{ALL}/N").status_code == 403


@databases
def test_a_private_namespace_is_there_for_its_project_and_administrators_alone(
    service: Asked,
) -> None:
    made(service.admin, owner="blue")
    assert service.caller("blue").get(f"{ALL}/N").status_code == 200
    assert "N" in names(service.caller("blue"), "visibility=private")
    stranger = service.caller("red")
    assert names(stranger, "visibility=private") == []
    for method, body in (("GET", None), ("PUT", {"namespace": "N"}), ("DELETE", None)):
        answer = stranger.request(method, f"{ALL}/N", json=body) if body else stranger.request(
            method, f"{ALL}/N"
        )  # fmt: skip
        assert answer.status_code == 404
    assert stranger.get(f"{ALL}?marker=N").status_code == 404
    assert service.admin.get(f"{ALL}/N").status_code == 200


def test_somebody_without_the_role_of_a_reader_finds_nothing(service: Asked) -> None:
    made(service.admin, visibility="public")
    member = service.caller("blue", "member")
    assert member.get(ALL).status_code == 404
    assert member.get(f"{ALL}/N").status_code == 404
    assert member.get("/v2/metadefs/resource_types").status_code == 404


@databases
def test_a_changed_namespace_has_defaults_where_nothing_is_said(service: Asked) -> None:
    made(service.admin, **{**FULL, "namespace": "N", "protected": True})
    answer = service.admin.put(f"{ALL}/N", {"namespace": "M", "description": "Other."})
    assert answer.status_code == 200
    shown = service.admin.get(f"{ALL}/M").json()
    assert (shown["description"], shown["visibility"], shown["protected"], shown["owner"]) == (
        *("Other.", "private", False),
        "admins",
    )
    assert "display_name" not in shown
    assert len(shown["objects"]) == 2
    assert service.admin.get(f"{ALL}/N").status_code == 404


@databases
def test_a_namespace_cannot_take_the_name_of_another(service: Asked) -> None:
    made(service.admin)
    made(service.admin, namespace="M")
    assert service.admin.put(f"{ALL}/M", {"namespace": "N"}).status_code == 409
    assert service.admin.put(f"{ALL}/M", {"namespace": "M"}).status_code == 200


@databases
def test_a_deleted_namespace_takes_everything_along(service: Asked) -> None:
    service.admin.post(ALL, FULL)
    assert service.admin.delete(f"{ALL}/Acme::Engine").status_code == 204
    assert service.admin.delete(f"{ALL}/Acme::Engine").status_code == 404
    made(service.admin, namespace="Acme::Engine")
    shown = service.admin.get(f"{ALL}/Acme::Engine").json()
    assert not {"objects", "properties", "tags", "resource_type_associations"} & set(shown)


def test_nothing_of_a_protected_namespace_can_be_deleted(service: Asked) -> None:
    service.admin.post(ALL, FULL | {"protected": True})
    for path in (
        *("", "/objects", "/properties", "/tags"),
        *("/objects/Turbo", "/properties/fuels", "/tags/fast", "/resource_types/OS::Nova::Flavor"),
    ):
        answer = service.admin.delete(f"{ALL}/Acme::Engine{path}")
        assert answer.status_code == 403, path
        assert "is protected" in answer.json()["message"]
    assert service.admin.post(f"{ALL}/Acme::Engine/tags/new").status_code == 201
    service.admin.put(f"{ALL}/Acme::Engine", {"namespace": "Acme::Engine", "protected": False})
    assert service.admin.delete(f"{ALL}/Acme::Engine").status_code == 204


@databases
def test_all_of_a_kind_is_deleted_at_once(service: Asked) -> None:
    service.admin.post(ALL, FULL)
    before = service.admin.get(f"{ALL}/Acme::Engine").json()
    for kind in ("objects", "properties", "tags"):
        assert service.caller("admins").delete(f"{ALL}/Acme::Engine/{kind}").status_code == 403
        assert service.admin.delete(f"{ALL}/Acme::Engine/{kind}").status_code == 204
        after = service.admin.get(f"{ALL}/Acme::Engine").json()
        assert set(before) - set(after) == {kind}
        before = after


@databases
def test_pages_of_a_listing_have_everything_once(empty: Asked) -> None:
    for number in range(7):
        made(
            empty.admin, namespace=f"N{number}", **({"display_name": "same"} if number % 2 else {})
        )
    for query in (
        "", "sort_dir=asc", "sort_key=display_name", "sort_key=namespace&sort_dir=asc",
        "sort_key=protected", "sort_key=owner&sort_dir=asc", "sort_key=updated_at", "sort_key=id",
    ):  # fmt: skip
        found, path = [], f"{ALL}?limit=3&{query}"
        for _ in range(3):
            page = empty.admin.get(path).json()
            found += [given["namespace"] for given in page["namespaces"]]
            assert page["first"].startswith(f"{ALL}?limit=3")
            assert page["schema"] == "/v2/schemas/metadefs/namespaces"
            path = page.get("next", "")
        assert path == ""
        assert sorted(found) == [f"N{number}" for number in range(7)]
        assert found == names(empty.admin, query)


def test_a_listing_is_newest_first_unless_it_is_sorted(empty: Asked) -> None:
    for name in ("b", "c", "a"):
        made(empty.admin, namespace=name)
    assert names(empty.admin) == ["a", "c", "b"]
    assert names(empty.admin, "sort_dir=asc") == ["b", "c", "a"]
    assert names(empty.admin, "sort_key=namespace") == ["c", "b", "a"]
    assert names(empty.admin, "sort_key=namespace&sort_dir=asc&marker=a&limit=1") == ["b"]
    assert names(empty.admin, "limit=0") == []


@databases
def test_a_listing_is_cut_to_what_is_for_a_resource_type(empty: Asked) -> None:
    empty.admin.post(ALL, FULL)
    made(empty.admin, resource_type_associations=[{"name": "Other"}])
    made(empty.admin, namespace="M")
    assert names(empty.admin, "resource_types=OS::Nova::Flavor,OS::Glance::Image") == [
        "Acme::Engine"
    ]
    assert names(empty.admin, "resource_types=Other,OS::Nova::Flavor") == ["N", "Acme::Engine"]
    assert names(empty.admin, "resource_types=None") == []
    assert names(empty.admin, "visibility=public") == ["Acme::Engine"]
    listed = empty.admin.get(f"{ALL}?visibility=public").json()
    assert len(listed["namespaces"][0]["resource_type_associations"]) == 2
    assert "objects" not in listed["namespaces"][0]
    assert listed["first"] == f"{ALL}?visibility=public"


@databases
def test_a_query_that_cannot_be_followed_is_told(service: Asked) -> None:
    for query, status in (
        ("limit=-1", 400), ("limit=many", 400), ("limit=99999999999999999999999", 400),
        ("sort_key=colour", 400), ("sort_dir=up", 400), ("visibility=shared", 400),
        ("marker=nothing", 404), ("marker=%00", 404), ("resource_types=%00", 200),
        ("visibility=", 200),
    ):  # fmt: skip
        assert service.admin.get(f"{ALL}?{query}").status_code == status, query


def test_a_name_may_have_any_letters(service: Asked) -> None:
    made(service.admin, namespace="Öl & Benzin?")
    answer = service.admin.get(f"{ALL}/%C3%96l%20%26%20Benzin%3F")
    assert answer.status_code == 200
    assert answer.json()["namespace"] == "Öl & Benzin?"
