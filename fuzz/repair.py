"""Setting checksums right again, so that a changed input is not refused for its checksum alone.

One function for each kind of checksum that a reader of vmimg believes. Each takes an image, finds
the structure where its format says it is, and does nothing where there is none. Written from the
specifications, not with the code that is fuzzed: only the CRC-32C is vmimg's, for its speed.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from fuzz.sparse import SparseStorage
from vmimg.formats.vhdx.crc32c import crc32c

__all__ = ["REPAIRS", "repair"]

_KIB: Final = 1 << 10


def repair(image: SparseStorage) -> None:
    """All that there is in ``image``."""
    for mend in REPAIRS.values():
        mend(image)


def _read(image: SparseStorage, offset: int, length: int) -> bytes:
    """Empty where it is not all there."""
    if offset < 0 or length <= 0 or length > 16 << 20 or offset + length > image.size:
        return b""
    return image.read(offset, length)


def _vhd(image: SparseStorage) -> None:
    """Footer, its copy and the header of a dynamic disk: one's complement of the sum of bytes."""
    for size in (512, 511):
        footer = image.size - size
        for place, length in ((0, 512), (footer, size)):
            if _read(image, place, 8) != b"conectix":
                continue
            _put_sum(image, place, length, 64)
            header = int.from_bytes(_read(image, place + 16, 8), "big")
            if _read(image, header, 8) == b"cxsparse":
                _put_sum(image, header, 1024, 36)


def _put_sum(image: SparseStorage, place: int, length: int, field: int) -> None:
    data = bytearray(_read(image, place, length))
    if data:
        data[field : field + 4] = bytes(4)
        image.write(place + field, (~sum(data) & 0xFFFFFFFF).to_bytes(4, "big"))


def _vhdx(image: SparseStorage) -> None:
    """Headers, region tables and the entries of the log: CRC-32C with the field as zeros."""
    if _read(image, 0, 8) != b"vhdxfile":
        return
    for place, length in ((64, 4), (128, 4), (192, 64), (256, 64)):
        _put_crc32c(image, place * _KIB, length * _KIB)
    for header in (64 * _KIB, 128 * _KIB):
        data = _read(image, header, 80)
        length, start = int.from_bytes(data[68:72], "little"), int.from_bytes(data[72:80], "little")
        for place in range(start, start + min(length, 256 * _KIB), 4 * _KIB):
            entry = _read(image, place, 12)
            if entry[:4] == b"loge":
                size = int.from_bytes(entry[8:12], "little")
                _put_crc32c(image, place, min(size, start + length - place))


def _put_crc32c(image: SparseStorage, place: int, length: int) -> None:
    data = bytearray(_read(image, place, min(length, _KIB * _KIB)))
    if len(data) >= 8:
        data[4:8] = bytes(4)
        image.write(place + 4, crc32c(data).to_bytes(4, "little"))


def _gpt(image: SparseStorage) -> None:
    """Both headers and their entries: CRC-32, that of the header over its own length."""
    for sector in (512, 4096):
        for place in (sector, image.size - sector):
            header = bytearray(_read(image, place, min(sector, max(0, image.size - place))))
            if header[:8] != b"EFI PART":
                continue
            lba, count, width = (
                int.from_bytes(header[start:end], "little")
                for start, end in ((72, 80), (80, 84), (84, 88))
            )
            entries = _read(image, lba * sector, min(count * width, 1 << 20))
            header[88:92] = zlib.crc32(entries).to_bytes(4, "little")
            header[16:20] = bytes(4)
            size = int.from_bytes(header[12:16], "little")
            header[16:20] = zlib.crc32(header[:size]).to_bytes(4, "little")
            image.write(place, header)


def _luks2(image: SparseStorage) -> None:
    """Both headers: the hash that they name, over the binary part and the JSON."""
    for magic, places in ((b"LUKS\xba\xbe", (0,)), (b"SKUL\xba\xbe", _SECOND_PLACES)):
        for place in places:
            head = _read(image, place, 4096)
            if head[:8] != magic + b"\0\2":
                continue
            size = int.from_bytes(head[8:16], "big")
            data = bytearray(_read(image, place, size))
            name = head[72:104].rstrip(b"\0").decode("ascii", "replace")
            if len(data) < 512 or name not in ("sha1", "sha256", "sha512"):
                continue
            data[448:512] = bytes(64)
            image.write(place + 448, hashlib.new(name, data).digest().ljust(64, b"\0"))


_SECOND_PLACES: Final = tuple(16384 << n for n in range(9))


def _tar(image: SparseStorage) -> None:
    """Each header: the sum of its bytes, the field taken as blanks, in octal digits."""
    place = 0
    for _ in range(64):
        head = _read(image, place, 512)
        if head[257:262] != b"ustar":
            return
        total = sum(head) - sum(head[148:156]) + 8 * 0x20
        image.write(place + 148, b"%06o\0 " % total)
        digits = head[124:136].strip(b" \0")
        size = int(digits, 8) if digits and not digits.translate(None, b"01234567") else 0
        place += 512 + -(-size // 512) * 512


def _iso_boot(image: SparseStorage) -> None:
    """The boot catalogue of an ISO: its words add up to zero."""
    if _read(image, 17 * 2048, 6) != b"\0CD001":
        return
    place = int.from_bytes(_read(image, 17 * 2048 + 71, 4), "little") * 2048
    entry = _read(image, place, 32)
    if len(entry) == 32:
        words = [entry[n] | entry[n + 1] << 8 for n in range(0, 32, 2) if n != 28]
        image.write(place + 28, (-sum(words) & 0xFFFF).to_bytes(2, "little"))


REPAIRS: Final[Mapping[str, Callable[[SparseStorage], None]]] = {
    "vhd": _vhd,
    "vhdx": _vhdx,
    "gpt": _gpt,
    "luks2": _luks2,
    "tar": _tar,
    "iso": _iso_boot,
}
"""By what has the checksum."""
