"""The one place that draws progress: on standard error, so that standard output stays clean."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, get_args

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Mode", "Progress", "progress_options"]

Mode = Literal["bar", "percent", "json", "none"]

_F = TypeVar("_F", bound=Callable[..., Any])

# Shorter work ends before anybody has read the bar, and before rich is imported.
_PATIENCE: Final = 0.4
_INTERVALS: Final[dict[str, float]] = {"bar": 0.1, "percent": 0.1, "json": 0.2}


def progress_options(function: _F) -> _F:
    """-p, -q and --progress."""
    for option in (
        click.option(
            "--progress",
            "progress_mode",
            type=click.Choice(get_args(Mode)),
            help="How to show progress; by default a bar for long work, on a terminal.",
        ),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("-p", "show_progress", is_flag=True, help="Show progress."),
    ):
        function = option(function)
    return function


class Progress:
    """A progress callback, and a context around the work that calls it.

    Never fails: progress that cannot be shown must not end the work.
    """

    def __init__(self, mode: Mode, label: str = "") -> None:
        self.mode = mode
        self._label = label
        self._began = self._shown = time.monotonic()
        self._last: tuple[int, int] | None = None
        self._pending = False
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    @classmethod
    def wanted(cls, mode: str | None, *, show: bool, quiet: bool, label: str = "") -> Self:
        """Progress as the options of `progress_options` ask for it."""
        terminal = _is_terminal()
        chosen: Mode
        if mode == "json":
            chosen = "json"
        elif mode == "none" or quiet:
            chosen = "none"
        elif mode == "percent" or ((show or mode == "bar") and not terminal):
            chosen = "percent"
        else:
            chosen = "bar" if terminal else "none"
        return cls(chosen, label)

    @property
    def callback(self) -> Callable[[int, int], None] | None:
        """What to give to the core: None where nobody looks."""
        return None if self.mode == "none" else self

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes are done."""
        if self.mode == "none":
            return
        self._last, self._pending = (done, total), True
        now = time.monotonic()
        if now - self._shown < _INTERVALS[self.mode] or (
            self.mode == "bar" and now - self._began < _PATIENCE
        ):
            return
        self._shown = now
        self._show()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pending and kind is None and (self.mode != "bar" or self._bar is not None):
            self._show()
        if self._bar is not None:
            self._bar.stop()
        elif self.mode == "percent" and self._last is not None:
            self._write("\n")

    def _show(self) -> None:
        if self._last is None:
            return
        self._pending = False
        done, total = self._last
        if self.mode == "json":
            self._write(json.dumps({"done": done, "total": total}) + "\n")
        elif self.mode == "percent":
            # As qemu-img prints it, for whoever parses that.
            self._write(f"    ({100 * done / total if total else 100:.2f}/100%)\r")
        else:
            self._draw(done, total)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            # Redrawn from here and not by a thread of its own: the workers want the processors.
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.percentage:3.0f}%"),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=Console(stderr=True),
                transient=True,
                auto_refresh=False,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=total)
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            self.mode = "none"


def _is_terminal() -> bool:
    import os

    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
