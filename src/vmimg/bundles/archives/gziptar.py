"""GzipTarWriter: a tar in one gzip member, compressed on all cores while it is written.

Nothing in it can be written out of order, so images are sent from the front (`add_stream`). A
header whose size is not known yet, and what is reserved, is stored and filled in at the end.
Source: RFC 1952. Imports storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmimg.bundles.archives.streamwriting import GzipSink
from vmimg.bundles.archives.tarsparse import sparse_header
from vmimg.bundles.archives.tarwriting import END, Flavour, tar_header, tar_padding
from vmimg.bundles.archives.writing import ArchiveWriter, Reserved, WrittenMember
from vmimg.codecs import Level
from vmimg.errors import OptionError
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.streaming import ByteSink

__all__ = ["GzipTarWriter"]


class GzipTarWriter(ArchiveWriter):
    """``level``: how hard to compress. ``threads``: 0 for as many as there are cores; the result is
    the same for any number.

    `close` lets go of the threads where `finish` was not reached; it is a context manager too.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        level: Level = "default",
        threads: int = 0,
        flavour: Flavour = "ustar",
        unique: bool = True,
    ) -> None:
        super().__init__(storage, unique=unique)
        self._flavour: Flavour = flavour
        self._stream = GzipSink(storage, level=level, threads=threads)
        self._places: dict[str, int] = {}

    def add(self, name: str, data: Buffer) -> None:
        name = self._take(name)
        size = memoryview(data).nbytes
        self._stream.write(tar_header(name, size, self._flavour))
        self._stream.write(data)
        self._complete(name, size)

    def add_directory(self, name: str) -> None:
        self._stream.write(tar_header(self._take(name), 0, self._flavour, directory=True))

    def add_image(self, name: str, write: Callable[[Storage], int]) -> int:
        raise OptionError(
            f"{self.storage.name}: '{name}' cannot be written in any order into what is compressed"
        )

    def add_stream(self, name: str, size: int | None, send: Callable[[ByteSink], int]) -> int:
        name = self._take(name)
        header = tar_header(name, size or 0, self._flavour)
        place = -1
        if size is None:
            place = self._stream.write_stored(header)
        else:
            self._stream.write(header)
        start = self._stream.plain
        sent = send(self._stream)
        self._check_size(name, sent, self._stream.plain - start)
        self._check_size(name, size, sent)
        if size is None:
            self._stream.change(place, tar_header(name, sent, self._flavour))
        self._complete(name, sent)
        return sent

    def add_sparse(
        self,
        name: str,
        size: int,
        pieces: Sequence[tuple[int, int]],
        send: Callable[[ByteSink], int],
    ) -> None:
        """A member of ``size`` bytes, of which ``send`` sends only ``pieces`` (start, end); the
        rest are holes, as GNU tar had them first.
        """
        name = self._take(name)
        self._stream.write(sparse_header(name, size, pieces))
        stored = sum(end - start for start, end in pieces)
        start = self._stream.plain
        self._check_size(name, stored, send(self._stream))
        self._check_size(name, stored, self._stream.plain - start)
        self._complete(name, stored)

    def reserve(self, name: str, size: int) -> Reserved:
        name = self._take(name)
        self._stream.write(tar_header(name, size, self._flavour))
        self._places[name] = self._stream.write_stored(bytes(size))
        self._stream.write(tar_padding(size))
        reserved = Reserved(name, size, -1)
        self._open[name] = reserved
        return reserved

    def fill(self, reserved: Reserved, data: bytes, *, pad: bytes = b"\n") -> None:
        self._stream.change(self._places[reserved.name], self._padded(reserved, data, pad))

    def finish(self) -> None:
        self._check_filled()
        self._stream.write(END)
        self._stream.finish()

    def close(self) -> None:
        """Let go of the threads; a second call does nothing."""
        self._stream.close()

    def _complete(self, name: str, size: int) -> None:
        self._stream.write(tar_padding(size))
        self.last = WrittenMember(name, -1, size)
