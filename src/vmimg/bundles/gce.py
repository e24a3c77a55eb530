"""Images of Google Compute Engine: one disk, called disk.raw, in a tar.gz of GNU's old format.

    disk.tar.gz: gzip of: header of disk.raw [map of its holes] | its data | end

The size of the disk is a whole number of GiB; what is missing is made up by zeros. Nothing is said
of a machine. Source: https://cloud.google.com/compute/docs/import/import-existing-image (checked by
`tar --format=oldgnu -Sczf`, which it asks for). Imports archives and imaging.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import ClassVar, Final

from vmimg.bundles.archives.gziptar import GzipTarWriter
from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.unsaid import unsaid
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, OptionError
from vmimg.machines.losses import Loss
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder
from vmimg.storage.output import Output
from vmimg.transfer.streaming import ByteSink
from vmimg.transfer.windows import data_spans
from vmimg.units import GIB, MIB, align_up

__all__ = ["GceImage", "make", "open"]

_MEMBER: Final = "disk.raw"
_ALIGNMENT: Final = 4096
# Smaller holes are sent: as zeros they take next to nothing, and the map stays short.
_SMALLEST_HOLE: Final = 64 << 10
_MAX_PIECES: Final = 100_000
_PIECE: Final = 4 * MIB


class GceImage(Bundle):
    """One disk, always raw, whatever its first sectors look like."""

    kind: ClassVar[str] = "gce"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        if not folder.exists(_MEMBER):
            raise FormatError(f"{self.name}: is no image of Compute Engine: it has no {_MEMBER}")
        size = folder.size(_MEMBER)
        self.disks = (BundleDisk("disk", _MEMBER, "raw", size),)
        if size % GIB:
            self.facts = {"odd-size": f"{size} bytes are no whole GiB: Compute Engine refuses it"}


def open(folder: Folder, claim: Claim) -> GceImage:
    """The image in ``folder``. Raises FormatError."""
    return GceImage(folder)


def make(package: Package, target: str, how: How) -> Made:
    """A tar.gz of the one disk of ``package``, rounded up to a GiB.

    Option ``sparse``: with the map of its holes, as GNU tar writes it; without, holes are sent as
    zeros, for readers that know no maps.
    """
    if len(package.disks) != 1:
        raise OptionError(f"an image of Compute Engine is one disk, not {len(package.disks)}")
    if how.format not in ("", "raw"):
        raise OptionError(f"an image of Compute Engine is a raw disk, not {how.format}")
    for name in package.files:
        raise OptionError(f"an image of Compute Engine holds a disk and nothing else, not '{name}'")
    packed = package.disks[0]
    disk = packed.disk
    size = max(GIB, align_up(disk.size, GIB))
    pieces = [(0, size)]
    if how.options.get("sparse", True):
        pieces = list(_pieces(disk))
    with Output(target, replace=how.replace) as storage:
        writing = GzipTarWriter(storage, level=how.level, threads=how.threads, flavour="gnu")
        with closing(writing) as writer:
            if pieces == [(0, size)]:
                writer.add_stream(_MEMBER, size, lambda sink: _send(disk, sink, pieces, how))
            else:
                writer.add_sparse(
                    _MEMBER, size, pieces, lambda sink: _send(disk, sink, pieces, how)
                )
            writer.finish()
        written = storage.size
    losses = unsaid(package.machine, "an image of Compute Engine", carried=[packed.drive])
    if size != disk.size:
        reason = "Compute Engine takes whole GiB: zeros are added at the end"
        losses += (Loss(f"drives[{packed.drive}].size", str(disk.size), reason, size),)
    return Made(target, written, losses)


def _pieces(disk: Disk) -> Iterator[tuple[int, int]]:
    """(start, end) of data, with the smaller holes between; so few that every reader takes them."""
    smallest = _SMALLEST_HOLE
    while True:
        found = list(_joined(data_spans(disk.spans()), disk.size, smallest))
        if len(found) <= _MAX_PIECES:
            yield from found
            return
        smallest *= 4


def _joined(
    spans: Iterable[tuple[int, int]], size: int, smallest: int
) -> Iterator[tuple[int, int]]:
    first = last = -1
    for low, high in spans:
        start = low // _ALIGNMENT * _ALIGNMENT
        end = min(align_up(high, _ALIGNMENT), size)
        if first >= 0 and start - last < smallest:
            last = max(last, end)
            continue
        if first >= 0:
            yield first, last
        first, last = start, end
    if first >= 0:
        yield first, last


def _send(disk: Disk, sink: ByteSink, pieces: Iterable[tuple[int, int]], how: How) -> int:
    """The pieces of the disk; what lies behind its end is zeros."""
    buffer = memoryview(bytearray(_PIECE))
    zeros = bytes(_PIECE)
    sent = 0
    for start, end in pieces:
        at = start
        while at < end:
            length = min(_PIECE, end - at)
            inside = max(0, min(length, disk.size - at))
            if inside:
                disk.read_into(at, buffer[:inside])
                sink.write(buffer[:inside])
            if inside < length:
                sink.write(memoryview(zeros)[: length - inside])
            at += length
            sent += length
            if how.progress is not None:
                how.progress(min(at, disk.size), disk.size)
    if how.progress is not None:
        how.progress(disk.size, disk.size)
    return sent
