"""DMG images to vet: good ones by vmimg and by hand, and one for each thing that is wrong.

The bad ones are one and the same image by hand, with one thing changed: in its trailer, its
property list, one of its block tables, or in the header of an encrypted one.
"""

from __future__ import annotations

import plistlib
import struct
from collections.abc import Callable

from formats.dmg_by_hand import ADC, BZIP2, IGNORE, RAW, ZERO, ZLIB, Chunk, Image, Partition
from formats.dmg_by_hand import encrypted as locked
from probe.making import by_vmimg, of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD", "image", "on_koly"]

DATA = bytes(range(256)) * 64
SECTORS = len(DATA) // 512

Change = Callable[[bytearray], None]

# In the trailer
VERSION, FORK, FORK_SIZE, SEGMENTS, MASTER, XML, XML_SIZE, SIGNATURE, SIZE = (
    4, 24, 32, 60, 352, 216, 224, 296, 492,
)  # fmt: skip
# In a block table, and in an entry of it
TABLE_SECTORS, ENTRIES = 16, 204
TYPE, SECTOR, COUNT, OFFSET = 0, 8, 16, 24


def image(**more: bool | str) -> Image:
    first = Partition("first", [Chunk(RAW, DATA), Chunk(ZERO, bytes(512 * 20))])
    second = Partition(
        "second",
        [*(Chunk(kind, DATA) for kind in (ZLIB, BZIP2, ADC)), Chunk(IGNORE, bytes(512 * 9))],
    )
    return Image([first, second], **more)  # type: ignore[arg-type]


def on_koly(offset: int, form: str, *values: int) -> Change:
    return lambda file: struct.pack_into(form, file, len(file) - 512 + offset, *values)


def longer_fork(by: int) -> Change:
    def change(file: bytearray) -> None:
        place = len(file) - 512 + FORK_SIZE
        struct.pack_into(">Q", file, place, struct.unpack_from(">Q", file, place)[0] + by)

    return change


def on_list(new: Callable[[bytes], bytes]) -> Change:
    """Put another property list in the place of the one there is."""

    def change(file: bytearray) -> None:
        place, length = struct.unpack_from(">QQ", file, len(file) - 512 + XML)
        text = new(bytes(file[place : place + length]))
        struct.pack_into(">Q", file, len(file) - 512 + XML_SIZE, len(text))
        file[place : place + length] = text

    return change


def on_table(offset: int, form: str, value: int) -> Change:
    """Change the block table of the second partition."""

    def new(text: bytes) -> bytes:
        resources = plistlib.loads(text)
        table = bytearray(resources["resource-fork"]["blkx"][1]["Data"])
        struct.pack_into(form, table, offset, value)
        resources["resource-fork"]["blkx"][1]["Data"] = bytes(table)
        return plistlib.dumps(resources)

    return on_list(new)


def on_chunk(row: int, field: int, form: str, value: int) -> Change:
    return on_table(ENTRIES + 40 * row + field, form, value)


def declares(text: str) -> Change:
    """A document type of its own in place of Apple's."""

    def new(plist: bytes) -> bytes:
        start = plist.index(b"<!DOCTYPE")
        end = plist.index(b">", start) + 1
        return plist[:start] + text.encode() + plist[end:]

    return on_list(new)


def deep(plist: bytes) -> bytes:
    inner = b"<array>" * 40 + b"</array>" * 40
    return plist.replace(b"<dict>", b"<dict><key>x</key>" + inner, 1)


def in_front(file: bytearray) -> None:
    """Something before the data fork; all that counts from the start of the file is moved."""
    file[:0] = b"something else".ljust(8192, b"\xaa")
    for field in (FORK, XML):
        place = len(file) - 512 + field
        struct.pack_into(">Q", file, place, struct.unpack_from(">Q", file, place)[0] + 8192)


def behind_the_list(file: bytearray) -> None:
    file[-512:-512] = b"something else".ljust(8192, b"\xaa")


def second_trailer(file: bytearray) -> None:
    """In front, where readers of streams look, with another size of the disk."""
    in_front(file)
    file[:512] = file[-512:]
    struct.pack_into(">Q", file, SIZE, 8)


def _build(change: Change, build: Callable[[], bytes]) -> Callable[[], bytes]:
    def make() -> bytes:
        file = bytearray(build())
        change(file)
        return bytes(file)

    return make


def _bad(name: str, change: Change, *codes: str) -> Sample:
    return of_bytes(
        f"dmg-{name}", "disk.dmg", _build(change, lambda: image().build()[0]), "dmg", *codes
    )


def _locked(name: str, change: Change, *codes: str) -> Sample:
    def build() -> bytes:
        return locked(image().build()[0], b"secret", offset=8192)

    return of_bytes(f"dmg-locked-{name}", "disk.dmg", _build(change, build), "dmg", *codes)


def put(offset: int, form: str, *values: int) -> Change:
    return lambda file: struct.pack_into(form, file, offset, *values)


def bomb() -> bytes:
    """Many chunks that are one and the same in the file."""
    file, _ = Image([Partition("bomb", [Chunk(ZLIB, DATA) for _ in range(200)])]).build()

    def new(text: bytes) -> bytes:
        resources = plistlib.loads(text)
        table = bytearray(resources["resource-fork"]["blkx"][0]["Data"])
        for row in range(200):
            struct.pack_into(">Q", table, ENTRIES + 40 * row + OFFSET, 0)
        resources["resource-fork"]["blkx"][0]["Data"] = bytes(table)
        return plistlib.dumps(resources)

    changed = bytearray(file)
    on_list(new)(changed)
    return bytes(changed)


FAR = 1 << 40

BAD: tuple[Sample, ...] = (
    # The trailer
    _bad("version", on_koly(VERSION, ">I", 5), "unknown-version"),
    _bad("segments", on_koly(SEGMENTS, ">I", 3), "external-extent"),
    _bad("sectors", on_koly(SIZE, ">Q", 1 << 60), "impossible-size"),
    _bad("fork-outside", on_koly(FORK_SIZE, ">Q", FAR), "truncated"),
    _bad("list-outside", on_koly(XML, ">Q", FAR), "truncated"),
    _bad("list-over-fork", longer_fork(100), "tables-overlap"),
    _bad("two-trailers", second_trailer, "copies-disagree"),
    _bad("hidden-in-front", in_front, "hidden-data"),
    _bad("hidden-behind", behind_the_list, "hidden-data"),
    # The property list
    _bad("doctype", declares("<!DOCTYPE plist [<!ELEMENT a ANY>]>"), "xml-entities"),
    _bad("entity", declares('<!DOCTYPE plist [<!ENTITY a "b">]>'), "xml-entities"),
    _bad("doctype-file", declares('<!DOCTYPE plist SYSTEM "/etc/passwd">'), "xml-entities"),
    _bad("list-deep", on_list(deep), "xml-oversize"),
    _bad("list-no-xml", on_list(lambda text: text[:-100]), "malformed"),
    # Block tables
    _bad("table-sectors", on_table(TABLE_SECTORS, ">Q", 10), "impossible-size"),
    _bad("table-beyond-disk", on_koly(SIZE, ">Q", 100), "copies-disagree"),
    _bad("table-over-other", on_table(8, ">Q", 5), "tables-overlap"),
    _bad("chunk-type", on_chunk(0, TYPE, ">I", 0x80000099), "unknown-features"),
    _bad("chunk-huge", on_chunk(0, COUNT, ">Q", 1 << 30), "impossible-size"),
    _bad("chunk-wild", on_chunk(3, SECTOR, ">Q", 1 << 60), "impossible-size"),
    _bad("chunk-outside-file", on_chunk(0, OFFSET, ">Q", FAR), "truncated"),
    _bad("chunk-outside-fork", longer_fork(-8), "table-outside"),
    _bad("chunk-over-other", on_chunk(1, SECTOR, ">Q", 3), "tables-overlap"),
    _bad("chunk-raw-length", on_chunk(0, TYPE, ">I", RAW), "impossible-size"),
    of_bytes("dmg-chunk-shared", "disk.dmg", bomb, "dmg", "expands"),
    # Encrypted
    _locked("version", put(8, ">I", 3), "unknown-version"),
    _locked("mode", put(16, ">I", 1), "unknown-features"),
    _locked("cut", put(56, ">Q", FAR), "truncated"),
    _locked("keys", put(72, ">I", 1 << 20), "impossible-size"),
    _locked("key-outside", put(80, ">Q", FAR), "table-outside"),
    _locked("iterations", put(4096 + 8, ">I", 1 << 31), "costly-key"),
    _locked("derivation", put(4096, ">I", 7), "unknown-features"),
)

GOOD: tuple[Sample, ...] = (
    *(
        by_vmimg(f"dmg-{kind}", "disk.dmg", "dmg", "dmg", subformat=kind)
        for kind in ("UDZO", "UDBZ", "ULMO", "UDRO")
    ),
    of_bytes("dmg-list", "disk.dmg", lambda: image().build()[0], "dmg"),
    of_bytes("dmg-fork", "disk.dmg", lambda: image(form="fork").build()[0], "dmg"),
    of_bytes("dmg-front", "disk.dmg", lambda: image(front=True).build()[0], "dmg"),
    of_bytes(
        "dmg-locked", "disk.dmg", lambda: locked(image().build()[0], b"secret", offset=8192), "dmg"
    ),
)
