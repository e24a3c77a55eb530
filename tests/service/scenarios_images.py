"""Scenarios: versions, records of images, their changes, who may see and do what."""

from __future__ import annotations

import uuid

from compare import OLD_PATCH, PATCH, Run, scenario

__all__: list[str] = []

_LONG = "x" * 256


@scenario
def versions(run: Run) -> None:
    for path in ("/", "/versions", "/versions/", "/v3", "/v1/images", "/v2.99"):
        run.ask(None, "GET", path)
    run.ask("alice", "GET", "/v2.9/schemas/members")
    run.ask("alice", "GET", "/v2.18/schemas/members")
    run.ask("alice", "GET", "/v2/nothing")
    run.ask("alice", "GET", "/v2/")


@scenario
def nobody_is_let_in(run: Run) -> None:
    for path in ("/v2/images", "/v2/schemas/image", "/v2/info/stores", "/v2/nothing"):
        run.ask(None, "GET", path)
    run.ask(None, "GET", "/v2/images", headers={"X-Auth-Token": "wrong"})
    run.ask(None, "GET", "/v2/images", headers={"Accept": "application/json"})
    run.ask(None, "POST", "/v2/images", {"name": "x"})


@scenario
def errors_by_accept(run: Run) -> None:
    path = "/v2/images/nope"
    for accept in (
        None, "*/*", "text/html", "text/plain", "application/json", "application/xml",
        "application/json, text/plain, */*", "text/*;q=0.5, application/json",
    ):  # fmt: skip
        headers = {"Accept": accept or ""}
        run.ask("alice", "GET", path, headers=headers)
        run.ask("alice", "DELETE", "/v2/images", headers=headers)
        run.ask("alice", "POST", "/v2/images", {"name": 5}, headers=headers)


@scenario
def methods_that_are_not_there(run: Run) -> None:
    image = run.image()
    for path in (
        "/v2/images", image, f"{image}/file", f"{image}/stage", f"{image}/import",
        f"{image}/actions/deactivate", f"{image}/actions/reactivate", f"{image}/tags/x",
        f"{image}/members", f"{image}/members/x", f"{image}/locations", "/v2/info/import",
        "/v2/info/stores", "/v2/info/stores/detail", "/v2/tasks", "/v2/tasks/x",
        "/v2/cache", "/v2/cache/x", "/v2/cache/clean", "/v2/cache/prune", "/v2/schemas/image",
        "/v2/stores/fast/x", "/v2/metadefs/namespaces", "/v2/metadefs/namespaces/x",
        "/v2/metadefs/resource_types", "/v2/metadefs/namespaces/x/objects",
        "/v2/metadefs/namespaces/x/objects/x", "/v2/metadefs/namespaces/x/properties",
        "/v2/metadefs/namespaces/x/properties/x", "/v2/metadefs/namespaces/x/tags",
        "/v2/metadefs/namespaces/x/tags/x", "/v2/metadefs/namespaces/x/resource_types",
        "/v2/metadefs/namespaces/x/resource_types/x",
    ):  # fmt: skip
        method = "PUT" if path in (image, "/v2/cache") else "PATCH"
        run.ask("admin", method, path)
    run.ask("alice", "HEAD", image)
    run.ask("alice", "HEAD", "/v2/images")
    for path in ("actions/frob", "actions", "tags", "nothing"):
        run.ask("alice", "POST", f"{image}/{path}")


@scenario
def creating(run: Run) -> None:
    for fields in (
        {},
        {"name": "one"},
        {"name": None, "disk_format": None, "container_format": None},
        {"name": "ü", "tags": ["b", "a", "a"], "min_ram": 4, "min_disk": 2},
        {"disk_format": "qcow2", "container_format": "bare", "os_hidden": True, "protected": False},
        {"visibility": "private"},
        {"visibility": "community"},
        {"visibility": "shared"},
        {"os_distro": "debian", "hw_disk_bus": "virtio", "empty": ""},
        {"owner": run.projects["one"]},
        {"os_hash_algo": "sha512", "os_hash_value": "x"},
        {"long": "y" * 70_000},
    ):
        made = run.ask("alice", "POST", "/v2/images", fields)
        run.ask("alice", "GET", f"/v2/images/{made.id}")
    for form in ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "vdi", "iso", "ploop"):
        run.ask("alice", "POST", "/v2/images", {"disk_format": form})
    for form in ("ami", "ari", "aki", "ovf", "ova", "docker", "compressed"):
        run.ask("alice", "POST", "/v2/images", {"container_format": form})
    run.ask("alice", "POST", "/v2/images", {"name": "🖥"})


@scenario
def choosing_an_identifier(run: Run) -> None:
    chosen = str(uuid.uuid4())
    run.made[chosen] = "<chosen>"
    image = f"/v2/images/{chosen}"
    run.ask("alice", "POST", "/v2/images", {"id": chosen})
    run.ask("alice", "POST", "/v2/images", {"id": chosen})
    run.ask("bob", "POST", "/v2/images", {"id": chosen})
    run.ask("alice", "DELETE", image)
    run.ask("alice", "POST", "/v2/images", {"id": chosen})
    run.ask("alice", "GET", image)
    other = str(uuid.uuid4())
    run.made[other] = "<other>"
    run.ask("alice", "POST", "/v2/images", {"id": other.upper()})
    run.ask("alice", "POST", "/v2/images", {"id": "not-one"})
    run.ask("alice", "POST", "/v2/images", {"id": None})


@scenario
def wrong_fields(run: Run) -> None:
    for fields in (
        {"name": 5}, {"name": _LONG}, {"disk_format": "zip"}, {"container_format": "box"},
        {"disk_format": 5}, {"visibility": "nope"}, {"visibility": None}, {"protected": "yes"},
        {"protected": None}, {"os_hidden": "no"}, {"min_ram": "1"}, {"min_ram": -1},
        {"min_disk": 1.5}, {"min_disk": -1}, {"min_ram": None}, {"tags": "a"}, {"tags": [5]},
        {"tags": [_LONG]}, {"tags": None}, {"foo": 5}, {"foo": None}, {"foo": ["x"]},
        {"foo": {"a": "b"}}, {_LONG: "y"}, {"owner": 5}, {"owner": _LONG},
    ):  # fmt: skip
        run.ask("alice", "POST", "/v2/images", fields)
    for body in (b"{", b"", b"3", b'"x"', b"null", b"\xff", b'{"name": "a"} x'):
        run.ask("alice", "POST", "/v2/images", body, {"Content-Type": "application/json"})
    run.ask("alice", "POST", "/v2/images")
    run.ask("alice", "POST", "/v2/images", b'{"name": "no type"}')
    run.ask("alice", "POST", "/v2/images", b'{"name": "x"}', {"Content-Type": "text/plain"})


@scenario
def fields_that_are_not_for_users(run: Run) -> None:
    names = (
        "size", "status", "virtual_size", "checksum", "created_at", "updated_at", "self", "file",
        "schema", "direct_url", "stores", "location", "deleted", "deleted_at", "os_glance_x",
        "os_glance_import_task",
    )  # fmt: skip
    for name in names:
        run.ask("alice", "POST", "/v2/images", {name: "x"})
    run.ask("alice", "POST", "/v2/images", {"size": 3})
    run.ask("alice", "POST", "/v2/images", {"status": "active"})
    run.ask("alice", "POST", "/v2/images", {"locations": []})
    run.ask("alice", "POST", "/v2/images", {"locations": [{"url": "file:///x", "metadata": {}}]})
    image = run.image(kept="1")
    for name in (*names, "id", "os_hash_algo", "os_hash_value"):
        for change in ("add", "replace"):
            run.patch("alice", image, {"op": change, "path": f"/{name}", "value": "x"})
        run.patch("alice", image, {"op": "remove", "path": f"/{name}"})


@scenario
def changing(run: Run) -> None:
    image = run.image(foo="1")
    for changes in (
        [{"op": "replace", "path": "/name", "value": "y"}],
        [{"op": "add", "path": "/name", "value": "z"}],
        [{"op": "replace", "path": "/name", "value": None}],
        [{"op": "add", "path": "/bar", "value": "2"}],
        [{"op": "add", "path": "/bar", "value": "3"}],
        [{"op": "replace", "path": "/bar", "value": "4"}],
        [{"op": "remove", "path": "/bar"}],
        [{"op": "add", "path": "/s~1l~0x", "value": "1"}],
        [{"op": "remove", "path": "/s~1l~0x"}],
        [{"op": "replace", "path": "/tags", "value": ["b", "a", "b"]}],
        [{"op": "replace", "path": "/tags", "value": []}],
        [{"op": "replace", "path": "/min_ram", "value": 5}],
        [{"op": "replace", "path": "/min_disk", "value": 6}],
        [{"op": "replace", "path": "/protected", "value": True}],
        [{"op": "replace", "path": "/protected", "value": False}],
        [{"op": "replace", "path": "/os_hidden", "value": True}],
        [{"op": "replace", "path": "/visibility", "value": "private"}],
        [{"op": "replace", "path": "/visibility", "value": "community"}],
        [{"op": "replace", "path": "/disk_format", "value": "qcow2"}],
        [{"op": "replace", "path": "/container_format", "value": "ova"}],
        [{"op": "replace", "path": "/disk_format", "value": None}],
        [
            {"op": "add", "path": "/many", "value": "1"},
            {"op": "replace", "path": "/many", "value": "2"},
            {"op": "remove", "path": "/foo"},
        ],
        [],
    ):
        run.ask("alice", "PATCH", image, changes, PATCH)
    run.ask("alice", "GET", image)


@scenario
def changes_that_fail(run: Run) -> None:
    image = run.active(foo="1")
    for change in (
        {"op": "remove", "path": "/nope"}, {"op": "replace", "path": "/nope", "value": "1"},
        {"op": "remove", "path": "/name"}, {"op": "remove", "path": "/tags"},
        {"op": "remove", "path": "/disk_format"}, {"op": "replace", "path": "/name"},
        {"op": "add", "path": "/bar"}, {"op": "move", "path": "/name"},
        {"op": "test", "path": "/name", "value": "x"}, {"path": "/name"}, {"op": "add", "value": 1},
        {"op": "add", "path": "name", "value": "1"}, {"op": "add", "path": "/a/b", "value": "1"},
        {"op": "add", "path": "/a//b", "value": "1"}, {"op": "add", "path": "/a/", "value": "1"},
        {"op": "add", "path": "/a~2", "value": "1"}, {"op": "add", "path": "/a~", "value": "1"},
        {"op": "add", "path": "/tags/-", "value": "1"}, {"op": "add", "path": "/b", "value": 5},
        {"op": "add", "path": "/b", "value": None}, {"op": "replace", "path": "/name", "value": 5},
        {"op": "replace", "path": "/visibility", "value": "zz"},
        {"op": "replace", "path": "/visibility", "value": "public"},
        {"op": "replace", "path": "/min_ram", "value": "1"},
        {"op": "replace", "path": "/min_ram", "value": -1},
        {"op": "replace", "path": "/protected", "value": "x"},
        {"op": "replace", "path": "/tags", "value": "x"},
        {"op": "replace", "path": "/owner", "value": "x"},
        {"op": "replace", "path": "/disk_format", "value": "qcow2"},
        {"op": "replace", "path": "/container_format", "value": "ovf"},
        {"op": "replace", "path": "/disk_format", "value": "zip"},
        {"op": "replace", "path": "/locations", "value": []},
    ):  # fmt: skip
        run.patch("alice", image, change)
    # The first change is good, the second is not: neither is made.
    run.patch(
        "alice", image,
        {"op": "replace", "path": "/name", "value": "half"}, {"op": "remove", "path": "/nope"},
    )  # fmt: skip
    run.patch("alice", image, "x")
    for body, headers in (
        (b"{}", PATCH), (b"[", PATCH), (b"3", PATCH), (b"", PATCH), (b"[]", {}),
        (b"[]", {"Content-Type": "application/json"}),
        (b"[]", {"Content-Type": "application/json-patch+json"}),
    ):  # fmt: skip
        run.ask("alice", "PATCH", image, body, headers)
    run.patch("alice", "/v2/images/nope", {"op": "add", "path": "/a", "value": "1"})
    run.ask("alice", "GET", image)


@scenario
def changing_in_the_old_media_type(run: Run) -> None:
    image = run.image(foo="1")
    for changes in (
        [{"replace": "/name", "value": "y"}], [{"add": "/bar", "value": "2"}],
        [{"add": "/bar", "value": "3"}], [{"add": "/name", "value": "3"}],
        [{"replace": "/bar", "value": "3"}], [{"remove": "/bar"}], [{"remove": "/bar"}],
        [{"replace": "/bar", "value": "3"}], [{"add": "/a", "remove": "/b"}], [{}],
        [{"add": "/q"}], [{"op": "add", "path": "/q", "value": "1"}],
        [{"replace": "/id", "value": "x"}],
        [{"replace": "/tags", "value": ["a"]}], [{"remove": "/name"}], [{"add": "q", "value": "x"}],
    ):  # fmt: skip
        run.ask("alice", "PATCH", image, changes, OLD_PATCH)


@scenario
def deleting(run: Run) -> None:
    image = run.image()
    run.patch("alice", image, {"op": "replace", "path": "/protected", "value": True})
    run.ask("alice", "DELETE", image)
    run.ask("admin", "DELETE", image)
    run.patch("alice", image, {"op": "replace", "path": "/protected", "value": False})
    run.ask("alice", "DELETE", image)
    run.ask("alice", "DELETE", image)
    run.ask("alice", "GET", image)
    run.ask("admin", "GET", image)
    run.patch("alice", image, {"op": "replace", "path": "/name", "value": "x"})
    run.ask("alice", "DELETE", "/v2/images/nope")
    active = run.active()
    run.ask("alice", "DELETE", active)
    run.ask("alice", "GET", f"{active}/file")
    staged = run.image()
    run.ask("alice", "PUT", f"{staged}/stage", b"x", {"Content-Type": "application/octet-stream"})
    run.ask("alice", "DELETE", staged)


@scenario
def tags(run: Run) -> None:
    image = run.image(tags=["first"])
    run.ask("alice", "PUT", f"{image}/tags/second")
    run.ask("alice", "PUT", f"{image}/tags/second")
    run.ask("alice", "PUT", f"{image}/tags/with%20space")
    run.ask("alice", "PUT", f"{image}/tags/%C3%BC")
    run.ask("alice", "GET", image)
    run.ask("alice", "DELETE", f"{image}/tags/second")
    run.ask("alice", "DELETE", f"{image}/tags/second")
    run.ask("alice", "PUT", f"{image}/tags/{_LONG}")
    run.ask("rita", "PUT", f"{image}/tags/x")
    run.ask("bob", "PUT", f"{image}/tags/x")
    run.ask("rita", "DELETE", f"{image}/tags/first")
    run.ask("alice", "PUT", "/v2/images/nope/tags/x")
    run.ask("alice", "GET", image)


@scenario
def deactivating(run: Run) -> None:
    queued, image = run.image(), run.active()
    for verb in ("deactivate", "reactivate"):
        run.ask("alice", "POST", f"{queued}/actions/{verb}")
        run.ask("alice", "POST", f"/v2/images/nope/actions/{verb}")
    for who in ("rita", "bob", "alice", "alice"):
        run.ask(who, "POST", f"{image}/actions/deactivate")
    run.ask("alice", "GET", image)
    run.ask("alice", "GET", f"{image}/file")
    run.ask("admin", "GET", f"{image}/file")
    for who in ("rita", "bob", "alice", "admin"):
        run.ask(who, "POST", f"{image}/actions/reactivate")
    run.ask("alice", "GET", f"{image}/file")
    run.ask("admin", "POST", f"{image}/actions/deactivate")
    run.ask("alice", "DELETE", image)


@scenario
def what_readers_and_strangers_may(run: Run) -> None:
    run.ask("rita", "POST", "/v2/images", {"name": "x"})
    run.ask("alice", "POST", "/v2/images", {"owner": run.projects["two"]})
    run.ask("alice", "POST", "/v2/images", {"visibility": "public"})
    for visibility in ("private", "shared", "community"):
        image = run.active(visibility=visibility)
        for who in ("rita", "bob", "robot", "admin"):
            run.ask(who, "GET", image)
            run.ask(who, "GET", f"{image}/file")
            run.patch(who, image, {"op": "add", "path": f"/by_{who}", "value": "1"})
            run.patch(who, image, {"op": "replace", "path": "/visibility", "value": visibility})
        for who in ("rita", "bob"):
            run.ask(who, "DELETE", image)
    admins = run.ask("admin", "POST", "/v2/images", {"owner": run.projects["two"], "name": "given"})
    given = f"/v2/images/{admins.id}"
    run.ask("bob", "GET", given)
    run.ask("alice", "GET", given)
    run.patch("admin", given, {"op": "replace", "path": "/owner", "value": run.projects["one"]})
    run.ask("alice", "GET", given)
    run.ask("bob", "GET", given)


@scenario
def public_images(run: Run) -> None:
    image = run.active()
    run.patch("alice", image, {"op": "replace", "path": "/visibility", "value": "public"})
    run.patch("admin", image, {"op": "replace", "path": "/visibility", "value": "public"})
    for who in ("alice", "rita", "bob"):
        run.ask(who, "GET", image)
        run.patch(who, image, {"op": "add", "path": "/more", "value": "1"})
    run.ask("bob", "GET", f"{image}/file")
    run.ask("rita", "GET", f"{image}/file")
    run.ask("bob", "DELETE", image)
    run.patch("alice", image, {"op": "replace", "path": "/visibility", "value": "private"})
    run.ask("bob", "GET", image)


@scenario
def request_identifiers(run: Run) -> None:
    for given in ("req-mine", "mine", "x" * 64, "x" * 65, "req-" + "1" * 36):
        headers = {"X-Openstack-Request-ID": given}
        run.ask("alice", "GET", "/v2/schemas/member", headers=headers)
    run.ask("alice", "GET", "/v2/images/nope", headers={"X-Openstack-Request-ID": "req-mine"})
    run.ask(None, "GET", "/versions", headers={"X-Openstack-Request-ID": "req-mine"})


@scenario
def quotas(run: Run) -> None:
    run.ask("alice", "POST", "/v2/images", {f"p{n}": "x" for n in range(129)})
    run.ask("alice", "POST", "/v2/images", {"tags": [f"t{n}" for n in range(129)]})
    image = run.image(**{f"p{n}": "x" for n in range(128)}, tags=[f"t{n}" for n in range(128)])
    run.patch("alice", image, {"op": "add", "path": "/one_more", "value": "x"})
    run.ask("alice", "PUT", f"{image}/tags/one_more")
    run.patch("alice", image, {"op": "replace", "path": "/tags", "value": ["few"]})
