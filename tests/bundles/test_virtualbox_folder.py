"""VirtualBox's machines: opened as a directory, by the .vbox, packed; made and opened again."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders_by_hand import chain, packings

import peers
import vmimg
from samples import awkward_disk, write_sparse
from vmimg.bundles.opening import open_bundle
from vmimg.errors import ChainError, StorageError, UnsafeImage
from vmimg.formats.registry import find
from vmimg.machines.model import CPUs, Drive, Machine, Network
from vmimg.storage import open as open_storage

_NS = "http://www.virtualbox.org/"
_MACHINE, _STATE = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def _hardware(uuid: str) -> str:
    return f"""<Hardware><CPU count="2"/><Memory RAMSize="1024"/>
    <StorageControllers><StorageController name="SATA" type="AHCI" PortCount="1"
      useHostIOCache="false" Bootable="true">
      <AttachedDevice type="HardDisk" hotpluggable="false" port="0" device="0">
        <Image uuid="{{{uuid}}}"/></AttachedDevice></StorageController></StorageControllers>
    </Hardware>"""


def _vbox(base: str, child: str, location: str = "web.vdi") -> str:
    """The settings of VirtualBox 7 of a machine with one snapshot."""
    return f"""<?xml version="1.0"?>
<VirtualBox xmlns="{_NS}" version="1.19-linux">
  <Machine uuid="{{{_MACHINE}}}" name="web" OSType="Debian_64" currentSnapshot="{{{_STATE}}}"
    snapshotFolder="Snapshots" lastStateChange="2024-05-01T12:00:00Z">
    <MediaRegistry><HardDisks>
      <HardDisk uuid="{{{base}}}" location="{location}" format="VDI" type="Normal">
        <HardDisk uuid="{{{child}}}" location="Snapshots/{{{child}}}.vdi" format="VDI"/>
      </HardDisk></HardDisks></MediaRegistry>
    <Snapshot uuid="{{{_STATE}}}" name="clean" timeStamp="2024-05-01T11:00:00Z">
      {_hardware(base)}</Snapshot>
    {_hardware(child)}
  </Machine></VirtualBox>"""


def _uuid(path: Path) -> str:
    with open_storage(path) as storage:
        return str(find("vdi").driver().inspect(storage).details["uuid"])


def _machine(folder: Path, location: str = "web.vdi") -> bytes:
    """A machine with a snapshot; what its disk reads as now."""
    content = chain(folder, "vdi", "web.vdi", "Snapshots/child.vdi")
    base, child = _uuid(folder / "web.vdi"), _uuid(folder / "Snapshots/child.vdi")
    (folder / "Snapshots/child.vdi").rename(folder / f"Snapshots/{{{child}}}.vdi")
    (folder / "web.vbox").write_text(_vbox(base, child, location))
    (folder / "web.vbox-prev").write_text(_vbox(base, child, location))
    return content


def test_a_machine_is_opened_as_a_directory_and_however_it_is_packed(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    content = _machine(tmp_path / "web")
    for path in packings(tmp_path / "web", tmp_path):
        with open_bundle(path) as bundle:
            assert (path.name, bundle.kind) == (path.name, "virtualbox")
            assert bundle.machines[0].name == "web"
            assert [each.name for each in bundle.machines[0].snapshots] == ["clean"]
            assert bundle.disks[0].member.rpartition("/")[2].startswith("{")
            # The parent is found by its identifier: a VDI names no file.
            with bundle.open_disk() as disk:
                assert disk.read(0, disk.size) == content, path.name


def test_a_machine_is_opened_by_its_description(tmp_path: Path) -> None:
    content = _machine(tmp_path)
    with open_bundle(tmp_path / "web.vbox") as bundle, bundle.open_disk() as disk:
        assert disk.read(0, disk.size) == content


def test_a_parent_that_did_not_come_along_is_told_when_the_disk_is_opened(tmp_path: Path) -> None:
    _machine(tmp_path)
    (tmp_path / "web.vdi").unlink()
    with open_bundle(tmp_path) as bundle, pytest.raises(ChainError, match="is not in"):
        bundle.open_disk()


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "C:\\VMs\\web.vdi"])
def test_a_description_that_leads_out_of_its_directory_is_refused(
    tmp_path: Path, location: str
) -> None:
    _machine(tmp_path)
    text = (tmp_path / "web.vbox").read_text()
    child = next(path.name for path in (tmp_path / "Snapshots").iterdir())
    (tmp_path / "web.vbox").write_text(text.replace(f"Snapshots/{child}", location))
    with pytest.raises(UnsafeImage, match="lies outside of what it came in"):
        open_bundle(tmp_path)


def test_an_image_that_is_missing_is_told_by_its_name(tmp_path: Path) -> None:
    _machine(tmp_path)
    child = next((tmp_path / "Snapshots").iterdir())
    child.unlink()
    with pytest.raises(StorageError, match=f"its disk 'Snapshots/{child.name}' is not in it"):
        open_bundle(tmp_path)
    child.symlink_to("/etc/hostname")
    with pytest.raises(UnsafeImage, match="leads out"):
        open_bundle(tmp_path)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("format", ["vdi", "vmdk", "vhd"])
def test_a_machine_that_is_made_opens_as_the_same_and_qemu_reads_its_disk(
    tmp_path: Path, format: str
) -> None:
    raw = write_sparse(tmp_path / "disk.raw", awkward_disk(5 << 20))
    machine = Machine(
        name="made",
        architecture="x86_64",
        cpus=CPUs(2),
        memory=1 << 30,
        drives=(Drive(bus="sata"),),
        networks=(Network("e1000", "08:00:27:12:34:56", "nat"),),
    )
    vmimg.pack([raw], tmp_path / "made", kind="virtualbox", machine=machine, format=format)
    with open_bundle(tmp_path / "made" / "made.vbox") as bundle:
        found = bundle.machines[0]
        path = tmp_path / "made" / bundle.disks[0].member
    assert (found.name, found.cpus.count, found.memory) == ("made", 2, 1 << 30)
    assert found.networks[0].mac == "08:00:27:12:34:56"
    assert vmimg.compare(tmp_path / "made", raw).identical
    name = {"vhd": "vpc"}.get(format, format)
    peers.run("qemu-img", "convert", "-f", name, "-O", "raw", path, tmp_path / "theirs")
    assert (tmp_path / "theirs").read_bytes() == raw.read_bytes()


@pytest.mark.parametrize(("format", "key"), [("vdi", "uuid"), ("vhd", "unique-id")])
def test_the_description_has_the_identifier_that_is_in_the_image(
    tmp_path: Path, format: str, key: str
) -> None:
    raw = write_sparse(tmp_path / "disk.raw", awkward_disk(1 << 20))
    # Two VDIs of the same content have to differ; a VHD has an identifier of its own making.
    disks = [raw, raw] if format == "vdi" else [raw]
    vmimg.pack(disks, tmp_path / "made", kind="virtualbox", format=format)
    text = (tmp_path / "made" / "made.vbox").read_text()
    found = set()
    for path in (tmp_path / "made").glob(f"*.{format}"):
        with open_storage(path) as storage:
            uuid = find(format).driver().inspect(storage).details[key]
        assert f'uuid="{{{uuid}}}" location="{path.name}"' in text
        found.add(uuid)
    assert len(found) == len(disks)
