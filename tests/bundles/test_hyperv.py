"""Hyper-V's exports are opened, as a directory, packed, by their description; snapshots told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folders_by_hand import chain, packings

import hyperv_by_hand as by_hand
import vmimg
from vmimg.bundles.opening import open_bundle
from vmimg.errors import ChainError, FormatError, StorageError

_BASE, _LATER, _NOW = "db.vhdx", "db_1111.avhdx", "db_2222.avhdx"
_HOST = "C:\\ClusterStorage\\Volume1\\db\\Virtual Hard Disks\\"
_FIRST, _SECOND = "AAAA0000-0000-4000-8000-000000000001", "BBBB0000-0000-4000-8000-000000000002"


def _export(folder: Path) -> bytes:
    """A machine with two snapshots, one upon the other; what its disk reads as now."""
    disks = folder / "Virtual Hard Disks"
    disks.mkdir(parents=True)
    content = chain(disks, "vhdx", _BASE, _LATER, _NOW)
    machines, snapshots = folder / "Virtual Machines", folder / "Snapshots"
    machines.mkdir()
    snapshots.mkdir()
    machine = by_hand.generation2(_HOST + _NOW)
    (machines / "0AA394FA-7C4A-4070-BA32-773D43B28A68.vmcx").write_bytes(by_hand.vmcx(machine))
    for guid, disk, name, later in ((_FIRST, _BASE, "clean", 60), (_SECOND, _LATER, "new", 120)):
        kept = by_hand.generation2(_HOST + disk, name=name, later=later)
        (snapshots / f"{guid}.vmcx").write_bytes(by_hand.vmcx(kept))
    return content


def test_an_export_is_opened_as_a_directory_and_however_it_is_packed(tmp_path: Path) -> None:
    content = _export(tmp_path / "db")
    for path in packings(tmp_path / "db", tmp_path):
        with open_bundle(path) as bundle:
            assert (path.name, bundle.kind) == (path.name, "hyperv")
            assert [machine.name for machine in bundle.machines] == ["db"]
            assert [disk.member.rpartition("/")[2] for disk in bundle.disks] == [_NOW]
            with bundle.open_disk() as disk:
                assert disk.read(0, disk.size) == content, path.name


def test_the_snapshots_are_told_with_what_follows_what(tmp_path: Path) -> None:
    _export(tmp_path / "db")
    with open_bundle(tmp_path / "db") as bundle:
        snapshots = bundle.machines[0].snapshots
    told = [(each.name, each.id, each.parent, each.current) for each in snapshots]
    first, second = _FIRST.lower(), _SECOND.lower()
    assert told == [("clean", first, "", False), ("new", second, first, True)]
    assert snapshots[0].created == "2024-05-12T15:07:40Z"
    assert snapshots[0].drives[-1].path == _HOST + _BASE


def test_an_export_is_opened_by_its_description(tmp_path: Path) -> None:
    content = _export(tmp_path / "db")
    path = next((tmp_path / "db" / "Virtual Machines").glob("*.vmcx"))
    with open_bundle(path) as bundle, bundle.open_disk() as disk:
        assert disk.read(0, 4096) == content[:4096]


def test_the_disk_of_a_snapshot_is_read_through_the_description_of_the_snapshot(
    tmp_path: Path,
) -> None:
    _export(tmp_path / "db")
    path = tmp_path / "db" / "Snapshots" / f"{_FIRST}.vmcx"
    assert vmimg.compare(path, tmp_path / "db" / "Virtual Hard Disks" / _BASE).identical
    assert not vmimg.compare(path, tmp_path / "db").identical


def test_an_export_of_windows_server_2012_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    disks = folder / "Virtual Hard Disks"
    disks.mkdir(parents=True)
    content = chain(disks, "vhd", "web.vhd", "web_1.avhd")
    (folder / "Virtual Machines").mkdir()
    machine = by_hand.generation1("D:\\elsewhere\\web_1.avhd")
    (folder / "Virtual Machines" / "1.xml").write_bytes(by_hand.xml(machine))
    for path in (folder, folder / "Virtual Machines" / "1.xml"):
        with open_bundle(path) as bundle, bundle.open_disk() as disk:
            assert bundle.machines[0].name == "web"
            assert disk.read(0, disk.size) == content


def test_a_parent_that_is_named_by_its_place_on_the_host_is_found_in_the_export(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "db"
    content = _export(folder)
    # The relative path of the child leads nowhere any more.
    (folder / "Snapshots" / "disks").mkdir()
    shutil.move(folder / "Virtual Hard Disks" / _BASE, folder / "Snapshots" / "disks" / _BASE)
    with open_bundle(folder) as bundle, bundle.open_disk() as disk:
        assert disk.read(0, disk.size) == content


def test_a_parent_of_another_disk_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    _export(folder)
    (folder / "Virtual Hard Disks" / _BASE).unlink()
    (folder / "other").mkdir()
    chain(folder / "other", "vhdx", _BASE)
    with vmimg.open(folder / "other" / _BASE, writable=True) as disk:
        disk.write(0, b"changed".ljust(512))
    with open_bundle(folder) as bundle, pytest.raises(ChainError, match="mix two disks"):
        bundle.open_disk()


def test_the_disk_whose_path_is_most_alike_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    content = _export(folder)
    (folder / "old").mkdir()
    chain(folder / "old", "vhdx", _NOW, seed=99)
    with open_bundle(folder) as bundle, bundle.open_disk() as disk:
        assert bundle.disks[0].member == f"Virtual Hard Disks/{_NOW}"
        assert disk.read(0, disk.size) == content


def test_a_disk_that_did_not_come_along_is_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    _export(folder)
    (folder / "Virtual Hard Disks" / _NOW).unlink()
    with pytest.raises(StorageError, match=r"its disk .*db_2222\.avhdx' is not in it"):
        open_bundle(folder)


@pytest.mark.parametrize("path", ["..\\..\\etc\\passwd", "C:\\Windows\\System32\\config\\SAM"])
def test_nothing_outside_of_the_export_is_followed(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "db"
    _export(folder)
    machine = by_hand.vmcx(by_hand.generation2(path))
    next((folder / "Virtual Machines").glob("*.vmcx")).write_bytes(machine)
    with pytest.raises(StorageError, match="is looked for nowhere else"):
        open_bundle(folder)


def test_of_several_machines_one_has_to_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    _export(folder)
    machines = folder / "Virtual Machines"
    shutil.copy(next(machines.glob("*.vmcx")), machines / "other.vmcx")
    with pytest.raises(FormatError, match="describes several machines: open one of"):
        open_bundle(folder)
    with open_bundle(machines / "other.vmcx") as bundle:
        assert bundle.machines[0].name == "db"


def test_a_physical_disk_is_told_and_is_no_disk_of_the_export(tmp_path: Path) -> None:
    folder = tmp_path / "db"
    _export(folder)
    machine = by_hand.generation2(_HOST + _NOW)
    drives = next(each["controller0"] for key, each in machine.items() if key.startswith("_aaaa"))
    drives["drive1"] = {"type": "Physical", "pathname": "\\\\.\\PHYSICALDRIVE2"}
    next((folder / "Virtual Machines").glob("*.vmcx")).write_bytes(by_hand.vmcx(machine))
    with open_bundle(folder) as bundle:
        assert len(bundle.disks) == 1
        assert bundle.facts["disks-elsewhere"] == ["\\\\.\\PHYSICALDRIVE2"]


def test_an_export_becomes_a_machine_of_vmware(tmp_path: Path) -> None:
    _export(tmp_path / "db")
    vmimg.repack(tmp_path / "db", tmp_path / "db.vmwarevm", kind="vmware")
    with open_bundle(tmp_path / "db.vmwarevm") as bundle:
        machine = bundle.machines[0]
    assert (machine.firmware.kind, machine.cpus.count, machine.memory) == ("uefi", 4, 4 << 30)
    assert vmimg.compare(tmp_path / "db", tmp_path / "db.vmwarevm").identical
