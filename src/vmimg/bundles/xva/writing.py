"""Making an XVA: blocks in ascending order, zeros left out, in one pass over each disk.

Blocks are read, searched for zeros and summed up in parallel, and written in order. xapi reads the
archive as a stream: ova.xml, then the disks in the order of its list, each block followed by its
checksum; the first and the last block always, for it counts from the one and ends with the other.
Source: xen-api, ocaml/xapi/export.ml and stream_vdi.ml. Imports transfer, archives and machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vmimg.bundles.archives import ArchiveWriter, GzipTarWriter, TarWriter
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.bundles.xva.checksums import checksum
from vmimg.bundles.xva.members import CHECKSUMS, block_name
from vmimg.bundles.xva.zstdstream import ZstdSink
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError
from vmimg.machines.losses import Loss
from vmimg.machines.registry import find
from vmimg.storage.base import Buffer
from vmimg.storage.output import Output
from vmimg.transfer.engine import Window, run
from vmimg.transfer.windows import cell_size, data_spans, union, windows
from vmimg.transfer.zeros import nonzero_blocks
from vmimg.units import MIB, align_up

__all__ = ["make_xva"]

_BLOCK: Final = MIB
_COMPRESSIONS: Final = ("none", "gzip", "zstd")


def make_xva(package: Package, target: str, how: How) -> Made:
    """See `vmimg.bundles.xva.make`."""
    kind = str(how.options.get("checksum", "sha1"))
    compress = str(how.options.get("compress", "none"))
    if how.format not in ("", "raw") or how.disk_options:
        raise OptionError("disks in an XVA are blocks of what the guest sees: they have no format")
    if compress not in _COMPRESSIONS:
        raise OptionError(f"an XVA is compressed by one of {', '.join(_COMPRESSIONS)}")
    description, refs, losses = _described(package)
    sums, extension = checksum(kind), next(e for e, name in CHECKSUMS.items() if name == kind)
    with ExitStack() as stack:
        output = stack.enter_context(Output(target, replace=how.replace))
        archive: ArchiveWriter
        if compress == "gzip":
            compressed = GzipTarWriter(output, level=how.level, threads=how.threads, unique=False)
            stack.callback(compressed.close)
            archive = compressed
        elif compress == "zstd":
            archive = TarWriter(
                stack.enter_context(ZstdSink(output, how.level, how.threads)), unique=False
            )
        else:
            archive = TarWriter(output, unique=False)
        archive.add("ova.xml", description)
        for packed, ref in zip(_ordered(package), refs, strict=True):
            stages = _Blocks(packed.disk, ref, archive, sums, f".{extension}")
            stages.write(how)
        archive.finish()
        if isinstance(archive.storage, ZstdSink):
            archive.storage.finish()
        size = output.size
    return Made(target, size, losses)


def _ordered(package: Package) -> Sequence[PackedDisk]:
    return sorted(package.disks, key=lambda packed: packed.drive)


def _described(package: Package) -> tuple[bytes, list[str], tuple[Loss, ...]]:
    """The ova.xml, what it calls the disks, and what it cannot say."""
    machine, drives = package.machine, list(package.machine.drives)
    for packed in package.disks:
        size = packed.disk.size
        drives[packed.drive] = replace(
            drives[packed.drive], path="", source="file", format="raw", size=size
        )
    written = find("xapi").write(replace(machine, drives=tuple(drives)))
    # What a disk's path becomes is the directory of its blocks.
    places = {loss.key: loss.instead for loss in written.losses}
    own = {f"drives[{packed.drive}].path" for packed in package.disks}
    refs = [places.get(f"drives[{packed.drive}].path") for packed in _ordered(package)]
    if any(not isinstance(ref, str) or not ref for ref in refs):
        raise OptionError(f"an XVA cannot say all {len(refs)} disks of this machine")
    losses = [loss for loss in written.losses if loss.key not in own]
    losses += [Loss(f"files.{name}", name, "an XVA carries disks only") for name in package.files]
    return written.data, [str(ref) for ref in refs], tuple(losses)


@dataclass(slots=True)
class _Loaded:
    """The blocks of a window that are to be written: (number, bytes, checksum)."""

    blocks: list[tuple[int, memoryview, bytes]]


class _Blocks:
    """The engine's stages for one disk. ``extension``: of the files with checksums."""

    def __init__(
        self,
        disk: Disk,
        ref: str,
        archive: ArchiveWriter,
        sums: Callable[[Buffer], str],
        extension: str,
    ) -> None:
        self._disk = disk
        self._ref = ref
        self._archive = archive
        self._sums = sums
        self._extension = extension
        self._last = max(0, disk.size - 1) // _BLOCK

    def write(self, how: How) -> None:
        """All of it. Raises what reading and writing raise."""
        size = self._disk.size
        if size == 0:
            raise OptionError(f"{self._disk.name}: a disk of no bytes cannot be exported")
        run(
            windows(union(data_spans(self._disk.spans()), self._ends()), _BLOCK, size),
            self,
            buffer_size=cell_size(_BLOCK),
            total=size,
            threads=how.threads,
            progress=how.progress,
        )

    def load(self, window: Window, buffer: memoryview) -> _Loaded:
        length = window.end - window.start
        whole = align_up(length, _BLOCK)
        self._disk.read_into(window.start, buffer[:length])
        if length < whole:
            np.frombuffer(buffer[length:whole], np.uint8)[:] = 0
        full = nonzero_blocks(buffer[:whole], _BLOCK)
        first = window.start // _BLOCK
        for number in (0, self._last):
            if first <= number < first + len(full):
                full[number - first] = True
        blocks = []
        for row in np.flatnonzero(full).tolist():
            data = buffer[row * _BLOCK : min((row + 1) * _BLOCK, length)]
            blocks.append((first + row, data, self._sums(data).encode("ascii")))
        return _Loaded(blocks)

    def commit(self, window: Window, loaded: _Loaded) -> None:
        for number, data, value in loaded.blocks:
            name = block_name(self._ref, number)
            self._archive.add(name, data)
            self._archive.add(name + self._extension, value)

    def _ends(self) -> Iterator[tuple[int, int]]:
        """The first and the last block, which are written whatever is in them."""
        yield 0, min(_BLOCK, self._disk.size)
        if self._last:
            yield self._last * _BLOCK, self._disk.size
