"""Bodies of metadata definitions that are refused: told shortly, and nothing of them is kept."""

from __future__ import annotations

import json
from typing import Any

from asking import Asked
from postgres import databases

ALL = "/v2/metadefs/namespaces"
P = {"title": "P", "type": "string"}
LONG = "x" * 81


def in_namespace(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return "", {"namespace": name, **fields}


WRONG: dict[str, tuple[str, Any]] = {
    "no name": ("", {"display_name": "x"}),
    "an empty name": in_namespace(""),
    "a name that is no part of a path": in_namespace("a/b"),
    "a long name": in_namespace(LONG),
    "a name that is a number": ("", {"namespace": 1}),
    "a long description": in_namespace("M", description="x" * 501),
    "a visibility of images": in_namespace("M", visibility="shared"),
    "an unknown field": in_namespace("M", colour="red"),
    "an owner of null": in_namespace("M", owner=None),
    "a list": ("", [{"namespace": "M"}]),
    "a NUL": in_namespace("M\0"),
    "half a character": in_namespace("M", description="\ud800"),
    "a property without a title": in_namespace("M", properties={"p": {"type": "string"}}),
    "a property of no type": in_namespace("M", properties={"p": {**P, "type": "colour"}}),
    "a property with an unknown field": in_namespace("M", properties={"p": {**P, "colour": 1}}),
    "a property of a long name": in_namespace("M", properties={LONG: P}),
    "a nested flag that is none": in_namespace("M", properties={"p": {**P, "confidential": 3}}),
    "an object without a name": in_namespace("M", objects=[{"description": "x"}]),
    "an object with an unknown field": in_namespace("M", objects=[{"name": "o", "colour": 1}]),
    "an object of a long name": in_namespace("M", objects=[{"name": LONG}]),
    "a tag without a name": in_namespace("M", tags=[{}]),
    "a tag of a long name": in_namespace("M", tags=[{"name": LONG}]),
    "an association without a name": in_namespace("M", resource_type_associations=[{}]),
    "a long prefix": in_namespace("M", resource_type_associations=[{"name": "r", "prefix": LONG}]),
    "deep nesting": in_namespace(
        "M", properties={"p": {**P, "default": json.loads("[" * 40 + "]" * 40)}}
    ),
    "a single property without a name": ("/N/properties", P),
    "a list of numbers": ("/N/properties", {**P, "name": "p", "enum": [1]}),
    "a negative length": ("/N/properties", {**P, "name": "p", "minLength": -1}),
    "items without a type": ("/N/properties", {**P, "name": "p", "items": {"enum": ["a"]}}),
    "items with an unknown field": (
        "/N/properties",
        {**P, "name": "p", "items": {"type": "string", "colour": 1}},
    ),
    "required where nothing can be": ("/N/properties", {**P, "name": "p", "required": ["a"]}),
    "an object's name twice required": ("/N/objects", {"name": "o", "required": ["a", "a"]}),
    "an object's unknown field": ("/N/objects", {"name": "o", "colour": 1}),
    "an object's property's unknown field": (
        "/N/objects",
        {"name": "o", "properties": {"p": {**P, "colour": 1}}},
    ),
    "no list of tags": ("/N/tags", {}),
    "a tag with more than a name": ("/N/tags", {"tags": [{"name": "t", "colour": 1}]}),
    "a listed tag of a long name": ("/N/tags", {"tags": [{"name": LONG}]}),
    "a long resource type": ("/N/resource_types", {"name": LONG}),
    "a resource type without a name": ("/N/resource_types", {"prefix": "p"}),
}


@databases
def test_a_wrong_body_is_told_shortly_and_changes_nothing(service: Asked) -> None:
    assert service.admin.post(ALL, {"namespace": "N"}).status_code == 201
    before = service.admin.get(f"{ALL}/N").json()
    for why, (path, body) in WRONG.items():
        answer = service.admin.request("POST", ALL + path, content=json.dumps(body))
        assert answer.status_code == 400, (why, answer.text)
        message = answer.json()["message"].removesuffix("<br /><br />\n\n\n")
        assert 0 < len(message) < 1000, why
    assert service.admin.get(f"{ALL}/N").json() == before
    assert service.admin.get(f"{ALL}/M").status_code == 404


NO_JSON = [
        b"", b"{", b"5", b"null", b'"text"', b"\xff", b"[" * 100_000,
        *(
            b'{"namespace": "M", "properties": {"p": {"title": "", "type": "number", '
            b'"minimum": %b}}}' % number
            for number in (b"NaN", b"1e999", b"9" * 5000)
        ),
]  # fmt: skip


def test_what_is_no_json_is_told(service: Asked) -> None:
    for body in NO_JSON:
        answer = service.admin.request("POST", ALL, content=body)
        assert answer.status_code == 400, (body[:100], answer.text)


def test_what_only_the_service_sets_is_forbidden(service: Asked) -> None:
    service.admin.post(ALL, {"namespace": "N"})
    stamps, links = ("created_at", "updated_at"), ("self", "schema")
    for path, fields in (
        ("", stamps + links),
        ("/N/objects", stamps + links),
        ("/N/properties", stamps),
        ("/N/tags", stamps),
        ("/N/resource_types", stamps),
    ):
        for field in fields:
            answer = service.admin.post(ALL + path, {"namespace": "M", "name": "n", field: "x"})
            assert answer.status_code == 403, (path, field)
            assert field in answer.json()["message"]


def test_where_no_body_belongs_none_is_taken(service: Asked) -> None:
    full = {"namespace": "N", "objects": [{"name": "o"}], "tags": [{"name": "t"}]}
    service.admin.post(ALL, full)
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("GET", "/objects/o"), ("DELETE", "/objects/o"),
        ("POST", "/tags/u"), ("GET", "/tags/t"), ("DELETE", "/tags/t"), ("GET", "/resource_types"),
        ("DELETE", "/resource_types/r"),
    ):  # fmt: skip
        answer = service.admin.request(method, f"{ALL}/N{path}", content=b"{}")
        assert answer.status_code == 400, (method, path)
    assert service.admin.get(f"{ALL}/N/tags/t").status_code == 200


def test_the_media_type_does_not_matter(service: Asked) -> None:
    body = json.dumps({"namespace": "N"}).encode()
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert service.admin.request("POST", ALL, content=body, headers=form).status_code == 201


@databases
def test_large_numbers_and_fractions_are_kept(service: Asked) -> None:
    service.admin.post(ALL, {"namespace": "N"})
    for given, kept in ((10**4000, 10**4000), (2.0, 2), (0.5, 0.5), (1e300, int(1e300))):
        said = {**P, "name": "p", "minimum": given}
        assert service.admin.post(f"{ALL}/N/properties", said).json()["minimum"] == kept
        assert service.admin.get(f"{ALL}/N/properties/p").json()["minimum"] == kept
        assert service.admin.delete(f"{ALL}/N/properties/p").status_code == 204


@databases
def test_a_name_that_nothing_can_have_is_not_found(service: Asked) -> None:
    service.admin.post(ALL, {"namespace": "N"})
    for name in ("%00", "a%00b", "x" * 300):
        for path in (
            *(name, f"{name}/tags", f"N/tags/{name}", f"N/objects/{name}"),
            f"N/properties/{name}",
        ):
            assert service.admin.get(f"{ALL}/{path}").status_code == 404, path
        assert service.admin.delete(f"{ALL}/N/resource_types/{name}").status_code == 404
        # A NUL is no part of any path.
        made = 404 if "%00" in name else 400
        assert service.admin.post(f"{ALL}/N/tags/{name}").status_code == made
