"""Exports for Hyper-V are made: others find and read the disks, and so do we."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from boxes_by_hand import MACHINE, SIZE, content, disk_file, opened, pack

import peers
import vmimg
from samples import awkward_disk
from vmimg.errors import OptionError, StorageError
from vmimg.machines.model import Drive, Firmware, Machine

DISK = awkward_disk(SIZE, seed=5)
MORE = awkward_disk(SIZE, seed=6)
UEFI = replace(MACHINE, firmware=Firmware("uefi", False))
_TWO = replace(MACHINE, drives=(Drive(bus="scsi"), Drive(bus="scsi", slot=1)))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _description(folder: Path) -> Path:
    (found,) = (folder / "Virtual Machines").iterdir()
    return found


def test_an_export_lies_as_hyper_v_lays_it_out(tmp_path: Path) -> None:
    pack("hyperv", tmp_path / "web", [disk_file(tmp_path)])
    description = _description(tmp_path / "web")
    assert _files(tmp_path / "web") == [
        "Snapshots", "Virtual Hard Disks", "Virtual Hard Disks/server-disk1.vhdx",
        "Virtual Machines", f"Virtual Machines/{description.name}",
    ]  # fmt: skip
    # The file is called as the machine is.
    text = description.read_bytes().decode("utf-16")
    assert text.count(f'<global_id type="string">{description.stem}</global_id>') == 1
    assert description.stem == description.stem.upper()


@pytest.mark.parametrize("machine", [MACHINE, UEFI], ids=["bios", "uefi"])
def test_an_export_is_opened_with_its_machine(tmp_path: Path, machine: Machine) -> None:
    made = pack("hyperv", tmp_path / "web", [disk_file(tmp_path)], machine=machine)
    assert made.size == sum(
        path.stat().st_size for path in (tmp_path / "web").rglob("*") if path.is_file()
    )
    for path in (tmp_path / "web", _description(tmp_path / "web")):
        with opened(path) as bundle:
            assert (bundle.kind, content(bundle)) == ("hyperv", DISK)
            (found,) = bundle.machines
    assert (found.name, found.description) == (machine.name, machine.description)
    assert (found.cpus.count, found.memory) == (2, 2 << 30)
    assert found.firmware.kind == (machine.firmware.kind or "bios")
    assert found.networks[0].mac == "52:54:00:12:34:56"
    assert found.drives[0].bus == ("scsi" if machine is UEFI else "ide")


@pytest.mark.peer("dissect.target")
@pytest.mark.parametrize("machine", [_TWO, replace(_TWO, firmware=Firmware("uefi"))])
def test_dissect_finds_the_disks_of_an_export_by_its_description(
    tmp_path: Path, machine: Machine
) -> None:
    from dissect.target.loaders.hyperv import HyperVLoader
    from dissect.target.target import Target

    disks = [disk_file(tmp_path), disk_file(tmp_path, "more.raw", seed=6)]
    pack("hyperv", tmp_path / "web", disks, machine=machine)
    description = _description(tmp_path / "web")
    assert HyperVLoader.detect(description)
    target = Target()
    HyperVLoader(description).map(target)
    assert {disk.read(SIZE) for disk in target.disks} == {DISK, MORE}


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(("format", "known"), [("vhdx", "vhdx"), ("vhd", "vpc")])
def test_qemu_reads_the_disk_of_an_export(tmp_path: Path, format: str, known: str) -> None:
    pack("hyperv", tmp_path / "web", [disk_file(tmp_path)], format=format)
    image = tmp_path / "web" / "Virtual Hard Disks" / f"server-disk1.{format}"
    peers.run("qemu-img", "compare", "-F", known, tmp_path / "disk.raw", image)


def test_disks_are_named_by_where_they_will_lie_on_the_host(tmp_path: Path) -> None:
    disk = disk_file(tmp_path)
    for at, (given, there) in enumerate([
        ({}, "C:\\Hyper-V\\server"), ({"location": "D:\\VMs\\a b\\"}, "D:\\VMs\\a b"),
        ({"location": "\\\\files\\vms"}, "\\\\files\\vms"),
    ]):  # fmt: skip
        pack("hyperv", tmp_path / str(at), [disk], **given)
        with opened(tmp_path / str(at)) as bundle:
            path = bundle.machines[0].drives[0].path
            assert path == f"{there}\\Virtual Hard Disks\\server-disk1.vhdx"
            assert content(bundle) == DISK


def test_a_machine_with_uefi_has_no_vhd(tmp_path: Path) -> None:
    for kind, options in (("hyperv", {}), ("box", {"provider": "hyperv"})):
        with pytest.raises(OptionError, match="takes disks in vhdx only"):
            pack(kind, tmp_path / "web", [disk_file(tmp_path)], machine=UEFI, format="vhd",
                 **options)  # fmt: skip
        assert not (tmp_path / "web").exists()


def test_an_export_is_replaced_by_one_of_the_same_machine_only(tmp_path: Path) -> None:
    disk, web = disk_file(tmp_path), tmp_path / "web"
    pack("hyperv", web, [disk])
    with pytest.raises(OptionError, match="exists; pass --force"):
        pack("hyperv", web, [disk])
    pack("hyperv", web, [disk_file(tmp_path, "more.raw", seed=6)], replace=True)
    with opened(web) as bundle:
        assert content(bundle) == MORE
    with pytest.raises(StorageError, match="something else in it"):
        pack("hyperv", web, [disk], machine=replace(MACHINE, name="another"), replace=True)
    with opened(web) as bundle:
        assert content(bundle) == MORE


def test_the_export_is_the_same_whoever_packs_it_when(tmp_path: Path) -> None:
    for at in (1, 2):
        pack("hyperv", tmp_path / str(at), [disk_file(tmp_path)], threads=at)
    names = _files(tmp_path / "1")
    assert names == _files(tmp_path / "2")
    for name in names:
        if (tmp_path / "1" / name).is_file():
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_an_export_becomes_an_export_with_the_same_machine(tmp_path: Path) -> None:
    machine = replace(MACHINE, networks=(replace(MACHINE.networks[0], kind="network",
                                                 network="LAN"),))  # fmt: skip
    pack("hyperv", tmp_path / "web", [disk_file(tmp_path)], machine=machine)
    packed = vmimg.repack(tmp_path / "web", tmp_path / "again", kind="hyperv")
    assert packed.losses == ()
    with opened(tmp_path / "web") as first, opened(tmp_path / "again") as second:
        assert first.machines == second.machines
    assert vmimg.compare(tmp_path / "web", tmp_path / "again").identical


def test_a_snapshot_is_not_written_and_told(tmp_path: Path) -> None:
    from test_hyperv import _export

    now = _export(tmp_path / "db")
    packed = vmimg.repack(tmp_path / "db", tmp_path / "new", kind="hyperv")
    assert [loss.key for loss in packed.losses][:2] == ["snapshots[0]", "snapshots[1]"]
    with opened(tmp_path / "new") as bundle:
        assert content(bundle) == now
        assert bundle.machines[0].snapshots == ()
