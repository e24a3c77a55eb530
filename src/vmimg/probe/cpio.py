"""cpio archives, member by member: the kinds of them, and what initrds are made of.

A member is a header with a name behind it, then its data; the one with the name TRAILER!!! is the
last. Headers are hexadecimal text (newc, and the same with a checksum), octal text (odc) or words
of 16 bits in either byte order. Linux unpacks several archives in a row as one initrd, each of them
compressed or not, with zeros between; microcode comes first and never compressed.

Sources: cpio(5) of FreeBSD, Linux's Documentation/driver-api/early-userspace/buffer-format.rst and
Documentation/x86/microcode.rst. Imports storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.errors import FormatError
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable

__all__ = [
    "MAX_NAME",
    "TRAILER",
    "CpioMember",
    "cpio_kind",
    "cpio_members",
    "looks_like_initrd",
    "next_segment",
    "shown",
]

TRAILER: Final = "TRAILER!!!"
MAX_NAME: Final = 4096
_MAX_PADDING: Final = 256 << 10
_NEWC_BYTES: Final = 110
_ODC_BYTES: Final = 76
_BINARY_BYTES: Final = 26

# Any of these makes it an initrd, or the microcode in front of one.
_MARKS: Final = frozenset(
    {"init", "sbin/init", "early_cpio", "etc/initrd-release", "kernel/x86", "kernel/firmware"}
)
# So many of these do.
_FOLDERS: Final = frozenset(
    {"bin", "conf", "dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "usr", "var"}
)
_ENOUGH_FOLDERS: Final = 4


@dataclass(frozen=True, slots=True)
class CpioMember:
    """``offset``: of its header; ``data`` and ``size``: where its data is; ``end``: where the next
    header begins. ``mode`` as stat(2) has it, file type included.
    """

    name: str
    mode: int
    size: int
    inode: int
    links: int
    offset: int
    data: int
    end: int


def cpio_kind(magic: bytes) -> str:
    """By the first 6 bytes: "newc", "crc", "odc", "binary", "binary-swapped", or "" for none."""
    if magic[:6] in (b"070701", b"070702", b"070707"):
        return {b"070701": "newc", b"070702": "crc", b"070707": "odc"}[magic[:6]]
    return {b"\xc7\x71": "binary", b"\x71\xc7": "binary-swapped"}.get(magic[:2], "")


def cpio_members(view: View, start: int = 0) -> Iterator[CpioMember]:
    """The members of the archive at ``start``, the trailer last. Raises FormatError where there is
    no member where one must be; NotHeld.
    """
    at = start
    kind = cpio_kind(view.read(at, 6))
    while True:
        member = _member(view, at, kind)
        yield member
        if member.name == TRAILER:
            return
        at = member.end


def looks_like_initrd(names: list[str]) -> bool:
    """By the names of the first members."""
    plain = {name.removeprefix("./").strip("/") for name in names}
    if plain & _MARKS or any(name.startswith("kernel/x86/microcode/") for name in plain):
        return True
    return len({name.partition("/")[0] for name in plain} & _FOLDERS) >= _ENOUGH_FOLDERS


def next_segment(view: View, at: int) -> int | None:
    """Where something that is not zeros begins behind ``at``; None for the end of the file, and for
    too many zeros.
    """
    stop = at + _MAX_PADDING
    while at < min(view.size, stop):
        data = view.read(at, 4096)
        rest = data.lstrip(b"\0")
        if rest:
            return at + len(data) - len(rest)
        at += len(data)
    return None


def _member(view: View, at: int, kind: str) -> CpioMember:
    if cpio_kind(view.read(at, 6)) != kind or not kind:
        raise FormatError(f"there is no header of a member at {at}")
    if kind in ("newc", "crc"):
        return _newc(view, at)
    return _odc(view, at) if kind == "odc" else _binary(view, at, kind)


def _newc(view: View, at: int) -> CpioMember:
    fields = _numbers(view.read(at, _NEWC_BYTES), at, 6, (8,) * 13, 16)
    # inode, mode, uid, gid, links, time, size, four of devices, length of the name, checksum
    inode, mode, _, _, links, _, size, _, _, _, _, length, _ = fields
    name, end = _name(view, at + _NEWC_BYTES, length)
    data = -(-(end - at) // 4) * 4 + at
    return CpioMember(name, mode, size, inode, links, at, data, -(-(data + size) // 4) * 4)


def _odc(view: View, at: int) -> CpioMember:
    widths = (6, 6, 6, 6, 6, 6, 6, 11, 6, 11)
    fields = _numbers(view.read(at, _ODC_BYTES), at, 6, widths, 8)
    _, inode, mode, _, _, links, _, _, length, size = fields
    name, end = _name(view, at + _ODC_BYTES, length)
    return CpioMember(name, mode, size, inode, links, at, end, end + size)


def _binary(view: View, at: int, kind: str) -> CpioMember:
    data = view.read(at, _BINARY_BYTES)
    if len(data) < _BINARY_BYTES:
        raise FormatError(f"the file ends in the header at {at}")
    order = "little" if kind == "binary" else "big"
    words = [int.from_bytes(data[i : i + 2], order) for i in range(0, _BINARY_BYTES, 2)]  # type: ignore[arg-type]
    # The halves of long numbers have their own order, the higher one first.
    size = words[11] << 16 | words[12]
    name, end = _name(view, at + _BINARY_BYTES, words[10])
    start = end + (words[10] & 1)
    return CpioMember(
        name, words[3], size, words[2], words[6], at, start, start + size + (size & 1)
    )


def _numbers(data: bytes, at: int, skip: int, widths: tuple[int, ...], base: int) -> list[int]:
    if len(data) < skip + sum(widths):
        raise FormatError(f"the file ends in the header at {at}")
    digits = b"0123456789abcdefABCDEF" if base == 16 else b"01234567"
    if data[skip:].translate(None, digits):
        raise FormatError(f"the header at {at} has something else than digits in it")
    numbers = []
    for width in widths:
        numbers.append(int(data[skip : skip + width], base))
        skip += width
    return numbers


def _name(view: View, at: int, length: int) -> tuple[str, int]:
    """The name at ``at``, and where it ends. ``length`` counts its zero."""
    if not 0 < length <= MAX_NAME:
        raise FormatError(f"the name at {at} has {length} bytes")
    data = view.read(at, length)
    if len(data) < length:
        raise FormatError(f"the file ends in the name at {at}")
    if data[-1] or b"\0" in data[:-1]:
        raise FormatError(f"the name at {at} does not end where it should")
    return data[:-1].decode("utf-8", "surrogateescape"), at + length


def shown(name: str) -> str:
    """A name for people."""
    return printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
