"""measure: how large the file of a converted image will be. A layout of which nothing is moved."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vmimg.codecs import find_level
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.keys import Keys
from vmimg.formats.registry import find
from vmimg.transfer.engine import Progress
from vmimg.transfer.imaging import Imaging, NoSink
from vmimg.transfer.sources import open_source
from vmimg.transfer.targets import lay_out
from vmimg.transfer.windows import data_spans

__all__ = ["MeasureResult", "measure"]

_DEFAULT_POLICY = ParentPolicy()
# Blocks placed at a time.
_BATCH = 1 << 20


@dataclass(frozen=True, slots=True)
class MeasureResult:
    """Bytes of all files of an image. ``required``: of the one that convert makes.
    ``fully_allocated``: of one in which every block was written.
    """

    required: int
    fully_allocated: int

    def to_json(self) -> dict[str, int]:
        """With the keys of ``qemu-img measure --output json``."""
        return {"required": self.required, "fully-allocated": self.fully_allocated}


def measure(
    source: str | os.PathLike[str] | Disk | None = None,
    *,
    size: int | None = None,
    format: str = "raw",
    options: Mapping[str, OptionValue] | None = None,
    source_format: str | None = None,
    snapshot: str | None = None,
    compress: bool = False,
    level: str = "default",
    estimate: bool = False,
    share: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> MeasureResult:
    """The size that ``source``, or an empty disk of ``size`` bytes, takes in ``format``.

    ``required`` is exact: the source is read, so that zeros are known, and with ``compress`` its
    blocks are compressed. ``estimate`` looks at the map of the source only: fast, and never too
    small. Raises OptionError, and what opening and reading raise.
    """
    found = find(format)
    if (source is None) == (size is None):
        raise OptionError("measure takes an image or a size, one of them")
    if source is None:
        disk, owned = Disk([EmptyLayer(size or 0)]), True
    elif isinstance(source, Disk):
        disk, owned = source, False
    else:
        disk, owned = (
            open_source(
                os.fspath(source),
                source_format,
                snapshot=snapshot,
                share=share,
                policy=policy,
                keys=keys,
            ),
            True,
        )
    try:
        given = found.parse_options(options or {})
        # Without keys: the size of an image does not depend on them, and making one takes its time.
        writer = lay_out(found, disk.size, given, path="-", compress=compress)
        fully_allocated = writer.full_size()
        if estimate and writer.preallocation == "off":
            required = _laid_out(writer, data_spans(disk.spans()))
        else:
            effort = find_level(level) if compress or writer.compressed_only else None
            sparse = 0 if writer.stores_zeros else 4096
            work = Imaging(disk, writer, NoSink(), sparse=sparse, level=effort)
            work.write(threads=threads, progress=progress)
            required = work.file_size + sum(work.companion_sizes)
        return MeasureResult(required, fully_allocated)
    finally:
        if owned:
            disk.close()


def _laid_out(writer: Writer, spans: Iterable[tuple[int, int]]) -> int:
    """Bytes of the file when every block that ``spans`` (ascending) touches is placed."""
    position = 0
    for start, end in spans:
        first = max(position, start // writer.block_size)
        position = max(first, -(-end // writer.block_size))
        for batch in range(first, position, _BATCH):
            stop = min(position, batch + _BATCH)
            writer.place(np.arange(batch, stop, dtype=np.int64))
            for _ in writer.drain(stop):
                pass
    for _ in writer.finish():
        pass
    return writer.file_size + sum(writer.companion_sizes)
