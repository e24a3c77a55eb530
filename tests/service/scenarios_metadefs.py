"""Scenarios: definitions of metadata. Names are of all projects: each scenario has its own."""

from __future__ import annotations

from typing import Any

from compare import Run, scenario

__all__: list[str] = []

_ALL = "/v2/metadefs/namespaces"


def _namespace(run: Run, name: str, **fields: Any) -> str:
    """The path of a new namespace; it is not recorded."""
    body = {"namespace": name, "visibility": "public"} | fields
    answer = run.ask("admin", "POST", _ALL, body, record=False)
    assert answer.status == 201, (answer.status, answer.body)
    return f"{_ALL}/{name}"


@scenario
def the_standard_definitions(run: Run) -> None:
    everything = run.ask(
        "admin", "GET", f"{_ALL}?limit=1000&sort_key=namespace&sort_dir=asc", record=False
    )
    if everything.status != 200:
        run.ask("admin", "GET", _ALL)
    names = [item["namespace"] for item in everything.json["namespaces"]]
    for name in names:
        if name.startswith(("OS::", "CIM::")):
            run.ask("admin", "GET", f"{_ALL}/{name}")
    run.ask("admin", "GET", "/v2/metadefs/resource_types")


@scenario
def namespaces(run: Run) -> None:
    name = "Tests::Namespaces"
    where = f"{_ALL}/{name}"
    run.ask("alice", "POST", _ALL, {"namespace": name})
    run.ask("admin", "POST", _ALL, {"namespace": name})
    run.ask("admin", "POST", _ALL, {"namespace": name})
    for who in ("alice", "bob", "admin"):
        run.ask(who, "GET", where)
    said = {
        "namespace": name,
        "display_name": "Shown",
        "description": "About",
        "visibility": "public",
    }
    run.ask("admin", "PUT", where, said)
    for who in ("alice", "bob", "rita"):
        run.ask(who, "GET", where)
        run.ask(who, "PUT", where, said)
        run.ask(who, "DELETE", where)
    run.ask("admin", "PUT", where, {"namespace": "Tests::Renamed", "visibility": "public"})
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{_ALL}/Tests::Renamed")
    run.ask("admin", "PUT", f"{_ALL}/Tests::Renamed", {"namespace": name, "protected": True})
    run.ask("admin", "DELETE", where)
    run.ask("admin", "PUT", where, {"namespace": name, "protected": False})
    run.ask("admin", "PUT", where, {"namespace": "OS::Compute::Hypervisor"})
    run.ask("admin", "PUT", where, {})
    run.ask("admin", "PUT", where)
    run.ask("admin", "PUT", f"{_ALL}/Nope", {"namespace": "Nope"})
    run.ask("admin", "DELETE", where)
    run.ask("admin", "DELETE", where)
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{_ALL}/Nope")


@scenario
def whole_namespaces(run: Run) -> None:
    body = {
        "namespace": "Tests::Whole", "visibility": "public", "display_name": "Whole",
        "properties": {
            "count": {
                "title": "How many", "type": "integer", "minimum": 1, "maximum": 9, "default": 3,
            },
            "names": {
                "title": "Names", "type": "array", "items": {"type": "string", "enum": ["a", "b"]},
                "minItems": 1, "uniqueItems": True, "description": "Who",
            },
            "flag": {"title": "Flag", "type": "boolean", "default": True, "readonly": True},
            "word": {
                "title": "Word", "type": "string", "minLength": 1, "maxLength": 5, "pattern": "^a",
                "enum": ["a", "ab"], "operators": ["<or>"],
            },
        },
        "objects": [
            {
                "name": "thing", "description": "A thing", "required": ["part"],
                "properties": {"part": {"title": "Part", "type": "string"}},
            },
        ],
        "tags": [{"name": "one"}, {"name": "two"}],
        "resource_type_associations": [
            {"name": "OS::Glance::Image", "prefix": "hw_"}, {"name": "OS::Nova::Flavor"},
        ],
    }  # fmt: skip
    run.ask("admin", "POST", _ALL, body)
    where = f"{_ALL}/Tests::Whole"
    for query in (
        "",
        "?resource_type=OS::Glance::Image",
        "?resource_type=OS::Nova::Flavor",
        "?resource_type=Nope",
    ):
        run.ask("alice", "GET", where + query)
    for part in ("properties", "objects", "tags", "resource_types"):
        run.ask("alice", "GET", f"{where}/{part}")
        run.ask("bob", "GET", f"{where}/{part}")
    for name in ("hw_count", "count", "nope"):
        run.ask("alice", "GET", f"{where}/properties/{name}?resource_type=OS::Glance::Image")
    run.ask("admin", "DELETE", where)
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{where}/objects/thing")


@scenario
def wrong_namespaces(run: Run) -> None:
    for body in (
        {}, {"namespace": 5}, {"namespace": ""}, {"namespace": "x" * 81}, {"display_name": "x"},
        {"namespace": "Tests::W", "visibility": "shared"}, {"namespace": "Tests::W", "foo": "x"},
        {"namespace": "Tests::W", "protected": "x"}, {"namespace": "Tests::W", "tags": "x"},
        {"namespace": "Tests::W", "description": "x" * 501},
        {"namespace": "Tests::W", "properties": {"a": {}}},
        {"namespace": "Tests::W", "properties": {"a": {"title": "x", "type": "nope"}}},
        {"namespace": "Tests::W", "objects": [{}]}, {"namespace": "Tests::W", "owner": 5},
        ["x"],
    ):  # fmt: skip
        run.ask("admin", "POST", _ALL, body)
    run.ask("admin", "POST", _ALL)
    run.ask("admin", "POST", _ALL, b"{")


@scenario
def lists_of_namespaces(run: Run) -> None:
    for name in "abc":
        _namespace(
            run,
            f"Tests::List::{name}",
            resource_type_associations=[{"name": f"Tests::Type::{name}"}],
        )
    every = "resource_types=Tests::Type::a,Tests::Type::b,Tests::Type::c"
    by_name = "&sort_key=namespace&sort_dir=asc"
    for query in (
        "resource_types=Tests::Type::a", f"resource_types=Tests::Type::a,Tests::Type::b{by_name}",
        "resource_types=Tests::Nope", "visibility=private", "visibility=nope", "limit=0", "limit=x",
        "limit=-1", "marker=Nope", "sort_dir=up", "resource_types=Tests::Type::c&limit=1",
        f"{every}&limit=2{by_name}",
        f"{every}&limit=2{by_name}&marker=Tests::List::b",
    ):  # fmt: skip
        run.ask("alice", "GET", f"{_ALL}?{query}")
    for name in "abc":
        run.ask("admin", "DELETE", f"{_ALL}/Tests::List::{name}", record=False)


@scenario
def objects(run: Run) -> None:
    where = f"{_namespace(run, 'Tests::Objects')}/objects"
    part = {"title": "z", "type": "array", "items": {"type": "string"}, "minItems": 1}
    run.ask("alice", "GET", where)
    for who in ("alice", "admin", "admin"):
        run.ask(who, "POST", where, {"name": "first", "required": ["z"], "properties": {"z": part}})
    run.ask("admin", "POST", where, {"name": "second", "description": "d"})
    for body in (
        {},
        {"name": 5},
        {"name": "x" * 81},
        {"name": "x", "foo": 1},
        {"name": "x", "properties": 5},
    ):
        run.ask("admin", "POST", where, body)
    for name in ("first", "nope"):
        run.ask("alice", "GET", f"{where}/{name}")
    run.ask("bob", "GET", where)
    for query in ("limit=1", "limit=x", "sort_key=name&sort_dir=asc", "marker=nope"):
        run.ask("alice", "GET", f"{where}?{query}")
    run.ask("alice", "PUT", f"{where}/second", {"name": "third"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "third", "description": "n"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "third"})
    run.ask("admin", "PUT", f"{where}/third", {})
    run.ask("alice", "DELETE", f"{where}/third")
    for _ in range(2):
        run.ask("admin", "DELETE", f"{where}/third")
    run.ask("alice", "DELETE", where)
    run.ask("admin", "DELETE", where)
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{_ALL}/Nope/objects")
    run.ask("admin", "POST", f"{_ALL}/Nope/objects", {"name": "x"})


@scenario
def properties(run: Run) -> None:
    where = f"{_namespace(run, 'Tests::Properties')}/properties"
    said = {
        "name": "first",
        "title": "t",
        "type": "integer",
        "minimum": 1,
        "maximum": 3,
        "default": 2,
    }
    run.ask("alice", "GET", where)
    for who in ("alice", "admin", "admin"):
        run.ask(who, "POST", where, said)
    run.ask(
        "admin", "POST", where, {"name": "second", "title": "t", "type": "string", "readonly": True}
    )
    for body in (
        {}, {"name": "x"}, {"name": "x", "title": "t"}, {"name": "x", "type": "string"},
        {"name": "x", "title": "t", "type": "nope"},
        {"name": "x" * 81, "title": "t", "type": "string"},
        {"name": "x", "title": "t", "type": "string", "minLength": -1},
        {"name": 5, "title": "t", "type": "string"},
    ):  # fmt: skip
        run.ask("admin", "POST", where, body)
    run.ask("alice", "GET", where)
    for name in ("first", "nope"):
        run.ask("alice", "GET", f"{where}/{name}")
    run.ask("alice", "PUT", f"{where}/second", {"name": "third", "title": "n", "type": "string"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "third", "title": "n", "type": "string"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "third", "title": "n", "type": "string"})
    run.ask("admin", "PUT", f"{where}/third", {})
    run.ask("alice", "DELETE", f"{where}/third")
    for _ in range(2):
        run.ask("admin", "DELETE", f"{where}/third")
    run.ask("alice", "DELETE", where)
    run.ask("admin", "DELETE", where)
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{_ALL}/Nope/properties")


@scenario
def tags_of_definitions(run: Run) -> None:
    where = f"{_namespace(run, 'Tests::Tags')}/tags"
    run.ask("alice", "GET", where)
    for who in ("alice", "admin", "admin"):
        run.ask(who, "POST", f"{where}/first")
    run.ask("admin", "POST", f"{where}/FIRST")
    run.ask("admin", "POST", f"{where}/{'x' * 81}")
    run.ask("admin", "POST", f"{where}/second", b"{}")
    run.ask("admin", "POST", f"{where}/second")
    for name in ("first", "First", "nope"):
        run.ask("alice", "GET", f"{where}/{name}")
    run.ask("alice", "PUT", f"{where}/second", {"name": "third"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "first"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "third"})
    run.ask("admin", "PUT", f"{where}/second", {"name": "third"})
    run.ask("admin", "PUT", f"{where}/third", {})
    run.ask("admin", "POST", where, {"tags": [{"name": "a"}, {"name": "b"}]})
    more = {"X-Openstack-Append": "True"}
    for _ in range(2):
        run.ask("admin", "POST", where, {"tags": [{"name": "c"}]}, more)
    run.ask("admin", "POST", where, {"tags": [{"name": "d"}, {"name": "d"}]})
    run.ask("admin", "POST", where, {"tags": [{"name": 5}]})
    run.ask("alice", "POST", where, {"tags": [{"name": "a"}]})
    for query in (
        "",
        "?limit=2&sort_key=name&sort_dir=asc",
        "?marker=nope",
        "?marker=a&sort_key=name&sort_dir=asc",
        "?limit=x",
    ):
        run.ask("alice", "GET", where + query)
    run.ask("alice", "DELETE", f"{where}/a")
    for _ in range(2):
        run.ask("admin", "DELETE", f"{where}/a")
    run.ask("alice", "DELETE", where)
    run.ask("admin", "DELETE", where)
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{_ALL}/Nope/tags")


@scenario
def resource_types(run: Run) -> None:
    where = f"{_namespace(run, 'Tests::Types')}/resource_types"
    run.ask("alice", "GET", where)
    said = {"name": "Tests::Thing", "prefix": "p_", "properties_target": "image"}
    for who in ("alice", "admin", "admin"):
        run.ask(who, "POST", where, said)
    run.ask("admin", "POST", where, {"name": "OS::Glance::Image"})
    for body in ({}, {"name": 5}, {"name": "x" * 81}, {"name": "x", "prefix": "y" * 81}):
        run.ask("admin", "POST", where, body)
    run.ask("alice", "GET", where)
    run.ask("bob", "GET", where)
    run.ask("alice", "DELETE", f"{where}/Tests::Thing")
    for _ in range(2):
        run.ask("admin", "DELETE", f"{where}/Tests::Thing")
    run.ask("admin", "DELETE", f"{where}/OS::Glance::Image")
    run.ask("alice", "GET", where)
    run.ask("alice", "GET", f"{_ALL}/Nope/resource_types")
