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
from vmimg.storage.base import Storage

__all__ = ["Claim", "detect", "identify"]

# From here on a claim is more than a fallback: two such claims on one file contradict each other.
_SURE: Final = 50


@dataclass(frozen=True, slots=True)
class Claim:
    """``format`` takes the bytes for its own; ``confidence``: 1 (a fallback) to 100 (by magic)."""

    format: Format
    confidence: int


def detect(storage: Storage) -> list[Claim]:
    """All claims on ``storage``, the best first; raw is always among them. Reads a few KiB."""
    claims: list[Claim] = []
    for format in all_formats():
        if format.magic and not any(_matches(storage, magic) for magic in format.magic):
            continue
        confidence = format.driver().probe(storage)
        if confidence > 0:
            claims.append(Claim(format, confidence))
    return sorted(claims, key=lambda claim: -claim.confidence)


def identify(storage: Storage) -> Format:
    """The one format of ``storage``. Raises UnsafeImage when two formats are equally sure of it."""
    claims = detect(storage)
    sure = [claim for claim in claims if claim.confidence >= _SURE]
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
    return storage.read(offset, len(magic.data)) == magic.data
