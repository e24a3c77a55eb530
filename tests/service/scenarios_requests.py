"""Scenarios: requests that are wrong whatever they ask for: bodies where none belong, no text."""

from __future__ import annotations

import uuid

from compare import Run, scenario

__all__: list[str] = []

_SENT = (b"{}", b"no JSON")


@scenario
def bodies_where_none_belongs(run: Run) -> None:
    image, shared = run.active(), run.image()
    name, member = image.rsplit("/", 1)[1], f"{shared}/members/{run.projects['two']}"
    run.ask("alice", "POST", f"{shared}/members", {"member": run.projects["two"]}, record=False)
    space = f"/v2/metadefs/namespaces/{_namespace(run)}"
    for who, method, path in (
        ("alice", "GET", "/versions"),
        ("alice", "GET", "/v2/images?limit=0"),
        ("alice", "GET", image),
        ("alice", "GET", f"{image}/file"),
        ("alice", "GET", f"{shared}/members"),
        ("alice", "GET", member),
        ("alice", "DELETE", member),
        ("alice", "GET", f"{image}/tasks"),
        ("alice", "PUT", f"{image}/tags/x"),
        ("alice", "DELETE", f"{image}/tags/x"),
        ("alice", "POST", f"{image}/actions/deactivate"),
        ("alice", "POST", f"{image}/actions/reactivate"),
        ("alice", "GET", "/v2/schemas/image"),
        ("alice", "GET", "/v2/schemas/metadefs/tag"),
        ("alice", "GET", "/v2/info/import"),
        ("alice", "GET", "/v2/info/stores"),
        ("alice", "GET", "/v2/info/usage"),
        ("admin", "GET", "/v2/info/stores/detail"),
        ("admin", "DELETE", f"/v2/stores/fast/{name}"),
        ("robot", "GET", f"{image}/locations"),
        ("admin", "GET", "/v2/tasks?limit=0"),
        ("admin", "GET", f"/v2/tasks/{uuid.uuid4()}"),
        ("admin", "DELETE", f"/v2/tasks/{uuid.uuid4()}"),
        ("admin", "GET", "/v2/cache"),
        ("admin", "GET", f"/v2/cache/nodes/{name}"),
        ("admin", "PUT", f"/v2/cache/{name}"),
        ("admin", "DELETE", f"/v2/cache/{name}"),
        ("admin", "POST", "/v2/cache/clean"),
        ("admin", "POST", "/v2/cache/prune"),
        ("admin", "GET", "/v2/metadefs/namespaces?limit=0"),
        ("admin", "GET", space),
        ("admin", "GET", f"{space}/properties"),
        ("admin", "GET", f"{space}/properties/p"),
        ("admin", "DELETE", f"{space}/properties/p"),
        ("admin", "DELETE", f"{space}/properties"),
        ("admin", "GET", f"{space}/objects"),
        ("admin", "GET", f"{space}/objects/o"),
        ("admin", "DELETE", f"{space}/objects/o"),
        ("admin", "DELETE", f"{space}/objects"),
        ("admin", "GET", f"{space}/tags"),
        ("admin", "GET", f"{space}/tags/t"),
        ("admin", "POST", f"{space}/tags/new"),
        ("admin", "DELETE", f"{space}/tags/t"),
        ("admin", "DELETE", f"{space}/tags"),
        ("admin", "GET", "/v2/metadefs/resource_types"),
        ("admin", "GET", f"{space}/resource_types"),
        ("admin", "DELETE", f"{space}/resource_types/OS::Nova::Flavor"),
        ("admin", "DELETE", space),
        ("alice", "DELETE", image),
    ):
        for body in _SENT:
            run.ask(who, method, path, body)
    # None of them did anything; who may not ask is told that first.
    run.ask("alice", "GET", image)
    run.ask("bob", "GET", image, b"{}")
    run.ask(None, "GET", image, b"{}")
    # A body of no bytes is none.
    run.ask("alice", "POST", f"{image}/actions/deactivate", b"")
    run.ask("alice", "DELETE", image, b"")


def _namespace(run: Run) -> str:
    """A namespace with one of each."""
    name = f"requests-{uuid.uuid4().hex}"
    run.made[name] = "<the namespace>"
    all_of_them = "/v2/metadefs/namespaces"
    run.ask("admin", "POST", all_of_them, {"namespace": name}, record=False)
    one = {"name": "p", "title": "p", "type": "string"}
    run.ask("admin", "POST", f"{all_of_them}/{name}/properties", one, record=False)
    run.ask("admin", "POST", f"{all_of_them}/{name}/objects", {"name": "o"}, record=False)
    run.ask("admin", "POST", f"{all_of_them}/{name}/tags/t", record=False)
    return name


@scenario
def text_that_is_none(run: Run) -> None:
    image = run.active()
    space = f"/v2/metadefs/namespaces/{_namespace(run)}"
    for query in ("name=%ff", "%ff=1", "limit=%c0%80", "marker=%ed%a0%80", "name=a&tag=%e2%82"):
        run.ask("alice", "GET", f"/v2/images?{query}")
    run.ask("alice", "GET", "/v2/images?name=%e2%82%ac&limit=0")
    for path in (
        "/v2/metadefs/namespaces?visibility=%ff", f"{space}?resource_type=%ff",
        f"{space}/tags?marker=%ff", f"{space}/objects?limit=%ff",
        f"{space}/properties/p?resource_type=%ff", "/v2/tasks?type=%ff",
    ):  # fmt: skip
        run.ask("admin", "GET", path)
    # Where nobody looks at the query, it is not looked at.
    for path in (image, f"{image}/members", "/v2/info/stores", "/versions"):
        run.ask("alice", "GET", f"{path}?x=%ff")
    for method, path in (
        ("GET", "/v2/images/%ff"), ("GET", f"{image}/members/%ff"), ("PUT", f"{image}/tags/%ff"),
        ("GET", "/v2/schemas/%ff"), ("GET", "/v2.9/images/%ff"), ("GET", "/%ff"),
        ("GET", "/v2/%ff/nothing"),
    ):  # fmt: skip
        run.ask("alice", method, path)
