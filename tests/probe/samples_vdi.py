"""VDI images to vet: good ones of QEMU, of vmimg and by hand, and one for each thing that is wrong.

The bad ones are one and the same image by hand, with one thing changed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from uuid import UUID

from formats import vdi_by_hand as by_hand
from formats.vdi_by_hand import DIFF, FREE, UNDO, ZERO, Image
from probe.making import by_qemu, by_vmimg, child_by_vmimg, of_bytes
from probe.sample import Sample

__all__ = ["BAD", "DATA", "GOOD", "MAP"]

BLOCK = 65536
MAP, DATA = 512, 1024
PLACES = (2, 0, FREE, 1, ZERO, 3)
SIZE = len(PLACES) * BLOCK - 5120
PARENT = UUID("0a0a0a0a-1111-4222-8333-444455556666")

Change = Callable[[bytearray], None]


def plain() -> bytes:
    return Image(SIZE, PLACES, block=BLOCK).build()[0]


def put(offset: int, *values: int) -> Change:
    return lambda file: struct.pack_into(f"<{len(values)}I", file, offset, *values)


def _good(name: str, image: Image) -> Sample:
    return of_bytes(f"by-hand-{name}", "disk.vdi", lambda: image.build()[0], "vdi")


def _bad(
    name: str, change: Change, *codes: str, cut: int | None = None, tail: bytes = b""
) -> Sample:
    def build() -> bytes:
        file = bytearray(plain())
        change(file)
        return bytes(file[:cut]) + tail

    return of_bytes(name, "disk.vdi", build, "vdi", *codes)


def own_parent(file: bytearray) -> None:
    file[by_hand.LINKAGE : by_hand.LINKAGE + 16] = file[by_hand.CREATE : by_hand.CREATE + 16]


def nothing(file: bytearray) -> None:
    pass


GOOD: tuple[Sample, ...] = (
    by_qemu("vdi-dynamic", "disk.vdi", "vdi", claim="vdi"),
    by_qemu("vdi-static", "disk.vdi", "vdi", "static=on", claim="vdi"),
    by_vmimg("vdi-dynamic", "disk.vdi", "vdi", "vdi"),
    by_vmimg("vdi-fixed", "disk.vdi", "vdi", "vdi", subformat="fixed"),
    by_vmimg("vdi-small-blocks", "disk.vdi", "vdi", "vdi", block_size=4096),
    by_vmimg("vdi-huge", "disk.vdi", "vdi", "vdi", size=1 << 44),
    child_by_vmimg("vdi-child", "child.vdi", "vdi", "vdi"),
    _good("vdi", Image(SIZE, PLACES, block=BLOCK)),
    _good("vdi-0.1", Image(SIZE, PLACES, block=BLOCK, version=(0, 1))),
    _good("vdi-0.2", Image(SIZE, PLACES, block=BLOCK, version=(0, 2))),
    _good("vdi-short-header", Image(SIZE, PLACES, block=BLOCK, header_size=384)),
    _good("vdi-extra", Image(SIZE, PLACES, block=BLOCK, extra=512)),
    _good("vdi-undo", Image(SIZE, PLACES, block=BLOCK, kind=UNDO, linkage=PARENT)),
    _good("vdi-diff", Image(SIZE, PLACES, block=BLOCK, kind=DIFF, linkage=PARENT)),
)

BAD: tuple[Sample, ...] = (
    _bad("vdi-version", put(68, 0x20001), "unknown-version"),
    _bad("vdi-type", put(by_hand.TYPE, 9), "unknown-features"),
    _bad("vdi-flags", put(by_hand.FLAGS, 0x40), "unknown-features"),
    _bad("vdi-header-odd", put(by_hand.CB_HEADER, 408), "odd-field"),
    _bad("vdi-header-short", put(by_hand.CB_HEADER, 100), "malformed"),
    _bad("vdi-header-outside", put(by_hand.CB_HEADER, 1 << 30), "table-outside"),
    _bad("vdi-header-cut", nothing, "truncated", cut=300),
    _bad("vdi-map-over-header", put(by_hand.OFF_BLOCKS, 256), "tables-overlap"),
    _bad("vdi-map-outside", put(by_hand.OFF_BLOCKS, 1 << 30), "table-outside"),
    _bad("vdi-map-count", put(by_hand.C_BLOCKS, 1 << 31), "table-outside"),
    _bad("vdi-map-unaligned", put(by_hand.OFF_BLOCKS, MAP + 4, DATA), "odd-field"),
    _bad("vdi-data-over-map", put(by_hand.OFF_DATA, MAP), "tables-overlap"),
    _bad("vdi-size-too-large", put(by_hand.CB_DISK, 0, 1), "impossible-size"),
    _bad("vdi-size-too-small", put(by_hand.CB_DISK, BLOCK), "odd-field"),
    _bad("vdi-block-size", put(by_hand.CB_BLOCK, 1000), "impossible-size"),
    _bad("vdi-block-size-null", put(by_hand.CB_BLOCK, 0), "impossible-size"),
    _bad("vdi-extra-odd", put(by_hand.CB_EXTRA, 3), "odd-field"),
    _bad("vdi-count", put(by_hand.C_ALLOCATED, 2), "odd-field"),
    _bad("vdi-count-absurd", put(by_hand.C_ALLOCATED, 1 << 31), "odd-field"),
    _bad("vdi-block-outside", put(MAP + 12, 1 << 20), "truncated"),
    _bad("vdi-block-twice", put(MAP + 12, 0), "tables-overlap"),
    _bad("vdi-cut", nothing, "truncated", cut=DATA + 3 * BLOCK),
    _bad("vdi-geometry", put(348 + 12, 4096), "odd-field"),
    _bad("vdi-no-uuid", put(by_hand.CREATE, 0, 0, 0, 0), "odd-field"),
    _bad("vdi-linkage", put(by_hand.LINKAGE, 1, 2, 3, 4), "odd-field"),
    _bad("vdi-own-parent", own_parent, "odd-field"),
    _bad("vdi-no-parent", put(by_hand.TYPE, DIFF), "malformed"),
    _bad("vdi-hidden-behind", nothing, "hidden-data", tail=bytes(512) + b"secret"),
    _bad("vdi-hidden-between", put(MAP + 100, 77), "hidden-data"),
)
