"""What pack and repack make of awkward things: several disks, names, drives without a disk,
machines that say little, and what they carry along.
"""

from __future__ import annotations

import lzma
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from boxes_by_hand import content, disk_file, opened

import peers
from bundles import ovf_by_hand as by_hand
from bundles.test_uec import kernel_file
from vmimg.bundles.packing import pack, repack
from vmimg.bundles.sources import open_disk
from vmimg.bundles.unpacking import unpack
from vmimg.errors import FormatError, OptionError, StorageError
from vmimg.machines.model import CPUs, Drive, Firmware, Machine

MIB = 1 << 20
MACHINE = Machine(name="web", architecture="x86_64", cpus=CPUs(2), memory=512 << 20)
SEVERAL = {
    "ova": {}, "ovf": {}, "xva": {}, "pvm": {}, "vmware": {}, "virtualbox": {},
    "libvirt box": {"provider": "libvirt"}, "virtualbox box": {"provider": "virtualbox"},
    "vmware box": {"provider": "vmware_desktop"}, "parallels box": {"provider": "parallels"},
}  # fmt: skip
SINGLE = ("lxd", "docker", "oci", "gce", "uec", "ec2-bundle", "disk-archive")

# Of these, what is made of a disk and nothing else.
CARELESS = ("lxd", "docker", "oci", "gce", "disk-archive")


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """Three, of different sizes."""
    return [disk_file(tmp_path, f"disk {at}.raw", seed=at, size=at * MIB) for at in range(1, 4)]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", SEVERAL)
def test_several_disks_stay_in_their_order(
    tmp_path: Path, disks: list[Path], kind: str, count: int
) -> None:
    pack(disks[:count], tmp_path / "first.ova", machine=MACHINE)
    repack(tmp_path / "first.ova", tmp_path / "it", kind=kind.split()[-1], options=SEVERAL[kind])
    repack(tmp_path / "it", tmp_path / "again.ova")
    for path in (tmp_path / "it", tmp_path / "again.ova"):
        with opened(path) as bundle:
            found = [content(bundle, disk.name) for disk in bundle.disks]
            assert found == [disk.read_bytes() for disk in disks[:count]]
            (machine,) = bundle.machines
            assert [disk.drive for disk in bundle.disks] == [(0, at) for at in range(count)]
            assert len(machine.drives) == count and machine.memory == MACHINE.memory


@pytest.mark.parametrize("kind", SINGLE)
def test_a_kind_of_one_disk_says_so_and_how_to_pack_one(
    tmp_path: Path, disks: list[Path], kind: str
) -> None:
    pack(disks[:2], tmp_path / "two.ova", machine=MACHINE)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OptionError, match=r"one disk, not 2: .*vmimg pack .*two.ova:vmdisk1 -O"):
        repack(tmp_path / "two.ova", tmp_path / "x.tar", kind=kind)
    with pytest.raises(OptionError, match="one disk, not 2"):
        pack(disks[:2], tmp_path / "x.tar", kind=kind)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", SEVERAL)
def test_names_may_have_spaces_accents_quotes_and_markup(
    tmp_path: Path, disks: list[Path], kind: str
) -> None:
    name = "Größe & <b> \"x\" 'y' 機"
    machine = replace(MACHINE, name=name)
    source, target = tmp_path / "a b é' \".ova", tmp_path / "ü 'x'"
    pack(disks[:2], source, machine=machine)
    repack(source, target, kind=kind.split()[-1], options=SEVERAL[kind])
    with opened(target) as bundle:
        assert bundle.machines[0].name == name
        assert content(bundle, "2") == disks[1].read_bytes()
        assert all(disk.member.isascii() for disk in bundle.disks)


@pytest.mark.parametrize("kind", [*SEVERAL, *CARELESS])
def test_an_empty_cd_drive_is_no_disk(tmp_path: Path, disks: list[Path], kind: str) -> None:
    drives = (Drive(bus="sata"), Drive(device="cdrom", bus="sata", slot=1))
    pack(disks[:1], tmp_path / "first.ova", machine=replace(MACHINE, drives=drives))
    done = repack(
        tmp_path / "first.ova", tmp_path / "it.tar", kind=kind.split()[-1],
        options=SEVERAL.get(kind, {}),
    )  # fmt: skip
    assert done.disks == (MIB,)
    with opened(tmp_path / "it.tar") as bundle:
        assert len(bundle.disks) == 1
        kept = any(d.device == "cdrom" for m in bundle.machines for d in m.drives)
    lost = any(loss.key == "drives[1]" for loss in done.losses)
    assert kept != lost, "it is there, or it is said that it is not"


@pytest.mark.parametrize("kind", ["ova", "xva", "box", "vmware"])
def test_a_disk_without_a_file_becomes_one_of_zeros(tmp_path: Path, kind: str) -> None:
    inside = [by_hand.File("file1", "one.img", 2 * MIB)]
    raw = by_hand.RAW
    listed = [by_hand.Disk("disk1", "file1", 2 * MIB, raw), by_hand.Disk("disk2", "", MIB)]
    data = disk_file(tmp_path, size=2 * MIB).read_bytes()
    text = by_hand.descriptor(inside, listed)
    by_hand.ova(tmp_path / "x.ova", {"machine.ovf": text, "one.img": data})
    done = repack(tmp_path / "x.ova", tmp_path / "it", kind=kind)
    assert done.disks == (2 * MIB, MIB)
    with opened(tmp_path / "it") as bundle:
        assert [content(bundle, disk.name) for disk in bundle.disks] == [data, bytes(MIB)]


def test_one_of_several_systems_is_chosen_by_its_name(tmp_path: Path) -> None:
    raw = by_hand.RAW
    files = [by_hand.File(f"file{n}", f"{n}.img", MIB) for n in (1, 2)]
    listed = [by_hand.Disk(f"disk{n}", f"file{n}", MIB, raw) for n in (1, 2)]
    systems = [by_hand.System("web", ["disk2"]), by_hand.System("db", ["disk1"])]
    data = {n: disk_file(tmp_path, f"{n}.raw", seed=n, size=MIB).read_bytes() for n in (1, 2)}
    text = by_hand.descriptor(files, listed, systems)
    by_hand.ova(tmp_path / "x.ova", {"machine.ovf": text, "1.img": data[1], "2.img": data[2]})
    with pytest.raises(OptionError, match=r"2 machines: name one with --system \(web, db\)"):
        repack(tmp_path / "x.ova", tmp_path / "it.box")
    with pytest.raises(OptionError, match="no machine 'mail' in it: web, db"):
        repack(tmp_path / "x.ova", tmp_path / "it.box", system="mail")
    for name, number in (("web", 2), ("db", 1)):
        repack(tmp_path / "x.ova", tmp_path / f"{name}.box", system=name)
        with opened(tmp_path / f"{name}.box") as bundle:
            assert content(bundle) == data[number]
            assert bundle.machines[0].name == name


@pytest.mark.peer("gzip", "xz", "zstd")
@pytest.mark.parametrize("program", ["gzip", "xz", "zstd"])
def test_an_appliance_in_a_compressed_stream_is_still_one(
    tmp_path: Path, disks: list[Path], program: str
) -> None:
    pack(disks[:1], tmp_path / "x.ova", machine=MACHINE)
    packed = tmp_path / f"x.ova.{program}"
    packed.write_bytes(peers.run(program, "-c", tmp_path / "x.ova").stdout)
    with open_disk(packed) as disk:
        assert disk.read(0, disk.size) == disks[0].read_bytes()
    repack(packed, tmp_path / "y.xva")
    with opened(tmp_path / "y.xva") as bundle:
        assert (bundle.machines[0].cpus.count, content(bundle)) == (2, disks[0].read_bytes())


def test_a_bundle_in_an_archive_is_named_and_not_taken_for_a_disk(
    tmp_path: Path, disks: list[Path]
) -> None:
    pack(disks[:1], tmp_path / "x.box", machine=MACHINE)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.box", "x.box")
    for use in (
        lambda path: open_disk(path).close(),
        lambda path: repack(path, tmp_path / "y.ova"),
        lambda path: unpack(path, tmp_path / "y"),
    ):
        with pytest.raises(FormatError, match=r"holds another archive, x\.box: unpack that one"):
            use(tmp_path / "x.zip")
    with open_disk(tmp_path / "x.zip", format="raw") as disk:
        assert disk.read(0, 4) == b"PK\x03\x04"


def test_what_is_no_bundle_is_said_with_what_to_do(tmp_path: Path, disks: list[Path]) -> None:
    with pytest.raises(FormatError, match="`vmimg pack` makes one of a disk"):
        repack(disks[0], tmp_path / "y.ova")
    with pytest.raises(StorageError, match="no such file"):
        repack(tmp_path / "nothing.ova", tmp_path / "y.ova")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="directory with nothing in it"):
        repack(tmp_path / "empty", tmp_path / "y.ova")


@pytest.mark.parametrize("kind", ["ova", "vmware", "virtualbox", "pvm", "xva"])
def test_a_machine_that_was_not_described_gets_what_it_needs_to_run(
    tmp_path: Path, disks: list[Path], kind: str
) -> None:
    pack(disks[:1], tmp_path / "x.oci", kind="oci")
    repack(tmp_path / "x.oci", tmp_path / "it", kind=kind)
    with opened(tmp_path / "it") as bundle:
        (machine,) = bundle.machines
        assert (machine.cpus.count, machine.memory) == (1, 1 << 30)
        assert machine.name == "x" and len(machine.networks) == 1


@pytest.mark.parametrize("kind", ["docker", "gce", "lxd", "disk-archive"])
def test_only_what_somebody_said_of_the_machine_is_lost(
    tmp_path: Path, disks: list[Path], kind: str
) -> None:
    plain = pack(disks[:1], tmp_path / "plain.tar", kind=kind)
    assert {loss.key for loss in plain.losses} <= {"drives[0].size"}
    told = pack(disks[:1], tmp_path / "told.tar", kind=kind, machine=MACHINE)
    assert {"memory", "cpus.count"} <= {loss.key for loss in told.losses}


@pytest.mark.parametrize("kind", ["ova", "vmware", "oci", "gce", "xva"])
def test_the_variable_store_comes_along_or_its_loss_is_listed(
    tmp_path: Path, disks: list[Path], kind: str
) -> None:
    store = tmp_path / "store"
    store.write_bytes(b"variables" * 100)
    machine = replace(
        MACHINE, firmware=Firmware(kind="uefi", variables="web.nvram"), drives=(Drive(bus="sata"),)
    )
    pack(disks[:1], tmp_path / "first.vm", kind="vmware", machine=machine,
         files={"web.nvram": store})  # fmt: skip
    done = repack(tmp_path / "first.vm", tmp_path / "it.tar", kind=kind)
    if kind in ("ova", "vmware"):
        with opened(tmp_path / "it.tar") as bundle:
            assert bundle.folder.read("web.nvram", 1000) == store.read_bytes()
            assert bundle.machines[0].firmware.variables == "web.nvram"
    else:
        assert "files.web.nvram" in {loss.key for loss in done.losses}


def test_the_kernel_of_a_uec_image_stays_with_its_disk(tmp_path: Path, disks: list[Path]) -> None:
    kernel = kernel_file(tmp_path)
    pack(disks[:1], tmp_path / "a.tar.gz", kind="uec", files={"vmlinuz": kernel})
    repack(tmp_path / "a.tar.gz", tmp_path / "b.ova")
    repack(tmp_path / "b.ova", tmp_path / "c.tar.gz", kind="uec")
    with tarfile.open(tmp_path / "c.tar.gz") as archive:
        member = archive.extractfile("vmlinuz")
        assert member is not None and member.read() == kernel.read_bytes()


def test_a_disk_in_a_bundle_is_packed_by_itself(tmp_path: Path, disks: list[Path]) -> None:
    pack(disks, tmp_path / "all.ova", machine=MACHINE)
    pack([f"{tmp_path / 'all.ova'}:disk2"], tmp_path / "one.raw.xz", kind="disk-archive")
    assert lzma.decompress((tmp_path / "one.raw.xz").read_bytes()) == disks[1].read_bytes()
