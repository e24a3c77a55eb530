"""Sizes: parse ``"10G"`` and ``"64k"``, and print bytes for people.

Suffixes are qemu-img's: b, k, M, G, T, P, E, powers of 1024, in either case; ``KiB`` and ``KB``
spellings are accepted and mean the same. Imports only errors; everyone may import it.
"""

from __future__ import annotations

import re

from vmimg.errors import OptionError

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "TIB",
    "align_down",
    "align_up",
    "format_exact",
    "format_size",
    "parse_size",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SUFFIXES = "bkmgtpe"
# As many digits as anybody writes: Python refuses to take thousands for a number.
_SIZE = re.compile(r"\s*(\d{1,40}(?:\.\d{1,40})?)\s*([bkmgtpe]?)(?:i?b)?\s*", re.IGNORECASE)
# Nothing on a POSIX system can be larger: off_t is a signed 64-bit number.
_MAX_SIZE = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes for ``text``: ``"512"``, ``"64k"``, ``"1.5G"``, ``"10 GiB"``.

    Raises OptionError for anything else, and for sizes beyond 2^63-1 bytes.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise OptionError(
            f"'{text}' is not a size; write bytes or a number with k, M, G, T, P or E"
        )
    number, suffix = match.groups()
    shift = 10 * _SUFFIXES.index(suffix.lower() or "b")
    size = int(number) << shift if number.isdigit() else int(float(number) * (1 << shift))
    if size > _MAX_SIZE:
        raise OptionError(f"'{text}' is larger than any file can be (2^63 - 1 bytes)")
    return size


def format_size(size: int) -> str:
    """``size`` bytes for people: ``"64 KiB"``, ``"1.5 GiB"``; three significant digits."""
    if size < KIB:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        value /= 1024
        if value < 999.5 or unit == "EiB":
            break
    return f"{value:.3g} {unit}"


def format_exact(size: int) -> str:
    """``size`` bytes in the largest unit that divides it: ``"2040 GiB"``; for limits."""
    for shift, unit in (
        (60, "EiB"),
        (50, "PiB"),
        (40, "TiB"),
        (30, "GiB"),
        (20, "MiB"),
        (10, "KiB"),
    ):
        if size and not size % (1 << shift):
            return f"{size >> shift} {unit}"
    return f"{size} B"


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` that is not below ``value``."""
    return -(-value // alignment) * alignment


def align_down(value: int, alignment: int) -> int:
    """The largest multiple of ``alignment`` that is not above ``value``."""
    return value // alignment * alignment
