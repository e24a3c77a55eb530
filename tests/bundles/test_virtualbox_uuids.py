"""bundles/virtualbox: what VirtualBox compares before it opens a disk: its uuid, in two places."""

from __future__ import annotations

from pathlib import Path

from vmimg import storage as storages
from vmimg.bundles import virtualbox
from vmimg.bundles.package import How, Package, PackedDisk
from vmimg.disk.stack import Disk
from vmimg.formats.opening import open_disk
from vmimg.formats.vdi.header import read_header
from vmimg.machines import xml
from vmimg.machines.model import Drive, Machine


def _raw(path: Path) -> Path:
    path.write_bytes(b"vmimg" * 1000 + bytes((1 << 20) - 5000))
    return path


def _made(folder: Path, machine: Machine, disk: Disk) -> tuple[str, str]:
    """The disk's uuid in the .vbox, and in the image."""
    package = Package(machine, (PackedDisk("disk1", disk, 0),))
    virtualbox.make(package, str(folder), How())
    root = xml.parse((folder / f"{machine.name}.vbox").read_bytes(), "made.vbox")
    images = [each for each in root.iter() if xml.local(each) == "HardDisk"]
    assert [each.get("location") for each in images] == ["disk1.vdi"]
    with storages.open(str(folder / "disk1.vdi")) as storage:
        return (images[0].get("uuid") or "").strip("{}"), str(read_header(storage).uuid_create)


def test_the_settings_name_the_uuid_that_is_in_the_image(tmp_path: Path) -> None:
    drives = (Drive(bus="sata", path="old.qcow2"),)
    stale = {"vbox": (("HardDisk:old.qcow2@uuid", "01234567-89ab-4cde-8f01-23456789abcd"),)}
    with open_disk(str(_raw(tmp_path / "d.raw"))) as disk:
        one = _made(tmp_path / "one", Machine(name="one", drives=drives, extras=stale), disk)
        two = _made(tmp_path / "two", Machine(name="two", drives=drives), disk)
    assert one[0] == one[1]
    assert two[0] == two[1]
    assert one != two
