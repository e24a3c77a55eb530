"""Nova and Cinder, unchanged, work on the service.

What a compute node, an API server and a volume service run to fetch, list, make, change, share,
copy and delete images.

Both come from PyPI: `nova.image.glance`, `nova.virt.images`, `cinder.image.glance` and
`cinder.image.image_utils`, under Keystone.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import openstack_databases
import peers
from asking import Child
from computing import Caller, driven
from glance_peer import Openstack

pytestmark = pytest.mark.peer("keystone", "glance", "nova", "cinder", "qemu-img")

_PAIR = openstack_databases.SETS - 2
_BYTES = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service keeps its stores, `fast` and `slow`."""
    return tmp_path_factory.mktemp("ours")


@pytest.fixture(scope="module")
def ours(openstack: Openstack, folder: Path) -> Iterator[Child]:
    with openstack.serving(folder) as child:
        yield child


@pytest.fixture(scope="module")
def nova(
    ours: Child, openstack: Openstack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Caller]]:
    with driven("nova", tmp_path_factory.mktemp("nova"), openstack, ours.url) as service:
        yield {
            "alice": service.of("alice", f"one-{_PAIR}"),
            "bob": service.of("bob", f"two-{_PAIR}"),
            "admin": service.of("admin", "admin"),
        }


@pytest.fixture(scope="module")
def cinder(
    ours: Child, openstack: Openstack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Caller]:
    with driven("cinder", tmp_path_factory.mktemp("cinder"), openstack, ours.url) as service:
        yield service.of("alice", f"one-{_PAIR}")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.raw"
    path.write_bytes(_BYTES)
    return path


@pytest.fixture
def qcow2(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "disk.qcow2"
    peers.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", data, path)
    return path


def _snapshot(nova: Caller, data: Path, **fields: object) -> str:
    """The identifier of an image that is made as a compute node makes a snapshot."""
    made = nova("api.create", {"name": "snap", "properties": {"image_type": "snapshot"}})
    formats = {"disk_format": "raw", "container_format": "bare"}
    nova("api.update", made["id"], formats | fields, data, purge_props=False)
    return str(made["id"])


# Nova ---------------------------------------------------------------------------------------------


def test_a_compute_node_takes_a_snapshot_and_fetches_it(
    nova: dict[str, Caller], data: Path, tmp_path: Path
) -> None:
    alice = nova["alice"]
    # The API server makes the image, the compute node gives it its data and what it knows.
    made = alice(
        "api.create",
        {
            "name": "of a server", "is_public": False, "min_ram": "512", "min_disk": 1,
            "properties": {
                "image_type": "snapshot", "instance_uuid": "a8f2-server", "base_image_ref": "",
                "user_id": "a-user", "image_state": "creating", "kernel_id": "",
            },
        },
    )  # fmt: skip
    assert (made["status"], made["size"], made["is_public"]) == ("queued", 0, False)
    changed = alice(
        "api.update",
        made["id"],
        {
            "disk_format": "raw", "container_format": "bare", "status": "active", "name": "named",
            "properties": {"image_state": "available", "ramdisk_id": "", "owner_id": "x"},
        },
        data,
        purge_props=False,
    )  # fmt: skip
    assert changed["status"] == "active"
    shown = alice("api.get", made["id"])
    assert (shown["name"], shown["size"], shown["min_ram"]) == ("named", len(_BYTES), 512)
    assert shown["checksum"] == hashlib.md5(_BYTES, usedforsecurity=False).hexdigest()
    assert shown["os_hash_value"] == hashlib.sha512(_BYTES).hexdigest()
    assert shown["properties"]["image_state"] == "available"
    assert shown["properties"]["instance_uuid"] == "a8f2-server"
    assert shown["created_at"].startswith("20")
    located = alice("api.get", made["id"], include_locations=True, show_deleted=False)
    assert located["locations"] == []  # they are not shown, and Nova fetches by the service
    alice("images.fetch", made["id"], str(tmp_path / "fetched"))
    assert (tmp_path / "fetched").read_bytes() == _BYTES
    assert alice("api.download", made["id"]).encode("latin-1") == _BYTES
    assert alice("api.delete", made["id"]) is True
    assert alice.fails("api.get", made["id"]) == "ImageNotFound"
    assert alice.fails("api.delete", made["id"]) == "ImageNotFound"


def test_a_compute_node_inspects_what_it_fetches_and_makes_it_raw(
    nova: dict[str, Caller], ours: Child, data: Path, qcow2: Path, tmp_path: Path
) -> None:
    alice = nova["alice"]
    image = _snapshot(alice, qcow2, disk_format="qcow2")
    alice("images.fetch_to_raw", image, str(tmp_path / "base"))
    assert (tmp_path / "base").read_bytes()[: len(_BYTES)] == _BYTES
    # An image may be named by its address.
    alice("images.fetch_to_raw", f"{ours.url}/v2/images/{image}", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "base").read_bytes()
    assert alice("api.get", f"{ours.url}/v2/images/{image}")["id"] == image
    assert not list(tmp_path.glob("*.part"))
    alice("api.delete", image)


def test_a_compute_node_refuses_what_was_damaged_in_the_store(
    nova: dict[str, Caller], folder: Path, data: Path, tmp_path: Path
) -> None:
    alice = nova["alice"]
    before = _stored(folder)
    image = _snapshot(alice, data)
    (stored,) = _stored(folder) - before
    stored.chmod(0o600)
    with stored.open("r+b") as file:
        file.seek(1000)
        file.write(b"other bytes")
    assert alice.fails("images.fetch", image, str(tmp_path / "fetched")) == "BrokenPipeError"
    assert not (tmp_path / "fetched").exists()
    alice("api.delete", image)


def test_a_snapshot_of_volumes_is_an_image_without_bytes(
    nova: dict[str, Caller], tmp_path: Path
) -> None:
    alice = nova["alice"]
    disks = [{"boot_index": 0, "snapshot_id": "s-1", "source_type": "snapshot"}]
    made = alice(
        "api.create",
        {
            "name": "of volumes", "size": 0, "is_public": False,
            "properties": {"block_device_mapping": disks, "bdm_v2": True, "root": "/dev/vda"},
        },
    )  # fmt: skip
    assert made["status"] == "active"
    shown = alice("api.get", made["id"])
    assert (shown["size"], shown["disk_format"]) == (0, "raw")
    assert shown["properties"]["block_device_mapping"] == disks
    assert shown["properties"]["bdm_v2"] == "True"
    alice("api.delete", made["id"])


def test_properties_that_are_not_said_again_are_purged(nova: dict[str, Caller], data: Path) -> None:
    alice = nova["alice"]
    image = _snapshot(alice, data, properties={"kept": "1", "dropped": "2"})
    purged = {"name": "purged", "properties": {"kept": "3"}}
    changed = alice("api.update", image, purged, purge_props=True)
    assert changed["name"] == "purged"
    assert changed["properties"]["kept"] == "3"
    assert "dropped" not in changed["properties"]
    assert "image_type" not in changed["properties"]
    alice("api.delete", image)


def test_the_api_server_lists_pages_and_filters(nova: dict[str, Caller], data: Path) -> None:
    alice = nova["alice"]
    since = alice("api.create", {"name": "first", "properties": {"kind": "list"}})["created_at"]
    queued = alice("api.get_all", filters={"name": "first"})
    wanted = [
        _snapshot(alice, data, name=f"listed-{letter}", properties={"kind": "list"})
        for letter in "abc"
    ]

    def names(**how: object) -> list[str]:
        return [image["name"] for image in alice("api.get_all", **how)]

    kind = {"property-kind": "list"}
    assert [image["status"] for image in queued] == ["queued"]
    assert sorted(names(filters={"kind": "list", "status": "active"})) == [
        "listed-a", "listed-b", "listed-c",
    ]  # fmt: skip
    by_name = names(filters=dict(kind), sort_key="name", sort_dir="desc", page_size=1)
    assert by_name == ["listed-c", "listed-b", "listed-a", "first"]
    assert names(filters=dict(kind), sort_key="name", sort_dir="asc", limit=2) == [
        "first", "listed-a",
    ]  # fmt: skip
    behind = names(filters=dict(kind), sort_key="name", sort_dir="asc", marker=wanted[1])
    assert behind == ["listed-c"]
    changed = names(filters={"changes-since": since.replace("+00:00", "Z"), **kind})
    assert len(changed) == 4
    assert names(filters={"is_public": "true", **kind}) == []
    assert len(names(filters={"size_min": len(_BYTES), "min_ram": 0, **kind})) == 3
    assert names(filters={"size_min": len(_BYTES) + 1, **kind}) == []
    assert nova["bob"]("api.get_all", filters=dict(kind)) == []
    for image in (*wanted, queued[0]["id"]):
        alice("api.delete", image)


def test_a_snapshot_that_an_administrator_takes_is_shared_with_the_servers_owner(
    nova: dict[str, Caller], openstack: Openstack, data: Path
) -> None:
    owner = openstack.projects[f"two-{_PAIR}"]
    bob, admin = nova["bob"], nova["admin"]
    made = admin(
        "api.create",
        {"name": "shelved", "visibility": "shared", "properties": {"instance_owner": owner}},
    )
    formats = {"disk_format": "raw", "container_format": "bare"}
    admin("api.update", made["id"], formats, data, purge_props=False)
    assert "instance_owner" not in admin("api.get", made["id"])["properties"]
    assert bob("api.download", made["id"]).encode("latin-1") == _BYTES
    assert nova["alice"].fails("api.get", made["id"]) == "ImageNotFound"
    assert bob.fails("api.delete", made["id"]) == "ImageNotAuthorized"
    admin("api.delete", made["id"])


def test_nova_understands_what_it_is_refused(nova: dict[str, Caller], data: Path) -> None:
    alice = nova["alice"]
    image = _snapshot(alice, data, protected=True)
    assert alice.fails("api.delete", image) == "ImageNotAuthorized"
    assert nova["bob"].fails("api.delete", image) == "ImageNotFound"
    assert nova["bob"].fails("api.download", image) == "ImageNotFound"
    assert alice.fails("api.create", {"name": "x", "is_public": True}) == "Forbidden"
    assert alice.fails("api.update", image, {"is_public": True}) == "ImageNotAuthorized"
    assert alice.fails("api.get_all", marker=str(uuid.uuid4())) == "Invalid"
    assert alice.fails("api.get_all", sort_key="no-such-key") == "Invalid"
    assert alice.fails("api.update", image, {}, data, purge_props=False) == "HTTPConflict"
    alice("api.update", image, {"protected": False}, purge_props=False)
    alice("api.delete", image)
    empty = alice("api.create", {"name": "empty", "properties": {}})["id"]
    assert alice.fails("api.download", empty) == "ImageUnacceptable"
    alice("api.delete", empty)


def test_nova_copies_an_image_to_the_store_that_is_near(
    nova: dict[str, Caller], data: Path
) -> None:
    admin = nova["admin"]
    image = _snapshot(admin, data)
    assert _stores(admin, image) == {"fast"}
    admin("api.copy_image_to_store", image, "slow")
    end = time.monotonic() + 60
    while _stores(admin, image) != {"fast", "slow"}:
        assert time.monotonic() < end, admin("api.get", image)
        time.sleep(0.05)
    assert admin.fails("api.copy_image_to_store", image, "slow") == "ImageBadRequest"
    queued = admin("api.create", {"name": "queued", "properties": {}})["id"]
    assert admin.fails("api.copy_image_to_store", queued, "slow") == "ImageImportImpossible"
    alices = _snapshot(nova["alice"], data)
    assert nova["bob"].fails("api.copy_image_to_store", alices, "slow") == "ImageNotFound"
    for made in (image, queued):
        admin("api.delete", made)
    nova["alice"]("api.delete", alices)


# Cinder -------------------------------------------------------------------------------------------


def test_a_volume_becomes_an_image_and_an_image_a_volume(
    cinder: Caller, data: Path, tmp_path: Path
) -> None:
    image = cinder(
        "api.create", {"name": "volume", "disk_format": "raw", "container_format": "bare"}
    )
    assert image["status"] == "queued"
    cinder(
        "upload_volume", image, str(data), run_as_root=False, store_id="slow", base_image_ref="x"
    )
    shown = cinder("api.show", image["id"])
    assert (shown["status"], shown["size"]) == ("active", len(_BYTES))
    assert shown["os_hash_value"] == hashlib.sha512(_BYTES).hexdigest()
    assert "stores" in shown or shown["properties"]["stores"] == "slow"
    assert cinder("api.download", image["id"]).encode("latin-1") == _BYTES
    cinder("fetch", image["id"], str(tmp_path / "volume"), None, None)
    assert (tmp_path / "volume").read_bytes() == _BYTES
    stores = cinder("api.get_stores")["stores"]
    assert {store["id"] for store in stores} == {"fast", "slow"}
    assert cinder("api.get_location", image["id"])[1]
    assert [found["id"] for found in cinder("api.detail", filters={"name": "volume"})] == [
        image["id"]
    ]
    changed = cinder(
        "api.update", image["id"], {"name": "v2", "properties": {"a": "b"}}, None, False
    )
    assert (changed["name"], changed["properties"]["a"]) == ("v2", "b")
    assert cinder("api.list_members", image["id"]) == []
    assert cinder("api.delete", image["id"]) is True
    assert cinder.fails("api.show", image["id"]) == "ImageNotFound"
    assert cinder.fails("api.download", image["id"]) == "ImageNotFound"


def _stores(nova: Caller, image: str) -> set[str]:
    shown = nova("api.get", image)
    return set((shown.get("stores") or shown["properties"]["stores"]).split(","))


def _stored(folder: Path) -> set[Path]:
    """The files of the store ``fast``."""
    return {path for path in (folder / "fast").rglob("*") if path.is_file()}
