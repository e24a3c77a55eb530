"""VMware's machines: opened as a directory, by the .vmx, packed; made and opened again."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from folders_by_hand import chain, packings

import peers
import vmimg
from samples import awkward_disk, write_sparse
from vmimg.bundles.opening import open_bundle
from vmimg.errors import ChainError, FormatError, OptionError, StorageError, UnsafeImage
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network, Snapshot

_VMX = """.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "web server"
guestOS = "debian11-64"
numvcpus = "2"
memsize = "2048"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "{disk}"
ide1:0.present = "TRUE"
ide1:0.deviceType = "cdrom-image"
ide1:0.fileName = "/isos/debian.iso"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.connectionType = "nat"
"""
_VMSD = """.encoding = "UTF-8"
snapshot.lastUID = "1"
snapshot.current = "1"
snapshot0.uid = "1"
snapshot0.filename = "web-Snapshot1.vmsn"
snapshot0.displayName = "clean"
snapshot0.numDisks = "1"
snapshot0.disk0.fileName = "web.vmdk"
snapshot0.disk0.node = "scsi0:0"
snapshot.numSnapshots = "1"
"""
MACHINE = Machine(
    name="Büro/1: test",
    architecture="x86_64",
    firmware=Firmware("bios"),
    cpus=CPUs(2),
    memory=1 << 30,
    drives=(Drive(bus="scsi"), Drive("cdrom", "ide", 1, 0), Drive(bus="scsi", slot=1)),
    networks=(Network("vmxnet3", "00:0c:29:12:34:56", "nat"),),
)


def _machine(folder: Path, disk: str = "web-000001.vmdk") -> bytes:
    """A machine with a snapshot; what its disk reads as now."""
    folder.mkdir(parents=True, exist_ok=True)
    content = chain(folder, "vmdk", "web.vmdk", "web-000001.vmdk")
    (folder / "web.vmx").write_text(_VMX.format(disk=disk))
    (folder / "web.vmsd").write_text(_VMSD)
    (folder / "web.nvram").write_bytes(b"MRVN" + bytes(60))
    return content


def test_a_machine_is_opened_as_a_directory_and_however_it_is_packed(tmp_path: Path) -> None:
    content = _machine(tmp_path / "web.vmwarevm")
    for path in packings(tmp_path / "web.vmwarevm", tmp_path):
        with open_bundle(path) as bundle:
            assert (path.name, bundle.kind) == (path.name, "vmware")
            assert bundle.machines[0].name == "web server"
            assert bundle.disks[0].drive is not None
            assert [each.name for each in bundle.machines[0].snapshots] == ["clean"]
            with bundle.open_disk() as disk:
                assert disk.read(0, disk.size) == content, path.name


@pytest.mark.peer("qemu-img")
def test_a_chain_by_qemu_is_read_by_the_vmx(tmp_path: Path) -> None:
    base = write_sparse(tmp_path / "base.raw", awkward_disk(3 << 20))
    peers.run("qemu-img", "convert", "-O", "vmdk", base, tmp_path / "web.vmdk")
    peers.run(
        "qemu-img", "create", "-f", "vmdk", "-b", "web.vmdk", "-F", "vmdk",
        tmp_path / "web-000001.vmdk",
    )  # fmt: skip
    peers.run("qemu-io", "-c", "write -P 7 64k 64k", tmp_path / "web-000001.vmdk")
    (tmp_path / "web.vmx").write_text(_VMX.format(disk="web-000001.vmdk"))
    with open_bundle(tmp_path / "web.vmx") as bundle:
        assert bundle.facts["description"] == "web.vmx"
    peers.run("qemu-img", "convert", "-O", "raw", tmp_path / "web-000001.vmdk", tmp_path / "raw")
    assert vmimg.compare(tmp_path / "web.vmx", tmp_path / "raw").identical


@pytest.mark.parametrize(
    "disk", ["../../etc/passwd", "/etc/passwd", "C:\\\\x.vmdk", "..\\\\..\\\\x.vmdk"]
)
def test_a_description_that_leads_out_of_its_directory_is_refused(
    tmp_path: Path, disk: str
) -> None:
    _machine(tmp_path / "web", disk)
    with pytest.raises(UnsafeImage, match=r"which lies outside of what it came in") as error:
        open_bundle(tmp_path / "web")
    assert "\n" not in str(error.value)


def test_a_disk_that_is_missing_is_one_clear_error(tmp_path: Path) -> None:
    _machine(tmp_path / "web", "gone.vmdk")
    with pytest.raises(StorageError, match=r"its disk 'gone\.vmdk' is not in it"):
        open_bundle(tmp_path / "web")


def test_a_parent_that_is_missing_is_told_when_the_disk_is_opened(tmp_path: Path) -> None:
    _machine(tmp_path / "web")
    (tmp_path / "web" / "web.vmdk").unlink()
    with (
        open_bundle(tmp_path / "web") as bundle,
        pytest.raises(ChainError, match=r"web\.vmdk' is not in"),
    ):
        bundle.open_disk()


def test_of_several_machines_one_has_to_be_named(tmp_path: Path) -> None:
    _machine(tmp_path / "web")
    (tmp_path / "web" / "copy.vmx").write_text(_VMX.format(disk="web.vmdk"))
    with pytest.raises(FormatError, match=r"open one of copy\.vmx, web\.vmx"):
        open_bundle(tmp_path / "web")
    with open_bundle(tmp_path / "web" / "copy.vmx") as bundle:
        assert bundle.disks[0].member == "web.vmdk"


def test_what_macos_adds_to_a_zip_is_no_second_machine(tmp_path: Path) -> None:
    _machine(tmp_path / "web")
    with zipfile.ZipFile(tmp_path / "web.zip", "w") as archive:
        for path in (tmp_path / "web").iterdir():
            archive.write(path, f"web/{path.name}")
            archive.writestr(f"__MACOSX/web/._{path.name}", b"\0\5\x16\7")
            archive.writestr(f"web/._{path.name}", b"\0\5\x16\7")
    with open_bundle(tmp_path / "web.zip") as bundle:
        assert bundle.machines[0].name == "web server"


@pytest.mark.peer("qemu-img")
def test_a_machine_that_is_made_opens_as_the_same_and_qemu_reads_its_disks(tmp_path: Path) -> None:
    disks = [
        write_sparse(tmp_path / f"{at}.raw", awkward_disk((3 + at) << 20, seed=at)) for at in (1, 2)
    ]
    made = vmimg.pack(disks, tmp_path / "made", kind="vmware", machine=MACHINE)
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert "Büro-1- test.vmx" in names
    assert made.size == sum(path.stat().st_size for path in (tmp_path / "made").iterdir())
    with open_bundle(tmp_path / "made") as bundle:
        machine = bundle.machines[0]
        assert [disk.name for disk in bundle.disks] == ["disk1", "disk2"]
        for disk, raw in zip(bundle.disks, disks, strict=True):
            path = tmp_path / "made" / disk.member
            peers.run("qemu-img", "compare", "-f", "vmdk", "-F", "raw", path, raw)
            assert vmimg.compare(f"{tmp_path / 'made'}:{disk.name}", raw).identical
    assert (machine.name, machine.cpus.count, machine.memory) == (MACHINE.name, 2, 1 << 30)
    assert machine.networks[0].mac == "00:0c:29:12:34:56"
    assert [each.device for each in machine.drives].count("cdrom") == 1


def test_what_is_not_written_of_a_machine_is_told(tmp_path: Path) -> None:
    disk = write_sparse(tmp_path / "disk.raw", awkward_disk(1 << 20))
    machine = Machine(
        name="m",
        firmware=Firmware("uefi", variables="/var/lib/m_VARS.fd"),
        drives=(Drive(bus="sata"),),
        snapshots=(Snapshot("1", "before"),),
    )
    made = vmimg.pack([disk], tmp_path / "m", kind="vmware", machine=machine)
    lost = {loss.key: loss.reason for loss in made.losses}
    assert lost["snapshots[0]"] == "the disks are written as they are now"
    assert lost["firmware.variables"] == "the file does not come along"
    with open_bundle(tmp_path / "m") as bundle:
        assert bundle.machines[0].snapshots == ()


def test_a_variable_store_that_is_given_comes_along(tmp_path: Path) -> None:
    disk = write_sparse(tmp_path / "disk.raw", awkward_disk(1 << 20))
    (tmp_path / "store").write_bytes(b"MRVN" * 5000)
    machine = Machine(
        name="m", firmware=Firmware("uefi", variables="m.nvram"), drives=(Drive(bus="sata"),)
    )
    vmimg.pack(
        [disk], tmp_path / "m", kind="vmware", machine=machine,
        files={"m.nvram": tmp_path / "store"},
    )  # fmt: skip
    assert (tmp_path / "m" / "m.nvram").read_bytes() == b"MRVN" * 5000
    with open_bundle(tmp_path / "m") as bundle:
        assert bundle.machines[0].firmware.variables == "m.nvram"


def test_a_directory_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    disk = write_sparse(tmp_path / "disk.raw", awkward_disk(1 << 20))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(vmimg.VmimgError, match="something else in it"):
        vmimg.pack([disk], tmp_path / "home", kind="vmware", replace=True)
    with pytest.raises(OptionError, match="is no name for a further file"):
        vmimg.pack([disk], tmp_path / "m", kind="vmware", files={"m.vmx": disk})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.raw", "home"]
