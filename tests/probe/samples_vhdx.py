"""VHDX images to vet: good ones of QEMU, of vmimg and by hand, and one for each thing that is
wrong.

The bad ones are one of two images by hand (dynamic, differencing) with one thing changed and the
checksums set right, where those are not what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from formats import vhdx_by_hand as by_hand
from formats.vhdx_by_hand import (
    BAT,
    BLOCKS,
    FULL,
    HEADERS,
    KIB,
    METADATA,
    MIB,
    REGION_TABLES,
    log_entry,
    make,
)
from formats.vhdx_by_hand import Image as Hand
from probe.making import by_qemu, by_vmimg, child_by_vmimg
from probe.sample import Sample

__all__ = ["BAD", "FIRST_ENTRY", "GOOD", "ITEM_ENTRY", "ITEM_PLACES", "SIZE", "child", "plain"]

SIZE = 4 * MIB
FIRST_ENTRY = REGION_TABLES[0] + 16
ITEM_ENTRY = METADATA + 32
SECTOR = b"secret".ljust(4096, b".")
PARENT = {
    "parent_linkage": "{aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee}",
    "relative_path": ".\\base.vhdx",
}
Change = Callable[[Hand], None]


def plain() -> Hand:
    return make(SIZE, {0: (FULL, b"zero"), 2: (FULL, b"two"), 3: (by_hand.ZERO, b"")})


def child() -> Hand:
    bits = {0: b"\xff" * 16}
    blocks = {0: (FULL, b"zero"), 1: (by_hand.PARTIAL, b"part")}
    return make(SIZE, blocks, parent=PARENT, bitmaps=bits)


ITEM_PLACES = plain().item_places


def _sample(name: str, build: Callable[[], Hand], *codes: str) -> Sample:
    return Sample(name, lambda folder: _save(build(), folder), "vhdx", codes)


def _save(image: Hand, folder: Path) -> Path:
    """With holes where there are zeros: the images have some MiB."""
    path = folder / "disk.vhdx"
    with path.open("wb") as file:
        file.truncate(len(image))
        for start in range(0, len(image), 64 * KIB):
            piece = image[start : start + 64 * KIB]
            if piece.count(0) != len(piece):
                file.seek(start)
                file.write(piece)
    return path


def _bad(
    name: str, change: Change, *codes: str, base: Callable[[], Hand] = plain, seal: bool = True
) -> Sample:
    def build() -> Hand:
        image = base()
        change(image)
        if seal and len(image) > REGION_TABLES[1] + 64 * KIB:
            image.seal()
        return image

    return _sample(f"vhdx-{name}", build, *codes)


def put(offset: int, value: int, width: int = 8) -> Change:
    return lambda image: image.put(offset, value, width)


def both(offset: int, value: int, width: int) -> Change:
    """The same in both headers."""

    def change(image: Hand) -> None:
        for start in HEADERS:
            image.put(start + offset, value, width)

    return change


def tables(offset: int, value: int, width: int = 8) -> Change:
    """The same in both region tables."""

    def change(image: Hand) -> None:
        for start in REGION_TABLES:
            image.put(start + offset, value, width)

    return change


def region(required: int) -> Change:
    """A third region, of 1 MiB behind the blocks."""

    def change(image: Hand) -> None:
        place = len(image)
        image.grow(place + MIB)
        for start in REGION_TABLES:
            image.put(start + 8, 3, 4)
            entry = struct.pack("<16sQII", b"something unseen", place, MIB, required)
            image[start + 80 : start + 112] = entry

    return change


def item(name: str, value: int, width: int = 4) -> Change:
    return lambda image: image.put(image.item_places[name], value, width)


def more_item(guid: bytes, flags: int) -> Change:
    """One more item of metadata."""

    def change(image: Hand) -> None:
        count = image.get(METADATA + 10, 2)
        image.put(METADATA + 10, count + 1, 2)
        place = METADATA + 32 + 32 * count
        image[place : place + 32] = struct.pack("<16sIIII", guid, 128 * KIB, 8, flags, 0)

    return change


def entry(block: int, value: int) -> Change:
    return lambda image: image.put(image.entry(block), value)


def behind(image: Hand) -> None:
    image.extend(bytes(4096) + b"secret".ljust(MIB, b"\0"))


def cut(image: Hand) -> None:
    del image[-MIB:]


def headers_differ(image: Hand) -> None:
    image.put(HEADERS[0] + 8, 2)
    image.put(HEADERS[0] + 16, 77)


def tables_differ(image: Hand) -> None:
    image.put(REGION_TABLES[1] + 16 + 16, 2 * MIB + (METADATA - BAT))
    image.put(REGION_TABLES[1] + 48 + 16, BAT)


def dirty(*changes: tuple[int, bytes | int]) -> Callable[[], Hand]:
    def build() -> Hand:
        image = plain()
        size = len(image)
        image.dirty(*([log_entry(5, changes, file_size=size)] if changes else []))
        return image

    return build


def torn_header() -> Hand:
    image = plain()
    image[HEADERS[1] + 100] ^= 1
    return image


GOOD: tuple[Sample, ...] = (
    by_qemu("vhdx-dynamic", "disk.vhdx", "vhdx", claim="vhdx"),
    by_qemu("vhdx-fixed", "disk.vhdx", "vhdx", "subformat=fixed", claim="vhdx"),
    by_qemu(
        "vhdx-log-and-blocks", "disk.vhdx", "vhdx", "log_size=8M", "block_size=1M", claim="vhdx"
    ),
    by_qemu("vhdx-no-zeros", "disk.vhdx", "vhdx", "block_state_zero=off", claim="vhdx"),
    by_vmimg("vhdx-dynamic", "disk.vhdx", "vhdx", "vhdx"),
    by_vmimg("vhdx-fixed", "disk.vhdx", "vhdx", "vhdx", subformat="fixed"),
    by_vmimg("vhdx-4k", "disk.vhdx", "vhdx", "vhdx", size=1 << 32, logical_sector_size=4096),
    by_vmimg("vhdx-large", "disk.vhdx", "vhdx", "vhdx", size=64 << 40),
    by_vmimg("vhdx-large-bat", "disk.vhdx", "vhdx", "vhdx", size=16 << 40, block_size=1 << 20),
    child_by_vmimg("vhdx-child", "child.vhdx", "vhdx", "vhdx"),
    _sample("by-hand-vhdx", plain),
    _sample("by-hand-vhdx-child", child),
    _sample("by-hand-vhdx-torn-header", torn_header),
    _sample("by-hand-vhdx-dirty", dirty((BLOCKS, SECTOR))),
    _sample("by-hand-vhdx-dirty-empty", dirty()),
    _sample("by-hand-vhdx-leave", lambda: make(SIZE, {0: (FULL, b"zero")}, leave=True)),
    _sample("by-hand-vhdx-unmapped", lambda: make(SIZE, {1: (3, b""), 2: (5, b"old")})),
)

BAD: tuple[Sample, ...] = (
    _bad("cut-in-front", lambda image: image.__delitem__(slice(100 * KIB, None)), "truncated"),
    _bad("headers-checksum", both(100, 77, 4), "checksum-wrong", seal=False),
    _bad("headers-same-sequence", headers_differ, "copies-disagree"),
    _bad("headers-differ", put(HEADERS[0] + 72, 9 * MIB), "copies-disagree"),
    _bad("version", both(66, 2, 2), "unknown-version"),
    _bad("log-version", both(64, 1, 2), "unknown-version"),
    _bad("log-outside", both(72, 1 << 40, 8), "table-outside"),
    _bad("log-over-headers", both(72, 0, 8), "tables-overlap"),
    _bad("log-over-bat", both(72, BAT, 8), "tables-overlap"),
    _bad("log-unaligned", both(68, MIB - 4096, 4), "malformed"),
    _bad("log-pending", lambda _: None, "log-pending", base=dirty((BLOCKS, SECTOR)), seal=False),
    _bad("tables-checksum", tables(4000, 77), "checksum-wrong", seal=False),
    _bad("table-checksum", put(REGION_TABLES[1] + 4000, 77), "checksum-wrong", seal=False),
    _bad("tables-differ", tables_differ, "copies-disagree"),
    _bad("region-unknown", region(1), "unknown-features"),
    _bad("region-unneeded", region(0), "hidden-data"),
    _bad("region-outside", tables(32, 1 << 40), "table-outside"),
    _bad("regions-overlap", tables(32, METADATA), "tables-overlap"),
    _bad("region-over-headers", tables(32, 0), "tables-overlap"),
    _bad("region-unaligned", tables(40, MIB - 4096, 4), "malformed"),
    _bad("region-missing", tables(8, 1, 4), "malformed"),
    _bad("metadata-signature", put(METADATA, 0), "malformed"),
    _bad("item-unknown", more_item(b"something unseen", 4), "unknown-features"),
    _bad("item-twice", more_item(by_hand.guid(by_hand.ITEMS["size"]), 6), "copies-disagree"),
    _bad("item-outside", put(ITEM_ENTRY + 32 + 16, MIB, 4), "table-outside"),
    _bad("items-overlap", put(ITEM_ENTRY + 32 + 16, 64 * KIB, 4), "tables-overlap"),
    _bad("item-over-table", put(ITEM_ENTRY + 32 + 16, 64, 4), "tables-overlap"),
    _bad("size", item("size", 1 << 50, 8), "impossible-size"),
    _bad("size-odd", item("size", SIZE - 1, 8), "impossible-size"),
    _bad("block-size", item("parameters", 3 * MIB), "impossible-size"),
    _bad("logical-sector", item("logical", 1000), "impossible-size"),
    _bad("physical-sector", item("physical", 0), "impossible-size"),
    _bad("parameters", put(METADATA + 64 * KIB + 4, 0x80, 4), "unknown-features"),
    _bad("bat-too-small", item("size", 1 << 44, 8), "impossible-size"),
    _bad("block-outside", entry(2, 1 << 40 | FULL), "truncated"),
    _bad("block-twice", entry(2, BLOCKS | FULL), "tables-overlap"),
    _bad("block-over-bat", entry(2, BAT | FULL), "tables-overlap"),
    _bad("block-over-headers", entry(2, FULL), "tables-overlap"),
    _bad("block-state", entry(1, 4), "malformed"),
    _bad("block-reserved", entry(2, (BLOCKS + MIB) | FULL | 0x1000), "odd-field"),
    _bad("block-partial", entry(2, (BLOCKS + MIB) | by_hand.PARTIAL), "malformed"),
    _bad("cut", cut, "truncated"),
    _bad("hidden", behind, "hidden-data"),
    _bad("no-bitmap", lambda image: image.put(image.bitmap_entry(0), 0), "malformed", base=child),
    _bad("locator-unneeded", put(METADATA + 64 * KIB + 4, 0, 4), "odd-field", base=child),
    _bad(
        "locator-type",
        lambda image: image.put(image.item_places["locator"], 77),
        "unknown-features",
        base=child,
    ),
    _bad("no-locator", put(METADATA + 64 * KIB + 4, 2, 4), "malformed"),
    _bad(
        "no-linkage",
        lambda _: None,
        "odd-field",
        base=lambda: make(SIZE, {}, parent={"relative_path": ".\\base.vhdx"}),
    ),
)
