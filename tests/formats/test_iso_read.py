"""Images of optical discs that other programs made: what vmimg says of them, and what it reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import peers
import vmimg
from vmimg.errors import OptionError, UnsupportedFeature
from vmimg.formats.info import image_info
from vmimg.formats.iso.volume import read_volume
from vmimg.formats.raw.contents import View, examine
from vmimg.storage import FileStorage, MemoryStorage

MIB = 1 << 20
SECTOR = 2048


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a long name.text").write_bytes(b"a" * 10000)
    (folder / "bios.img").write_bytes(bytes(range(256)) * 32)
    (folder / "efi.img").write_bytes(bytes(MIB))
    return folder


def mkisofs(folder: Path, target: Path, *options: object) -> Path:
    words = [str(option) for option in options]
    peers.run("xorriso", "-as", "mkisofs", "-quiet", "-o", target, *words, folder)
    return target


def details(path: Path, **settings: Any) -> dict[str, Any]:
    info = image_info(path, **settings)[0]
    json.dumps(info.to_json())
    return info.image.details


@pytest.mark.peer("xorriso")
def test_a_disc_says_all_that_its_maker_said(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(
        files, tmp_path / "a.iso", "-J", "-R", "-V", "MY DISC", "-publisher", "ME",
        "-p", "PREPARER", "-A", "APPLICATION", "-sysid", "SYSTEM", "-volset", "SET",
        "--modification-date=2020010203040500",
    )  # fmt: skip
    info = image_info(disc)[0]
    assert (info.image.format, info.image.virtual_size) == ("iso", disc.stat().st_size)
    found = info.image.details
    said = {
        "label": "MY DISC",
        "publisher": "ME",
        "preparer": "PREPARER",
        "application": "APPLICATION",
        "system": "SYSTEM",
        "volume-set": "SET",
        "created": "2020-01-02T03:04:05+00:00",
        "modified": "2020-01-02T03:04:05+00:00",
        "joliet-label": "MY DISC",
        "volume-size": disc.stat().st_size,
        "block-size": SECTOR,
    }
    assert {key: found[key] for key in said} == said
    assert found["file-systems"] == ["ISO 9660", "Joliet level 3", "Rock Ridge 1.10"]
    assert "boot-images" not in found and "partition-tables" not in found
    assert info.image.notes == ('ISO 9660 "MY DISC", Joliet',)


@pytest.mark.peer("xorriso")
def test_what_is_not_there_is_not_said(tmp_path: Path, files: Path) -> None:
    # xorriso always makes Rock Ridge; genisoimage does not.
    peers.require("genisoimage")
    peers.run("genisoimage", "-quiet", "-o", tmp_path / "a.iso", files)
    assert details(tmp_path / "a.iso")["file-systems"] == ["ISO 9660"]
    peers.run("genisoimage", "-quiet", "-iso-level", "4", "-o", tmp_path / "b.iso", files)
    assert details(tmp_path / "b.iso")["file-systems"] == ["ISO 9660", "ISO 9660:1999"]


@pytest.mark.peer("xorriso")
def test_boot_images_are_those_that_xorriso_reports(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(
        files, tmp_path / "a.iso",
        "-b", "bios.img", "-no-emul-boot", "-boot-load-size", 4, "-boot-info-table",
        "-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot",
    )  # fmt: skip
    assert details(disc)["boot-images"] == [
        {
            "platform": platform,
            "bootable": True,
            "media": "no emulation",
            "load-segment": 0,
            "size": size,
            "offset": offset,
        }
        for platform, size, offset in reported_boot_images(disc)
    ]


def reported_boot_images(disc: Path) -> list[tuple[str, int, int]]:
    """(platform, bytes, offset) of what xorriso sees."""
    said = peers.run("xorriso", "-indev", disc, "-report_el_torito", "plain").stdout.decode()
    rows = re.findall(
        r"boot img : +\d+ +(\S+) +y +none +0x0000 +0x00 +(\d+) +(\d+)", said, re.MULTILINE
    )
    assert rows, said
    return [(name, int(sectors) * 512, int(place) * SECTOR) for name, sectors, place in rows]


@pytest.mark.peer("genisoimage")
@pytest.mark.parametrize(
    ("kib", "media"), [(1200, "1.2M floppy"), (1440, "1.44M floppy"), (2880, "2.88M floppy")]
)
def test_emulated_floppies_have_their_size(tmp_path: Path, kib: int, media: str) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "floppy").write_bytes(bytes(kib << 10))
    disc = tmp_path / "a.iso"
    peers.run(
        "genisoimage", "-quiet", "-boot-load-seg", "0x7C0", "-b", "floppy", "-o", disc, folder
    )
    (entry,) = details(disc)["boot-images"]
    assert (entry["media"], entry["size"], entry["load-segment"]) == (media, kib << 10, 0x7C0)


@pytest.mark.peer("xorriso", "qemu-img")
def test_a_disc_is_a_disk_of_whole_sectors(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso")
    with disc.open("ab") as file:
        file.write(b"tail")
    with vmimg.open(disc) as disk:
        assert disk.size == disc.stat().st_size - 4 + 512
        assert disk.read(0, disk.size) == disc.read_bytes() + bytes(508)
    vmimg.convert(disc, tmp_path / "a.qcow2", format="qcow2")
    peers.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disc, tmp_path / "a.qcow2")


@pytest.mark.peer("xorriso")
def test_a_disc_is_not_written_but_as_a_raw_disk(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso")
    with pytest.raises(UnsupportedFeature, match="-f raw"):
        vmimg.open(disc, writable=True)
    with vmimg.open(disc, format="raw", writable=True) as disk:
        disk.write(0, b"x" * 512)
    with vmimg.open(disc) as disk:
        assert disk.layers[0].format == "iso" and disk.read(0, 3) == b"xxx"
    with pytest.raises(OptionError, match="vmimg iso create"):
        vmimg.convert(disc, tmp_path / "b.iso")
    with pytest.raises(OptionError, match="vmimg iso create"):
        vmimg.create(tmp_path / "c.iso", MIB, format="iso")
    assert not list(tmp_path.glob("[bc].iso"))


@pytest.mark.peer("xorriso")
def test_as_a_raw_disk_it_is_what_it_was_and_the_other_format_is_said(
    tmp_path: Path, files: Path
) -> None:
    disc = mkisofs(files, tmp_path / "a.iso", "-V", "X", "-J")
    info = image_info(disc, format="raw")[0]
    assert info.image.notes == ('ISO 9660 "X", Joliet',)
    assert info.to_json()["detected-formats"] == ["iso"]
    assert info.image.details["contents"] == details(disc)["contents"]


@pytest.mark.peer("xorriso", "qemu-img")
def test_a_disk_that_holds_a_disc_stays_what_it_is(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso", "-V", "X")
    for format, options in (("vpc", "subformat=fixed,force_size=on"), ("qcow2", "size=0")):
        image = tmp_path / f"a.{format}"
        words = ("-o", options) if format == "vpc" else ()
        peers.run("qemu-img", "convert", "-O", format, *words, disc, image)
        assert image_info(image)[0].image.format == {"vpc": "vhd"}.get(format, format)


@pytest.mark.peer("xorriso", "sgdisk")
def test_a_partition_that_holds_a_disc_says_so(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso", "-V", "IN A PARTITION")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(MIB)
        file.write(disc.read_bytes())
    peers.run("sgdisk", "-n1:2048:+4M", disk)
    info = image_info(disk)[0]
    assert info.image.format == "raw"
    assert 'ISO 9660 "IN A PARTITION"' in info.image.notes[1]


# Hybrid images


APPENDED = ("-append_partition", "2", "0xef", "FILES/efi.img")
APPENDED_BOOT = ("-e", "--interval:appended_partition_2:all::", "-no-emul-boot")


@pytest.mark.peer("xorriso")
@pytest.mark.parametrize(
    ("options", "tables"),
    [
        ((*APPENDED, *APPENDED_BOOT), ["MBR"]),
        ((*APPENDED, "-appended_part_as_gpt", *APPENDED_BOOT), ["GPT"]),
        (
            ("-e", "efi.img", "-no-emul-boot", "-isohybrid-gpt-basdat", "-isohybrid-apm-hfsplus"),
            ["GPT", "MBR", "APM"],
        ),
    ],
)
def test_a_hybrid_shows_its_partitions(
    tmp_path: Path, files: Path, options: tuple[str, ...], tables: list[str]
) -> None:
    # Code that does nothing, with room for what Apple's map needs at its beginning.
    code = bytes.fromhex("33ed") + b"\x90" * 32 + bytes.fromhex("33edfa8ed5bc007c")
    (tmp_path / "mbr").write_bytes(code.ljust(432, b"\x90"))
    disc = mkisofs(
        files, tmp_path / "a.iso", "-isohybrid-mbr", tmp_path / "mbr",
        "-b", "bios.img", "-no-emul-boot", "-boot-load-size", 4, "-boot-info-table",
        "-eltorito-alt-boot", *(word.replace("FILES", str(files)) for word in options),
    )  # fmt: skip
    found = details(disc)
    assert found["partition-tables"] == tables
    said = peers.run("xorriso", "-indev", disc, "-report_system_area", "plain").stdout.decode()
    kind = "GPT start and size" if "GPT" in tables else "MBR partition"
    assert [(p["start"], p["size"]) for p in found["contents"]["partitions"]] == [
        (int(start) * 512, int(size) * 512)
        for start, size in re.findall(rf"^{kind} +: .* (\d+) +(\d+)$", said, re.MULTILINE)
    ]
    starts = {partition["start"] for partition in found["contents"]["partitions"]}
    assert found["boot-images"][1]["offset"] in starts
    if "APM" in tables:
        assert "APM start and size" in said


@pytest.mark.peer("genisoimage", "xorriso")
def test_what_lies_behind_the_volume_is_said(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso")
    size = disc.stat().st_size
    shutil.copy(disc, tmp_path / "padded.iso")
    with (tmp_path / "padded.iso").open("ab") as file:
        file.write(bytes(300 << 10))
    padded = image_info(tmp_path / "padded.iso")[0].image
    assert padded.details["trailing-size"] == 300 << 10 and len(padded.notes) == 1
    with disc.open("ab") as file:
        file.write(b"PK\3\4 something else")
    notes = image_info(disc)[0].image.notes
    assert len(notes) == 2 and f"behind the end of the volume, at {size}" in notes[1]


@pytest.mark.peer("xorriso")
def test_a_truncated_disc_is_said_and_read(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso", "-b", "bios.img", "-no-emul-boot")
    with disc.open("r+b") as file:
        file.truncate(300 << 10)
    assert "truncated" in "\n".join(image_info(disc)[0].image.notes)
    with vmimg.open(disc) as disk:
        assert disk.read(0, disk.size) == disc.read_bytes()


# UDF


@pytest.mark.peer("genisoimage")
def test_udf_beside_iso_9660(tmp_path: Path, files: Path) -> None:
    disc = tmp_path / "a.iso"
    peers.run("genisoimage", "-quiet", "-udf", "-V", "BRIDGE", "-o", disc, files)
    found = details(disc)
    assert found["file-systems"] == ["ISO 9660", "UDF 1.02"]
    assert found["label"] == found["udf-label"] == "BRIDGE"


@pytest.mark.peer("mkudffs")
@pytest.mark.parametrize(
    ("options", "block", "revision"),
    [
        ((), 2048, "2.01"),
        (("--blocksize=512",), 512, "2.01"),
        (("--blocksize=4096",), 4096, "2.01"),
        (("--media-type=dvdr",), 2048, "2.01"),
        (("--blocksize=2048", "--udfrev=1.02"), 2048, "1.02"),
    ],
)
def test_udf_alone(tmp_path: Path, options: tuple[str, ...], block: int, revision: str) -> None:
    disc = tmp_path / "disc.udf"
    with disc.open("wb") as file:
        file.truncate(16 * MIB)
    words = ["--utf8", "--label=Größe 漢", *options]
    if block == 2048 and "--blocksize=2048" not in words:
        words.append("--blocksize=2048")
    peers.run("mkudffs", *words, disc)
    info = image_info(disc)[0].image
    assert info.format == "iso"
    assert info.details["file-systems"] == [f"UDF {revision}"]
    assert (info.details["label"], info.details["block-size"]) == ("Größe 漢", block)
    assert info.notes == ('UDF "Größe 漢"',)


@pytest.mark.peer("mkudffs")
def test_a_truncated_udf_is_said(tmp_path: Path) -> None:
    disc = tmp_path / "disc.udf"
    with disc.open("wb") as file:
        file.truncate(16 * MIB)
    peers.run("mkudffs", "--blocksize=2048", disc)
    with disc.open("r+b") as file:
        file.truncate(4 * MIB)
    assert "truncated" in image_info(disc)[0].image.notes[1]


def test_labels_from_a_strangers_disc_stay_printable() -> None:
    disc = bytearray(64 * SECTOR)
    disc[16 * SECTOR : 16 * SECTOR + 6] = b"\1CD001"
    disc[16 * SECTOR + 40 : 16 * SECTOR + 72] = b"\x1b[31mroot\n\xff".ljust(32)
    volume = read_volume(View(MemoryStorage(disc), 0, len(disc)))
    assert volume is not None and volume.label.isprintable() and "root" in volume.label


@pytest.mark.peer("xorriso")
def test_info_needs_no_numpy_and_little_is_read(tmp_path: Path, files: Path) -> None:
    import sys

    disc = mkisofs(files, tmp_path / "a.iso", "-J")
    program = f"""
import sys
from vmimg.formats.info import image_info
image_info({str(disc)!r})
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)

    class Counting(MemoryStorage):
        count = 0

        def read_into(self, offset: int, buffer: memoryview) -> None:
            self.count += len(buffer)
            super().read_into(offset, buffer)

    storage = Counting(disc.read_bytes())
    examine(storage)
    assert storage.count < 512 << 10


@pytest.mark.peer("xorriso")
def test_the_entries_of_a_disc_are_where_the_files_are(tmp_path: Path, files: Path) -> None:
    disc = mkisofs(files, tmp_path / "a.iso", "-e", "efi.img", "-no-emul-boot")
    with FileStorage(disc) as storage:
        volume = read_volume(View(storage, 0, storage.size))
    assert volume is not None
    (entry,) = volume.boot
    assert disc.read_bytes()[entry.offset : entry.offset + entry.size] == (
        (files / "efi.img").read_bytes()
    )
