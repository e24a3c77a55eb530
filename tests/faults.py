"""Faults of the operating system, one at a time: storage calls it, and the n-th call fails.

The modules of storage get another `os`, in which calls are counted, fail, come short or are slow;
so what is tested is what runs, down to the last line above the kernel. Around it `ordeal` runs an
operation with a fault at every call that it makes, and says what must hold whatever fails.
"""

from __future__ import annotations

import errno
import importlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

from rounds import one_of
from vmimg.errors import VmimgError

__all__ = ["READS", "WRITES", "Faults", "ordeal", "snapshot"]

# Whoever of vmimg calls the system to read or to write.
MODULES = (
    "vmimg.storage",
    "vmimg.storage.file",
    "vmimg.storage.output",
    "vmimg.storage.stream",
    "vmimg.storage.syscalls",
    "vmimg.formats.iso.making",
    "vmimg.formats.iso.tree",
    "vmimg.service.stores.file",
)

# At each of so many calls there is always a fault: there files are opened and made.
_FIRST = 10
READS = frozenset({"preadv", "preadv2", "pread", "read", "lseek", "fstat", "stat", "listdir"})
WRITES = frozenset(
    {
        *("open", "close", "dup", "mkdir", "ftruncate", "fchmod", "copy_file_range"),
        *("pwritev", "pwrite", "write", "fallocate", "fsync", "fdatasync"),
        *("link", "rename", "replace"),
    }
)


class Faults:
    """While in force: of the calls in ``kinds``, the one with number ``at`` fails with ``error``.

    ``room``: this many bytes can be written to files, then nothing fits any more; the write that
    meets the end is cut short, as real ones are. ``short``: reads and writes do less than they are
    asked to. ``slow``: calls take a moment, another one each time. ``every``: all calls from ``at``
    on fail.
    """

    def __init__(
        self,
        *,
        at: int = 0,
        kinds: Iterable[str] = READS | WRITES,
        error: int = errno.EIO,
        room: int | None = None,
        short: bool = False,
        slow: bool = False,
        every: bool = False,
    ) -> None:
        self._at = at
        self._kinds = frozenset(kinds)
        self._error = error
        self._room = room
        self._short = short
        self._slow = slow
        self._every = every
        self._chance = random.Random(1)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self.calls = 0
        self.failed: list[str] = []
        """The calls that were made to fail."""

    def __enter__(self) -> Self:
        system = _System(self)
        for name in MODULES:
            module = importlib.import_module(name)
            if hasattr(module, "os"):
                self._stack.enter_context(mock.patch.object(module, "os", system))
        syscalls = importlib.import_module("vmimg.storage.syscalls")
        real = syscalls._fallocate

        def fallocate(*arguments: Any) -> Any:
            return self.call("fallocate", real, arguments, {})

        self._stack.enter_context(mock.patch.object(syscalls, "_fallocate", fallocate))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def call(self, name: str, real: Callable[..., Any], given: Any, named: Any) -> Any:
        """The call ``name``, or the fault that it is time for."""
        with self._lock:
            if name in self._kinds:
                self.calls += 1
                due = self.calls == self._at or (self._every and 0 < self._at <= self.calls)
            else:
                due = False
            given = self._shortened(name, given)
            if due:
                self.failed.append(name)
        if self._slow:
            time.sleep(self._chance.random() / 2000)
        if not due:
            return real(*given, **named)
        if name == "close":
            real(*given, **named)  # the descriptor is gone, whatever close says
        raise OSError(self._error, os.strerror(self._error))

    def _shortened(self, name: str, given: Any) -> Any:
        if name == "preadv" and self._short:
            fd, (buffer,), offset = given
            return fd, [memoryview(buffer)[: self._some(len(buffer))]], offset
        if name in ("read", "copy_file_range") and self._short:
            number = 1 if name == "read" else 2
            return (*given[:number], self._some(given[number]), *given[number + 1 :])
        if name not in ("pwritev", "write"):
            return given
        pieces = [given[1]] if name == "write" else given[1]
        whole = sum(len(piece) for piece in pieces)
        length = self._some(whole) if self._short else whole
        if self._room is not None and given[0] > 2:
            if not self._room:
                self.failed.append(name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            length = min(length, self._room)
            self._room -= length
        if length == whole:
            return given
        data = b"".join(pieces)[:length]
        return (given[0], data) if name == "write" else (given[0], [data], *given[2:])

    def _some(self, length: int) -> int:
        return self._chance.randint(1, length) if length > 1 else length


class _System:
    """`os`, in which some calls go through `Faults`."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in READS | WRITES:
            return real

        def call(*given: Any, **named: Any) -> Any:
            return self._faults.call(name, real, given, named)

        return call


def ordeal(
    folder: Path,
    prepare: Callable[[Path], None],
    operation: Callable[[Path], object],
    *,
    judge: Callable[[Path, VmimgError | None], None] | None = None,
    kinds: Iterable[str] = READS | WRITES,
    error: int = errno.EIO,
    step: int = 1,
) -> int:
    """Run ``operation`` in a directory that ``prepare`` fills, with a fault at every call that it
    makes (at every ``step``-th; behind the first few, at fewer where time matters), until it makes
    no more; returns how many there were.

    Whatever fails: an error of vmimg comes out, or the result is the one that it is without a
    fault; no thread is left, no descriptor, and no file. After an error all files are as they were;
    ``judge`` says what else holds where that is not so.
    """
    expected = folder / "expected"
    prepare(_fresh(expected))
    operation(expected)
    result = snapshot(expected)
    for turn in chain(range(_FIRST), count(_FIRST, one_of())):
        at = 1 + turn * step
        place = _fresh(folder / "place")
        prepare(place)
        before, descriptors = snapshot(place), _descriptors()
        failure: VmimgError | None = None
        with Faults(at=at, kinds=kinds, error=error) as faults:
            try:
                operation(place)
            except VmimgError as caught:
                failure = caught.with_traceback(None)
        where = f"call {at}, {faults.failed}: {failure!r}"
        left = [thread.name for thread in threading.enumerate() if "vmimg" in thread.name]
        assert left == [], where
        after = snapshot(place)
        assert not [name for name in after if "vmimg-part" in name], where
        if judge is not None:
            judge(place, failure)
        elif failure is None:
            assert _same(after, result), f"{where}: another result"
        else:
            assert _same(after, before), f"{where}: {_difference(before, after)}"
        failure = None
        assert _descriptors() == descriptors, f"{where}: descriptors are left open"
        if not faults.failed:
            return at
    raise AssertionError("not reached")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by its name there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _same(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    return one == other  # as a value: nobody wants to see megabytes of difference


def _difference(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
