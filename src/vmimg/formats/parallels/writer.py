"""Writers of new Parallels images. They place clusters, and never touch guest data.

::

    expanding          header | BAT | clusters in the order in which they come
    a bundle           address 0       DiskDescriptor.xml
                       FIRST_IMAGE     the image, or the images of a split disk: expanding ones as
                                       above, or plain ones, the disk cut into pieces

The BAT of an expanding image is known at the end only. Tables in which nothing is are left as holes
of the file, but for ploop, whose kernel module takes no file with holes. Imports the writer
contract and numpy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Companion, Writer
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.bundle import DEFAULT_TOP, braced
from vmimg.formats.parallels.header import ParallelsHeader, pack_header
from vmimg.formats.parallels.layer import PAGE_ENTRIES, Entries
from vmimg.formats.parallels.newbundle import Piece, render_descriptor
from vmimg.units import align_up, format_size

__all__ = ["make_writer"]

FIRST_IMAGE: Final = 1 << 24
"""Where the images begin that a descriptor names: it has room for some ten thousand of them."""
# A row of addresses has 63 bits, and each piece is given room for all of its clusters.
_MAX_PIECES: Final = 4096
_EMPTY_PAGE: Final = bytes(s.BAT_ENTRY * PAGE_ENTRIES)


def make_writer(size: int, options: Mapping[str, OptionValue], *, name: str) -> Writer:
    """A writer for an image called ``name``. Raises OptionError for options that do not fit."""
    cluster, subformat = int(options["cluster_size"]), str(options["subformat"])
    if not s.MIN_NEW_CLUSTER <= cluster <= s.MAX_NEW_CLUSTER or cluster & (cluster - 1):
        raise OptionError(f"cluster_size is a power of two from 4k to 64M, not {cluster}")
    split = options.get("split")
    pieces = _pieces(size, cluster, None if split is None else int(split), subformat, name)
    if subformat == "plain-bundle":
        return PlainWriter(size, cluster, pieces, name)
    return ExpandingWriter(size, cluster, pieces, name, subformat)


class ExpandingWriter(Writer):
    """See Writer. One expanding image, or a bundle of such."""

    def __init__(
        self, size: int, cluster: int, pieces: list[Piece], name: str, subformat: str
    ) -> None:
        self.block_size = cluster
        self._bundle = subformat != "expanding"
        self.whole_blocks = subformat == "ploop"
        self._text = b""
        first = 0
        if self._bundle:
            self.index, first = s.INDEX, FIRST_IMAGE
            sectors = size // s.SECTOR
            self._text = render_descriptor(
                *(name, sectors, pieces),
                cluster=cluster // s.SECTOR,
                plain=False,
                ploop=subformat == "ploop",
            )
        self._images: list[_Image] = []
        for piece in pieces:
            length = (piece.end - piece.start) * s.SECTOR
            self._images.append(_Image(length, cluster, first, holes=not self.whole_blocks))
            first += align_up(self._images[-1].full_size, cluster)
        if self._bundle:
            self.companions = tuple(
                Companion(piece.file, image.address)
                for piece, image in zip(pieces, self._images, strict=True)
            )
        self._per_image = self._images[0].header.blocks or 1
        self._settled = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        places = np.empty(len(blocks), np.int64)
        low = 0
        while low < len(blocks):
            number = int(blocks[low]) // self._per_image
            border = (number + 1) * self._per_image
            high = int(np.searchsorted(blocks, border))
            places[low:high] = self._images[number].place(
                blocks[low:high] - number * self._per_image
            )
            low = high
        return places

    @property
    def settled(self) -> int:
        return self._settled

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        for number, image in enumerate(self._images):
            yield from image.close_pages(done - number * self._per_image)
        if not self._bundle:
            self._settled = self._images[0].size

    def finish(self) -> Iterator[tuple[int, bytes]]:
        for image in self._images:
            yield from image.close_pages(sys.maxsize)
            yield image.address, pack_header(image.header)
        if self._bundle:
            yield 0, self._text
        else:
            self._settled = self.file_size

    def full_size(self) -> int:
        return len(self._text) + sum(image.full_size for image in self._images)

    @property
    def file_size(self) -> int:
        return len(self._text) if self._bundle else self._images[0].size

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return tuple(image.size for image in self._images) if self._bundle else ()


class PlainWriter(Writer):
    """See Writer. A bundle of plain images: every block size will do, for there are no tables."""

    any_block_size = True
    index = s.INDEX

    def __init__(self, size: int, cluster: int, pieces: list[Piece], name: str) -> None:
        self.block_size = s.DEFAULT_CLUSTER
        self.data_limit = FIRST_IMAGE + size
        self._text = render_descriptor(
            *(name, size // s.SECTOR, pieces),
            cluster=cluster // s.SECTOR,
            plain=True,
            ploop=False,
        )
        self._pieces = pieces
        # One behind the other without gaps: a block may begin in one and end in the next.
        self.companions = tuple(
            Companion(piece.file, FIRST_IMAGE + piece.start * s.SECTOR) for piece in pieces
        )

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        return FIRST_IMAGE + blocks * self.block_size

    def finish(self) -> Iterator[tuple[int, bytes]]:
        yield 0, self._text

    def full_size(self) -> int:
        return len(self._text) + sum(self.companion_sizes)

    @property
    def file_size(self) -> int:
        return len(self._text)

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        return tuple((piece.end - piece.start) * s.SECTOR for piece in self._pieces)


class _Image:
    """One expanding image of ``size`` bytes of the disk, at ``address``."""

    def __init__(self, size: int, cluster: int, address: int, *, holes: bool) -> None:
        self.address = address
        self._holes = holes
        blocks = -(-size // cluster)
        if blocks > s.MAX_ENTRIES:
            raise OptionError(
                f"a disk of {format_size(size)} needs larger clusters: with cluster_size={cluster} "
                f"an image holds {format_size(s.MAX_ENTRIES * cluster)}"
            )
        sectors = size // s.SECTOR
        self.header = ParallelsHeader(
            extended=True,
            tracks=cluster // s.SECTOR,
            entries=blocks,
            sectors=sectors,
            # QEMU's, and as little looked at as there.
            cylinders=min(sectors // s.HEADS // s.SECTORS_PER_TRACK, 0xFFFF_FFFF),
        )
        self._first = self.header.least_data_start
        self.header.data_off = self._first // s.SECTOR
        self._next = 0
        self._pages: dict[int, Entries] = {}
        """Those of the BAT in which a cluster has a place and more may get one."""
        self._filled = 0
        """Without holes: the pages that were handed out already."""

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses for the next clusters: ``blocks``, ascending."""
        places = self._first + (self._next + np.arange(len(blocks), dtype=np.int64)) * (
            self.header.block_size
        )
        self._next += len(blocks)
        entries = (places // self.header.block_size).astype(np.uint32)
        low = 0
        while low < len(blocks):
            index = int(blocks[low]) // PAGE_ENTRIES
            high = int(np.searchsorted(blocks, (index + 1) * PAGE_ENTRIES))
            page = self._pages.get(index)
            if page is None:
                page = self._pages[index] = np.zeros(PAGE_ENTRIES, np.uint32)
            page[blocks[low:high] - index * PAGE_ENTRIES] = entries[low:high]
            low = high
        return places + self.address

    def close_pages(self, done: int) -> Iterator[tuple[int, bytes]]:
        """The pages of the BAT that get no more entries from cluster ``done`` on."""
        if not self._holes:
            yield from self._fill_pages(done)
            return
        for index in sorted(self._pages):
            first = index * PAGE_ENTRIES
            if first + PAGE_ENTRIES > done:
                break
            page = self._pages.pop(index)[: self.header.entries - first]
            yield self.address + s.BAT_OFFSET + s.BAT_ENTRY * first, page.astype("<u4").tobytes()

    def _fill_pages(self, done: int) -> Iterator[tuple[int, bytes]]:
        """The same with the empty ones, and what is between the BAT and the data."""
        room = (self._first - s.BAT_OFFSET) // s.BAT_ENTRY
        while self._filled * PAGE_ENTRIES < room and (self._filled + 1) * PAGE_ENTRIES <= done:
            first = self._filled * PAGE_ENTRIES
            page = self._pages.pop(self._filled, None)
            data = _EMPTY_PAGE if page is None else page.astype("<u4").tobytes()
            length = s.BAT_ENTRY * min(PAGE_ENTRIES, room - first)
            yield self.address + s.BAT_OFFSET + s.BAT_ENTRY * first, data[:length]
            self._filled += 1

    @property
    def size(self) -> int:
        """Bytes of the file so far."""
        return self._first + self._next * self.header.block_size

    @property
    def full_size(self) -> int:
        """Bytes of the file when all clusters are there."""
        return self._first + self.header.entries * self.header.block_size


def _pieces(size: int, cluster: int, split: int | None, subformat: str, name: str) -> list[Piece]:
    """The image files of a disk, as they are called in the kind of bundle."""
    sectors = size // s.SECTOR
    if subformat in ("expanding", "ploop"):
        if split is not None:
            raise OptionError(f"split is for bundles of Parallels, and not for {subformat}")
        return [Piece(0, sectors, "root.hds")]
    if split is None:
        return [Piece(0, sectors, _image_name(name, 0))]
    if split <= 0 or split % cluster:
        raise OptionError(f"split is a multiple of cluster_size, not {split}")
    if -(-size // split) > _MAX_PIECES:
        raise OptionError(
            f"a disk of {format_size(size)} in pieces of {format_size(split)} would be more than "
            f"{_MAX_PIECES} files"
        )
    step = split // s.SECTOR
    return [
        Piece(start, min(start + step, sectors), _image_name(name, number))
        for number, start in enumerate(range(0, max(1, sectors), step))
    ]


def _image_name(name: str, number: int) -> str:
    return f"{name}.{number}.{braced(DEFAULT_TOP)}.hds"
