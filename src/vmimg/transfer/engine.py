"""The engine: windows of a disk are loaded in parallel and committed in order.

Every worker takes a free buffer and the next window, loads it (reads, searches for zeros, compares,
compresses) and deposits it. Whoever deposits while nobody commits commits what is ready, in order,
until the next window is not. So the layout does not depend on the number of threads, memory is a
fixed number of buffers, and there is no queue to bound.

One thread at a time commits because writes to one file are not parallel anyway: Linux holds a lock
on the inode, and the threads that wait for it spin. Written by whoever happened to load a window,
the same data took a quarter more processor time and a tenth more wall time.

Knows no format and no target.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Progress", "Stages", "Window", "default_threads", "run"]

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in total) from the thread that called; may raise to stop the work.
"""

# How often the caller's thread wakes to report progress and to notice signals.
_TICK = 0.1
# Each worker costs some 10 MiB; with more of them than this the interpreter's lock is the limit.
_MOST = 16
# Loaders may be this many windows ahead of the one that commits.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Window:
    """Virtual bytes [start, end) that are treated at one time."""

    start: int
    end: int


class Stages(Protocol):
    """What happens to a window. ``buffer`` belongs to the window until `commit` returns."""

    def load(self, window: Window, buffer: memoryview) -> Any:
        """In parallel: read it, and whatever else needs no order."""

    def commit(self, window: Window, loaded: Any) -> None:
        """One window at a time, in the order of the windows: place it and write it."""


def default_threads() -> int:
    """Workers when the caller names no number: the processors this process may run on, up to 16."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, min(_MOST, len(os.sched_getaffinity(0))))
    return min(_MOST, os.cpu_count() or 1)


def run(
    windows: Iterable[Window],
    stages: Stages,
    *,
    buffer_size: int,
    total: int,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Put all ``windows`` (ascending) through ``stages``; each gets ``buffer_size`` bytes.

    ``total``: what progress calls the end, in bytes. Whatever a stage, the windows or the progress
    callback raises (a signal handler too) stops all workers and is raised here, after they are
    gone.
    """
    count = threads or default_threads()
    pool = _Pool(windows, stages, buffer_size, count + _AHEAD if count > 1 else 1)
    workers = [
        threading.Thread(target=pool.work, name=f"vmimg-{number}", daemon=True)
        for number in range(count)
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_TICK)
                if progress is not None:
                    progress(min(pool.done, total), total)
    finally:
        pool.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    if pool.failure is not None:
        raise pool.failure
    if progress is not None:
        progress(total, total)


class _Pool:
    """The state that the workers share."""

    def __init__(
        self, windows: Iterable[Window], stages: Stages, buffer_size: int, buffers: int
    ) -> None:
        self._windows = iter(windows)
        self._stages = stages
        self._buffer_size = buffer_size
        self._unmade = buffers
        self._free: list[memoryview] = []
        self._feed = threading.Lock()
        self._taken = 0
        self._state = threading.Condition()
        self._ready: dict[int, tuple[Window, Any, memoryview]] = {}
        self._next = 0
        self._committing = False
        self._stopped = False
        self.done = 0
        """Virtual bytes up to which everything is committed."""
        self.failure: BaseException | None = None

    def stop(self) -> None:
        with self._state:
            self._stopped = True
            self._state.notify_all()

    def work(self) -> None:
        try:
            while self._load_one():
                self._commit_ready()
        except BaseException as error:
            with self._state:
                if self.failure is None:
                    self.failure = error
            self.stop()

    def _load_one(self) -> bool:
        # The buffer first: so the window that is to be committed next has one, and all go on.
        buffer = self._take_buffer()
        if buffer is None:
            return False
        with self._feed:
            window = None if self._stopped else next(self._windows, None)
            number = self._taken
            self._taken += 1
        if window is None:
            return False
        loaded = self._stages.load(window, buffer)
        with self._state:
            self._ready[number] = window, loaded, buffer
        return True

    def _commit_ready(self) -> None:
        with self._state:
            if self._committing:
                return  # whoever it is finds what was deposited
            self._committing = True
        while True:
            with self._state:
                item = None if self._stopped else self._ready.pop(self._next, None)
                if item is None:
                    self._committing = False
                    return
            window, loaded, buffer = item
            self._stages.commit(window, loaded)
            with self._state:
                self._next += 1
                self.done = window.end
                self._free.append(buffer)
                self._state.notify()

    def _take_buffer(self) -> memoryview | None:
        with self._state:
            while not self._free and not self._unmade:
                if self._stopped:
                    return None
                self._state.wait()
            if self._free:
                return self._free.pop()
            self._unmade -= 1
        # Anonymous pages: aligned, zeroed, and given back when the work is done.
        return memoryview(mmap.mmap(-1, self._buffer_size))
