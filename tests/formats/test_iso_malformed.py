"""Malformed discs: one clear error or a note, at once, in little memory.

Every case is a disc made by hand with one thing made wrong; it goes through everything that reads
images (`ordeal.py`). A disc is read as its bytes are, so little of it can fail: what does not fit
is said by `info`. ``says``: words of a note that it must give.
"""

from __future__ import annotations

import ctypes
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from damaged import Outcome, any_value, complaints, objections, put_cases, put_through
from rounds import rounds
from vmimg.formats.info import image_info
from vmimg.formats.iso import structures as s

SECTOR = 2048
PVD, BOOT, SVD, END, BEA, NSR, TEA = range(16, 23)
CATALOGUE, ROOT, CONTINUATION, ANCHOR, SEQUENCE = 30, 31, 32, 256, 40
SECTORS = 300

Change = Callable[[bytearray], None]


def disc() -> bytearray:
    """ISO 9660 with El Torito, Joliet, Rock Ridge and UDF, and nothing in it."""
    image = bytearray(SECTORS * SECTOR)

    def put(sector: int, data: bytes, offset: int = 0) -> None:
        start = sector * SECTOR + offset
        image[start : start + len(data)] = data

    for sector, kind in ((PVD, 1), (SVD, 2)):
        volume = s.VolumeDescriptor(
            volume_descriptor_type=kind, standard_identifier=b"CD001", volume_descriptor_version=1
        )
        for field, value, width in (
            (volume.volume_space_size, SECTORS, 4),
            (volume.logical_block_size, SECTOR, 2),
            (volume.root_directory_record.location_of_extent, ROOT, 4),
            (volume.root_directory_record.data_length, SECTOR, 4),
        ):
            field.little = value
            field.big[:] = value.to_bytes(width, "big")
        volume.volume_identifier[:] = b"DISC".ljust(32)
        if kind == 2:
            volume.escape_sequences[:3] = b"%/E"
        put(sector, bytes(volume))
    put(BOOT, b"\0CD001\1EL TORITO SPECIFICATION")
    put(BOOT, struct.pack("<I", CATALOGUE), s.BootRecord.boot_catalog.offset)
    put(END, b"\xffCD001\1")
    for sector, name in ((BEA, b"BEA01"), (NSR, b"NSR02"), (TEA, b"TEA01")):
        put(sector, b"\0" + name + b"\1")
    validation = s.ValidationEntry(header_id=1)
    validation.key[:] = b"\x55\xaa"
    validation.checksum = -sum(memoryview(bytes(validation)).cast("H")) & 0xFFFF
    bios = s.BootEntry(boot_indicator=0x88, sector_count=4, load_rba=50)
    header = s.SectionHeader(header_indicator=0x91, platform_id=0xEF, number_of_section_entries=1)
    efi = s.BootEntry(boot_indicator=0x88, sector_count=40, load_rba=60)
    put(CATALOGUE, b"".join(map(bytes, (validation, bios, header, efi))))
    entries = (
        s.SUSP_MAGIC + b"\0" + struct.pack("<2sBB6I", b"CE", 28, 1, CONTINUATION, 0, 0, 0, 64, 0)
    )
    record = s.DirectoryRecord(length=34 + len(entries), length_of_file_identifier=1)
    put(ROOT, bytes(record) + b"\0" + entries)
    put(CONTINUATION, struct.pack("<2sBBBBBB", b"ER", 18, 1, 10, 0, 0, 1) + b"RRIP_1991A")
    anchor = s.UdfAnchor()
    anchor.main.extent_location, anchor.main.extent_length = SEQUENCE, 3 * SECTOR
    put(ANCHOR, tagged(2, ANCHOR, bytes(anchor)))
    logical = s.UdfLogicalVolume(logical_block_size=SECTOR, domain_revision=0x102)
    logical.domain_identifier[: len(s.UDF_DOMAIN)] = s.UDF_DOMAIN
    part = s.UdfPartition(partition_starting_location=270, partition_length=20)
    for number, (kind, data) in enumerate(((6, bytes(logical)), (5, bytes(part)), (8, bytes(16)))):
        put(SEQUENCE + number, tagged(kind, SEQUENCE + number, data))
    return image


def tagged(kind: int, place: int, data: bytes) -> bytes:
    tag = s.UdfTag(tag_identifier=kind, descriptor_version=2, tag_location=place)
    tag.tag_checksum = sum(bytes(tag)) & 0xFF
    return (bytes(tag) + data[ctypes.sizeof(tag) :]).ljust(512, b"\0")


def at(sector: int, offset: int, data: bytes) -> Change:
    def change(image: bytearray) -> None:
        start = sector * SECTOR + offset
        image[start : start + len(data)] = data

    return change


def number(sector: int, offset: int, value: int, width: int = 4) -> Change:
    return at(sector, offset, value.to_bytes(width, "little"))


def both(sector: int, offset: int, value: int, width: int = 4) -> Change:
    return at(sector, offset, value.to_bytes(width, "little") + value.to_bytes(width, "big"))


def cut(size: int) -> Change:
    def change(image: bytearray) -> None:
        del image[size:]

    return change


def endless_sections(image: bytearray) -> None:
    header = bytes(s.SectionHeader(header_indicator=0x90, number_of_section_entries=0xFFFF))
    entry = bytes(s.BootEntry(boot_indicator=0x88))
    start = CATALOGUE * SECTOR + 64
    table = header + entry * ((len(image) - start) // 32)
    image[start:] = table[: len(image) - start]


def endless_descriptors(image: bytearray) -> None:
    for sector in range(END, SECTORS):
        at(sector, 0, b"\3CD001")(image)


def endless_extensions(image: bytearray) -> None:
    at(CATALOGUE, 97, b"\x20")(image)
    at(CATALOGUE, 128, b"\x44\x20" * 8000)(image)


def looping_continuation(image: bytearray) -> None:
    again = struct.pack("<2sBB6I", b"CE", 28, 1, CONTINUATION, 0, 0, 0, 2048, 0)
    at(CONTINUATION, 0, again)(image)


SPACE = s.VolumeDescriptor.volume_space_size.offset
BLOCK = s.VolumeDescriptor.logical_block_size.offset
EXTENT = (
    s.VolumeDescriptor.root_directory_record.offset + s.DirectoryRecord.location_of_extent.offset
)
CATALOGUE_AT = s.BootRecord.boot_catalog.offset
MAIN = s.UdfAnchor.main.offset


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""


CASES = [
    Case("size 2^32-1", both(PVD, SPACE, 2**32 - 1), "truncated"),
    Case("size 0", both(PVD, SPACE, 0), "behind the end of the volume"),
    Case("two sizes", number(PVD, SPACE, 200), "in one byte order"),
    Case("block size 0", both(PVD, BLOCK, 0, 2), "blocks of 0 bytes"),
    Case("block size 65535", both(PVD, BLOCK, 65535, 2), "blocks of 65535 bytes"),
    Case("root directory behind the end", both(PVD, EXTENT, 2**32 - 1)),
    Case("no terminator", at(END, 0, bytes(8)), "no terminator"),
    Case("descriptors without end", endless_descriptors, "no terminator"),
    Case("a date of no calendar", at(PVD, 813, b"9999999999999999\x7f")),
    Case("a date of other letters", at(PVD, 813, "²²²²²²²²".encode() + b"\0")),
    Case("a zone of 32 hours", at(PVD, 813, b"2020010101010100\x80")),
    Case("catalogue behind the end", number(BOOT, CATALOGUE_AT, 2**32 - 1), "behind the end"),
    Case("catalogue in sector 0", number(BOOT, CATALOGUE_AT, 0), "damaged"),
    Case("catalogue with a wrong sum", at(CATALOGUE, 4, b"x"), "damaged"),
    Case("catalogue without its key", at(CATALOGUE, 30, b"\xaa\x55"), "damaged"),
    Case("boot image behind the end", number(CATALOGUE, 32 + 8, 2**32 - 1), "truncated"),
    Case("sections without end", endless_sections, "goes on behind"),
    Case("extensions without end", endless_extensions),
    Case("a section of 65535 entries", number(CATALOGUE, 66, 65535, 2), "goes on behind"),
    Case("continuation that loops", looping_continuation),
    Case("continuation behind the end", number(ROOT, 34 + 7 + 4, 2**32 - 1)),
    Case("system use entries of no length", at(ROOT, 34 + 7 + 2, b"\0")),
    Case("a directory record of no length", at(ROOT, 0, b"\0")),
    Case("a name longer than its record", at(ROOT, 32, b"\xff")),
    Case("anchor behind the end", number(ANCHOR, MAIN + 4, 2**32 - 1), "UDF are missing"),
    Case("sequence of 4 GiB", number(ANCHOR, MAIN, 2**32 - 1)),
    Case("sequence of nothing", number(ANCHOR, MAIN, 0), "UDF are missing"),
    Case("anchor with a wrong sum", at(ANCHOR, 4, b"\1"), "UDF are missing"),
    Case("logical blocks of 2^32-1", number(SEQUENCE, 212, 2**32 - 1)),
    *(Case(f"cut at {place}", cut(place), "truncated") for place in (
        17 * SECTOR, 18 * SECTOR + 100, 20 * SECTOR, CATALOGUE * SECTOR + 40, ROOT * SECTOR + 20,
        CONTINUATION * SECTOR + 4, SEQUENCE * SECTOR + 200, ANCHOR * SECTOR + 100)),
    Case("cut in the first descriptor", cut(PVD * SECTOR + 100)),
    Case("cut in front of the descriptors", cut(PVD * SECTOR)),
    Case("only the letters", cut(PVD * SECTOR + 6)),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".iso", lambda case: disc())
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_disc_is_read_and_said(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    # There is always something to read: the bytes.
    assert not {"info", "read", "walk", "convert"} & outcome.raised.keys()
    assert case.says in "\n".join(image_info(path)[0].image.notes)


def test_the_disc_is_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    path = tmp_path / "disc.iso"
    path.write_bytes(disc())
    outcome = put_through(tmp_path, [path])["disc.iso"]
    assert set(outcome.raised) == {"snapshot", "examine", "write"}
    image = image_info(path)[0].image
    assert image.notes == ('ISO 9660 "DISC", El Torito boot, Joliet, UDF',)
    assert image.details["file-systems"] == (
        ["ISO 9660", "Joliet level 3", "Rock Ridge 1.10", "UDF 1.02"]
    )
    assert [entry["platform"] for entry in image.details["boot-images"]] == ["BIOS", "UEFI"]


def test_random_damage_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(5)
    paths = []
    for index in range(rounds(100)):
        image = disc()
        for _ in range(dice.choice((1, 2, 5, 20))):
            sector = dice.choice((PVD, BOOT, SVD, CATALOGUE, ROOT, CONTINUATION, ANCHOR, SEQUENCE))
            offset = dice.randrange(0, 256, 2)
            number(sector, offset, any_value(dice))(image)
        paths.append(tmp_path / f"{index}.iso")
        paths[-1].write_bytes(image)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_disc_of_8_tib_is_opened_and_converted_at_once(tmp_path: Path) -> None:
    image = disc()
    both(PVD, SPACE, 2**32 - 1)(image)
    path = tmp_path / "large.iso"
    with path.open("wb") as file:
        file.write(image)
        file.truncate((2**32 - 1) * SECTOR)
    outcome = put_through(tmp_path, [path])["large.iso"]
    assert list(objections(outcome, path)) == []
    assert "convert" not in outcome.raised
