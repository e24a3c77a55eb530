"""Every kind of bundle that is made of disks becomes every other one: the disk stays the same, and
so does the machine as far as both kinds speak of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundles.test_signing import pair
from bundles.test_uec import kernel_file
from samples import awkward_disk, write_sparse
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import Packed, pack, repack
from vmimg.bundles.registry import BUNDLES
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network
from vmimg.transfer.compare import compare

SIZE = 2 << 20
MAC = "00:16:3e:12:34:56"
MACHINE = Machine(
    name="server",
    architecture="x86_64",
    firmware=Firmware(kind="bios"),
    cpus=CPUs(count=3),
    memory=768 << 20,
    drives=(Drive(),),
    networks=(Network(mac=MAC, kind="nat"),),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of bundle as it is made here. ``described``: it says what machine it is of; ``nics``:
    and with what MAC addresses. ``most``: how many disks it carries.
    """

    name: str
    file: str
    options: tuple[tuple[str, str], ...] = ()
    described: bool = True
    nics: bool = True
    most: int = 8


KINDS = {
    "ova": Kind("ova", "x.ova"),
    "ovf": Kind("ovf", "x.ovf"),
    "xva": Kind("xva", "x.xva"),
    "vagrant-libvirt": Kind("vagrant", "x.box", nics=False),
    "vagrant-virtualbox": Kind("box", "x.box", (("provider", "virtualbox"),)),
    "vagrant-vmware": Kind("vagrant", "x.box", (("provider", "vmware_desktop"),)),
    "vagrant-parallels": Kind("vagrant", "x.box", (("provider", "parallels"),)),
    "vagrant-hyperv": Kind("vagrant", "x.box", (("provider", "hyperv"),)),
    "pvm": Kind("pvm", "x.pvm"),
    "vmware": Kind("vmware", "x"),
    "virtualbox": Kind("virtualbox", "x"),
    "hyperv": Kind("hyperv", "x"),
    "lxd": Kind("lxd", "x.tar", described=False, most=1),
    "lxd-split": Kind("incus", "x", (("split", "on"),), described=False, most=1),
    "docker": Kind("docker", "x.tar", described=False, most=1),
    "oci": Kind("oci", "x.tar", described=False, most=1),
    "gce": Kind("gce", "x.tar.gz", described=False, most=1),
    "uec": Kind("uec", "x.tar.gz", described=False, most=1),
    "ec2-bundle": Kind("ec2-bundle", "x", described=False, most=1),
    "tar.gz": Kind("disk-archive", "x.tar.gz", described=False, most=1),
    "zip": Kind("disk-archive", "x.zip", described=False, most=1),
    "xz": Kind("disk-archive", "x.raw.xz", described=False, most=1),
}


class Workshop:
    """Makes bundles of all kinds, with the files that some of them want."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # With the signature of a boot sector: what a compressed stream holds is told by that.
        content = bytearray(awkward_disk(SIZE, seed=7))
        content[440:512] = bytes(70) + b"\x55\xaa"
        self.disk = write_sparse(folder / "disk.raw", bytes(content))
        self.kernel = kernel_file(folder)
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        made = pair("Account")
        self.key.write_bytes(made.key)
        self.certificate.write_bytes(made.certificate)
        self._made: dict[str, Path] = {}

    def settings(self, kind: Kind) -> dict[str, Any]:
        options: dict[str, Any] = dict(kind.options)
        if kind.name == "ec2-bundle":
            options |= {"key": str(self.key), "cert": str(self.certificate)}
        return {
            "kind": kind.name,
            "options": options,
            "files": {"vmlinuz": self.kernel} if kind.name == "uec" else None,
            "keys": self.key.read_bytes(),
        }

    def bundle(self, name: str) -> Path:
        """One of that kind, of the disk and the machine above."""
        if name not in self._made:
            place = self.folder / name
            place.mkdir()
            kind = KINDS[name]
            pack([self.disk], place / kind.file, machine=MACHINE, **self.settings(kind))
            self._made[name] = place / kind.file
        return self._made[name]

    def repacked(self, source: Path, name: str, place: Path) -> tuple[Path, Packed]:
        kind = KINDS[name]
        target = place / kind.file
        return target, repack(source, target, **self.settings(kind))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def test_every_kind_that_is_made_of_disks_is_here() -> None:
    made = {kind.name for kind in BUNDLES.values() if kind.makes and not kind.of_files}
    here = {each.name for each in KINDS.values()}
    assert made == (here - {"box", "incus"})


# Other forms of a kind; they are tried with one other kind, not with all.
FORMS = {"lxd-split", "zip", "xz"}
# A GiB of zeros, compressed without their map.
SLOW = {("gce", "ec2-bundle"), ("gce", "uec"), ("gce", "tar.gz")}
PAIRS = [
    pytest.param(before, after, marks=[pytest.mark.slow] if (before, after) in SLOW else [])
    for before in sorted(KINDS)
    for after in sorted(KINDS)
    if "ova" in (before, after) or not {before, after} & FORMS
]


@pytest.mark.peer("openssl")
@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_bundle_becomes_another_kind(
    workshop: Workshop, tmp_path: Path, before: str, after: str
) -> None:
    source = workshop.bundle(before)
    target, packed = workshop.repacked(source, after, tmp_path)
    assert packed.kind == BUNDLES[packed.kind].name
    with open_bundle(target) as bundle:
        assert bundle.kind == packed.kind
        assert len(bundle.disks) == 1
        with bundle.open_disk(keys=workshop.key.read_bytes()) as disk:
            assert compare(disk, workshop.disk).identical
        if KINDS[after].described:
            machine = bundle.machines[0]
            first = MACHINE if KINDS[before].described else Machine(cpus=CPUs(1), memory=1 << 30)
            assert machine.cpus.count == first.cpus.count
            assert machine.memory == first.memory
            if KINDS[before].described and KINDS[before].nics and KINDS[after].nics:
                assert [nic.mac for nic in machine.networks] == [MAC]
