"""Streamed images: a disk as an image file, from its first byte to its last, written nowhere.

For what `vmimg.transfer.virtual` cannot give at any offset: compressed images, those with checksums
of what they hold, encrypted ones. Their size is known only when they have been sent.

Imports formats and below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from vmimg.codecs import find_level
from vmimg.disk.stack import Disk
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.registry import find
from vmimg.storage.base import Buffer, Storage
from vmimg.transfer.engine import Progress
from vmimg.transfer.imaging import Imaging, Sink
from vmimg.transfer.streaming import OrderedSink, Rehearsal
from vmimg.transfer.targets import lay_out
from vmimg.transfer.virtual import check_one_file, in_sectors, own_options, virtual_image
from vmimg.units import MIB

__all__ = ["streamed_image"]

# Read and sent at a time, where nothing is compressed.
_PIECE: Final = 1 * MIB


def streamed_image(
    disk: Disk,
    format: str,
    send: Callable[[Buffer], object],
    options: Mapping[str, OptionValue] | None = None,
    *,
    name: str = "",
    compress: bool = False,
    level: str = "default",
    threads: int = 0,
    keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> int:
    """Send ``disk`` as an image of ``format``, byte for byte what `convert` writes; its size.

    ``send`` gets the image piece by piece, from one thread at a time, and may keep none of them:
    their memory is used again. It waits for as long as the receiver takes; what it raises (the
    receiver is gone) stops all work and is raised here. So does ``progress``, which is asked ten
    times a second from the thread that called, before there is anything to send as well.

    ``compress`` and ``level`` as for `convert`, ``name``, the file's, as for `virtual_image`,
    ``keys`` those of an image that is to be encrypted. Where a format has metadata in front of the
    data that depends on all of it (compressed qcow2), the disk is read, and compressed, twice.

    Raises OptionError for images that are several files, before anything was sent, and what reading
    raises.
    """
    found = find(format)
    given = own_options(found, options)
    effort = find_level(level)
    new_keys = as_keys(keys)
    disk = in_sectors(disk)

    def make_writer() -> Writer:
        return lay_out(found, disk.size, given, path=name or "-", compress=compress, keys=new_keys)

    def image(writer: Writer, sink: Sink, watch: Progress | None) -> int:
        wanted = effort if compress or writer.compressed_only else None
        sparse = 0 if writer.stores_zeros else 4096
        work = Imaging(disk, writer, sink, sparse=sparse, level=wanted)
        work.write(threads=threads, progress=watch)
        return work.file_size

    writer, rehearsal = make_writer(), Rehearsal()
    check_one_file(found, writer)
    if not (compress or writer.compressed_only or writer.encrypted):
        # A map of it takes less memory than the tables in front of the data, held until they go.
        place = _part(progress, 0, 2)
        with virtual_image(
            disk, format, options, zeros="data", name=name, threads=threads, progress=place
        ) as plain:
            return _send_all(plain, send, _part(progress, 1, 2))
    passes = 2 if writer.late_metadata else 1
    if writer.late_metadata:
        image(writer.twin() or make_writer(), rehearsal, _part(progress, 0, passes))
    sink = OrderedSink(_Sending(send), found.name, rehearsal.late)
    return image(writer, sink, _part(progress, passes - 1, passes))


def _send_all(image: Storage, send: Callable[[Buffer], object], progress: Progress | None) -> int:
    buffer = memoryview(bytearray(_PIECE))
    for start in range(0, image.size, _PIECE):
        piece = buffer[: min(_PIECE, image.size - start)]
        image.read_into(start, piece)
        send(piece)
        if progress is not None:
            progress(start + len(piece), image.size)
    return image.size


class _Sending:
    """A callback as a ByteSink."""

    def __init__(self, send: Callable[[Buffer], object]) -> None:
        self._send = send

    def write(self, data: Buffer) -> None:
        self._send(data)


def _part(progress: Progress | None, number: int, passes: int) -> Progress | None:
    """``progress`` for one of several passes over the same disk."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, passes * total)
