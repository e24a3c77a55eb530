"""Checksums of a range of a storage: of a member, after it was written. Imports storage.

What was just written is read back from the page cache, in large reads; hashlib lets go of the
interpreter's lock, so that several members can be hashed at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from vmimg.errors import OptionError
from vmimg.storage.base import Storage
from vmimg.units import MIB

__all__ = ["ALGORITHMS", "digests"]

ALGORITHMS: Final = ("md5", "sha1", "sha256", "sha512")
_PIECE: Final = 4 * MIB


def digests(
    storage: Storage,
    algorithms: Iterable[str],
    *,
    offset: int = 0,
    length: int | None = None,
) -> dict[str, str]:
    """Hexadecimal digests of ``length`` bytes from ``offset`` (all of it), by algorithm: of
    ALGORITHMS. All are computed in one pass. Raises OptionError for another one.
    """
    sums = {}
    for name in algorithms:
        if name not in ALGORITHMS:
            raise OptionError(f"there is no checksum '{name}'; there are: {', '.join(ALGORITHMS)}")
        # Manifests are no security against those who make them: MD5 and SHA-1 are what they say.
        sums[name] = hashlib.new(name, usedforsecurity=False)
    end = storage.size if length is None else offset + length
    buffer = memoryview(bytearray(min(_PIECE, max(0, end - offset))))
    while offset < end:
        piece = buffer[: min(_PIECE, end - offset)]
        storage.read_into(offset, piece)
        for each in sums.values():
            each.update(piece)
        offset += len(piece)
    return {name: each.hexdigest() for name, each in sums.items()}
