"""Disks into bundles: an image written straight to where it shall lie, and how large it will be.

Imports transfer and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmimg.codecs import Level
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError
from vmimg.formats.driver import Writer
from vmimg.formats.keys import Keys
from vmimg.formats.registry import find
from vmimg.storage.base import Storage
from vmimg.transfer.engine import Progress
from vmimg.transfer.imaging import FileSink, Imaging
from vmimg.transfer.streaming import ByteSink, OrderedSink, Rehearsal
from vmimg.transfer.targets import check_makeable, lay_out

__all__ = ["image_size", "stream_image", "write_image"]


def write_image(
    disk: Disk,
    format: str,
    storage: Storage,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    compress: bool = False,
    level: Level = "default",
    threads: int = 0,
    keys: Keys | None = None,
    progress: Progress | None = None,
) -> int:
    """Write ``disk`` as an image into ``storage``, which is empty and grows; its size in bytes.

    ``name`` is the file's, for what refers to it. Raises OptionError where such an image would be
    several files.
    """
    writer = _writer(disk, format, name, options, compress, keys)
    work = _image(disk, writer, FileSink(storage), compress, level, threads, progress)
    return work.file_size


def image_size(
    disk: Disk,
    format: str,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    threads: int = 0,
) -> int:
    """The exact size in bytes of what `stream_image` will send without compression. Reads the disk
    once, to find its zeros.
    """
    writer = _writer(disk, format, name, options, False, None)
    return _image(disk, writer, Rehearsal(), False, "default", threads, None).file_size


def stream_image(
    disk: Disk,
    format: str,
    target: ByteSink,
    *,
    name: str,
    options: Mapping[str, Any] | None = None,
    compress: bool = False,
    level: Level = "default",
    threads: int = 0,
    progress: Progress | None = None,
) -> int:
    """Send ``disk`` as an image, from its first byte to its last; its size in bytes."""
    writer = _writer(disk, format, name, options, compress, None)
    late: dict[int, bytes] = {}
    if writer.late_metadata:
        rehearsal = Rehearsal()
        first = writer.twin() or _writer(disk, format, name, options, compress, None)
        _image(disk, first, rehearsal, compress, level, threads, None)
        late = rehearsal.late
    sink = OrderedSink(target, name, late)
    return _image(disk, writer, sink, compress, level, threads, progress).file_size


def _writer(
    disk: Disk,
    format: str,
    name: str,
    options: Mapping[str, Any] | None,
    compress: bool,
    keys: Keys | None,
) -> Writer:
    found = find(format)
    check_makeable(found)
    writer = lay_out(
        found,
        disk.size,
        found.parse_options(options or {}),
        path=name,
        compress=compress,
        keys=keys,
    )
    if writer.companions or writer.index:
        raise OptionError(f"{name}: an image with these options is several files, not one member")
    return writer


def _image(
    disk: Disk,
    writer: Writer,
    sink: FileSink | Rehearsal | OrderedSink,
    compress: bool,
    level: Level,
    threads: int,
    progress: Progress | None,
) -> Imaging:
    wanted = level if compress or writer.compressed_only else None
    sparse = 0 if writer.stores_zeros else 4096
    work = Imaging(disk, writer, sink, sparse=sparse, level=wanted)
    work.write(threads=threads, progress=progress)
    return work
