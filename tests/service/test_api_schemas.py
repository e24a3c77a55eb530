"""Schemas: what is handed out describes what the service answers and takes."""

from __future__ import annotations

from typing import Any

import jsonschema

from asking import Asked


def _schema(service: Asked, name: str) -> Any:
    answer = service.admin.get(f"/v2/schemas/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_an_image_matches_its_schema_in_every_state(service: Asked) -> None:
    schema = _schema(service, "image")
    for image in (
        service.admin.image(),
        service.admin.image(name="n", tags=["a"], os_distro="debian", min_ram=3),
        service.admin.active(bytes(1024)),
    ):
        jsonschema.validate(image, schema)


def test_every_field_of_an_image_is_described(service: Asked) -> None:
    image = service.admin.active(bytes(1024))
    fields = _schema(service, "image")["properties"]
    assert set(image) - set(fields) == set()
    assert all(fields[name]["description"] for name in image)


def test_what_clients_cannot_set_is_marked(service: Asked) -> None:
    fields = _schema(service, "image")["properties"]
    assert {name for name, field in fields.items() if field.get("readOnly")} == {
        *("status", "checksum", "os_hash_algo", "os_hash_value", "size", "virtual_size"),
        *("created_at", "updated_at", "direct_url", "self", "file", "stores", "schema", "message"),
    }


def test_a_page_matches_its_schema(service: Asked) -> None:
    for _ in range(2):
        service.admin.image()
    page = service.admin.get("/v2/images?limit=1").json()
    schema = _schema(service, "images")
    jsonschema.validate(page, schema)
    assert set(page) == set(schema["properties"])


def test_members_match_their_schemas(service: Asked) -> None:
    path = f"/v2/images/{service.admin.image()['id']}/members"
    member = service.admin.post(path, {"member": "blue"}).json()
    found = service.admin.get(path).json()
    for said, name in ((member, "member"), (found, "members")):
        schema = _schema(service, name)
        jsonschema.validate(said, schema)
        assert set(said) == set(schema["properties"])


def test_schemas_have_the_shape_that_clients_read(service: Asked) -> None:
    """glanceclient and warlock make models of them."""
    image = _schema(service, "image")
    assert image["name"] == "image"
    assert image["additionalProperties"] == {"type": "string"}
    assert {link["rel"]: link["href"] for link in image["links"]} == {
        "self": "{self}", "enclosure": "{file}", "describedby": "{schema}",
    }  # fmt: skip
    images = _schema(service, "images")
    assert images["properties"]["images"]["items"] == image
    assert [link["rel"] for link in images["links"]] == ["first", "next", "describedby"]
    tasks = _schema(service, "tasks")
    assert set(_schema(service, "task")["properties"]) - set(
        tasks["properties"]["tasks"]["items"]["properties"]
    ) == {"input", "result", "message"}
    for name in ("image", "images", "member", "members", "task", "tasks"):
        jsonschema.Draft202012Validator.check_schema(_schema(service, name))


def test_there_is_no_schema_of_what_does_not_exist(service: Asked) -> None:
    for name in ("nothing", "image%2f..", "metadefs"):
        assert service.admin.get(f"/v2/schemas/{name}").status_code == 404
