"""Discs to vet: of xorriso, genisoimage, mkudffs and vmimg, and one for each thing that is wrong.

The bad ones are one and the same disc with Rock Ridge and Joliet, as vmimg makes it, with one thing
changed. Fields are found by their offsets in ECMA-119.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import peers
from probe.making import of_bytes
from probe.sample import Sample
from vmimg.formats.iso.making import create_iso

__all__ = ["BAD", "GOOD", "disc", "record"]

SECTOR = 2048
PRIMARY = 16 * SECTOR
# In a volume descriptor
SPACE, ESCAPES, SET, BLOCK, PATHS, PATH_L, PATH_M, ROOT = 80, 88, 120, 128, 132, 140, 148, 156

Change = Callable[[bytearray], None]


def tree(folder: Path) -> Path:
    """The files of all discs."""
    root = folder / "files"
    (root / "inner/deep").mkdir(parents=True)
    (root / "hello.txt").write_bytes(b"hello" * 1000)
    (root / "boot.img").write_bytes(b"\xf4" * 4096)
    (root / "inner/other").write_bytes(b"other")
    (root / "inner/deep/file").write_bytes(b"deep")
    (root / "link").symlink_to("inner/other")
    return root


@cache
def disc() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = tree(Path(folder))
        path = Path(folder, "disc.iso")
        create_iso(root, path, boot_bios="boot.img")
        return path.read_bytes()


def described(data: bytes | bytearray, kind: int) -> int:
    """The place of the volume descriptor of that type."""
    places = range(PRIMARY, PRIMARY + 16 * SECTOR, SECTOR)
    return next(place for place in places if data[place : place + 6] == bytes([kind]) + b"CD001")


def record(data: bytes | bytearray, identifier: bytes) -> int:
    """The place of the directory record that has this identifier."""
    place = -1
    while True:
        place = data.index(identifier, place + 1)
        length = data[place - 33]
        if data[place - 1] == len(identifier) and length > 33 + len(identifier):
            return place - 33


def put(place: int, data: bytes) -> Change:
    def change(file: bytearray) -> None:
        file[place : place + len(data)] = data

    return change


def both(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def on_record(identifier: bytes, offset: int, data: bytes) -> Change:
    return lambda file: put(record(file, identifier) + offset, data)(file)


def on_joliet(offset: int, data: bytes) -> Change:
    return lambda file: put(described(file, 2) + offset, data)(file)


HELLO, INNER, DEEP = b"HELLO.TXT;1", b"INNER", b"DEEP"


def loop(file: bytearray) -> None:
    """The deepest directory is the one that it is in."""
    start = record(file, INNER) + 2
    place = record(file, DEEP) + 2
    file[place : place + 16] = file[start : start + 16]


def renamed(new: bytes, old: bytes = b"hello.txt") -> Change:
    """By Rock Ridge, in as many letters."""

    def change(file: bytearray) -> None:
        place = file.index(b"NM", record(file, HELLO))
        assert file[place + 5 : place + 5 + len(old)] == old
        file[place + 5 : place + 5 + len(old)] = new

    return change


def renamed_in_joliet(file: bytearray) -> None:
    place = file.index("hello.txt".encode("utf-16-be"))
    file[place : place + 18] = "../../a.b".encode("utf-16-be")


def device(file: bytearray) -> None:
    place = file.index(b"PX", record(file, HELLO))
    file[place + 4 : place + 12] = both(0o20644)


def other_in_joliet(file: bytearray) -> None:
    """hello.txt is another file there."""
    place = file.index("hello.txt".encode("utf-16-be")) - 33
    start = int.from_bytes(file[place + 2 : place + 6], "little")
    file[place + 2 : place + 10] = both(start + 1)


def path_tables_differ(file: bytearray) -> None:
    start = int.from_bytes(file[PRIMARY + PATH_M : PRIMARY + PATH_M + 4], "big") * SECTOR
    file[start + 2 + 3] ^= 1


def catalogue(file: bytearray) -> int:
    place = described(file, 0) + 71
    return int.from_bytes(file[place : place + 4], "little") * SECTOR


def catalogue_damaged(file: bytearray) -> None:
    file[catalogue(file) + 4] ^= 1


def boot_image_outside(file: bytearray) -> None:
    put(catalogue(file) + 32 + 8, struct.pack("<I", 1 << 30))(file)


def second_primary(file: bytearray) -> None:
    """In the place of Joliet's descriptor, with a smaller volume."""
    place = described(file, 2)
    file[place : place + SECTOR] = file[PRIMARY : PRIMARY + SECTOR]
    file[place + SPACE : place + SPACE + 8] = both(40)


def unterminated(file: bytearray) -> None:
    place = described(file, 255)
    file[place : place + SECTOR] = bytes(SECTOR)


def another_disk(file: bytearray) -> None:
    """An MBR with a partition that lies behind the disc."""
    start = len(file) // 512 + 64
    entry = struct.pack("<B3sB3sII", 0, b"\0\0\0", 0x83, b"\0\0\0", start, 64)
    file[446:512] = entry.ljust(64, b"\0") + b"\x55\xaa"
    file += bytes(128 * 512)


def _bad(name: str, change: Change, *codes: str, claim: str = "iso") -> Sample:
    def build() -> bytes:
        file = bytearray(disc())
        change(file)
        return bytes(file)

    made = of_bytes(f"iso-{name}", "disc.iso", build, claim, *codes)
    return Sample(made.name, made.make, made.claim, made.codes, peers=("pycdlib",))


def extend(data: bytes) -> Change:
    def change(file: bytearray) -> None:
        file += data

    return change


BIG = struct.pack(">I", 7)

BAD: tuple[Sample, ...] = (
    # Numbers in two byte orders
    _bad("space-orders", put(PRIMARY + SPACE + 4, BIG), "copies-disagree"),
    _bad("set-orders", put(PRIMARY + SET + 2, b"\0\7"), "copies-disagree"),
    _bad("block-orders", put(PRIMARY + BLOCK + 2, b"\2\0"), "copies-disagree"),
    _bad("paths-orders", put(PRIMARY + PATHS + 4, BIG), "copies-disagree"),
    _bad("root-orders", put(PRIMARY + ROOT + 6, BIG), "copies-disagree"),
    _bad("joliet-orders", on_joliet(SPACE + 4, BIG), "copies-disagree"),
    _bad("record-orders", on_record(HELLO, 6, BIG), "copies-disagree"),
    _bad("record-size-orders", on_record(HELLO, 14, BIG), "copies-disagree"),
    # What else is there twice
    _bad("path-tables", path_tables_differ, "copies-disagree"),
    _bad("joliet-other-file", other_in_joliet, "copies-disagree"),
    _bad("two-primaries", second_primary, "copies-disagree"),
    # Sizes and places
    _bad("block-size", put(PRIMARY + BLOCK, b"\0\x10\x10\0"), "impossible-size"),
    _bad("volume-larger", put(PRIMARY + SPACE, both(1 << 20)), "truncated"),
    _bad("set", put(PRIMARY + SET, b"\2\0\0\2"), "odd-field"),
    _bad("path-table-outside", put(PRIMARY + PATH_L, b"\0\0\0\x70"), "table-outside"),
    _bad("root-outside", put(PRIMARY + ROOT + 2, both(1 << 24)), "table-outside"),
    _bad("directory-outside", on_record(INNER, 2, both(1 << 24)), "table-outside"),
    _bad("file-outside", on_record(HELLO, 10, both(1 << 28)), "truncated"),
    _bad("directory-loop", loop, "malformed"),
    _bad("unterminated", unterminated, "odd-field"),
    # Names
    _bad("name-slash", renamed(b"/etc/pass"), "member-escapes"),
    _bad("name-up", renamed(b"../../abc"), "member-escapes"),
    _bad("name-backslash", renamed(b"..\\..\\abc"), "member-escapes"),
    _bad("name-joliet", renamed_in_joliet, "member-escapes"),
    _bad("device", device, "member-device"),
    # What it is booted by, and what lies behind
    _bad("catalogue-outside", lambda f: put(described(f, 0) + 71, BIG)(f), "table-outside"),
    _bad("catalogue-damaged", catalogue_damaged, "checksum-wrong"),
    _bad("boot-image-outside", boot_image_outside, "table-outside"),
    _bad("hidden", extend(bytes(SECTOR) + b"something else"), "hidden-data"),
    _bad("another-disk", another_disk, "partition-table", claim=""),
)


def _by(program: str, name: str, *words: str, files: tuple[str, ...] = ()) -> Sample:
    """A disc that xorriso or genisoimage makes; ``FOLDER`` in a word is where things are."""

    def make(folder: Path) -> Path:
        root = tree(folder)
        (folder / "efi.img").write_bytes(bytes(1 << 20))
        (root / "efi.img").write_bytes(bytes(1 << 16))
        # Code that does nothing, with room for what Apple's map needs at its beginning.
        code = bytes.fromhex("33ed") + b"\x90" * 32 + bytes.fromhex("33edfa8ed5bc007c")
        (folder / "mbr").write_bytes(code.ljust(432, b"\x90"))
        path = folder / "disc.iso"
        given = [word.replace("FOLDER", str(folder)) for word in words]
        head = ["-as", "mkisofs"] if program == "xorriso" else []
        peers.run(program, *head, "-quiet", "-o", path, *given, root)
        return path

    return Sample(f"iso-{name}", make, "iso", peers=(program,))


def _udf(folder: Path) -> Path:
    path = folder / "disc.udf"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    peers.run("mkudffs", "--blocksize=2048", path)
    return path


def _by_vmimg(folder: Path) -> Path:
    path = folder / "disc.iso"
    path.write_bytes(disc())
    return path


_BOOT = ("-b", "boot.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table")
_HYBRID = ("-isohybrid-mbr", "FOLDER/mbr", *_BOOT, "-eltorito-alt-boot")
_APPENDED = ("-append_partition", "2", "0xef", "FOLDER/efi.img")
_APPENDED_BOOT = ("-e", "--interval:appended_partition_2:all::", "-no-emul-boot")

GOOD: tuple[Sample, ...] = (
    Sample("iso-vmimg", _by_vmimg, "iso", peers=("pycdlib",)),
    _by("xorriso", "xorriso", "-J", "-R"),
    _by("xorriso", "xorriso-boot", *_BOOT),
    _by("xorriso", "hybrid-mbr", *_HYBRID, *_APPENDED, *_APPENDED_BOOT),
    _by("xorriso", "hybrid-gpt", *_HYBRID, *_APPENDED, "-appended_part_as_gpt", *_APPENDED_BOOT),
    _by(
        "xorriso", "hybrid-all", *_HYBRID, "-e", "efi.img", "-no-emul-boot",
        "-isohybrid-gpt-basdat", "-isohybrid-apm-hfsplus",
    ),
    _by("genisoimage", "genisoimage", "-J", "-r"),
    _by("genisoimage", "genisoimage-plain"),
    _by("genisoimage", "genisoimage-1999", "-iso-level", "4"),
    _by("genisoimage", "genisoimage-udf", "-udf", "-J", "-r"),
    Sample("iso-mkudffs", _udf, "iso", peers=("mkudffs",)),
)  # fmt: skip
