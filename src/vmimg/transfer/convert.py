"""convert: a disk of any format becomes an image of any other.

Opens the source, chooses the way to the target (a new file, a stream, an image or device that is
there already) and runs the engine. Knows no format: everything it needs is in descriptors, drivers
and writers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from vmimg.codecs import find_level
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import RangeLayer
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.opening import open_disk
from vmimg.storage.output import OutputSet
from vmimg.transfer.engine import Progress
from vmimg.transfer.filling import Filling
from vmimg.transfer.imaging import Imaging, Sink
from vmimg.transfer.sources import open_source
from vmimg.transfer.streaming import OrderedSink, Rehearsal
from vmimg.transfer.targets import (
    add_outputs,
    check_alignment,
    choose_format,
    is_device,
    lay_out,
    open_parent,
    parent_ref,
    refuse_own_files,
)
from vmimg.units import align_up

__all__ = ["ConvertResult", "convert"]

_DEFAULT_POLICY = ParentPolicy()


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What convert did. Sizes in bytes; ``data_bytes`` is what was written of the guest's,
    ``file_size`` the size of the target with all its files (None for an image that was there
    before). ``virtual_size`` is above ``source_size`` only where alignment was asked for.
    """

    source_format: str
    format: str
    source_size: int
    virtual_size: int
    data_bytes: int
    file_size: int | None
    seconds: float


def convert(
    source: str | os.PathLike[str] | Disk,
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    source_format: str | None = None,
    options: Mapping[str, OptionValue] | None = None,
    compress: bool = False,
    level: str = "default",
    backing: str | None = None,
    backing_format: str | None = None,
    sparse: int = 4096,
    align: int = 512,
    existing: bool = False,
    target_is_zero: bool = False,
    snapshot: str | None = None,
    threads: int = 0,
    replace: bool = False,
    share: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    target_keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write the content of ``source`` to ``target``.

    ``source``: a path, ``-`` for a raw image on standard input, or an open disk (which stays open).
    ``target``: a path, or ``-`` for a stream on standard output. ``format``: of the target; taken
    from its extension where None. ``options``: creation options of that format. ``compress`` with
    ``level`` "fast", "default" or "best". ``backing`` and ``backing_format``: make an overlay that
    holds only what differs from that image. ``sparse``: the smallest run of zeros, in bytes, that
    becomes a hole; 0 stores them all. ``align``: the virtual size is rounded up to a multiple of
    this, with zeros. ``existing``: write into an image that is there,
    whose format ``format`` names; ``target_is_zero`` says that it reads as zeros. ``snapshot``: an
    internal snapshot of the source. ``threads``: 0 for one per processor; the result is the same
    for any number. ``replace``: an existing file may be replaced, at the end. ``share``: take no
    lock on the source. ``keys``: passphrases of what is encrypted, see `open_disk`; ``target_keys``
    that of an encrypted target, or of its backing files, where they are other ones.

    The target appears under its name only when it is complete and durable; on any error nothing is
    left and nothing was overwritten, except in images and devices written in place. Raises the
    errors of vmimg.errors, and whatever ``progress`` raises.
    """
    began = time.monotonic()
    path = os.fspath(target)
    new_keys = as_keys(keys if target_keys is None else target_keys)
    effort = find_level(level)
    if sparse and (sparse < 512 or sparse & (sparse - 1)):
        raise OptionError(f"the sparse size is 0 or a power of two from 512, not {sparse}")
    check_alignment(align)
    if align > 512 and existing:
        raise OptionError("an image that is there already keeps its size: it takes no --align")
    with ExitStack() as stack:
        if isinstance(source, Disk):
            disk = source
        else:
            disk = stack.enter_context(
                open_source(
                    os.fspath(source),
                    source_format,
                    snapshot=snapshot,
                    share=share,
                    policy=policy,
                    keys=keys,
                    near=path,
                )
            )
        refuse_own_files(disk, path)
        source_format, source_size = disk.format, disk.size
        if disk.size % align:
            disk = Disk([RangeLayer(disk, 0, align_up(disk.size, align))])
        if existing or (format == "raw" and is_device(path)):
            if compress or backing is not None or options:
                raise OptionError("an image that is there already takes no -c, -B or -o")
            there = stack.enter_context(
                open_disk(path, format=format, writable=True, policy=policy, keys=new_keys)
            )
            filling = Filling(disk, there, sparse=sparse, target_is_zero=target_is_zero)
            filling.write(threads=threads, progress=progress)
            made, data_bytes, file_size = there.format, filling.data_bytes, None
        else:
            found = choose_format(path, format)
            given = dict(options or {})
            parent = parent_ref(found, given, backing, backing_format)
            base = None
            if parent is not None:
                base = stack.enter_context(
                    open_parent(path, parent, policy, share=share, keys=keys)
                )
            parsed = found.parse_options(given)

            def make_writer() -> Writer:
                return lay_out(
                    found,
                    disk.size,
                    parsed,
                    path=path,
                    parent=parent,
                    base=base,
                    sparse=sparse,
                    compress=compress,
                    keys=new_keys,
                )

            def image(writer: Writer, sink: Sink, watch: Progress | None) -> Imaging:
                wanted = effort if compress or writer.compressed_only else None
                shortest = 0 if writer.stores_zeros else sparse
                work = Imaging(disk, writer, sink, base=base, sparse=shortest, level=wanted)
                work.write(threads=threads, progress=watch)
                return work

            if path == "-":
                work = _to_stream(make_writer, image, progress)
            else:
                work = _to_file(make_writer(), image, progress, path, replace)
            made, data_bytes = found.name, work.data_bytes
            file_size = work.file_size + sum(work.companion_sizes)
    return ConvertResult(
        source_format=source_format,
        format=made,
        source_size=source_size,
        virtual_size=disk.size,
        data_bytes=data_bytes,
        file_size=file_size,
        seconds=time.monotonic() - began,
    )


_Image = Callable[[Writer, Sink, Progress | None], Imaging]


def _to_file(
    writer: Writer, image: _Image, progress: Progress | None, path: str, replace: bool
) -> Imaging:
    with OutputSet() as outputs:
        sink = add_outputs(outputs, writer, path, replace=replace)
        work = image(writer, sink, progress)
        sink.check_room()
    return work


def _to_stream(
    make_writer: Callable[[], Writer], image: _Image, progress: Progress | None
) -> Imaging:
    from vmimg.storage.stream import StreamSink

    writer = make_writer()
    if writer.index:
        raise OptionError("an image with these options is a directory and cannot be streamed")
    if writer.companions:
        names = ", ".join(companion.name for companion in writer.companions[:3])
        raise OptionError(
            f"an image with these options is several files (besides it {names}) and cannot be "
            "streamed"
        )
    stream, rehearsal = StreamSink(), Rehearsal()
    if writer.late_metadata:
        image(writer.twin() or make_writer(), rehearsal, None)
    return image(writer, OrderedSink(stream, stream.name, rehearsal.late), progress)
