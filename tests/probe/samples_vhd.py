"""VHD images to vet: good ones of QEMU, of vmimg and by hand, and one for each thing that is wrong.

The bad ones are one of three images by hand (fixed, dynamic, differencing) with one thing changed
and the checksums set right, where those are not what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

from formats import vhd_by_hand as by_hand
from formats.vhd_by_hand import Parent
from probe.making import by_qemu, by_vmimg, child_by_vmimg, of_bytes
from probe.sample import Sample

__all__ = ["BAD", "BLOCK", "GOOD", "SIZE", "child", "content", "dynamic", "fixed"]

BLOCK = 4096
SIZE = 10 * BLOCK - 512
HEADER, BAT = 512, 1536
FOOTER = 2048 + 9 * (BLOCK + 512)
"""Of the dynamic disk, in which block 4 is missing."""

FEATURES, VERSION, DATA_OFFSET, CREATOR, ORIGINAL, CURRENT = 8, 12, 16, 28, 40, 48
CHS, TYPE, SAVED, RESERVED = 56, 60, 84, 85
TABLE, HEADER_VERSION, ENTRIES, BLOCK_SIZE, PARENT_ID, LOCATORS = 16, 24, 28, 32, 40, 576

Change = Callable[[bytearray], None]


@cache
def content() -> bytes:
    blocks = [bytes([number + 1]) * BLOCK for number in range(10)]
    blocks[4] = bytes(BLOCK)
    return b"".join(blocks)[:SIZE]


@cache
def dynamic() -> bytes:
    return by_hand.dynamic(content(), block=BLOCK)


@cache
def fixed() -> bytes:
    return by_hand.fixed(content())


@cache
def child() -> bytes:
    locators = [(b"W2ru", ".\\base.vhd".encode("utf-16-le"))]
    return by_hand.dynamic(content(), block=BLOCK, parent=Parent(locators=locators))


def seal(file: bytearray, start: int, length: int, at: int) -> None:
    """Set the checksum of what is at ``start`` right."""
    file[start : start + length] = by_hand.checked(bytes(file[start : start + length]), at)


def footers(offset: int, value: bytes) -> Change:
    """Change both the footer and its copy."""

    def change(file: bytearray) -> None:
        for start in (0, len(file) - 512):
            if file[start : start + 8] == b"conectix":
                file[start + offset : start + offset + len(value)] = value
                seal(file, start, 512, 64)

    return change


def last_footer(offset: int, value: bytes) -> Change:
    def change(file: bytearray) -> None:
        start = len(file) - 512
        file[start + offset : start + offset + len(value)] = value
        seal(file, start, 512, 64)

    return change


def header(offset: int, value: bytes) -> Change:
    def change(file: bytearray) -> None:
        file[HEADER + offset : HEADER + offset + len(value)] = value
        seal(file, HEADER, 1024, 36)

    return change


def entry(number: int, value: int) -> Change:
    return lambda file: struct.pack_into(">I", file, BAT + 4 * number, value)


def put(offset: int, value: bytes) -> Change:
    def change(file: bytearray) -> None:
        start = offset if offset >= 0 else len(file) + offset
        file[start : start + len(value)] = value

    return change


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def nothing(file: bytearray) -> None:
    pass


def _bad(
    name: str,
    change: Change,
    *codes: str,
    base: Callable[[], bytes] = dynamic,
    cut: int | None = None,
    tail: bytes = b"",
) -> Sample:
    def build() -> bytes:
        file = bytearray(base())
        change(file)
        return bytes(file[:cut]) + tail

    return of_bytes(f"vhd-{name}", "disk.vhd", build, "vhd", *codes)


def _good(name: str, build: Callable[[], bytes]) -> Sample:
    return of_bytes(f"by-hand-vhd-{name}", "disk.vhd", build, "vhd")


def cut_middle(file: bytearray) -> None:
    """A sector of the disk is gone, and the footer is where it was: at the end."""
    del file[BLOCK : BLOCK + 512]


def slack() -> bytes:
    """Zeros between the disk and its footer."""
    return fixed()[:SIZE] + bytes(BLOCK) + fixed()[SIZE:]


def between() -> bytes:
    """Four KiB between the last block and the footer, which nothing refers to."""
    return dynamic()[:FOOTER] + b"secret".ljust(BLOCK, b"\0") + dynamic()[FOOTER:]


GOOD: tuple[Sample, ...] = (
    by_qemu("vhd-dynamic", "disk.vhd", "vpc", claim="vhd"),
    by_qemu("vhd-dynamic-exact", "disk.vhd", "vpc", "force_size=on", claim="vhd"),
    by_qemu("vhd-fixed", "disk.vhd", "vpc", "subformat=fixed", claim="vhd"),
    by_qemu("vhd-fixed-exact", "disk.vhd", "vpc", "subformat=fixed", "force_size=on", claim="vhd"),
    by_vmimg("vhd-dynamic", "disk.vhd", "vhd", "vhd"),
    by_vmimg("vhd-fixed", "disk.vhd", "vhd", "vhd", subformat="fixed"),
    by_vmimg("vhd-small-blocks", "disk.vhd", "vhd", "vhd", block_size=512 << 10),
    by_vmimg("vhd-large", "disk.vhd", "vhd", "vhd", size=2040 << 30),
    child_by_vmimg("vhd-child", "child.vhd", "vhd", "vhd"),
    _good("dynamic", dynamic),
    _good("fixed", fixed),
    _good("child", child),
    _good("dynamic-old", lambda: by_hand.dynamic(content(), block=BLOCK, old=True)),
    _good("fixed-old", lambda: by_hand.fixed(content(), old=True)),
    _good("scattered", lambda: by_hand.dynamic(content(), block=BLOCK, order=[9, 0, 5, 3])),
    # Azure, VirtualBox and Virtual PC each have a geometry of their own.
    _good("azure", lambda: by_hand.fixed(content(), creator=b"wa  ", chs=(1, 4, 17))),
    _good("virtualbox", lambda: by_hand.dynamic(content(), block=BLOCK, creator=b"vbox")),
    _good("virtual-pc", lambda: by_hand.dynamic(content(), block=BLOCK, creator=b"vpc ")),
    _good("largest", lambda: by_hand.dynamic(content(), block=BLOCK, chs=(65535, 16, 255))),
)

BAD: tuple[Sample, ...] = (
    _bad("footer-checksum", put(-448, b"\0\0\0\1"), "checksum-wrong"),
    _bad("copy-checksum", put(64, b"\0\0\0\1"), "checksum-wrong"),
    _bad("copies-differ", last_footer(CURRENT, u64(SIZE - 512)), "copies-disagree"),
    _bad("copy-missing", put(0, bytes(512)), "copies-disagree"),
    _bad("footer-missing", nothing, "truncated", cut=-512),
    _bad("behind-footer", nothing, "hidden-data", tail=b"secret".ljust(1024, b"\0")),
    _bad("features", footers(FEATURES, u32(0x12)), "unknown-features"),
    _bad("version", footers(VERSION, u32(0x20000)), "unknown-version"),
    _bad("type", footers(TYPE, u32(7)), "unknown-features"),
    _bad("saved-state", footers(SAVED, b"\1"), "snapshots"),
    _bad("reserved", footers(300, b"secret"), "hidden-data"),
    _bad("size", footers(CURRENT, u64(1 << 50)), "impossible-size"),
    _bad("size-original", footers(ORIGINAL, u64(1 << 50)), "odd-field"),
    _bad("size-odd", footers(CURRENT, u64(SIZE - 100)), "odd-field"),
    _bad("geometry", footers(CHS, struct.pack(">HBB", 500, 4, 17)), "odd-field"),
    _bad(
        "geometry-by-creator",
        footers(
            CREATOR, b"vpc " + bytes(4) + b"Wi2k" + u64(SIZE) * 2 + struct.pack(">HBB", 9, 1, 1)
        ),
        "odd-field",
    ),
    _bad("header-outside", footers(DATA_OFFSET, u64(1 << 40)), "table-outside"),
    _bad("header-over-copy", footers(DATA_OFFSET, u64(0)), "tables-overlap"),
    _bad("header-missing", put(HEADER, b"cxspaces"), "malformed"),
    _bad("header-checksum", put(HEADER + 36, b"\0\0\0\1"), "checksum-wrong"),
    _bad("header-version", header(HEADER_VERSION, u32(0x20000)), "unknown-version"),
    _bad("header-next", header(8, u64(4096)), "odd-field"),
    _bad("block-size", header(BLOCK_SIZE, u32(5000)), "impossible-size"),
    _bad("block-size-absurd", header(BLOCK_SIZE, u32(1 << 31)), "impossible-size"),
    _bad("bat-too-small", header(ENTRIES, u32(3)), "impossible-size"),
    _bad("bat-absurd", header(ENTRIES, u32(1 << 30)), "impossible-size"),
    _bad("bat-outside", header(TABLE, u64(1 << 40)), "table-outside"),
    _bad("bat-over-header", header(TABLE, u64(1024)), "tables-overlap"),
    _bad("bat-over-footer", header(TABLE, u64(FOOTER)), "tables-overlap"),
    _bad("block-outside", entry(2, 1 << 24), "truncated"),
    _bad("block-twice", entry(2, 4), "tables-overlap"),
    _bad("block-over-header", entry(2, 1), "tables-overlap"),
    _bad("block-over-footer", entry(2, FOOTER // 512 - 8), "tables-overlap"),
    _bad("parent-without-type", footers(TYPE, u32(3)), "odd-field", base=child),
    _bad("locator-outside", header(LOCATORS + 16, u64(1 << 40)), "table-outside", base=child),
    _bad("locator-over-header", header(LOCATORS + 16, u64(600)), "tables-overlap", base=child),
    _bad("locator-unknown", header(LOCATORS, b"Evil"), "odd-field", base=child),
    _bad("hidden", nothing, "hidden-data", base=between),
    _bad("fixed-other-header", put(0, dynamic()[:2048]), "copies-disagree", base=fixed),
    _bad("fixed-offset", footers(DATA_OFFSET, u64(512)), "odd-field", base=fixed),
    # QEMU takes a fixed disk for raw unless it is told; who is told goes by the footer.
    _bad("fixed-cut", footers(CURRENT, u64(2 * SIZE)), "truncated", base=fixed),
    _bad("fixed-hidden", footers(CURRENT, u64(SIZE - 512)), "hidden-data", base=fixed),
    _bad("fixed-slack", nothing, "odd-field", base=slack),
    _bad("fixed-cut-in-the-middle", cut_middle, "truncated", base=fixed),
)
