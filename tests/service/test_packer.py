"""Packer, unchanged, builds images on the service: its OpenStack builder, as Debian has it.

Keystone is real, Nova is a stand-in (`packer_cloud`) whose servers boot nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import openstack_databases
import peers
from asking import Client
from glance_peer import Openstack
from openstack_env import PASSWORD
from openstack_regions import region
from packer_cloud import Compute, compute

pytestmark = pytest.mark.peer("packer", "keystone", "glance")

_PAIR = openstack_databases.SETS - 3
_SOURCE = bytes(range(256)) * 20
_BUILT = bytes(range(255, -1, -1)) * 20


@dataclass(frozen=True)
class Cloud:
    """What Packer builds on."""

    openstack: Openstack
    region: str
    nova: Compute
    alice: Client
    bob: Client
    other: str
    """Bob's project."""

    def build(self, folder: Path, **more: object) -> str:
        """The identifier of the image that ``packer build`` makes on behalf of alice."""
        builder = {
            "type": "openstack", "identity_endpoint": f"{self.openstack.keystone}/v3",
            "username": "alice", "password": PASSWORD, "domain_name": "Default",
            "tenant_name": f"one-{_PAIR}", "region": self.region, "flavor": "small",
            "communicator": "none", "ssh_password": "unused", "image_name": "built", **more,
        }  # fmt: skip
        template = folder / "template.json"
        template.write_text(json.dumps({"builders": [builder]}))
        said = peers.run("packer", "-machine-readable", "build", template, timeout=250, cwd=folder)
        rows = [line.split(",") for line in said.stdout.decode().splitlines()]
        (built,) = (row[5] for row in rows if row[2:5] == ["artifact", "0", "id"])
        return built


@pytest.fixture(scope="module")
def cloud(openstack: Openstack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with (
        openstack.serving(tmp_path_factory.mktemp("ours")) as ours,
        compute(ours.url, _BUILT) as nova,
        region(openstack, image=ours.url, compute=nova.url, network=nova.url) as here,
        _asking(ours.url, openstack.token("alice", f"one-{_PAIR}")) as alice,
        _asking(ours.url, openstack.token("bob", f"two-{_PAIR}")) as bob,
    ):
        other = openstack.projects[f"two-{_PAIR}"]
        yield Cloud(openstack, here, nova, Client(alice), Client(bob), other)


def _asking(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"x-auth-token": token}, timeout=60)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Packer asks nobody for news, and finds nothing of whoever runs the tests."""
    monkeypatch.setenv("CHECKPOINT_DISABLE", "1")
    monkeypatch.setenv("PACKER_CONFIG_DIR", str(tmp_path))


def test_packer_finds_its_source_by_a_filter_and_shares_what_it_built(
    cloud: Cloud, tmp_path: Path
) -> None:
    source = cloud.alice.active(_SOURCE, name="base", tags=["stable", "x"], os_distro="debian")
    newer = cloud.alice.active(_SOURCE, name="base", tags=["x"], os_distro="debian")
    filters = {
        "name": "base", "tags": ["stable", "x"], "visibility": "shared",
        "properties": {"os_distro": "debian"}, "owner": source["owner"],
    }  # fmt: skip
    built = cloud.build(
        tmp_path, source_image_filter={"filters": filters, "most_recent": True},
        image_tags=["golden"], image_visibility="shared", image_members=[cloud.other],
        image_min_disk=3, metadata={"build": "42"},
    )  # fmt: skip
    assert cloud.nova.booted_from[-1] == source["id"]
    assert cloud.nova.servers == {}
    image = cloud.alice.shown(built)
    assert (image["name"], image["status"], image["build"]) == ("built", "active", "42")
    assert (image["tags"], image["visibility"], image["min_disk"]) == (["golden"], "shared", 3)
    assert cloud.bob.get(f"/v2/images/{built}/file").content == _BUILT
    assert cloud.bob.get(f"/v2/images/{newer['id']}").status_code == 404


@pytest.mark.slow  # Packer looks every ten seconds whether it has arrived
def test_packer_has_its_source_fetched(cloud: Cloud, tmp_path: Path) -> None:
    (Path(cloud.openstack.files_folder) / "source.raw").write_bytes(_SOURCE)
    url = f"{cloud.openstack.files}/source.raw"
    before = set(cloud.nova.booted_from)
    built = cloud.build(tmp_path, external_source_image_url=url, external_source_image_format="raw")
    assert cloud.alice.get(f"/v2/images/{built}/file").content == _BUILT
    (booted,) = set(cloud.nova.booted_from) - before
    # Packer removes what it had fetched.
    assert cloud.alice.get(f"/v2/images/{booted}").status_code == 404
