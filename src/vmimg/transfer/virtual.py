"""Virtual images: a disk as an image file of any format, at any offset, written nowhere.

A writer places and nothing is moved; the map that is left of it (`vmimg.transfer.filemap`) says for
every byte of the file whether it is metadata, a place of the disk, or zero. Reading looks that up
and passes the disk's bytes on. So the size is known before the first byte is sent, ranges cost what
their bytes cost, and any number of readers share one map.

What cannot be had like that: images that are several files, and those whose bytes depend on more
than the places of data (compression, checksums, encryption). `vmimg.transfer.streamed` sends the
latter from their first byte to their last.

Imports formats and below.
"""

from __future__ import annotations

import ctypes
import heapq
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from vmimg.disk.extent import Kind
from vmimg.disk.stack import Disk
from vmimg.disk.views import RangeLayer
from vmimg.errors import OptionError
from vmimg.formats.descriptor import Format, OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.registry import find
from vmimg.storage.view import ReadOnlyStorage
from vmimg.transfer.engine import Progress
from vmimg.transfer.filemap import FileMap
from vmimg.transfer.placing import place_all, place_data, place_mapped
from vmimg.transfer.targets import check_makeable, lay_out
from vmimg.units import align_up

__all__ = [
    "VirtualImage", "check_one_file", "has_map", "in_sectors", "own_options", "virtual_image"
]  # fmt: skip

# Of several files, so many are named.
_NAMED: Final = 3
_SECTOR: Final = 512


class VirtualImage(ReadOnlyStorage):
    """``disk`` as a file of ``format`` that nobody wrote. Reads may come from many threads.

    ``file_map`` says what is where. ``held``: bytes of memory that the map takes, about. The disk
    must not change as long as this is read. ``owned`` is closed with this.
    """

    def __init__(
        self, disk: Disk, format: str, file_map: FileMap, *, owned: Disk | None = None
    ) -> None:
        self.name = f"{disk.name} as {format}"
        self.format = format
        self.size = file_map.size
        self.held = file_map.held
        self._disk = disk
        self._map = file_map
        self._owned = owned

    @property
    def layout(self) -> str:
        """A digest of the map (SHA-256, hexadecimal). Where what the disk reads as and this are the
        same, so are the bytes of two images: together they make an ETag.

        What the disk reads as does not say it alone: by its own map, another copy of the same disk,
        or the same raw file when the file system came to think otherwise of its holes, is laid out
        differently.
        """
        return self._map.digest

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        self._check(offset, len(buffer))
        at = offset
        for place, source, length in self._map.data(offset, end):
            _clear(buffer[at - offset : place - offset])
            at = place + length
            self._disk.read_into(source, buffer[place - offset : at - offset])
        _clear(buffer[at - offset :])
        self._map.metadata_into(offset, buffer)

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        if start >= end:
            return
        self._check(start, end - start)
        at = held = start
        for low, high in heapq.merge(self._filled(start, end), self._map.metadata(start, end)):
            if low > at:
                if held < at:
                    yield held, at, False
                yield at, low, True
                held = low
            at = high
        if held < at:
            yield held, at, False
        if at < end:
            yield at, end, True

    def allocated(self) -> int:
        return 0

    def close(self) -> None:
        if self._owned is not None:
            self._owned.close()

    def _filled(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) in [start, end) of the file, where the disk has data."""
        for place, source, length in self._map.data(start, end):
            for low, high, kind in self._disk.spans(source, source + length):
                if kind == Kind.DATA:
                    yield place + low - source, place + high - source


def virtual_image(
    disk: Disk,
    format: str,
    options: Mapping[str, OptionValue] | None = None,
    *,
    zeros: Literal["map", "data"] = "map",
    name: str = "",
    threads: int = 0,
    progress: Progress | None = None,
    owns: bool = False,
) -> VirtualImage:
    """``disk`` as an image of ``format``, made with ``options``, that can be read at any offset.

    ``zeros`` says how they are found. "map": what the disk's own map calls data is placed, and
    nothing is read; the image may have blocks that hold zeros. "data": all data is read once, and
    the image is byte for byte what `convert` writes. Where the format has no blocks, as raw and
    fixed disks, there is no difference. Either way the same disk and options make the same bytes.

    ``name``: of the file, which VMDK and VDI note in it; convert takes that of its target, and
    nothing for a stream. ``threads`` and ``progress`` are for "data"; what ``progress`` raises
    stops it, in "map" as well. ``owns``: the disk is closed with the image.

    Memory: the map takes next to nothing for a disk in few pieces, 1 to 3 bytes for each run of
    blocks of one that is fragmented, and 1 to 20 % of the size of the format's tables: about
    50 MiB for 2 TiB in qcow2 whose clusters were allocated by tossing a coin. Tables are kept
    packed, not regenerated: a writer cannot go back, so that to make a table in the middle it would
    have to start anew; nor are they spooled: a reader then could fail for want of disk space.

    Raises OptionError for images that are several files, compressed or encrypted, and what reading
    raises. On an error the disk stays open.
    """
    if zeros not in ("map", "data"):
        raise OptionError(f"zeros are found by map or data, not by '{zeros}'")
    found = find(format)
    given = own_options(found, options)
    owned = disk if owns else None
    disk = in_sectors(disk)
    writer = lay_out(found, disk.size, given, path=name or "-")
    check_one_file(found, writer)
    _refuse(found, writer)
    if writer.any_block_size and not writer.late_metadata:
        file_map = place_all(disk, writer)
    elif zeros == "map":
        file_map = place_mapped(disk, writer, progress=progress)
    else:
        file_map = place_data(disk, writer, threads=threads, progress=progress)
    return VirtualImage(disk, found.name, file_map, owned=owned)


def has_map(format: str, options: Mapping[str, OptionValue] | None, size: int) -> bool:
    """Whether `virtual_image` can make the image of a disk of ``size`` bytes; `streamed_image` can
    in any case. Raises OptionError where neither can.
    """
    found = find(format)
    given = own_options(found, options)
    writer = lay_out(found, size, given, path="-")
    return not (writer.encrypted or writer.compressed_only)


def in_sectors(disk: Disk) -> Disk:
    """``disk``, with zeros behind it up to a whole sector of 512, as convert has it."""
    if disk.size % _SECTOR == 0:
        return disk
    return Disk([RangeLayer(disk, 0, align_up(disk.size, _SECTOR))])


def own_options(
    format: Format, options: Mapping[str, OptionValue] | None
) -> dict[str, OptionValue]:
    """``options``, parsed, of an image that stands by itself. Raises OptionError for others, and
    where no image of ``format`` can be made.
    """
    check_makeable(format)
    given = format.parse_options(options or {})
    if "backing_file" in given or "backing_fmt" in given:
        raise OptionError("an image that is not written to a file cannot have a backing file")
    return given


def check_one_file(format: Format, writer: Writer) -> None:
    """Raise OptionError where ``writer`` makes more than the one file."""
    if writer.index:
        raise OptionError(
            f"a {format.name} image with these options is a directory, and not one file"
        )
    if writer.companions:
        names = ", ".join(companion.name for companion in writer.companions[:_NAMED])
        more = ", ..." if len(writer.companions) > _NAMED else ""
        raise OptionError(
            f"a {format.name} image with these options is several files (besides it {names}{more})"
        )


def _refuse(format: Format, writer: Writer) -> None:
    """Raise OptionError where an image is more than a map can say."""
    if writer.encrypted:
        raise OptionError(
            f"an encrypted {format.name} image cannot be read at any offset before it is made: its "
            "keys are drawn anew each time"
        )
    if writer.compressed_only:
        raise OptionError(
            f"a {format.name} image with these options cannot be read at any offset before it is "
            "made: it is compressed, or checksummed, as it is written, and can be streamed"
        )


def _clear(buffer: memoryview) -> None:
    if len(buffer):
        ctypes.memset((ctypes.c_char * len(buffer)).from_buffer(buffer), 0, len(buffer))
