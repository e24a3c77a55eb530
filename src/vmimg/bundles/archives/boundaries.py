"""Where a block of a deflate stream begins, found by looking, and how to begin to unpack there.

    compressed bits ... | 0 10 hlit hdist hclen, lengths of codes | codes ...      a dynamic block
                        | 0 00 padding | len | not len | bytes                     a stored block

A block begins at any bit, and nothing says where. But few bits look like the beginning of a dynamic
block: of a random place one in some thousands has lengths of codes that make a complete code, and
of these hardly any can be unpacked further. A stored block is told by the length that stands there
twice; the empty one behind which a flush goes on (pigz, `DeflateStream`) is one of them. A place
that was found by looking may yet be none: whoever uses it compares what comes out.

ISA-L begins at a byte. Empty blocks in front of the first bits of a block fill what is missing.

Source: RFC 1951, sections 3.2.3 to 3.2.7. Imports isal, and numpy when used.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, Final

from isal import igzip_lib

__all__ = ["FLUSHED", "LOOKED_AT", "WINDOW", "decoder_at", "find_block"]

LOOKED_AT: Final = 144 << 10
"""How many bytes `find_block` wants to see."""
FLUSHED: Final = b"\0\0\xff\xff"
"""The length of a stored block of nothing, as it stands where a stream was flushed."""
WINDOW: Final = 32 << 10
"""How far back deflate refers."""

# Most programs make blocks of less; a stored block behind them may have as much again.
_SEARCHED: Final = 64 << 10
_STEP: Final = 8 << 10
_BEHIND: Final = 16
_START: Final = (1 << 13) - 1
_HEADER_BITS: Final = 17
_COMPLETE: Final = 128
_NOTHING: Final = bytes(WINDOW)
# A place that is none fails sooner.
_CONVINCING: Final = 4 << 10
_TRIAL: Final = 16 << 10
_MAX_TRIALS: Final = 512
_CORRUPT: Final[Any] = igzip_lib.IsalError


def find_block(data: bytes) -> tuple[int, bool] | None:
    """At which bit of ``data`` a block begins that is not the last one, and whether it is a stored
    one: of that it is where its length stands. None where none is seen.
    """
    stored = _stored_block(data) if len(data) > _BEHIND else None
    trials = 0
    for start in range(0, min(_SEARCHED, len(data) - 2 * _BEHIND), _STEP):
        if stored is not None and stored < start:
            break
        for place in _dynamic_headers(data[start : start + _STEP + _BEHIND]):
            bit = 8 * start + place
            if stored is not None and bit > 8 * stored:
                break
            trials += 1
            if trials > _MAX_TRIALS:
                return None
            if _unpacks(data, bit):
                return bit, False
    return None if stored is None else (8 * stored, True)


def decoder_at(
    first: int, bit: int, window: bytes, *, stored: bool = False, fast: bool = True
) -> tuple[Any, bytes]:
    """A decoder for the block that begins at ``bit`` of the byte ``first``, where ``window`` came
    out before; and what it is to be fed in the place of that byte. ``fast``: ISA-L's, else zlib's.
    """
    decoder: Any
    if fast:
        decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE, zdict=window)
    else:
        decoder = zlib.decompressobj(-zlib.MAX_WBITS, zdict=window)
    if stored:
        return decoder, bytes((0, first))
    bits, length = _filling()[bit]
    whole = bits | first >> bit << length
    return decoder, whole.to_bytes((length + 8 - bit) // 8, "little")


def _unpacks(data: bytes, bit: int, *, stored: bool = False) -> bool:
    """Whether what begins there goes on as a stream does, whatever came before."""
    at = bit // 8
    decoder, first = decoder_at(data[at], bit % 8, _NOTHING, stored=stored)
    wanted, given = _CONVINCING, _TRIAL
    if stored:
        wanted += int.from_bytes(data[at : at + 2], "little")
        given += wanted
    try:
        made = decoder.decompress(first + data[at + 1 : at + given], wanted)
    except _CORRUPT:
        return False
    return len(made) == wanted


def _stored_block(data: bytes) -> int | None:
    """Where the first length stands twice, the second time inverted, behind bits that are zero."""
    import numpy as np

    lengths = np.ndarray((min(_SEARCHED, len(data) - 4),), "<u4", data, 1, (1,))
    before = np.frombuffer(data, np.uint8, len(lengths))
    found = ((lengths ^ (lengths >> 16)) & 0xFFFF == 0xFFFF) & (before < 0x20)
    for place in np.flatnonzero(found).tolist():
        if _unpacks(data, 8 * (place + 1), stored=True):
            return int(place) + 1
    return None


def _dynamic_headers(data: bytes) -> list[int]:
    """The bits of ``data`` where the header of a dynamic block may stand, in order."""
    import numpy as np

    possible, sums, masks = _tables()
    count = len(data) - _BEHIND
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,)).copy()
    near = words[:count].astype(np.int32)
    place = np.concatenate(
        [8 * np.flatnonzero(possible.take(near >> shift & _START)) + shift for shift in range(8)]
    )
    # How many codes have a length, and then those, of three bits each.
    place += 13
    codes = (words.take(place >> 3) >> (place & 7).astype(np.uint64)).astype(np.int32) & 15
    place += 4
    lengths = words.take(place >> 3) >> (place & 7).astype(np.uint64)
    lengths &= masks.take(codes)
    total = sums.take((lengths & 0xFFF).astype(np.int32))
    for shift in range(12, 57, 12):
        total += sums.take((lengths >> shift).astype(np.int32) & 0xFFF)
    place -= _HEADER_BITS
    return np.sort(place[total == _COMPLETE]).tolist()  # type: ignore[no-any-return]


@cache
def _tables() -> tuple[Any, Any, Any]:
    """Whether 13 bits may begin the header of a dynamic block; how much of a code four lengths
    take, in units of the longest one; the bits of so many lengths more than four.
    """
    import numpy as np

    start = np.arange(_START + 1)
    possible = (start & 7 == 4) & (start >> 3 & 31 < 30) & (start >> 8 < 30)
    four = np.arange(1 << 12)
    taken = np.array([0, 64, 32, 16, 8, 4, 2, 1], np.uint16)
    sums = np.sum([taken[four >> shift & 7] for shift in (0, 3, 6, 9)], 0, np.uint16)
    masks = np.array([(1 << 3 * (count + 4)) - 1 for count in range(16)], np.uint64)
    return possible, sums, masks


@cache
def _filling() -> tuple[tuple[int, int], ...]:
    """Empty blocks, as (bits, how many), that end at each bit of a byte."""
    fixed, fixed_length = 0b010, 10
    # One dynamic block of an odd number of bits: 257 codes of literals and one of distances; of 18
    # lengths of codes, those of "1" and of "many zeros" are one bit; 138 and 117 zeros, three ones,
    # and the end of the block.
    odd, odd_length = 0, 0
    for value, width in (
        *((0, 1), (2, 2), (0, 5), (0, 5), (14, 4)),
        *((int(symbol in (2, 17)), 3) for symbol in range(18)),
        *((1, 1), (127, 7), (1, 1), (106, 7), (0, 3), (1, 1)),
    ):
        odd |= value << odd_length
        odd_length += width
    found = []
    for bit in range(8):
        bits, length = (odd, odd_length) if bit % 2 else (0, 0)
        while length % 8 != bit:
            bits |= fixed << length
            length += fixed_length
        found.append((bits, length))
    return tuple(found)
