"""The clients that people have, unchanged, drive every operation on images.

python-openstackclient, python-glanceclient and openstacksdk come from PyPI and live in an
environment of their own (`openstack_env`); `client_driver` runs them there.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import openstack_databases
from asking import Child, start_service
from clients import Clients, driven, no_authentication, with_keystone
from glance_peer import Openstack
from web_servers import Files

pytestmark = pytest.mark.peer("openstack", "glanceclient", "openstacksdk")

_BYTES = bytes(range(256)) * 40
_FORMATS = "--disk-format", "raw", "--container-format", "bare"
_SETTINGS = """\
default_store = "fast"
show_locations = true
[stores.fast]
url = "file://{folder}/fast"
[stores.slow]
url = "file://{folder}/slow"
[stores.web]
url = "http://"
[imports]
hosts = ["127.0.0.1"]
ports = [80, 443, {port}]
private_addresses = true
"""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where an image may be fetched from."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "image.raw").write_bytes(_BYTES)
    (folder / "again.raw").write_bytes(_BYTES)
    handler = type("Served", (Files,), {"directory": folder})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/image.raw"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def ours(web: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """``vmimg serve`` with two stores and the web, where nobody is asked who he is."""
    folder = tmp_path_factory.mktemp("ours")
    port = web.split(":")[2].split("/")[0]
    (folder / "vmimg.toml").write_text(_SETTINGS.format(folder=folder, port=port))
    child = start_service(folder, "--config", str(folder / "vmimg.toml"))
    yield child
    child.http.close()
    child.stop()


@pytest.fixture(scope="module")
def clients(ours: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with driven(tmp_path_factory.mktemp("clients"), no_authentication(ours.url)) as them:
        yield them


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.raw"
    path.write_bytes(_BYTES)
    return path


def _raw(clients: Clients, name: str, data: Path) -> str:
    """The identifier of a new image with data."""
    made = clients.shown(
        "image",
        "create",
        name,
        *_FORMATS,
        "--file",
        data,
    )
    return str(made["id"])


# python-openstackclient ---------------------------------------------------------------------------


def test_openstack_creates_uploads_shows_saves_and_deletes(
    clients: Clients, data: Path, tmp_path: Path
) -> None:
    made = clients.shown(
        "image", "create", "osc", "--disk-format", "raw", "--container-format", "bare",
        "--min-disk", "1", "--min-ram", "64", "--property", "os_distro=debian", "--tag", "first",
        "--private", "--protected", "--file", data,
    )  # fmt: skip
    assert made["name"] == "osc"
    shown = clients.shown("image", "show", "osc")
    assert (shown["status"], shown["size"]) == ("active", len(_BYTES))
    assert shown["checksum"] == hashlib.md5(_BYTES, usedforsecurity=False).hexdigest()
    assert shown["properties"]["os_hash_value"] == hashlib.sha512(_BYTES).hexdigest()
    assert shown["properties"]["os_distro"] == "debian"
    assert (shown["visibility"], shown["protected"], shown["tags"]) == ("private", True, ["first"])
    clients.did("image", "save", "osc", "--file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == _BYTES
    assert clients.openstack("image", "delete", "osc").code != 0
    clients.did("image", "set", "osc", "--unprotected")
    clients.did("image", "delete", "osc")
    assert "osc" not in [image["Name"] for image in clients.shown("image", "list")]


def test_openstack_sets_and_unsets(clients: Clients, data: Path) -> None:
    image = _raw(clients, "to set", data)
    clients.did(
        "image", "set", image, "--name", "renamed", "--min-disk", "2", "--min-ram", "128",
        "--property", "hw_disk_bus=virtio", "--os-distro", "fedora", "--tag", "a", "--tag", "b",
        "--hidden", "--private",
    )  # fmt: skip
    shown = clients.shown("image", "show", image)
    assert (shown["name"], shown["min_disk"], shown["min_ram"]) == ("renamed", 2, 128)
    assert (shown["visibility"], shown["tags"]) == ("private", ["a", "b"])
    assert shown["properties"]["hw_disk_bus"] == "virtio"
    assert shown["properties"]["os_hidden"] is True
    hidden = clients.shown("image", "list", "--hidden")
    assert image in [found["ID"] for found in hidden]
    clients.did("image", "unset", image, "--tag", "a", "--property", "hw_disk_bus")
    shown = clients.shown("image", "show", image)
    assert shown["tags"] == ["b"]
    assert "hw_disk_bus" not in shown["properties"]
    clients.did("image", "set", image, "--deactivate")
    assert clients.shown("image", "show", image)["status"] == "deactivated"
    clients.did("image", "set", image, "--activate", "--unhidden")
    assert clients.shown("image", "show", image)["status"] == "active"
    clients.did("image", "delete", image)


def test_openstack_lists(clients: Clients, data: Path) -> None:
    wanted = [_raw(clients, f"listed-{letter}", data) for letter in "abc"]
    clients.did("image", "set", wanted[1], "--property", "kind=special", "--tag", "marked")
    by_name = clients.shown("image", "list", "--name", "listed-a")
    assert [image["ID"] for image in by_name] == [wanted[0]]
    assert [i["ID"] for i in clients.shown("image", "list", "--tag", "marked")] == [wanted[1]]
    special = clients.shown("image", "list", "--property", "kind=special")
    assert [image["ID"] for image in special] == [wanted[1]]
    ordered = clients.shown("image", "list", "--sort", "name:desc", "--long")
    names = [image["Name"] for image in ordered if image["Name"].startswith("listed")]
    assert names == ["listed-c", "listed-b", "listed-a"]
    pages = clients.shown("image", "list", "--page-size", "1", "--sort", "name:asc")
    assert [i["Name"] for i in pages if i["Name"].startswith("listed")] == names[::-1]
    older = [image["ID"] for image in clients.shown("image", "list", "--marker", wanted[1])]
    assert wanted[0] in older and wanted[2] not in older
    assert len(clients.shown("image", "list", "--limit", "2")) == 2
    active = clients.shown("image", "list", "--status", "active", "--shared")
    assert set(wanted) <= {image["ID"] for image in active}
    clients.did("image", "delete", *wanted)


def test_openstack_stages_imports_and_copies(clients: Clients, data: Path, web: str) -> None:
    assert "web-download" in json.dumps(clients.shown("image", "import", "info"))
    stores = clients.shown("image", "stores", "list")
    assert {store["ID"] for store in stores} == {"fast", "slow", "web"}
    image = clients.shown(
        "image", "create", "--import", "--disk-format", "raw", "--container-format", "bare",
        "--file", data, "imported",
    )["id"]  # fmt: skip
    _wait(clients, image)
    other = clients.shown(
        "image", "create", "staged", "--disk-format", "raw", "--container-format", "bare"
    )["id"]
    clients.did("image", "stage", other, "--file", data)
    assert clients.shown("image", "show", other)["status"] == "uploading"
    clients.did("image", "import", other, "--method", "glance-direct", "--store", "slow")
    _wait(clients, other)
    assert clients.shown("image", "show", other)["properties"]["stores"] == "slow"
    clients.did("image", "import", other, "--method", "copy-image", "--store", "fast")
    _wait(clients, other)
    stored = clients.shown("image", "show", other)["properties"]["stores"]
    assert set(stored.split(",")) == {"fast", "slow"}
    clients.did("image", "delete", other, "--store", "slow")
    assert clients.shown("image", "show", other)["properties"]["stores"] == "fast"
    fetched = clients.shown(
        "image", "create", "fetched", "--disk-format", "raw", "--container-format", "bare"
    )["id"]
    clients.did("image", "import", fetched, "--method", "web-download", "--uri", web)
    _wait(clients, fetched)
    assert clients.shown("image", "show", fetched)["size"] == len(_BYTES)
    listed = clients.shown("image", "task", "list")
    assert {task["Status"] for task in listed} == {"success"}
    task = clients.shown("image", "task", "show", listed[0]["ID"])
    assert task["type"] == "api_image_import"
    clients.did("image", "delete", image, other, fetched)


def test_openstack_queues_for_the_cache(clients: Clients, data: Path) -> None:
    image = _raw(clients, "cached", data)
    clients.did("cached", "image", "queue", image)
    assert clients.openstack("cached", "image", "list").code == 0
    clients.did("cached", "image", "delete", image)
    clients.did("cached", "image", "clear")
    clients.did("image", "delete", image)


def test_openstack_defines_metadata(clients: Clients) -> None:
    metadef = ("image", "metadef")
    clients.did(*metadef, "namespace", "create", "Osc", "--public", "--description", "of tests")
    names = clients.shown(*metadef, "namespace", "list")
    assert "Osc" in [found["namespace"] for found in names]
    clients.did(*metadef, "namespace", "set", "Osc", "--display-name", "Shown", "--public")
    assert clients.shown(*metadef, "namespace", "show", "Osc")["display_name"] == "Shown"
    clients.did(
        *metadef, "property", "create", "Osc", "--name", "count", "--title", "Count", "--type",
        "integer", "--schema", '{"minimum": 1}',
    )  # fmt: skip
    shown = clients.shown(*metadef, "property", "show", "Osc", "count")
    assert (shown["type"], shown["minimum"]) == ("integer", 1)
    clients.did(*metadef, "property", "set", "Osc", "count", "--title", "Number")
    assert clients.shown(*metadef, "property", "list", "Osc")[0]["title"] == "Number"
    clients.did(*metadef, "object", "create", "thing", "--namespace", "Osc")
    assert clients.shown(*metadef, "object", "show", "Osc", "thing")["name"] == "thing"
    clients.did(*metadef, "object", "update", "Osc", "thing", "--name", "other")
    assert [o["name"] for o in clients.shown(*metadef, "object", "list", "Osc")] == ["other"]
    types = clients.shown(*metadef, "resource", "type", "list")
    assert "OS::Glance::Image" in [found["Name"] for found in types]
    association = (*metadef, "resource", "type", "association")
    clients.did(*association, "create", "Osc", "OS::Glance::Image")
    assert len(clients.shown(*association, "list", "Osc")) == 1
    clients.did(*association, "delete", "Osc", "OS::Glance::Image")
    clients.did(*metadef, "object", "delete", "Osc", "other")
    clients.did(*metadef, "property", "delete", "Osc", "count")
    clients.did(*metadef, "namespace", "delete", "Osc")


# python-glanceclient ------------------------------------------------------------------------------


def test_glance_creates_uploads_downloads_and_deletes(
    clients: Clients, data: Path, tmp_path: Path
) -> None:
    made = clients.table(
        "image-create", "--name", "gc", "--disk-format", "raw", "--container-format", "bare",
        "--property", "os_distro=debian", "--visibility", "private", "--file", str(data),
    )  # fmt: skip
    image = made["id"]
    assert (made["status"], made["size"]) == ("active", str(len(_BYTES)))
    clients.table("image-download", image, "--file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == _BYTES
    updated = clients.table(
        "image-update", image, "--name", "gc2", "--property", "a=b",
        "--remove-property", "os_distro", "--min-disk", "3",
    )  # fmt: skip
    assert (updated["name"], updated["a"], updated["min_disk"]) == ("gc2", "b", "3")
    assert "os_distro" not in updated
    clients.table("image-tag-update", image, "marked")
    assert "marked" in clients.table("image-show", image)["tags"]
    clients.table("image-tag-delete", image, "marked")
    clients.table("image-deactivate", image)
    assert clients.table("image-show", image)["status"] == "deactivated"
    clients.table("image-reactivate", image)
    assert image in clients.glance("image-list", "--property-filter", "name=gc2").out
    clients.table("image-delete", image)
    assert clients.glance("image-show", image).code != 0


def test_glance_says_where_images_lie(clients: Clients, web: str, tmp_path: Path) -> None:
    image = clients.table("image-create", "--name", "gl", *_FORMATS)["id"]
    sums = hashlib.md5(_BYTES, usedforsecurity=False).hexdigest()
    said = "--checksum", sums, "--hash-algo", "sha512"
    value = hashlib.sha512(_BYTES).hexdigest()
    clients.glance("location-add", image, "--url", web, *said, "--hash-value", value)
    shown = clients.table("image-show", image)
    assert (shown["status"], shown["checksum"], shown["stores"]) == ("active", sums, "web")
    again = web.replace("image.raw", "again.raw")
    assert again in clients.glance("location-add", image, "--url", again).out
    metadata = json.dumps({"shelf": "3"})
    assert (
        "shelf"
        in clients.glance("location-update", image, "--url", web, "--metadata", metadata).out
    )
    clients.glance("location-delete", image, "--url", web)
    assert web not in clients.glance("image-show", image).out
    clients.glance("image-download", image, "--file", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == _BYTES


def test_glance_stages_imports_and_knows_stores(clients: Clients, data: Path, web: str) -> None:
    assert "import-methods" in clients.table("import-info")
    assert "slow" in clients.glance("stores-info").out
    assert "file" in clients.glance("stores-info", "--detail").out
    image = clients.table("image-create", "--name", "g", *_FORMATS)["id"]
    clients.table("image-stage", image, "--file", str(data))
    both = "--stores", "fast,slow"
    clients.table("image-import", image, "--import-method", "glance-direct", *both)
    _wait(clients, image)
    assert set(clients.table("image-show", image)["stores"].split(",")) == {"fast", "slow"}
    assert "success" in clients.glance("image-tasks", image).out
    clients.table("stores-delete", image, "--store", "fast")
    fetched = clients.table(
        "image-create-via-import", "--name", "w", "--disk-format", "raw", "--container-format",
        "bare", "--import-method", "web-download", "--uri", web,
    )["id"]  # fmt: skip
    _wait(clients, fetched)
    direct = clients.table(
        "image-create-via-import", "--name", "d", "--disk-format", "raw", "--container-format",
        "bare", "--import-method", "glance-direct", "--file", str(data),
    )["id"]  # fmt: skip
    _wait(clients, direct)
    uploaded = clients.table("image-create", *_FORMATS)["id"]
    clients.table("image-upload", uploaded, "--file", str(data), "--store", "slow")
    assert clients.table("image-show", uploaded)["stores"] == "slow"
    tasks = clients.glance("task-list")
    assert tasks.code == 0 and "api_image_import" in tasks.out
    assert clients.glance("usage").code == 0
    clients.table("image-delete", image, fetched, direct, uploaded)


def test_glance_shares_images(clients: Clients) -> None:
    image = clients.table("image-create", "--name", "shared", "--visibility", "shared")["id"]
    assert "pending" in clients.glance("member-create", image, "a-project").out
    assert "accepted" in clients.glance("member-update", image, "a-project", "accepted").out
    assert "a-project" in clients.glance("member-list", "--image-id", image).out
    assert "accepted" in clients.glance("member-get", image, "a-project").out
    assert clients.glance("member-delete", image, "a-project").code == 0
    assert "a-project" not in clients.glance("member-list", "--image-id", image).out
    clients.table("image-delete", image)


def test_glance_explains_caches_and_defines_metadata(clients: Clients, data: Path) -> None:
    assert "container_format" in clients.glance("explain", "image").out
    image = clients.table(
        "image-create", "--disk-format", "raw", "--container-format", "bare", "--file", str(data)
    )["id"]
    for command in (
        ("cache-queue", image), ("cache-list",), ("cache-nodes-list", image),
        ("cache-delete", image), ("cache-clean",), ("cache-prune",), ("cache-clear",),
        ("md-namespace-create", "Gc", "--visibility", "public"),
        ("md-namespace-update", "Gc", "--display-name", "Shown", "--visibility", "public"),
        ("md-namespace-list",), ("md-namespace-show", "Gc"),
        (
            "md-property-create", "Gc", "--name", "p", "--title", "P", "--type", "string",
            "--schema", "{}",
        ),
        ("md-property-update", "Gc", "p", "--title", "Q"), ("md-property-list", "Gc"),
        ("md-property-show", "Gc", "p"),
        ("md-object-create", "Gc", "--name", "o", "--schema", "{}"),
        ("md-object-update", "Gc", "o", "--schema", '{"description": "x"}'),
        ("md-object-list", "Gc"),
        ("md-object-show", "Gc", "o"), ("md-tag-create", "Gc", "--name", "t"),
        ("md-tag-create-multiple", "Gc", "--names", "u,v"),
        ("md-tag-update", "Gc", "u", "--name", "w"),
        ("md-tag-list", "Gc"), ("md-tag-show", "Gc", "w"), ("md-tag-delete", "Gc", "w"),
        ("md-resource-type-list",),
        ("md-resource-type-associate", "Gc", "--name", "OS::Nova::Flavor"),
        ("md-namespace-resource-type-list", "Gc"),
        ("md-resource-type-deassociate", "Gc", "OS::Nova::Flavor"),
        ("md-object-delete", "Gc", "o"), ("md-property-delete", "Gc", "p"),
        ("md-namespace-tags-delete", "Gc"), ("md-namespace-objects-delete", "Gc"),
        ("md-namespace-properties-delete", "Gc"), ("md-namespace-delete", "Gc"),
        ("image-delete", image),
    ):  # fmt: skip
        said = clients.glance(*command)
        assert said.code == 0, (command, said.err or said.out)


# openstacksdk -------------------------------------------------------------------------------------


def test_the_sdk_creates_changes_downloads_and_deletes(clients: Clients, data: Path) -> None:
    made = clients.sdk(
        "image.create_image", "sdk", filename=str(data), disk_format="raw", container_format="bare",
        tags=["first"], wait=True, validate_checksum=True, os_distro="debian",
    )  # fmt: skip
    image = made["id"]
    got = clients.sdk("image.get_image", image)
    assert (got["status"], got["size"], got["tags"]) == ("active", len(_BYTES), ["first"])
    back = clients.sdk("image.download_image", image)
    assert back["content"].encode("latin-1") == _BYTES
    changed = clients.sdk("image.update_image", image, name="sdk2", min_ram=5, a_property="x")
    assert (changed["name"], changed["min_ram"]) == ("sdk2", 5)
    assert changed["properties"]["a_property"] == "x"
    clients.sdk("image.add_tag", image, "second")
    clients.sdk("image.remove_tag", image, "first")
    assert clients.sdk("image.find_image", "sdk2")["tags"] == ["second"]
    clients.sdk("image.deactivate_image", image)
    assert clients.sdk("image.get_image", image)["status"] == "deactivated"
    clients.sdk("image.reactivate_image", image)
    found = clients.sdk("image.images", name="sdk2", sort="name:asc", limit=1)
    assert [item["id"] for item in found] == [image]
    clients.sdk("image.delete_image", image)
    assert clients.sdk_fails("image.get_image", image)[0] == "NotFoundException"
    kind, words = clients.sdk_fails("image.create_image", "bad", disk_format="zip")
    assert kind == "BadRequestException"
    assert "zip" in words


def test_the_sdk_imports_shares_and_asks_about_the_service(
    clients: Clients, data: Path, web: str
) -> None:
    made = clients.sdk("image.create_image", "s", disk_format="raw", container_format="bare")
    image = made["id"]
    clients.sdk("image.import_image", {"image": image}, "web-download", uri=web, store="slow")
    _wait(clients, image)
    assert clients.sdk("image.get_image", image)["properties"]["stores"] == "slow"
    clients.sdk("image.import_image", {"image": image}, "copy-image", store="fast")
    _wait(clients, image)
    assert len(clients.sdk("image.image_tasks", image)) == 2
    assert len(clients.sdk("image.tasks")) >= 2
    member = clients.sdk("image.add_member", image, member_id="b-project")
    assert member["status"] == "pending"
    clients.sdk("image.update_member", "b-project", image, status="accepted")
    assert [m["status"] for m in clients.sdk("image.members", image)] == ["accepted"]
    assert clients.sdk("image.get_member", "b-project", image=image)["status"] == "accepted"
    clients.sdk("image.remove_member", "b-project", image=image)
    assert clients.sdk("image.image_locations", image) is not None
    stores = clients.sdk("image.stores", details=True)
    assert {store["id"] for store in stores} == {"fast", "slow", "web"}
    assert "copy-image" in json.dumps(clients.sdk("image.get_import_info"))
    for kind in ("image", "images", "member", "members", "task", "tasks"):
        assert clients.sdk(f"image.get_{kind}_schema")["properties"]
    for kind in ("namespace", "namespaces", "resource_type", "object", "property", "tag", "tags"):
        assert clients.sdk(f"image.get_metadef_{kind}_schema")["properties"]
    clients.sdk("image.queue_image", image)
    assert clients.sdk("image.get_image_cache") is not None
    clients.sdk("image.cache_delete_image", image)
    clients.sdk("image.clear_cache")
    clients.sdk("image.delete_image", image, store="fast")
    assert clients.sdk("image.get_image", image)["properties"]["stores"] == "slow"
    clients.sdk("image.delete_image", image)


def test_the_sdk_defines_metadata(clients: Clients) -> None:
    clients.sdk("image.create_metadef_namespace", namespace="Sdk", visibility="public")
    clients.sdk("image.update_metadef_namespace", "Sdk", display_name="Shown", visibility="public")
    assert clients.sdk("image.get_metadef_namespace", "Sdk")["display_name"] == "Shown"
    assert "Sdk" in [item["namespace"] for item in clients.sdk("image.metadef_namespaces")]
    clients.sdk("image.create_metadef_object", "Sdk", name="o", description="x")
    assert clients.sdk("image.get_metadef_object", "o", "Sdk")["description"] == "x"
    clients.sdk("image.update_metadef_object", "o", "Sdk", name="o", description="y")
    assert len(clients.sdk("image.metadef_objects", "Sdk")) == 1
    clients.sdk("image.create_metadef_property", "Sdk", name="p", title="P", type="string")
    clients.sdk("image.update_metadef_property", "p", "Sdk", name="p", title="Q", type="string")
    assert clients.sdk("image.get_metadef_property", "p", "Sdk")["title"] == "Q"
    assert len(clients.sdk("image.metadef_properties", "Sdk")) == 1
    clients.sdk("image.create_metadef_resource_type_association", "Sdk", name="OS::Nova::Flavor")
    assert len(clients.sdk("image.metadef_resource_type_associations", "Sdk")) == 1
    assert len(clients.sdk("image.metadef_resource_types")) >= 1
    clients.sdk("image.delete_metadef_resource_type_association", "OS::Nova::Flavor", "Sdk")
    clients.sdk("image.delete_all_metadef_objects", "Sdk")
    clients.sdk("image.delete_all_metadef_properties", "Sdk")
    clients.sdk("image.delete_metadef_namespace", "Sdk")
    assert clients.sdk_fails("image.get_metadef_namespace", "Sdk")[0] == "NotFoundException"


# With Keystone ------------------------------------------------------------------------------------


@pytest.mark.peer("keystone", "glance")
def test_people_whom_keystone_knows_share_an_image(
    openstack: Openstack, data: Path, tmp_path: Path
) -> None:
    pair = openstack_databases.SETS - 1  # the last one: scenarios count from the first
    one, two = openstack.projects[f"one-{pair}"], openstack.projects[f"two-{pair}"]
    (tmp_path / "service").mkdir()
    with openstack.serving(tmp_path / "service") as ours:

        def somebody(name: str, project: str) -> dict[str, str]:
            return with_keystone(ours.url, openstack.keystone, name, project)

        with (
            driven(tmp_path, somebody("alice", f"one-{pair}")) as alice,
            driven(tmp_path, somebody("bob", f"two-{pair}")) as bob,
            driven(tmp_path, somebody("rita", f"one-{pair}")) as rita,
        ):
            image = _raw(alice, "kept by Keystone", data)
            assert alice.shown("image", "show", image)["owner"] == one
            assert rita.shown("image", "show", image)["owner"] == one
            assert rita.openstack("image", "set", image, "--name", "stolen").code != 0
            assert bob.openstack("image", "show", image).code != 0
            alice.did("image", "add", "project", image, two)
            assert bob.shown("image", "list") == []
            bob.did("image", "set", "--accept", image)
            assert [found["ID"] for found in bob.shown("image", "list")] == [image]
            bob.did("image", "save", image, "--file", tmp_path / "bobs")
            assert (tmp_path / "bobs").read_bytes() == _BYTES
            assert bob.glance("image-delete", image).code != 0
            assert alice.shown("image", "member", "list", image)[0]["Status"] == "accepted"
            alice.did("image", "remove", "project", image, two)
            assert bob.sdk_fails("image.get_image", image)[0] == "NotFoundException"
            assert alice.openstack("image", "set", image, "--public").code != 0
            assert alice.sdk("image.get_image", image)["owner"] == one
            alice.did("image", "delete", image)


def _wait(clients: Clients, image: str) -> None:
    """Until an import has ended well."""
    under_way = "os_glance_import_task", "os_glance_importing_to_stores"
    end = time.monotonic() + 60
    while True:
        got = clients.sdk("image.get_image", image)
        if got["status"] == "active" and not any(map(got["properties"].get, under_way)):
            return
        assert time.monotonic() < end, f"the import does not end: {got}"
        time.sleep(0.05)
