"""Terraform's OpenStack provider works on the service: its requests, by the libraries it has.

The provider itself comes from no registry that tests reach. Its requests are those of gophercloud,
which Debian has; `gophercloud/main.go` makes them in the provider's order.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import openstack_databases
import peers
from driving import Driver, driver
from glance_peer import Openstack
from openstack_env import PASSWORD
from openstack_regions import region

pytestmark = [
    pytest.mark.peer("go", "gophercloud", "gophercloud-utils", "keystone", "glance"),
    pytest.mark.slow,
]

_PAIR = openstack_databases.SETS - 4
_BYTES = bytes(range(256)) * 300
_SOURCE = Path(__file__).with_name("gophercloud")
_RAW = {"container_format": "bare", "disk_format": "raw", "visibility": "private"}


@dataclass(frozen=True)
class Provider:
    """The provider's operations, on behalf of somebody."""

    driver: Driver

    def __call__(self, do: str, image: str = "", **said: Any) -> Any:
        """What the operation returns."""
        return self.driver.value(do=do, id=image, **said)

    def fails(self, do: str, image: str = "", **said: Any) -> str:
        """The kind of error that the operation meets."""
        return self.driver.failure(do=do, id=image, **said)


@pytest.fixture(scope="module")
def providers(
    openstack: Openstack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Provider]]:
    """alice's and bob's."""
    folder = tmp_path_factory.mktemp("gophercloud")
    program = folder / "provider"
    # Debian's Go libraries lie where Go looked before there were modules.
    debian = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache")}
    go = peers.find("go")
    assert go is not None
    built = subprocess.run(
        [go, "build", "-o", program, "."],
        cwd=_SOURCE, env=os.environ | debian, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (folder / "ours").mkdir()
    with (
        openstack.serving(folder / "ours") as ours,
        region(openstack, image=ours.url) as here,
        driver([program], folder, _who(openstack, here, "alice", f"one-{_PAIR}")) as alice,
        driver([program], folder, _who(openstack, here, "bob", f"two-{_PAIR}")) as bob,
    ):
        yield {"alice": Provider(alice), "bob": Provider(bob)}


def _who(openstack: Openstack, here: str, user: str, project: str) -> dict[str, str]:
    return {
        "OS_AUTH_URL": f"{openstack.keystone}/v3", "OS_USERNAME": user, "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": project, "OS_REGION_NAME": here,
    }  # fmt: skip


@pytest.fixture
def alice(providers: dict[str, Provider]) -> Provider:
    return providers["alice"]


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "data.raw"
    path.write_bytes(_BYTES)
    return str(path)


def _change(key: str, value: Any = None, op: str = "replace") -> dict[str, Any]:
    return {"op": op, "key": key, "value": value}


def test_an_image_resource_is_created_changed_and_destroyed(alice: Provider, data: str) -> None:
    made = alice(
        "create", **_RAW, name="web", file=data, min_disk=1, min_ram=64, tags=["b", "a"],
        properties={"hw_disk_bus": "virtio", "a.b": "c/d"},
    )  # fmt: skip
    assert (made["status"], made["size"], made["virtual_size"]) == ("active",) + (len(_BYTES),) * 2
    assert (made["min_disk"], made["min_ram"], made["protected"]) == (1, 64, False)
    assert (made["visibility"], sorted(made["tags"])) == ("private", ["a", "b"])
    assert made["checksum"] == hashlib.md5(_BYTES, usedforsecurity=False).hexdigest()
    assert made["file"] == f"/v2/images/{made['id']}/file"
    assert made["created_at"].startswith("20")
    changed = alice(
        "update", made["id"],
        changes=[
            _change("visibility", "shared"), _change("name", "db"), _change("tags", ["new"]),
            _change("min_disk", 2), _change("min_ram", 128), _change("os_hidden", True),
            _change("kernel", "linux", "add"), _change("hw_disk_bus", "scsi"),
            _change("a.b", op="remove"),
        ],
    )  # fmt: skip
    assert (changed["visibility"], changed["name"], changed["tags"]) == ("shared", "db", ["new"])
    assert (changed["min_disk"], changed["min_ram"]) == (2, 128)
    assert changed["Properties"]["os_hidden"] is True
    assert (changed["Properties"]["kernel"], changed["Properties"]["hw_disk_bus"]) == (
        "linux", "scsi",
    )  # fmt: skip
    assert "a.b" not in changed["Properties"]
    assert alice("read", made["id"]) == changed
    assert alice("update", made["id"], changes=[_change("protected", True)])["protected"]
    assert alice.fails("delete", made["id"]) == "gophercloud.ErrDefault403"
    alice("update", made["id"], changes=[_change("protected", False)])
    alice("delete", made["id"])
    assert alice.fails("read", made["id"]) == "gophercloud.ErrDefault404"
    assert alice.fails("delete", made["id"]) == "gophercloud.ErrDefault404"


def test_after_it_was_applied_nothing_is_left_to_change(alice: Provider, data: str) -> None:
    declared = {"architecture": "x86_64", "hw_firmware_type": "uefi", "anything": ""}
    made = alice("create", **_RAW, name="steady", file=data, properties=declared)
    # These the provider knows to be the service's; any other it would want to remove.
    known = ("os_", "stores", "direct_url")
    shown = {
        key: value
        for key, value in alice("read", made["id"])["Properties"].items()
        if isinstance(value, str) and not key.startswith(known)
    }
    assert shown == declared
    alice("delete", made["id"])


def test_an_image_resource_is_fetched_by_the_service(alice: Provider, openstack: Openstack) -> None:
    (Path(openstack.files_folder) / "terraform.raw").write_bytes(_BYTES)
    made = alice("create", **_RAW, name="fetched", url=f"{openstack.files}/terraform.raw")
    assert (made["status"], made["size"]) == ("active", len(_BYTES))
    alice("delete", made["id"])
    assert alice.fails("create", **_RAW | {"disk_format": "zip"}, name="x", url="http://x") == (
        "gophercloud.ErrDefault400"
    )


def test_a_data_source_finds_images(alice: Provider, data: str) -> None:
    for name, tags, kind in (("one", ["x"], "a"), ("two", ["x", "y"], "b"), ("two", ["y"], "b")):
        alice("create", **_RAW, name=f"found {name}", file=data, tags=tags, properties={"k": kind})

    def found(**how: Any) -> list[str]:
        return [image["name"].split()[1] for image in alice("find", **how)]

    assert found(sort_key="name", sort_dir="asc") == ["one", "two", "two"]
    assert found(sort_key="name", sort_dir="desc", limit=1) == ["two", "two", "one"]  # by pages
    assert found(tags=["x", "y"]) == ["two"]
    assert found(name="found one", visibility="private") == ["one"]
    assert found(properties={"k": "b"}) == ["two", "two"]
    owner = alice("find", name="found one")[0]["owner"]
    assert len(found(owner=owner)) == 3
    assert found(visibility="public") == []
    for image in alice("find"):
        alice("delete", image["id"])


def test_access_to_an_image_is_given_accepted_and_taken_away(
    providers: dict[str, Provider], openstack: Openstack, data: str
) -> None:
    alice, bob = providers["alice"], providers["bob"]
    other = openstack.projects[f"two-{_PAIR}"]
    image = alice("create", **_RAW | {"visibility": "shared"}, name="shared", file=data)["id"]
    assert bob.fails("read", image) == "gophercloud.ErrDefault404"
    given = alice("share", image, member=other)
    assert (given["status"], given["member_id"], given["image_id"]) == ("pending", other, image)
    assert bob("find", member_status="all", visibility="shared")[0]["id"] == image
    assert bob("find") == []
    assert bob("accept", image, member=other, status="accepted")["status"] == "accepted"
    assert [found["id"] for found in bob("find", member_status="accepted")] == [image]
    assert alice("member", image, member=other)["status"] == "accepted"
    alice("unshare", image, member=other)
    assert alice.fails("member", image, member=other) == "gophercloud.ErrDefault404"
    assert bob.fails("read", image) == "gophercloud.ErrDefault404"
    alice("delete", image)
