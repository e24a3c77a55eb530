"""detect: which formats claim these bytes, by their structure and never by the name of the file.

All formats are asked: a file that two of them claim is how people are attacked. The magic that a
descriptor declares is looked at first, so an implementation is loaded only where its magic matches.
Imports the registry; no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vmimg.errors import UnsafeImage
from vmimg.formats.descriptor import Format, Magic
from vmimg.formats.registry import all_formats
from vmimg.storage.base import NotHeld, Storage

__all__ = ["SURE", "Claim", "Evidence", "claim_of", "detect", "identify"]

# From here on a claim is more than a fallback: two such claims on one file contradict each other.
SURE: Final = 50


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a claim: ``meaning`` of what stands at ``offset``, in bytes from the start
    of the file.
    """

    offset: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Claim:
    """``format`` takes the bytes for its own; ``confidence``: 1 (a fallback) to 100 (by magic)."""

    format: Format
    confidence: int
    evidence: tuple[Evidence, ...] = ()


def detect(storage: Storage) -> list[Claim]:
    """All claims on ``storage``, the best first; raw is always among them. Reads a few KiB."""
    claims = [claim for format in all_formats() if (claim := claim_of(format, storage)) is not None]
    return sorted(claims, key=lambda claim: -claim.confidence)


def claim_of(format: Format, storage: Storage) -> Claim | None:
    """What ``format`` claims of ``storage``; None if it is not its own."""
    marks = [magic for magic in format.magic if _matches(storage, magic)]
    if format.magic and not marks:
        return None
    driver = format.driver()
    confidence = driver.probe(storage)
    if confidence <= 0:
        return None
    shown = tuple(_shown(storage, magic) for magic in marks)
    try:
        more = driver.evidence(storage)
    except NotHeld:  # of a stream that has not come so far: what is claimed is claimed
        more = ()
    return Claim(format, confidence, (*shown, *more))


def identify(storage: Storage) -> Format:
    """The one format of ``storage``. Raises UnsafeImage when two formats are equally sure of it."""
    claims = detect(storage)
    sure = [claim for claim in claims if claim.confidence >= SURE]
    if len(sure) > 1:
        names = " and ".join(claim.format.name for claim in sure)
        raise UnsafeImage(
            f"{storage.name}: carries the marks of {names}; say which one it is with -f"
        )
    return claims[0].format


def _matches(storage: Storage, magic: Magic) -> bool:
    offset = magic.offset if magic.offset >= 0 else storage.size + magic.offset
    if offset < 0 or offset + len(magic.data) > storage.size:
        return False
    try:
        return storage.read(offset, len(magic.data)) == magic.data
    except NotHeld:
        return False


def _shown(storage: Storage, magic: Magic) -> Evidence:
    offset = magic.offset if magic.offset >= 0 else storage.size + magic.offset
    text = magic.data.decode("ascii", "replace").strip("\0")
    shown = f"'{text}'" if text.isprintable() and text.isascii() else magic.data.hex(" ")
    return Evidence(offset, f"the magic {shown}")
