"""Discs that vmimg makes: xorriso, isoinfo and 7-Zip find in them what was put there."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
import vmimg
from vmimg.errors import OptionError, StorageError, UnsupportedFeature
from vmimg.formats.info import image_info
from vmimg.formats.iso.making import write_disc
from vmimg.formats.iso.names import iso_directory_name, iso_file_name, joliet_name, unique
from vmimg.formats.iso.tree import scan
from vmimg.storage import MemoryStorage

pytestmark = pytest.mark.peer("pycdlib")

MIB = 1 << 20
WHEN = 1_600_000_000


def make_tree(root: Path) -> Path:
    """Everything that is awkward about names, depth, kinds and sizes."""
    root.mkdir()
    (root / "Größe mit Ä").mkdir()
    (root / "Größe mit Ä/漢字 🎉.txt").write_text("letters", encoding="utf-8")
    (root / "a;b:c*?\\d.txt").write_text("odd")
    (root / ("n" * 251 + ".txt")).write_text("long")
    (root / "case").write_text("lower")
    (root / "CASE").write_text("upper")
    for number in range(120):
        (root / f"one of many files with a long name {number:03}.text").write_text(str(number))
    deep = root
    for level in range(20):
        deep = deep / (f"deep {level} " + "long " * 40 * (level in (7, 8)))
        deep.mkdir()
        (deep / "file").write_text(str(level))
    (root / "empty file").touch()
    (root / "empty directory").mkdir()
    (root / "data").write_bytes(os.urandom(3 * MIB + 1))
    (root / "zeros").write_bytes(bytes(2 * MIB))
    (root / "boot.cat").write_text("not the catalogue")
    (root / "rr_moved").write_text("not where others move what lies too deep")
    (root / "link").symlink_to("deep 0 /../" + "a/very/long/way/" * 30 + "end")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o4755)
    (root / "secret").mkdir(0o700)
    for number, path in enumerate(sorted(root.rglob("*"))):
        if not path.is_symlink():
            os.utime(path, (WHEN + number, WHEN + number))
    os.utime(root, (WHEN, WHEN))
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    (folder / "isolinux").mkdir(parents=True)
    loader = bytearray(range(256)) * 40
    loader[0x40:0x44] = b"\xfb\xc0\x78\x70"  # what isolinux.bin has there for isohybrid
    (folder / "isolinux/isolinux.bin").write_bytes(loader)
    (folder / "efi.img").write_bytes(b"\xeb" + os.urandom(1440 * 1024 - 1))
    (folder / "readme").write_text("text")
    return folder


def listing(root: Path) -> dict[str, object]:
    """Content, link targets, permissions and times of all below ``root``."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            content = path.read_bytes() if path.is_file() else b""
            found[name] = (stat.S_IMODE(status.st_mode), int(status.st_mtime), content)
    return found


def extract(disc: Path, target: Path) -> Path:
    """All of it as xorriso reads it: Rock Ridge."""
    peers.run("xorriso", "-osirrox", "on", "-indev", disc, "-extract", "/", target)
    return target


@pytest.mark.peer("xorriso")
def test_xorriso_extracts_every_file_as_it_was(tmp_path: Path, tree: Path) -> None:
    disc = tmp_path / "a.iso"
    result = vmimg.create_iso(tree, disc, label="A LABEL")
    assert result.size == disc.stat().st_size and result.skipped == ()
    found = listing(extract(disc, tmp_path / "out"))
    assert found == listing(tree)
    kinds = [path for path in tree.rglob("*") if path.is_dir() and not path.is_symlink()]
    assert result.directories == len(kinds)


@pytest.mark.parametrize(("depth", "deep"), [(7, False), (8, True)])
def test_only_a_deep_tree_takes_iso_9660_of_1999(tmp_path: Path, depth: int, deep: bool) -> None:
    (tmp_path / "tree" / "/".join("d" * depth)).mkdir(parents=True)
    vmimg.create_iso(tmp_path / "tree", tmp_path / "a.iso")
    systems = image_info(tmp_path / "a.iso")[0].image.details["file-systems"]
    assert ("ISO 9660:1999" in systems) == deep


@pytest.mark.peer("isoinfo")
def test_isoinfo_reads_rock_ridge_and_permissions(tmp_path: Path, tree: Path) -> None:
    vmimg.create_iso(tree, tmp_path / "a.iso")
    said = peers.run("isoinfo", "-l", "-R", "-i", tmp_path / "a.iso").stdout.decode()
    assert re.search(r"^-rwxr-xr-x .* program *$", said, re.MULTILINE)
    assert re.search(r"^drwx------ .* secret\s*$", said, re.MULTILINE)
    assert re.search(r"^l.* absolute -> /etc/passwd\s*$", said, re.MULTILINE)
    assert re.search(r"^-rw-r--r-- +1 +0 +0 .* Sep 13 2020 .* empty file\s*$", said, re.MULTILINE)
    assert said.count("one of many files") == 120


@pytest.mark.peer("7z")
def test_joliet_has_every_file_too(tmp_path: Path, tree: Path) -> None:
    vmimg.create_iso(tree, tmp_path / "a.iso")
    out = tmp_path / "out"
    peers.run("7z", "x", f"-o{out}", tmp_path / "a.iso")
    assert joliet_name("a;b:c*?\\d.txt") == "a_b_c___d.txt"
    expected = {
        "/".join(map(joliet_name, name.split("/"))): content
        for name, content in listing(tree).items()
        if not isinstance(content, str)
    }
    found = listing(out)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        assert isinstance(content, tuple)
        ours = found[name]
        assert isinstance(ours, tuple) and ours[1:] == content[1:], name


@pytest.mark.peer("isoinfo")
def test_names_of_iso_9660_are_plain_and_unique(tmp_path: Path, tree: Path) -> None:
    vmimg.create_iso(tree, tmp_path / "a.iso")
    said = peers.run("isoinfo", "-f", "-i", tmp_path / "a.iso").stdout.decode().split()
    assert len(said) == len(set(said)) > 140
    for path in said:
        assert re.fullmatch(r"(/[A-Z0-9_]{1,31})*/[A-Z0-9_]{0,31}(\.[A-Z0-9_]{0,8};1)?", path), path


def test_equal_trees_make_equal_discs(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import time

    vmimg.create_iso(tree, tmp_path / "a.iso", boot_bios="data", boot_efi="zeros")
    # Later, elsewhere, in another order, and in another part of the world.
    shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    shutil.copystat(tree, tmp_path / "copy")
    for link in ("link", "absolute"):
        times = (tree / link).lstat()
        os.utime(
            tmp_path / "copy" / link,
            ns=(times.st_atime_ns, times.st_mtime_ns),
            follow_symlinks=False,
        )
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 100_000_000)
    try:
        vmimg.create_iso(tmp_path / "copy", tmp_path / "b.iso", boot_bios="data", boot_efi="zeros")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert (tmp_path / "a.iso").read_bytes() == (tmp_path / "b.iso").read_bytes()


@pytest.mark.peer("xorriso")
def test_source_date_epoch_is_the_latest_time(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(small / "readme", (1000, 1000))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    vmimg.create_iso(small, tmp_path / "a.iso")
    assert image_info(tmp_path / "a.iso")[0].image.details["created"] == "2017-07-14T02:40:00+00:00"
    out = extract(tmp_path / "a.iso", tmp_path / "out")
    assert int((out / "readme").stat().st_mtime) == 1000
    assert int((out / "efi.img").stat().st_mtime) == 1500000000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(OptionError, match="SOURCE_DATE_EPOCH"):
        vmimg.create_iso(small, tmp_path / "b.iso")


# Booting


@pytest.mark.peer("xorriso")
@pytest.mark.parametrize("bios", [True, False])
@pytest.mark.parametrize("efi", [True, False])
def test_xorriso_reports_the_boot_images(
    tmp_path: Path, small: Path, bios: bool, efi: bool
) -> None:
    disc = tmp_path / "a.iso"
    vmimg.create_iso(
        small,
        disc,
        boot_bios="isolinux/isolinux.bin" if bios else None,
        boot_efi="efi.img" if efi else None,
    )
    said = peers.run("xorriso", "-indev", disc, "-report_el_torito", "plain").stdout.decode()
    rows = re.findall(r"boot img : +\d+ +(\S+) +y +none +(\S+) +0x00 +(\d+) +\d+", said)
    expected = [("BIOS", "0x0000", "4")] * bios + [("UEFI", "0x0000", "2880")] * efi
    assert rows == expected
    assert ("/isolinux/isolinux.bin" in said) == bios and ("/efi.img" in said) == efi
    assert ("boot-info-table" in said) == bios
    images = image_info(disc)[0].image.details.get("boot-images", [])
    assert [entry["platform"] for entry in images] == [row[0] for row in expected]
    content = disc.read_bytes()
    for entry in images:
        if entry["platform"] == "UEFI":
            data = (small / "efi.img").read_bytes()
            assert content[entry["offset"] : entry["offset"] + len(data)] == data


def test_the_boot_information_table_is_that_of_the_loader(tmp_path: Path, small: Path) -> None:
    loader = (small / "isolinux/isolinux.bin").read_bytes()
    for wanted in (True, False):
        disc = tmp_path / f"{wanted}.iso"
        vmimg.create_iso(small, disc, boot_bios="isolinux/isolinux.bin", boot_info_table=wanted)
        (entry,) = image_info(disc)[0].image.details["boot-images"]
        found = disc.read_bytes()[entry["offset"] : entry["offset"] + len(loader)]
        words = memoryview(loader[64:]).cast("I")
        table = [16, entry["offset"] // 2048, len(loader), sum(words) & 0xFFFFFFFF, *[0] * 10]
        expected = b"".join(word.to_bytes(4, "little") for word in table)
        assert found[:8] == loader[:8] and found[64:] == loader[64:]
        assert found[8:64] == (expected if wanted else loader[8:64])


@pytest.mark.peer("xorriso")
def test_a_loader_from_elsewhere_is_added(tmp_path: Path, small: Path) -> None:
    (tmp_path / "loader.img").write_bytes(b"loader".ljust(4096))
    vmimg.create_iso(small, tmp_path / "a.iso", boot_bios=tmp_path / "loader.img")
    out = extract(tmp_path / "a.iso", tmp_path / "out")
    assert (out / "boot/loader.img").read_bytes()[:6] == b"loader"
    # A path from here to what is in the directory anyway is that file.
    vmimg.create_iso(small, tmp_path / "b.iso", boot_efi=small / "efi.img")
    assert not (extract(tmp_path / "b.iso", tmp_path / "out b") / "boot").exists()


@pytest.mark.peer("xorriso")
@pytest.mark.parametrize("efi", [True, False])
def test_a_hybrid_has_an_mbr_that_leads_to_isolinux(tmp_path: Path, small: Path, efi: bool) -> None:
    disc = tmp_path / "a.iso"
    settings = {"boot_bios": "isolinux/isolinux.bin", "boot_efi": "efi.img" if efi else None}
    vmimg.create_iso(small, disc, hybrid=True, **settings)  # type: ignore[arg-type]
    said = peers.run("xorriso", "-indev", disc, "-report_system_area", "plain").stdout.decode()
    assert "MBR isohybrid cyl-align-on\n" in said
    details = image_info(disc)[0].image.details
    bios, *others = details["boot-images"]
    # Where the MBR's code looks for isolinux.
    assert int.from_bytes(disc.read_bytes()[432:436], "little") * 512 == bios["offset"]
    first, *rest = details["contents"]["partitions"]
    assert (first["start"], first["size"], first["type"]) == (0, disc.stat().st_size, "0x17")
    assert [(p["start"], p["type"]) for p in rest] == [(e["offset"], "0xef") for e in others]
    assert len(image_info(disc)[0].image.notes) == 2 + efi
    vmimg.create_iso(small, tmp_path / "b.iso", hybrid=True, **settings)  # type: ignore[arg-type]
    assert disc.read_bytes() == (tmp_path / "b.iso").read_bytes()


def booting_loader() -> bytes:
    """Says so on the serial line, and ends the machine."""
    said = b"".join(bytes((0xB0, letter, 0xEE)) for letter in b"it boots\n")
    code = bytes.fromhex("baf803") + said + bytes.fromhex("b000e6f4") + bytes.fromhex("f4ebfd")
    loader = bytearray(2048)
    loader[:2] = b"\xeb\x7e"  # a disc enters here, the MBR of a hybrid behind the signature
    loader[0x40:0x46] = b"\xfb\xc0\x78\x70\xeb\x3a"
    loader[0x80 : 0x80 + len(code)] = code
    return bytes(loader)


@pytest.mark.peer("qemu-system-x86_64")
def test_it_boots_as_a_disc_and_as_a_disk(tmp_path: Path, small: Path) -> None:
    (small / "isolinux/isolinux.bin").write_bytes(booting_loader())
    disc = tmp_path / "a.iso"
    vmimg.create_iso(
        small, disc, boot_bios="isolinux/isolinux.bin", boot_efi="efi.img", hybrid=True
    )
    vmimg.convert(disc, tmp_path / "a.qcow2")
    for drive in (
        f"file={disc},media=cdrom,format=raw",
        f"file={disc},format=raw,snapshot=on",
        f"file={tmp_path / 'a.qcow2'},format=qcow2",
    ):
        done = peers.run(
            "qemu-system-x86_64",
            *("-M", "pc", "-m", "32", "-display", "none", "-nodefaults", "-serial", "stdio"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive", drive),
            ok=(1,),
        )
        assert b"it boots" in done.stdout, drive


# Sizes


@pytest.mark.peer("isoinfo", "7z")
def test_a_file_beyond_4_gib_is_in_several_extents(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    size = (4 << 30) + 3 * MIB
    with (folder / "large.bin").open("wb") as file:
        file.truncate(size)
        file.seek(size - 3)
        file.write(b"end")
    disc = tmp_path / "a.iso"
    program = f"""
import vmimg
vmimg.create_iso({str(folder)!r}, {str(disc)!r})
# Not ru_maxrss: it begins with what the parent had.
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) >> 10)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(ran.stdout) < 100
    assert disc.stat().st_blocks * 512 < 64 * MIB  # zeros are holes
    said = peers.run("7z", "l", disc).stdout.decode()
    assert re.search(rf"\s{size}\s+{size}\s+large.bin", said)
    listed = peers.run("isoinfo", "-l", "-R", "-i", disc).stdout.decode()
    extents = re.findall(r"(\d+) \w{3} .*\[ *(\d+) .*large.bin", listed)
    assert [int(length) for length, _ in extents] == [0xFFFFF800, size - 0xFFFFF800]
    (_, first), (_, second) = extents
    assert int(second) == int(first) + 0xFFFFF800 // 2048
    with disc.open("rb") as file:
        file.seek(int(first) * 2048 + size - 3)
        assert file.read(3) == b"end"


def test_on_a_device_nothing_shines_through(tmp_path: Path, small: Path) -> None:
    settings = {"label": "X", "application": "VMIMG", "hybrid": True}
    vmimg.create_iso(small, tmp_path / "a.iso", boot_bios="isolinux/isolinux.bin", **settings)  # type: ignore[arg-type]
    root = scan(str(small), "", [])
    device = MemoryStorage(b"\xff" * (4 * MIB))
    bios = root.find("isolinux/isolinux.bin")
    size = write_disc(root, device, bios=bios, boot_info_table=True, **settings)  # type: ignore[arg-type]
    assert device.read(0, size) == (tmp_path / "a.iso").read_bytes()


# What goes wrong


def test_what_no_disc_holds_is_left_out_and_said(tmp_path: Path, small: Path) -> None:
    os.mkfifo(small / "pipe")
    (small / "own.iso").write_text("what was there before")
    result = vmimg.create_iso(small, small / "own.iso", replace=True)
    assert [line.split(": left out: ")[0] for line in result.skipped] == (
        [str(small / "own.iso"), str(small / "pipe")]
    )


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "options", "error", "says"),
    [
        (lambda f: None, {"label": "x" * 33}, OptionError, "longer than 32"),
        (lambda f: None, {"label": "a\nb"}, OptionError, "cannot be printed"),
        (lambda f: None, {"publisher": "x" * 129}, OptionError, "longer than 128"),
        (lambda f: None, {"boot_bios": "gone"}, StorageError, "gone"),
        (lambda f: None, {"boot_bios": "isolinux"}, OptionError, "not a file to boot from"),
        (lambda f: (f / "none").touch(), {"boot_efi": "none"}, OptionError, "an empty one"),
        (lambda f: None, {"boot_bios": "readme"}, OptionError, "too short"),
        (lambda f: None, {"hybrid": True}, OptionError, "isolinux"),
        (lambda f: None, {"hybrid": True, "boot_bios": "efi.img"}, OptionError, "signature"),
        (
            lambda f: Path(os.fsdecode(os.fsencode(f) + b"/\xff")).touch(),
            {},
            OptionError,
            "not UTF-8",
        ),
    ],
)
def test_an_error_leaves_nothing_behind(
    tmp_path: Path,
    small: Path,
    change: Change,
    options: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    change(small)
    with pytest.raises(error, match=says):
        vmimg.create_iso(small, tmp_path / "a.iso", **options)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_directory_is_needed_and_an_image_is_not_replaced(tmp_path: Path, small: Path) -> None:
    with pytest.raises(OptionError, match="not a directory"):
        vmimg.create_iso(small / "readme", tmp_path / "a.iso")
    with pytest.raises(StorageError, match="no such file"):
        vmimg.create_iso(small / "gone", tmp_path / "a.iso")
    (tmp_path / "a.iso").write_text("mine")
    with pytest.raises(OptionError, match="--force"):
        vmimg.create_iso(small, tmp_path / "a.iso")
    assert (tmp_path / "a.iso").read_text() == "mine"


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path, small: Path) -> None:
    (small / "zz").write_bytes(bytes(MIB))
    began = threading.Event()

    def progress(done: int, total: int) -> None:
        if not began.is_set():
            began.set()
            (small / "zz").write_bytes(b"short")

    with pytest.raises(StorageError, match=r"zz: .* size changed"):
        vmimg.create_iso(small, tmp_path / "a.iso", progress=progress)
    assert not (tmp_path / "a.iso").exists()


def test_progress_goes_up_to_the_end(tmp_path: Path, small: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = vmimg.create_iso(
        small, tmp_path / "a.iso", progress=lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen) and seen[-1] == (result.size, result.size)


def test_without_pycdlib_it_says_what_to_install(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycdlib", None)
    with pytest.raises(UnsupportedFeature, match=r"pip install 'vmimg\[iso\]'"):
        vmimg.create_iso(small, tmp_path / "a.iso")
    with pytest.raises(UnsupportedFeature, match=r"pip install 'vmimg\[iso\]'"):
        vmimg.create_seed(tmp_path / "a.iso", b"#cloud-config\n")
    assert not (tmp_path / "a.iso").exists()


def test_names_are_cut_and_numbered() -> None:
    assert iso_file_name("read me.tar.gz") == "READ_ME_TAR.GZ;1"
    assert iso_file_name(".profile") == "_PROFILE.;1"
    assert iso_file_name("\u0301") == "_.;1"
    assert iso_file_name("x" * 99 + ".html") == "X" * 26 + ".HTML;1"
    assert iso_directory_name("Öl: größe") == "OL__GROSSE"
    assert joliet_name("ü" * 99 + ".txt") == "ü" * 30 + ".txt"
    assert joliet_name("a\x07/b") == "a__b"
    many = unique(["a b", "a_b", "a.b", "A B"], iso_file_name)
    assert many == ["A_B.;1", "A_B1.;1", "A.B;1", "A_B2.;1"]
