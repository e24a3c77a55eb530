"""LuksWriter: lays out a new LUKS 1 volume: the header, and behind it the disk, byte by byte.

Imports the writer contract and numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from vmimg.formats.driver import Writer
from vmimg.formats.luks.volume import NewVolume
from vmimg.units import align_up

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LuksWriter"]

_SECTOR: Final = 512
_BLOCK_SIZE: Final = 64 << 10


class LuksWriter(Writer):
    """See Writer. ``size``: virtual bytes, rounded up to whole sectors."""

    any_block_size = True
    late_metadata = False
    encrypted = True
    stores_zeros = True

    def __init__(self, size: int, volume: NewVolume) -> None:
        self.block_size = _BLOCK_SIZE
        self._volume = volume
        self._size = align_up(size, _SECTOR)
        self._start = volume.payload_offset
        self._cipher = volume.data_cipher("virtual")
        self.data_limit = self.file_size
        self._settled = 0
        self._opened = False

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._start + blocks * self.block_size

    def encrypt(self, address: int, virtual: int, data: memoryview) -> None:
        self._cipher.encrypt(address, virtual, data)

    def twin(self) -> LuksWriter:
        twin = LuksWriter(self._size, self._volume)
        twin.block_size = self.block_size
        return twin

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        yield from self._header()
        self._settled = min(self._start + done * self.block_size, self.file_size)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        yield from self._header()
        self._settled = self.file_size

    def _header(self) -> Iterator[tuple[int, bytes]]:
        if not self._opened:
            self._opened = True
            yield from self._volume.parts

    def full_size(self) -> int:
        return self.file_size

    @property
    def file_size(self) -> int:
        return self._start + self._size
