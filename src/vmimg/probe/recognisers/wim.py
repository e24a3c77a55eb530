"""WIM archives, and what makes one an ESD or a part of an SWM.

The structures are in `vmimg.probe.wim`, with their sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.wim import COMPRESSIONS, VERSIONS, Wim, read_wim

__all__ = ["RECOGNISERS", "recognise_wim"]

_SHOWN: Final = 16


def recognise_wim(view: View) -> Iterator[Claim]:
    """WIM; ESD where blobs are stored in solid resources, SWM where there are several parts."""
    wim = read_wim(view)
    if wim is None:
        return
    header = wim.header
    evidence = tuple(_evidence(wim))
    details = _details(wim)
    sound = header.version in VERSIONS and 0 < header.part_number <= max(1, header.total_parts)
    what = "pipable WIM archive" if wim.pipable else "WIM archive"
    count = int(header.image_count)
    images = f"{count} image{'' if count == 1 else 's'}"
    yield Claim(
        "wim",
        "archive",
        f"Windows Imaging Format: {what}, {images}",
        100 if sound else 80,
        evidence=evidence,
        details=details,
    )
    # wimlib writes version 0.14 for LZMS without solid resources as well; `file` goes by it.
    if wim.solid or (wim.solid is None and header.version == 0xE00):
        yield Claim(
            "esd",
            "archive",
            f"Electronic Software Download: solid WIM archive, {images}",
            100 if wim.solid else 80,
            evidence=(*evidence, Evidence(int(header.blob_table.offset), _solid_words(wim))),
            details=details,
            refines=("wim",),
        )
    if header.total_parts > 1:
        part = f"part {header.part_number} of {header.total_parts}"
        yield Claim(
            "swm",
            "archive",
            f"split WIM archive, {part}",
            100 if sound else 80,
            evidence=(*evidence, Evidence(wim.offset + 40, part)),
            details=details,
            refines=("wim", "esd"),
        )


def _solid_words(wim: Wim) -> str:
    return "blobs in solid resources" if wim.solid else "version 0.14, which is for solid resources"


def _evidence(wim: Wim) -> Iterator[Evidence]:
    magic = bytes(wim.header.magic).rstrip(b"\0").decode("ascii", "replace")
    yield Evidence(0, f"the magic '{magic}'")
    yield Evidence(wim.offset, f"a header of version {wim.version}, compression {wim.compression}")
    if wim.images:
        names = ", ".join(f"'{printable(name)}'" for name in wim.images[:_SHOWN])
        yield Evidence(int(wim.header.xml_data.offset), f"XML that names the images {names}")
    for what in wim.missing:
        yield Evidence(0, f"{what} was not seen")


def _details(wim: Wim) -> dict[str, Any]:
    header = wim.header
    facts: dict[str, Any] = {
        "version": wim.version,
        "compression": wim.compression,
        "chunk-size": int(header.chunk_size),
        "guid": wim.guid,
        "part": int(header.part_number),
        "parts": int(header.total_parts),
        "image-count": int(header.image_count),
        "boot-index": int(header.boot_index),
        "flags": list(wim.flags),
        "integrity-table": bool(header.integrity.size),
        "pipable": wim.pipable,
    }
    if wim.images:
        facts["images"] = [printable(name) for name in wim.images[:_SHOWN]]
    if wim.solid is not None:
        facts["solid"] = wim.solid
    if wim.encrypted:
        facts["encrypted"] = True
    unknown = int(header.flags) & ~_KNOWN_FLAGS
    if unknown:
        facts["unknown-flags"] = f"{unknown:#x}"
    return facts


_KNOWN_FLAGS: Final = 0x100FF | sum(COMPRESSIONS)

RECOGNISERS: Final = (recognise_wim,)
