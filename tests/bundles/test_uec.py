"""UEC images: a root file system with the kernel that boots it, from a disk and into one."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from boxes_by_hand import MACHINE, content, disk_file, opened, pack, tar_file, tree

import peers
from linux import PATIENCE, Alpine, boots
from samples import awkward_disk
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.booting import is_kernel
from vmimg.bundles.uec import open as open_uec
from vmimg.errors import FormatError, OptionError
from vmimg.machines.losses import without
from vmimg.probe.claims import Claim

CLAIM = Claim("uec", "bundle", "", 80)
QCOW2 = b"QFI\xfb\0\0\0\3" + bytes(504)


def kernel_file(folder: Path) -> Path:
    """The beginning of a bzImage for x86_64, by the boot protocol 2.15."""
    data = bytearray(4096)
    data[0x1F1] = 3
    data[0x1FE:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    data[0x206:0x208] = (0x20F).to_bytes(2, "little")
    data[0x20E:0x210] = (0x400).to_bytes(2, "little")
    data[0x211] = 1
    data[0x236:0x238] = (1).to_bytes(2, "little")
    text = b"5.15.0-91-generic (buildd@lcy02) #101-Ubuntu SMP"
    data[0x600 : 0x600 + len(text)] = text
    path = folder / "kernel"
    path.write_bytes(data)
    return path


def ext4(folder: Path, size: int = 8 << 20) -> Path:
    peers.require("mke2fs")
    path = folder / "root.ext4"
    with open(path, "wb") as file:
        file.truncate(size)
    peers.run("mke2fs", "-q", "-F", "-t", "ext4", "-L", "rootfs", path)
    return path


def partitioned(folder: Path, *roots: Path) -> Path:
    """A disk with a GPT: a partition for each of ``roots``, 10 MiB apart."""
    peers.require("sgdisk")
    path = folder / "disk.img"
    with open(path, "wb") as file:
        file.truncate((len(roots) * 10 + 2) << 20)
        for number, root in enumerate(roots):
            file.seek((number * 10 + 1) << 20)
            file.write(root.read_bytes())
    for number in range(len(roots)):
        start = (number * 10 + 1) << 11
        peers.run("sgdisk", "-n", f"{number + 1}:{start}:+8M", path)
    return path


@pytest.mark.peer("tar", "mke2fs", "sgdisk")
def test_the_root_file_system_is_taken_out_of_its_partition(tmp_path: Path) -> None:
    root = ext4(tmp_path)
    files = {"vmlinuz": kernel_file(tmp_path), "initrd": disk_file(tmp_path, "initrd")}
    made = pack("uec", tmp_path / "x.tar.gz", [partitioned(tmp_path, root)], files=files)

    peers.run("tar", "-xzf", tmp_path / "x.tar.gz", "-C", tmp_path)
    assert (tmp_path / "server-disk1.img").read_bytes() == root.read_bytes()
    assert (tmp_path / "vmlinuz").read_bytes() == (tmp_path / "kernel").read_bytes()
    assert without(MACHINE, made.losses).memory == 0


@pytest.mark.peer("mke2fs", "sgdisk")
def test_which_of_several_is_the_root_must_be_said(tmp_path: Path) -> None:
    root = ext4(tmp_path)
    disk = partitioned(tmp_path, root, root)
    files = {"vmlinuz": kernel_file(tmp_path)}
    with pytest.raises(OptionError, match=r"partition=NUMBER \(1: .*ext4.*, 2: "):
        pack("uec", tmp_path / "x.tar.gz", [disk], files=files)
    with pytest.raises(OptionError, match="no such partition"):
        pack("uec", tmp_path / "x.tar.gz", [disk], files=files, partition="3")
    assert not (tmp_path / "x.tar.gz").exists()
    pack("uec", tmp_path / "x.tar.gz", [disk], files=files, partition="2")
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        assert archive.getmember("server-disk1.img").size == 8 << 20


def test_an_image_is_read_in_place_with_what_its_kernel_is(tmp_path: Path) -> None:
    root = disk_file(tmp_path)
    files = {"vmlinuz": kernel_file(tmp_path), "initrd": disk_file(tmp_path, "initrd")}
    pack("ami", tmp_path / "x.tar.gz", [root], files=files)
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        archive.extractall(tmp_path / "set", filter="data")

    with open_uec(DirectoryFolder(tmp_path / "set"), CLAIM) as found:
        assert content(found) == root.read_bytes()
        facts = found.facts
        assert [machine.architecture for machine in found.machines] == ["x86_64"]
    assert (facts["kernel"], facts["initrd"]) == ("vmlinuz", "initrd")
    assert facts["kernel-version"] == "5.15.0-91-generic"
    assert facts["kernel-architecture"] == "x86_64"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("vmlinuz", True), ("boot/vmlinuz-6.1.0-9-amd64", True), ("cirros-x86_64-vmlinuz", True),
        ("alpine-3.23-amd64.kernel", True), ("linux", True), ("Image.gz", True), ("linux26", True),
        ("linux.img", False), ("arch-linux.img", False), ("linux-6.1.tar.xz", False),
        ("kernel.txt", False), ("initrd.img-6.1-vmlinuz", False), ("vmlinuz.sig", False),
    ],
)  # fmt: skip
def test_kernels_are_told_by_their_names(name: str, is_one: bool) -> None:
    assert is_kernel(name) is is_one


@pytest.mark.parametrize("packing", ["", "gz"])
def test_ubuntus_and_cirros_names_are_known(tmp_path: Path, packing: str) -> None:
    kernel, root = kernel_file(tmp_path).read_bytes(), disk_file(tmp_path).read_bytes()
    files = {
        "precise-server-cloudimg-amd64.img": root,
        "precise-server-cloudimg-amd64-vmlinuz-virtual": kernel,
        "precise-server-cloudimg-amd64-floppy": b"x",
        "README.files": b"x",
    }
    path = tar_file(tmp_path / "x.tar.gz", files, f"w:{packing}" if packing else "w")
    with opened(path) as found:
        assert found.loader == "precise-server-cloudimg-amd64-floppy"
        assert content(found) == root


@pytest.mark.peer("mke2fs")
@pytest.mark.parametrize("packing", ["", "gz"])
def test_the_kernel_may_lie_in_front(tmp_path: Path, packing: str) -> None:
    noise = awkward_disk(3 << 20, seed=2)
    root = ext4(tmp_path).read_bytes()
    files = {"x-vmlinuz": noise, "x-initrd.img": noise, "x.img": root}
    path = tar_file(tmp_path / "x.tar.gz", files, f"w:{packing}" if packing else "w")
    with opened(path) as found:
        assert found.kind == "uec"
        assert content(found) == root


def test_the_image_is_the_same_whoever_packs_it_when(tmp_path: Path) -> None:
    files = {"vmlinuz": kernel_file(tmp_path)}
    for number in (1, 2):
        path = tmp_path / f"{number}.tar.gz"
        pack("uec", path, [disk_file(tmp_path)], files=files, threads=number)
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()


def test_it_takes_a_kernel_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="vmlinuz=PATH"):
        pack("uec", tmp_path / "x.tar.gz", [disk_file(tmp_path)])
    files = {"initrd": disk_file(tmp_path), "initrd2": disk_file(tmp_path)}
    with pytest.raises(OptionError, match="vmlinuz=PATH"):
        pack("uec", tmp_path / "x.tar.gz", [disk_file(tmp_path)], files=files)


def test_a_file_system_that_looks_like_a_qcow2_is_still_raw(tmp_path: Path) -> None:
    folder = tree(tmp_path / "set", {"x-vmlinuz": b"MZ", "x.img": QCOW2})
    with open_uec(DirectoryFolder(folder), CLAIM) as found:
        assert content(found) == QCOW2


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"x.img": b""},
        {"vmlinuz": b""},
        {"vmlinuz": b"", **{f"{n}.img": b"" for n in range(99)}},
    ],
    ids=["nothing", "no kernel", "no disk", "too many"],
)
def test_what_is_no_set_is_an_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(FormatError):
        open_uec(DirectoryFolder(tree(tmp_path / "set", files)), CLAIM)


def test_a_gzip_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("x-vmlinuz", "x.img"):
            info = tarfile.TarInfo(name)
            info.size = 1 << 20
            archive.addfile(info, io.BytesIO(disk_file(tmp_path).read_bytes()))
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(packed.getvalue())[:-5000])
    with pytest.raises(FormatError), opened(path) as found:
        content(found)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 120)
def test_what_is_made_of_a_real_linux_boots(alpine: Alpine, tmp_path: Path) -> None:
    from vmimg.bundles.package import How, Package, PackedDisk
    from vmimg.bundles.registry import find
    from vmimg.formats.opening import open_disk
    from vmimg.storage import open as open_storage

    row = find("uec")
    kernel, initrd = open_storage(alpine.kernel), open_storage(alpine.initrd)
    with open_disk(alpine.qcow2) as disk, kernel, initrd:
        files = {"vmlinuz": kernel, "initrd": initrd}
        package = Package(MACHINE, (PackedDisk("x", disk, 0),), files)
        row.make(package, str(tmp_path / "x.tar.gz"), How(options=row.parse_options({})))
    peers.run("tar", "-xSzf", tmp_path / "x.tar.gz", "-C", tmp_path)
    unpacked = replace(alpine, kernel=tmp_path / "vmlinuz", initrd=tmp_path / "initrd")
    log = tmp_path / "console.log"
    assert boots(unpacked, tmp_path / "x.img", "raw", log), log.read_text(errors="replace")[-2000:]
