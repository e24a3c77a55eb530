"""Disks to convert: small, deterministic, and awkward where readers and writers go wrong."""

from __future__ import annotations

import random
from pathlib import Path

__all__ = ["awkward_disk", "border_disk", "write_sparse"]

_WORDS = b"the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. "


def awkward_disk(size: int, seed: int = 1, borders: int = 65536) -> bytes:
    """``size`` bytes with data in the first and the last sector and at both sides of some multiples
    of ``borders``, text that compresses, noise that does not, and long runs of zeros.
    """
    noise = random.Random(seed)
    disk = bytearray(size)

    def put(offset: int, data: bytes) -> None:
        data = data[: max(0, size - offset)]
        disk[offset : offset + len(data)] = data

    for border in range(borders, size, borders):
        if noise.random() < 0.5:
            put(border - 512, noise.randbytes(512))
        if noise.random() < 0.5:
            put(border, noise.randbytes(512))
    for _ in range(max(1, size // (1 << 20))):
        put(noise.randrange(size), _WORDS * noise.randrange(1, 3000))
        put(noise.randrange(size), noise.randbytes(noise.randrange(1, 200_000)))
    low = size // 3
    disk[low : low + size // 4] = bytes(len(disk[low : low + size // 4]))
    put(0, b"first sector".ljust(512, b"\1"))
    put(size - 512, b"last sector".ljust(512, b"\2"))
    return bytes(disk)


def write_sparse(path: Path, content: bytes, block: int = 4096) -> Path:
    """Write ``content`` with holes where whole blocks are zeros."""
    with open(path, "wb") as file:
        file.truncate(len(content))
        for start in range(0, len(content), block):
            piece = content[start : start + block]
            if piece.count(0) != len(piece):
                file.seek(start)
                file.write(piece)
    return path


def border_disk(size: int, seed: int = 3, step: int = 64 << 10) -> bytes:
    """``size`` bytes with data in the first and the last sector, at both sides of every multiple of
    ``step`` (so of every larger block as well), and two long runs of zeros: one from a block's
    middle to another's, one of whole blocks.
    """
    noise = random.Random(seed)
    disk = bytearray(size)
    for border in range(step, size, step):
        for offset in (border - 512, border):
            piece = (_WORDS if noise.random() < 0.7 else noise.randbytes(512))[: size - offset]
            disk[offset : offset + len(piece)] = piece
    middle = size // 2 // step * step
    disk[middle : middle + size // 4] = bytes(size // 4)
    disk[step * 3 // 2 : step * 20] = bytes(step * 20 - step * 3 // 2)
    disk[:512] = b"first sector".ljust(512, b"\1")
    disk[size - 512 :] = b"last sector".ljust(512, b"\2")
    return bytes(disk)
