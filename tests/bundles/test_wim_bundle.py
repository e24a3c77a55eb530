"""WIM and ESD: images of files, read in place, verified, unpacked, made; with wimlib and 7z."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from wim_trees_by_hand import REPARSE, SYMLINK, File, link_to, wim_with

import peers
from cli.run_vmimg import vmimg, vmimg_json
from probe.wim_by_hand import HEADER, wim_of
from vmimg.bundles.bundle import Verdict
from vmimg.bundles.info import bundle_info
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import pack
from vmimg.bundles.unpacking import unpack
from vmimg.bundles.wim import WimBundle
from vmimg.codecs import libwim
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import (
    ChainError,
    FormatError,
    OptionError,
    StorageError,
    UnsafeImage,
    UnsupportedFeature,
    VmimgError,
)
from vmimg.machines.model import Machine

WIMLIB = "wimlib-imagex"
PACKINGS = {
    "none": ("--compress=none",),
    "xpress": ("--compress=xpress",),
    "lzx": ("--compress=lzx",),
    "lzms": ("--compress=lzms",),
    "solid": ("--solid", "--solid-chunk-size=64K"),
    "pipable": ("--pipable", "--compress=lzx"),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Text, noise, files of several chunks, links, an empty file, an empty directory."""
    root = tmp_path / "files"
    inner = root / "Windows" / "System32"
    inner.mkdir(parents=True)
    (root / "empty directory").mkdir()
    (root / "empty").touch()
    (root / "ünïcode 🙂").write_bytes(b"x" * 10)
    (inner / "noise").write_bytes(random.Random(1).randbytes(300_001))
    (inner / "text").write_bytes(b"".join(b"line %d\n" % at for at in range(40_000)))
    (inner / "same text").write_bytes((inner / "text").read_bytes())
    os.link(inner / "text", root / "another name")
    for at in range(12):
        (root / f"small {at}").write_bytes(bytes([at]) * at * 999)
    (root / "link").symlink_to("Windows/System32/text")
    (root / "Windows" / "up").symlink_to("../empty")
    for at, path in enumerate(sorted(root.rglob("*"))):
        moment = 1_600_000_000_000_000_000 + at * 10**9 + 123_456_700
        os.utime(path, ns=(moment + 5, moment), follow_symlinks=False)
    os.utime(root / "Windows", (1.5e9, 1.5e9))
    return root


def listed(root: Path) -> dict[str, Any]:
    """What is below ``root``: contents, times, and which names are of one file."""
    groups: dict[int, str] = {}
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = path.stat().st_mtime_ns
        else:
            status = path.stat()
            first = groups.setdefault(status.st_ino, name)
            found[name] = first, status.st_mtime_ns, path.read_bytes()
    return found


def captured(files: Path, target: Path, *options: str, name: str = "First") -> Path:
    peers.run(WIMLIB, "capture", files, target, name, "of files", *options)
    return target


@contextmanager
def opened(path: Path) -> Iterator[WimBundle]:
    with open_bundle(path) as bundle:
        assert isinstance(bundle, WimBundle)
        yield bundle


def verified(path: Path) -> dict[str, Verdict]:
    with opened(path) as bundle:
        return {verdict.subject: verdict for verdict in bundle.verify()}


@pytest.mark.peer(WIMLIB)
@pytest.mark.parametrize("packing", PACKINGS)
def test_what_wimlib_packed_comes_out_as_it_was(files: Path, tmp_path: Path, packing: str) -> None:
    path = captured(files, tmp_path / "a.wim", *PACKINGS[packing], "--check")
    unpacked = unpack(path, tmp_path / "out")

    assert listed(tmp_path / "out") == listed(files)
    assert unpacked.kind == ("esd" if packing == "solid" else "wim")
    # Names of one file count once, by the first.
    noise, text = 300_001, (files / "another name").stat().st_size
    assert unpacked.files["Windows"] + unpacked.files["another name"] == noise + 2 * text
    assert not unpacked.losses


@pytest.mark.peer(WIMLIB)
@pytest.mark.parametrize("packing", PACKINGS)
def test_any_file_is_read_in_place(files: Path, tmp_path: Path, packing: str) -> None:
    path = captured(files, tmp_path / "a.wim", *PACKINGS[packing])
    with opened(path) as bundle:
        expected = {f"1/{p.relative_to(files)}" for p in files.rglob("*") if p.is_file()}
        links = {"1/link", "1/Windows/up"}
        assert set(bundle.folder.names()) == expected - links
        assert bundle.folder.size("1/Windows/System32/noise") == 300_001
        noise = (files / "Windows/System32/noise").read_bytes()
        with bundle.folder.open("1/Windows/System32/noise") as storage:
            for offset, length in ((299_000, 1001), (0, 10), (32_760, 70_000), (131_072, 1)):
                assert storage.read(offset, length) == noise[offset : offset + length]
        assert bundle.folder.read("1/empty", 0) == b""
        assert not bundle.folder.exists("1/nothing")
        with pytest.raises(StorageError, match="there is no file '2/empty'"):
            bundle.folder.open("2/empty")


@pytest.mark.peer(WIMLIB)
@pytest.mark.parametrize("options", [["--compress=xpress"], ["--pipable", "--compress=xpress"]])
def test_a_file_of_many_chunks_is_read_anywhere(tmp_path: Path, options: list[str]) -> None:
    """More chunks than places of them are read at a time."""
    (tmp_path / "files").mkdir()
    whole = random.Random(7).randbytes(1 << 20) * 20 + bytes(20 << 20) + b"the end"
    (tmp_path / "files" / "large").write_bytes(whole)
    theirs = captured(tmp_path / "files", tmp_path / "theirs.wim", *options)
    pack([tmp_path / "files"], tmp_path / "ours.wim", options={"compression": "xpress"})
    peers.run(WIMLIB, "verify", tmp_path / "ours.wim")
    chance = random.Random(8)
    for path in (theirs, tmp_path / "ours.wim"):
        with opened(path) as bundle, bundle.folder.open("1/large") as storage:
            assert storage.size == len(whole)
            for _ in range(40):
                offset = chance.randrange(len(whole) - 100_000)
                assert storage.read(offset, 100_000) == whole[offset : offset + 100_000]
            assert storage.read(len(whole) - 7, 7) == b"the end"


@pytest.mark.peer(WIMLIB)
def test_the_parts_of_a_split_archive_are_found_beside_the_first(
    files: Path, tmp_path: Path
) -> None:
    path = captured(files, tmp_path / "a.wim", "--compress=none", "--check")
    (tmp_path / "parts").mkdir()
    peers.run(WIMLIB, "split", path, tmp_path / "parts" / "a.swm", "0.4", "--check")
    assert len(list((tmp_path / "parts").iterdir())) > 2
    unpack(tmp_path / "parts" / "a.swm", tmp_path / "out")
    assert listed(tmp_path / "out") == listed(files)
    verdicts = verified(tmp_path / "parts" / "a.swm")
    assert {each.state for each in verdicts.values()} == {"good"}
    assert "integrity table of part 2" in verdicts

    with pytest.raises(ChainError, match=r"is part 2 of .: name the first"):
        unpack(tmp_path / "parts" / "a2.swm", tmp_path / "out2")
    with opened(tmp_path / "parts" / "a2.swm") as second:
        assert second.facts["part"].startswith("2 of ")
    (tmp_path / "parts" / "a2.swm").unlink()
    with pytest.raises(ChainError, match=r"part 2 of it is missing: a2\.swm"):
        unpack(tmp_path / "parts" / "a.swm", tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


@pytest.mark.peer(WIMLIB)
def test_a_link_to_an_archive_is_as_good_as_the_archive(files: Path, tmp_path: Path) -> None:
    path = captured(files, tmp_path / "a.wim", "--compress=none")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.wim").symlink_to(path)
    unpack(tmp_path / "elsewhere" / "b.wim", tmp_path / "out")
    assert listed(tmp_path / "out") == listed(files)


@pytest.mark.peer(WIMLIB)
def test_each_image_gets_a_directory_and_one_can_be_named(files: Path, tmp_path: Path) -> None:
    path = captured(files, tmp_path / "a.esd", "--solid")
    peers.run(WIMLIB, "append", files / "Windows" / "System32", path, "Second")
    unpacked = unpack(path, tmp_path / "out")
    assert listed(tmp_path / "out" / "1") == listed(files)
    assert listed(tmp_path / "out" / "2") == listed(files / "Windows" / "System32")
    assert list(unpacked.files) == ["1", "2"]

    for name in ("Second", "2"):
        unpack(f"{path}:{name}", tmp_path / name)
        assert listed(tmp_path / name) == listed(files / "Windows" / "System32")
    with pytest.raises(OptionError, match="no image 'Third' in it; there is: First, Second"):
        unpack(f"{path}:Third", tmp_path / "third")


@pytest.mark.peer(WIMLIB)
def test_info_tells_what_the_images_are(files: Path, tmp_path: Path) -> None:
    path = captured(files, tmp_path / "a.wim", "--boot", "--check", "--compress=xpress")
    for key, value in {
        "WINDOWS/ARCH": "9", "WINDOWS/VERSION/MAJOR": "10", "WINDOWS/VERSION/MINOR": "0",
        "WINDOWS/VERSION/BUILD": "22631", "WINDOWS/EDITIONID": "Professional",
        "WINDOWS/LANGUAGES/LANGUAGE": "de-DE",
    }.items():  # fmt: skip
        peers.run(WIMLIB, "info", path, "1", f"--image-property={key}={value}")
    told = vmimg_json("info", path)
    image = told["details"]["images"][0]
    assert told["bundle"] == "wim"
    assert told["files"] == image["files"] == len([p for p in files.rglob("*") if not p.is_dir()])
    assert told["details"]["compression"] == "XPRESS"
    assert told["details"]["boot-index"] == 1
    assert told["details"]["integrity-table"] is True
    assert (image["name"], image["description"]) == ("First", "of files")
    assert (image["architecture"], image["windows-version"]) == ("x86_64", "10.0.22631")
    assert (image["edition"], image["languages"]) == ("Professional", "de-DE")
    assert "name First, description of files" in vmimg("info", path).out


@pytest.mark.peer(WIMLIB)
@pytest.mark.parametrize("packing", ["none", "lzx", "solid"])
def test_one_flipped_bit_is_found(files: Path, tmp_path: Path, packing: str) -> None:
    path = captured(files, tmp_path / "a.wim", *PACKINGS[packing], "--check")
    good = verified(path)
    assert {subject: each.state for subject, each in good.items()} == {
        "integrity table": "good", "files": "good",
    }  # fmt: skip
    data = bytearray(path.read_bytes())
    data[HEADER + 1000] ^= 1
    path.write_bytes(data)
    verdicts = verified(path)
    assert verdicts["integrity table"].state == "bad"
    assert any(subject.startswith("blob ") for subject in verdicts)
    assert {each.state for each in verdicts.values()} == {"bad"}
    vmimg("verify", path, ok=[1])


def test_a_table_of_checksums_that_lies_is_told(tmp_path: Path) -> None:
    data = wim_with(File("a", b"one"))
    path = tmp_path / "a.wim"
    path.write_bytes(data)
    assert verified(path)["integrity table"].state == "good"
    for number, lie in ((4, 7), (8, 0), (8, 1 << 30), (4, 0xFFFFFFFF), (12, 5)):
        wrong = bytearray(data)
        wrong[len(data) - 32 + number : len(data) - 28 + number] = lie.to_bytes(4, "little")
        path.write_bytes(wrong)
        state = verified(path)["integrity table"].state
        # A larger chunk covers the same bytes.
        assert state == ("good" if lie == 1 << 30 else "bad")


@pytest.mark.peer(WIMLIB, "7z")
@pytest.mark.parametrize("solid", [False, True])
@pytest.mark.parametrize("compression", ["none", "xpress", "lzx", "lzms"])
def test_wimlib_and_7z_read_what_we_pack(
    files: Path, tmp_path: Path, compression: str, solid: bool
) -> None:
    path = tmp_path / "a.wim"
    options = {"compression": compression, "solid": solid, "name": "A & B", "description": "ours"}
    if solid and compression == "none":
        with pytest.raises(OptionError, match="solid=off"):
            pack([files], path, options=options)
        assert not path.exists()
        return
    packed = pack([files], path, options={**options, "boot": True})
    assert packed.size == path.stat().st_size

    peers.run(WIMLIB, "verify", path)
    peers.run(WIMLIB, "apply", path, "1", tmp_path / "applied", "--check")
    assert listed(tmp_path / "applied") == listed(files)
    told = peers.run(WIMLIB, "info", path, "1").stdout.decode()
    facts = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    assert facts["Name"].strip() == "A & B"
    assert facts["Description"].strip() == "ours"
    assert facts["Hard Link Bytes"].strip() == str((files / "another name").stat().st_size)
    header = peers.run(WIMLIB, "info", path, "--header").stdout.decode()
    assert "Boot Index                  = 1" in header
    if compression != "xpress" or not solid:  # 7z has no solid XPRESS
        peers.run("7z", "t", path)
    if compression != "none":
        assert packed.size < 0.6 * sum(p.stat().st_size for p in files.rglob("*") if p.is_file())

    unpack(path, tmp_path / "out")
    assert listed(tmp_path / "out") == listed(files)
    assert {each.state for each in verified(path).values()} == {"good"}


@pytest.mark.peer(WIMLIB)
def test_an_esd_is_solid_and_lzms_by_itself(files: Path, tmp_path: Path) -> None:
    vmimg("pack", files, "-o", tmp_path / "a.esd")
    with opened(tmp_path / "a.esd") as bundle:
        assert (bundle.kind, bundle.facts["compression"]) == ("esd", "LZMS")
        assert bundle.images[0]["name"] == "files"
    peers.run(WIMLIB, "apply", tmp_path / "a.esd", tmp_path / "applied")
    assert listed(tmp_path / "applied") == listed(files)


@pytest.mark.parametrize("kind", ["none", "lzx", "esd"])
def test_the_same_directory_makes_the_same_bytes(
    files: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "none":
        peers.require(WIMLIB)  # it comes with libwim
    settings: dict[str, Any] = {"kind": "esd" if kind == "esd" else "wim"}
    if kind != "esd":
        settings["options"] = {"compression": kind}
    pack([files], tmp_path / "a", threads=1, **settings)
    # The copy's files were made and read at another time.
    shutil.copytree(files, tmp_path / "copy" / "files", symlinks=True)
    (tmp_path / "copy" / "files" / "another name").unlink()
    text = tmp_path / "copy" / "files" / "Windows" / "System32" / "text"
    os.link(text, tmp_path / "copy" / "files" / "another name")
    shutil.copystat(files, tmp_path / "copy" / "files")
    pack([tmp_path / "copy" / "files"], tmp_path / "b", threads=3, **settings)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    pack([files], tmp_path / "c", **settings)
    with opened(tmp_path / "c") as bundle:
        assert bundle.images[0]["created"] == "2001-09-09 01:46:40 UTC"
    unpack(tmp_path / "c", tmp_path / "out")
    assert (tmp_path / "out" / "Windows").stat().st_mtime == 1_000_000_000


def test_equal_files_are_stored_once(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    noise = random.Random(3).randbytes(500_000)
    for name in ("one", "two", "three"):
        (tmp_path / "files" / name).write_bytes(noise)
    packed = pack([tmp_path / "files"], tmp_path / "a.wim", options={"compression": "none"})
    assert packed.size < 510_000


@pytest.mark.peer(WIMLIB)
def test_what_does_not_compress_is_stored_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "noise").write_bytes(random.Random(3).randbytes(5 << 20))
    packed = pack([tmp_path / "files"], tmp_path / "a.wim")
    peers.run(WIMLIB, "verify", tmp_path / "a.wim")
    assert 0 < packed.size - (5 << 20) < 2000


def test_what_an_image_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()

    def refused(match: str, *directories: Path, **settings: Any) -> None:
        with pytest.raises(OptionError, match=match):
            pack(list(directories) or [files], tmp_path / "a.wim", **settings)
        assert not (tmp_path / "a.wim").exists()

    os.mkfifo(files / "pipe")
    refused("is no file, directory or link")
    (files / "pipe").unlink()
    (files / "a\\b").touch()
    refused("backslash in its name")
    (files / "a\\b").unlink()
    Path(os.fsdecode(bytes(files) + b"/\xff")).touch()
    refused("is no UTF-8")
    Path(os.fsdecode(bytes(files) + b"/\xff")).unlink()
    refused("made of one directory", files, files)
    refused("made of one directory", tmp_path / "nothing")
    refused("describes no machine", files, machine=Machine(memory=1 << 30))
    refused("has no option 'colour'", files, options={"colour": "red"})


def test_without_libwim_header_and_xml_are_read_and_what_is_stored(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed.wim"
    if peers.has(WIMLIB):
        captured(files, packed, "--compress=lzx", "--check")
    # A system on which the loader finds no such library.
    monkeypatch.setattr(libwim, "NAMES", ("libwim-that-nobody-has.so",))
    assert not libwim.available()
    pack([files], tmp_path / "a.wim", options={"compression": "none"})
    unpack(tmp_path / "a.wim", tmp_path / "out")
    assert listed(tmp_path / "out") == listed(files)
    with pytest.raises(UnsupportedFeature, match="apt install libwim15"):
        pack([files], tmp_path / "b.wim")
    assert not (tmp_path / "b.wim").exists()

    peers.require(WIMLIB)
    assert bundle_info(packed).facts["images"][0]["name"] == "First"
    verdicts = verified(packed)
    assert verdicts["integrity table"].state == "good"
    assert verdicts["files"].state == "unknown"
    assert "libwim15" in verdicts["files"].detail
    with pytest.raises(UnsupportedFeature, match="LZX compression: this needs wimlib"):
        unpack(packed, tmp_path / "out2")


@pytest.mark.parametrize(
    "name", ["..", ".", "../../evil", "/etc/passwd", "a\\..\\b", "nul\0", "..\\up"]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.wim"
    inside = File("directory", children=[File(name, b"evil")])
    path.write_bytes(wim_with(File("good", b"good"), inside))
    with pytest.raises(UnsafeImage, match="is no name"):
        unpack(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.wim"]
    with opened(path) as bundle, pytest.raises(UnsafeImage):
        bundle.folder.names()


@pytest.mark.parametrize(
    ("target", "relative", "kept"),
    [
        ("..\\..\\etc\\passwd", True, None),
        ("a\\..\\..\\..\\x", True, None),
        ("\\??\\C:\\..\\x", False, None),
        ("\\??\\C:\\Windows\\notepad.exe", False, "../Windows/notepad.exe"),
        ("\\Windows", True, "../Windows"),
        ("..\\Windows\\x", True, "../Windows/x"),
    ],
)
def test_a_link_leads_to_what_is_in_the_image_or_is_not_made(
    tmp_path: Path, target: str, relative: bool, kept: str | None
) -> None:
    path = tmp_path / "a.wim"
    link = File("link", link_to(target, relative=relative), REPARSE, SYMLINK)
    path.write_bytes(wim_with(File("directory", children=[link])))
    (tmp_path / "target").mkdir()
    unpacked = unpack(path, tmp_path / "target" / "out")
    made = tmp_path / "target" / "out" / "directory" / "link"
    if kept is None:
        assert not os.path.lexists(made)
        assert [(loss.key, loss.value) for loss in unpacked.losses] == [("links", "1")]
        assert "lead out of the image" in unpacked.losses[0].reason
    else:
        assert os.readlink(made) == kept
        assert not unpacked.losses


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """A link that says that it is a directory, too, with a file in it."""
    path = tmp_path / "a.wim"
    link = File(
        "link", link_to("directory"), REPARSE, SYMLINK, children=[File("evil", b"evil")]
    )  # fmt: skip
    path.write_bytes(wim_with(File("directory", children=[]), link))
    unpack(path, tmp_path / "out")
    assert os.readlink(tmp_path / "out" / "link") == "directory"
    assert not list(tmp_path.rglob("evil"))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(wim_with(File("a", b"one"), File("a", b"two")))
    with pytest.raises(UnsafeImage, match="two files are called 'a'"):
        unpack(path, tmp_path / "out")


def test_directories_that_contain_themselves_are_a_format_error(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    # The list of the root begins behind its entry of 104 bytes and the end of its list.
    for place in (120, 120 + 112):
        entries = [File(f"d{at}", children=[], goes_to=place) for at in range(3)]
        path.write_bytes(wim_with(*entries))
        with pytest.raises(FormatError, match="lead round in circles"):
            unpack(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [50, 100, 1 << 40, (1 << 64) - 8])
def test_an_entry_of_an_impossible_length_is_a_format_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(wim_with(File("a", b"one", length=length), File("b", b"two")))
    with pytest.raises(FormatError, match="its metadata have an entry of"):
        unpack(path, tmp_path / "out")


def test_streams_are_counted_and_written_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(wim_with(File("a", b"main", streams={"Zone.Identifier": b"[ZoneTransfer]"})))
    unpacked = unpack(path, tmp_path / "out")
    assert [(loss.key, loss.value) for loss in unpacked.losses] == [("streams", "1")]
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["a"]
    vmimg("unpack", path, "-o", "streams=on", tmp_path / "all")
    assert (tmp_path / "all" / "a").read_bytes() == b"main"
    assert (tmp_path / "all" / "a:Zone.Identifier").read_bytes() == b"[ZoneTransfer]"
    with opened(path) as bundle:
        assert bundle.folder.read("1/a:Zone.Identifier", 100) == b"[ZoneTransfer]"


def test_what_only_windows_understands_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(
        wim_with(
            File("cloud", b"\0" * 20, REPARSE, 0x9000001A),
            File("secret", b"efs", 0x4000),
            File("good", b"good"),
        )
    )
    unpacked = unpack(path, tmp_path / "out")
    assert {loss.key: loss.value for loss in unpacked.losses} == {
        "encrypted-files": "1", "reparse-points": "1",
    }  # fmt: skip
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["good"]


def test_there_is_no_disk_in_a_wim(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(wim_with(File("a", b"one")))
    assert "there is no disk in it" in vmimg("convert", path, tmp_path / "a.qcow2", ok=[1]).err
    with pytest.raises(OptionError, match="there is no disk in it to become qcow2"):
        unpack(path, tmp_path / "out", format="qcow2")


_BOMB = '<!DOCTYPE WIM [<!ENTITY a "aa">]><WIM><IMAGE INDEX="1"><NAME>&a;</NAME></IMAGE></WIM>'
_ESD = '<WIM><IMAGE INDEX="1"><NAME>x</NAME></IMAGE><ESD><ENCRYPTED>1</ENCRYPTED></ESD></WIM>'


def utf16(text: str) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le")


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (wim_of(xml=utf16(_BOMB)), FormatError, "document type"),
        (wim_of(xml=utf16("<SVG/>")), FormatError, "root element"),
        (wim_of(xml=utf16("<WIM><IMAGE>")), FormatError, "broken"),
        (wim_of(xml_offset=1 << 50), FormatError, "its XML has .* cannot be read"),
        (wim_of(xml=utf16(_ESD)), UnsupportedFeature, "encrypted ESD"),
        (wim_of(table_offset=1 << 40), FormatError, "lie behind its end"),
        (wim_of(table_size=43), FormatError, "table of blobs has 43 bytes"),
        (wim_of(images=4), FormatError, "has 4 images, and metadata of 1"),
        (wim_of(metadata=False), FormatError, "has 1 images, and metadata of 0"),
        (
            wim_of(metadata=False, blobs=[{"flags": 2, "offset": 1 << 40}]),
            FormatError,
            "lie behind its end",
        ),
        (
            wim_of(metadata=False, blobs=[{"flags": 6, "size": 40, "original": 1 << 50}]),
            FormatError,
            "metadata of image 1 have",
        ),
        (
            wim_of(
                flags=0x40082, chunk=32768, metadata=False,
                blobs=[{"flags": 6, "size": 10, "original": 1 << 27}],
            ),
            FormatError,
            "does not fit into 10 bytes",
        ),
        (
            wim_of(
                flags=0x40082, chunk=7, metadata=False,
                blobs=[{"flags": 6, "size": 100, "original": 1 << 20}],
            ),
            FormatError,
            "compressed by 'LZX' in 7 bytes",
        ),
        (wim_of(blobs=[{"flags": 0x10}]), FormatError, "solid resource that is none"),
        (wim_of(blobs=[{"flags": 0x10, "original": 1 << 32}]), FormatError, "solid resource"),
    ],
)  # fmt: skip
def test_what_lies_is_refused_in_a_line(
    tmp_path: Path, data: bytes, error: type[Exception], match: str
) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(data)
    with pytest.raises(error, match=match) as caught:
        unpack(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_blobs_that_are_the_same_bytes_over_and_over_are_refused(tmp_path: Path) -> None:
    blobs = [{"size": 500, "original": 500, "digest": bytes([at]) * 20} for at in range(200)]
    path = tmp_path / "a.wim"
    path.write_bytes(wim_of(blobs=blobs))
    with opened(path) as bundle:
        verdicts = list(bundle.verify())
    assert (verdicts[0].state, "its blobs take" in verdicts[0].detail) == ("bad", True)


def test_one_blob_that_is_thousands_of_files_counts_for_each_of_them(tmp_path: Path) -> None:
    path, out = tmp_path / "a.wim", tmp_path / "out"
    content = b"x" * 100_000
    path.write_bytes(
        wim_with(*(File(f"f{at}", content, streams={"s": content}) for at in range(100)))
    )
    assert path.stat().st_size < 200_000
    limit = ParentPolicy(max_size=10_000_000 - 1)
    with pytest.raises(UnsafeImage, match="unpacks to 10000000 bytes, and 9999999 are allowed"):
        unpack(path, out, policy=limit)
    assert os.listdir(tmp_path) == ["a.wim"]
    with pytest.raises(UnsafeImage, match="--max-size 20000000"):
        unpack(path, out, options={"streams": "on"}, policy=limit)
    done = vmimg("unpack", "--max-size", "9999999", path, out, ok=(1,))
    assert "--max-size 10000000" in done.err
    vmimg("unpack", "--max-size", "10000000", path, out)
    assert len(os.listdir(out)) == 100


@pytest.mark.peer(WIMLIB)
def test_what_a_delta_leaves_out_is_told(files: Path, tmp_path: Path) -> None:
    base = captured(files, tmp_path / "base.wim", "--compress=none")
    captured(files, tmp_path / "delta.wim", f"--delta-from={base}")
    with pytest.raises(ChainError, match="the archive that this one is a delta of"):
        unpack(tmp_path / "delta.wim", tmp_path / "out")


@pytest.mark.peer(WIMLIB)
@pytest.mark.parametrize("packing", ["none", "lzx", "solid", "pipable"])
def test_cut_off_or_damaged_only_our_errors_come(files: Path, tmp_path: Path, packing: str) -> None:
    whole = captured(files, tmp_path / "a.wim", *PACKINGS[packing], "--check").read_bytes()
    chance = random.Random(11)
    broken = tmp_path / "b.wim"
    failures = 0
    for number in range(60):
        data = bytearray(whole)
        if number < 15:
            del data[chance.randrange(HEADER, len(data)) :]
        else:
            # The header, and what is at the end: metadata, tables.
            first = 8 if number % 3 == 0 else max(HEADER, len(data) - 12_000)
            last = HEADER if number % 3 == 0 else len(data)
            for _ in range(3):
                data[chance.randrange(first, last)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        broken.write_bytes(data)
        try:
            with open_bundle(broken) as bundle:
                if isinstance(bundle, WimBundle):
                    list(bundle.verify())
            unpack(broken, tmp_path / f"out{number}")
        except VmimgError as error:
            failures += 1
            assert "\n" not in str(error)
            assert not (tmp_path / f"out{number}").exists()
    assert failures > 15
