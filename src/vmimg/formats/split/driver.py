"""SplitDriver: disks in parts, one behind the other. The first part is the image; the others are
found beside it by their names.

There is no structure, so content does not tell: a claim is made by name alone, a weak one, and what
is in the first part goes before it. Imports disk and storage; no numpy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmimg.disk.concat import ConcatLayer
from vmimg.disk.extent import Extent
from vmimg.disk.layer import Layer, ParentRef
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, OptionError, UnsafeImage
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.driver import Companions, Driver, ImageInfo, Writer
from vmimg.formats.keys import Keys
from vmimg.formats.raw.driver import RawLayer
from vmimg.formats.split.joined import JoinedStorage
from vmimg.formats.split.series import Series, find_series
from vmimg.storage.base import Storage
from vmimg.units import align_up

if TYPE_CHECKING:
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = ["SplitDriver"]

_SECTOR = 512
# More than raw, and than what only says of a part of a raw disk what it is; less than any magic.
_BY_NAME = 30


class SplitDriver(Driver):
    """Raw disks in parts."""

    def probe(self, storage: Storage) -> int:
        series = _series(storage)
        return _BY_NAME if series is not None and series.usual else 0

    def is_plain(self, storage: Storage) -> bool:
        return True

    def vet(self, storage: Storage) -> Iterator[Finding]:
        from vmimg.formats.split.vetting import vet_split

        return vet_split(storage)

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        from vmimg.formats.split.vetting import split_evidence

        return tuple(split_evidence(storage))

    def inspect(self, storage: Storage) -> ImageInfo:
        series = _whole(storage)
        sizes = [storage.size, *(_size(storage, path) for path in series.paths[1:])]
        folder = os.path.dirname(storage.name)
        parts = [
            {"filename": os.path.join(folder, name), "size": size}
            for name, size in zip(series.names, sizes, strict=True)
        ]
        parts[0]["filename"] = storage.name
        details: dict[str, Any] = {"parts": parts}
        count = len(sizes)
        shown = f"{count} parts" if count > 1 else "1 part"
        if count > 1:
            shown += f", from {series.names[0]} to {series.names[-1]}"
        notes = [shown]
        try:
            joined = _joined(storage, series, sizes)
        except UnsafeImage as error:
            notes.append(str(error).removeprefix(f"{storage.name}: "))
        else:
            from vmimg.formats.raw.contents import examine

            with joined:
                found = examine(joined)
            details["contents"] = found.to_json()
            notes += found.lines()
        return ImageInfo(
            format="split",
            virtual_size=align_up(sum(sizes), _SECTOR),
            details=details,
            notes=tuple(notes),
        )

    def open(
        self,
        storage: Storage,
        *,
        writable: bool,
        companions: Companions,
        snapshot: str | None = None,
        keys: Keys | None = None,
    ) -> Layer:
        if snapshot is not None:
            raise OptionError(f"{storage.name}: a raw disk in parts has no snapshots")
        series = _whole(storage)
        files = [storage, *(companions(name, "part") for name in series.names[1:])]
        # As with raw, what is missing of the last sector reads as zeros.
        padding = -sum(file.size for file in files) % _SECTOR
        paddings = [0] * (len(files) - 1) + [padding]
        parts = [
            _PartLayer(file, file.name if number else None, padding, writable=writable)
            for number, (file, padding) in enumerate(zip(files, paddings, strict=True))
        ]
        return _SplitLayer(parts)

    def writer(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None = None,
        base: Layer | None = None,
        name: str = "disk",
        keys: Keys | None = None,
    ) -> Writer:
        from vmimg.formats.split.writer import SplitWriter

        return SplitWriter(size, options, name)


class _SplitLayer(ConcatLayer):
    format = "split"

    def __init__(self, parts: list[_PartLayer]) -> None:
        super().__init__(parts)
        self.format = "split"


class _PartLayer(RawLayer):
    """One file, and ``padding`` bytes of zeros behind it. ``file``: how maps call it."""

    format = "split"

    def __init__(self, storage: Storage, file: str | None, padding: int, *, writable: bool) -> None:
        super().__init__(storage, writable=writable)
        self.size = storage.size + padding
        self._file = file

    def map(self, start: int, end: int) -> Iterator[Extent]:
        for extent in super().map(start, end):
            yield replace(extent, file=self._file)


def _series(storage: Storage) -> Series | None:
    # Memory, and what came through a pipe, has nothing beside it.
    return find_series(storage.name) if storage.identity() is not None else None


def _whole(storage: Storage) -> Series:
    """The series that ``storage`` is the first part of. Raises what keeps it from being read."""
    series = _series(storage)
    if series is None:
        raise FormatError(
            f"{storage.name}: is not the first part of a disk in parts: its name does not end in "
            ".001, .000 or .aa, or nothing beside it goes on from there"
        )
    if series.number:
        raise ChainError(
            f"{storage.name}: is part {series.number + 1} of a disk; open the first one, "
            f"{series.names[0]}"
        )
    if series.missing is not None:
        raise ChainError(
            f"{storage.name}: its part '{series.missing}' is missing, and there are later ones"
        )
    return series


def _size(storage: Storage, path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        name = os.path.basename(path)
        raise ChainError(f"{storage.name}: its part '{name}' cannot be opened: {reason}") from error


def _joined(storage: Storage, series: Series, sizes: list[int]) -> JoinedStorage:
    """All of it, to look at. Raises UnsafeImage where a part leads out of the directory."""
    policy = ParentPolicy()
    paths = [policy.resolve(storage.name, name, "part") for name in series.names[1:]]
    return JoinedStorage(storage, list(zip(paths, sizes[1:], strict=True)))
