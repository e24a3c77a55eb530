"""OVAs that nobody wrote: read at any offset, or sent from the first byte to the last.

An OVA is a tar whose first members, descriptor and manifest, tell the sizes and digests of the
disks behind them. So there are two that can be had without a file, for two kinds of disks:

- `virtual_ova`: plain disks, monolithicSparse VMDKs unless told otherwise, each a virtual image.
  The length is known at once and every range can be read. Without a manifest, which is optional
  (DSP0243, 5.1), for its digests would take reading everything first; it is made where it is asked
  for. VirtualBox, QEMU's tools and vmimg read such an OVA; vSphere wants streamOptimized disks.
- `streamed_ova`: the OVA that `pack` writes, compressed disks, manifest and signature, made twice:
  once for sizes and digests, then to be sent. Two rounds of compression instead of a temporary file
  as large as the OVA: coders here always make the same bytes, disk space would have to be found
  for each receiver, and one that goes away has cost nothing but time. The length is known after
  the first round, before anything is sent.

Imports packing, ovf and transfer.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, Literal

from vmimg.bundles.archives import digests
from vmimg.bundles.archives.tarwriting import END, tar_header, tar_padding
from vmimg.bundles.archives.writing import pieces_of
from vmimg.bundles.ovf.targets import PackageTarget
from vmimg.bundles.ovf.writing import Member, Plan
from vmimg.bundles.package import How, Package
from vmimg.bundles.packing import over_all, packaged
from vmimg.bundles.registry import find
from vmimg.codecs import find_level
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError, StorageError
from vmimg.formats.keys import Keys, as_keys
from vmimg.machines.model import Machine
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.view import ReadOnlyStorage
from vmimg.transfer.engine import Progress
from vmimg.transfer.streamed import streamed_image
from vmimg.transfer.virtual import VirtualImage, virtual_image
from vmimg.units import MIB

__all__ = ["VirtualOva", "streamed_ova", "virtual_ova"]

Send = Callable[[Buffer], object]
Zeros = Literal["map", "data"]

_PLAIN: Final[dict[str, dict[str, Any]]] = {"vmdk": {"subformat": "monolithicSparse"}}
# What can be compressed and need not be is not; what takes reading everything is made when wanted.
_DEFAULTS: Final = {"manifest": "off", "compress": False}
_ZEROS: Final = bytes(1 * MIB)


class VirtualOva(ReadOnlyStorage):
    """``parts``, one behind the other, none of which was written. ``held``: bytes of memory that
    the maps of its disks take, about. Closing it closes none of the disks.
    """

    def __init__(self, name: str, parts: Sequence[Storage]) -> None:
        self.name = name
        self._parts = [part for part in parts if part.size]
        *self._starts, self.size = accumulate((part.size for part in self._parts), initial=0)
        self.held = sum(part.held for part in parts if isinstance(part, VirtualImage))

    @cached_property
    def layout(self) -> str:
        """As of a VirtualImage: of where all is, and of all that is neither on a disk nor a file
        that is carried along.
        """
        found = hashlib.sha256()
        for part in self._parts:
            found.update(b"%d" % part.size)
            if isinstance(part, VirtualImage):
                found.update(part.layout.encode())
            elif isinstance(part, MemoryStorage):
                found.update(part.getvalue())
        return found.hexdigest()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        for part, start, low, high in self._pieces(offset, offset + len(buffer)):
            part.read_into(low - start, buffer[low - offset : high - offset])

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        if start < end:
            self._check(start, end - start)
            for part, first, low, high in self._pieces(start, end):
                for a, b, hole in part.extents(low - first, high - first):
                    yield a + first, b + first, hole

    def allocated(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def _pieces(self, start: int, end: int) -> Iterator[tuple[Storage, int, int, int]]:
        """(part, where it begins, start and end of what [start, end) has of it)."""
        number = bisect_right(self._starts, start) - 1
        while start < end:
            part, first = self._parts[number], self._starts[number]
            stop = min(end, first + part.size)
            yield part, first, start, stop
            number, start = number + 1, stop


def virtual_ova(
    disks: Sequence[Disk],
    *,
    name: str = "machine.ova",
    machine: Machine | None = None,
    files: Mapping[str, Storage] | None = None,
    options: Mapping[str, Any] | None = None,
    format: str = "vmdk",
    disk_options: Mapping[str, Any] | None = None,
    zeros: Zeros = "map",
    threads: int = 0,
    keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> VirtualOva:
    """An OVA of ``disks``, which stay open and must not change, that can be read at any offset.

    ``name``: what the file will be called, and what is in it after it. ``machine``, ``files`` (open
    ones), ``options``, ``format`` and ``disk_options`` as for `pack`, but that disks are not
    compressed and a manifest is made only where ``options`` have one, by reading everything.
    ``zeros``, ``threads`` and ``progress`` as for `virtual_image`; with "data" it is byte for byte
    what `pack` makes with the same options. ``keys``: of the key that it is signed with.

    Raises OptionError for disks that cannot be virtual images, and what `pack` raises.
    """
    own = {**_PLAIN.get(format, {}), **(disk_options or {})}
    how = _how(format, own, {**_DEFAULTS, **(options or {})}, threads=threads, keys=keys)
    package = packaged(disks, name, machine=machine, files=files)
    plan = _VirtualPlan(
        package,
        replace(how, progress=over_all(progress, [disk.size for disk in disks])),
        name,
        zeros,
    )
    target = _VirtualTarget()
    plan.write(target)
    return VirtualOva(name, target.parts)


def streamed_ova(
    disks: Sequence[Disk],
    send: Send,
    *,
    name: str = "machine.ova",
    machine: Machine | None = None,
    files: Mapping[str, Storage] | None = None,
    options: Mapping[str, Any] | None = None,
    format: str = "vmdk",
    disk_options: Mapping[str, Any] | None = None,
    level: str = "default",
    threads: int = 0,
    keys: Keys | bytes | str | None = None,
    begin: Callable[[int], object] | None = None,
    progress: Progress | None = None,
) -> int:
    """Send an OVA of ``disks``, byte for byte what `pack` makes; its size.

    The disks are made twice, so that nothing is stored. ``begin`` is called with the size when that
    is known, before anything is sent. ``send`` and ``progress`` as for `streamed_image`: what they
    raise stops all work. The rest is as for `pack`, of open files.

    Raises OptionError before anything was sent, StorageError also where the second round makes
    other disks than the first: a source changed, and what was sent is worthless.
    """
    own = dict(disk_options or {})
    how = _how(format, own, options or {}, level=level, threads=threads, keys=keys)
    package = packaged(disks, name, machine=machine, files=files)
    target = _Sending(name, send, begin, str(how.options["manifest"]))
    watch = over_all(progress, 2 * [disk.size for disk in disks])
    return _StreamedPlan(package, replace(how, progress=watch), name, target).write(target)


def _how(
    format: str,
    disk_options: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    level: str = "default",
    threads: int = 0,
    keys: Keys | bytes | str | None = None,
) -> How:
    kind = find("ova")
    if format not in kind.formats:
        raise OptionError(
            f"{kind.title}: carries disks as {', '.join(kind.formats)}, not as {format}"
        )
    return How(
        options=kind.parse_options(options),
        format=format,
        disk_options=disk_options,
        level=find_level(level),
        threads=threads,
        keys=None if keys is None else as_keys(keys),
    )


class _VirtualPlan(Plan):
    """A package whose disks are virtual images."""

    def __init__(self, package: Package, how: How, name: str, zeros: Zeros) -> None:
        super().__init__(package, how, name)
        self._zeros = zeros
        if self.compress:
            raise OptionError("compressed disks have no size before they are made: compress=off")

    def image(self, target: PackageTarget, member: Member) -> int:
        made = virtual_image(
            member.packed.disk,
            self.format,
            self.options,
            zeros=self._zeros,
            name=member.name,
            threads=self.how.threads,
            progress=self.how.progress,
        )
        return target.copy(member.name, made)


class _VirtualTarget:
    """A PackageTarget: a tar of storages that stay where they are."""

    def __init__(self) -> None:
        self.parts: list[Storage] = []
        self._texts: dict[str, tuple[int, int]] = {}
        """Of those announced: number of the part, size."""
        self._files: dict[str, Storage] = {}

    def text(self, name: str, size: int) -> None:
        self._texts[name] = len(self.parts), size
        self.parts.append(MemoryStorage())

    def fill(self, name: str, data: bytes) -> None:
        number, _ = self._texts[name]
        data = self.padded(name, data)
        self.parts[number] = MemoryStorage(
            tar_header(name, len(data), "ustar") + data + tar_padding(len(data))
        )

    def padded(self, name: str, data: bytes) -> bytes:
        return data.ljust(self._texts[name][1], b"\n")

    def image(self, name: str, write: Callable[[Storage], int]) -> int:
        raise NotImplementedError  # the plan has storages

    def copy(self, name: str, storage: Storage) -> int:
        self._files[name] = storage
        self.parts += [
            MemoryStorage(tar_header(name, storage.size, "ustar")),
            storage,
            MemoryStorage(tar_padding(storage.size)),
        ]
        return storage.size

    def digest(self, name: str, algorithm: str) -> str:
        return digests(self._files[name], (algorithm,))[algorithm]

    def finish(self) -> int:
        self.parts.append(MemoryStorage(END))
        return sum(part.size for part in self.parts)


class _StreamedPlan(Plan):
    """A package whose disks are made each time that they are sent."""

    def __init__(self, package: Package, how: How, name: str, target: _Sending) -> None:
        super().__init__(package, how, name)
        self._target = target

    def image(self, target: PackageTarget, member: Member) -> int:
        disk, watch = member.packed.disk, self.how.progress

        def progress(done: int, total: int) -> None:
            if watch is not None:  # however often it has to be read
                watch(done * disk.size // max(1, total), disk.size)

        def make(send: Send) -> None:
            streamed_image(
                disk,
                self.format,
                send,
                self.options,
                name=member.name,
                compress=self.compress,
                level=self.how.level,
                threads=self.how.threads,
                progress=progress,
            )

        return self._target.member(member.name, make)


class _Sending:
    """A PackageTarget: all members are made once to be counted and digested; `finish` sends them.
    ``algorithm``: of the manifest, or "off".
    """

    def __init__(
        self, name: str, send: Send, begin: Callable[[int], object] | None, algorithm: str
    ) -> None:
        self._name = name
        self._send = send
        self._begin = begin
        # To tell whether the second round makes the same, a digest is taken in any case.
        self._algorithm = "sha256" if algorithm == "off" else algorithm
        self._texts: dict[str, bytes] = {}
        self._room: dict[str, int] = {}
        self._members: dict[str, tuple[Callable[[Send], None], _Count]] = {}

    def text(self, name: str, size: int) -> None:
        self._room[name] = size

    def fill(self, name: str, data: bytes) -> None:
        self._texts[name] = self.padded(name, data)

    def padded(self, name: str, data: bytes) -> bytes:
        return data.ljust(self._room[name], b"\n")

    def image(self, name: str, write: Callable[[Storage], int]) -> int:
        raise NotImplementedError  # the plan makes members

    def copy(self, name: str, storage: Storage) -> int:
        def make(send: Send) -> None:
            for start, length, hole in pieces_of(storage):
                send(memoryview(_ZEROS)[:length] if hole else storage.read(start, length))

        return self.member(name, make)

    def member(self, name: str, make: Callable[[Send], None]) -> int:
        """A member that ``make`` sends; its size."""
        count = _Count(self._algorithm)
        make(count.take)
        self._members[name] = make, count
        return count.size

    def digest(self, name: str, algorithm: str) -> str:
        return self._members[name][1].digest

    def finish(self) -> int:
        sizes = [len(self._texts[name]) for name in self._room]
        sizes += [count.size for _, count in self._members.values()]
        names = [*self._room, *self._members]
        total = len(END) + sum(
            len(tar_header(name, size, "ustar")) + size + len(tar_padding(size))
            for name, size in zip(names, sizes, strict=True)
        )
        if self._begin is not None:
            self._begin(total)
        for name in self._room:
            text = self._texts[name]
            self._send(tar_header(name, len(text), "ustar") + text + tar_padding(len(text)))
        for name, (make, first) in self._members.items():
            self._send(tar_header(name, first.size, "ustar"))
            second = _Count(self._algorithm, first.size, self._send)
            make(second.take)
            if (second.size, second.digest) != (first.size, first.digest):
                raise StorageError(
                    f"{self._name}: the source of '{name}' changed while it was being streamed; "
                    "the stream so far is worthless"
                )
            if padding := tar_padding(first.size):
                self._send(padding)
        self._send(END)
        return total


class _Count:
    """Counts and digests what goes by; passes it on to ``send``, at the most ``most`` bytes."""

    def __init__(self, algorithm: str, most: int = 0, send: Send | None = None) -> None:
        self.size = 0
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._most = most
        self._send = send

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def take(self, data: Buffer) -> None:
        self.size += memoryview(data).nbytes
        self._hash.update(data)
        # More than the header says would be read as the next member.
        if self._send is not None and self.size <= self._most:
            self._send(data)
