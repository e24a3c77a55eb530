"""Runs the command: signals, exit codes, and the one place that prints errors.

Exit codes: 0 done; 1 failed; 2 the command line makes no sense; 128 and the number of the signal
that stopped it (130 Ctrl-C, 143 SIGTERM). `check` and `compare` have more, those of qemu-img.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from vmimg.cli.app import vmimg
from vmimg.cli.human import printable
from vmimg.cli.verb import CommandError, Verb
from vmimg.errors import Interrupted

__all__ = ["run"]

# Gone with the terminal is as interrupted as Ctrl-C; Windows has no SIGHUP.
_STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_SIGPIPE = 13


class _Stopped(KeyboardInterrupt):
    """A signal asked to stop. Code that cleans up on KeyboardInterrupt cleans up on all of them."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(arguments: Sequence[str]) -> int:
    """The exit code of ``vmimg`` with ``arguments``. Prints what went wrong; raises nothing."""
    try:
        _catch_signals()
        _prepare_streams()
        if "_VMIMG_COMPLETE" in os.environ:
            vmimg.main(list(arguments), prog_name="vmimg")
        with vmimg.make_context("vmimg", list(arguments)) as context:
            code: int | None = vmimg.invoke(context)
        sys.stdout.flush()
        return code or 0
    except click.exceptions.Exit as end:
        return _flushed(end.exit_code)
    except BaseException as error:
        return _failed(error)


def _failed(error: BaseException) -> int:
    """Say what ``error`` is, in one line; returns the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if os.environ.get("VMIMG_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if _is_broken_pipe(error):
        # Whoever read the output has seen enough: `vmimg ... | head`.
        _flushed(0)
        return 128 + _SIGPIPE
    if isinstance(error, KeyboardInterrupt | click.Abort | Interrupted):
        number = error.number if isinstance(error, _Stopped) else _received or signal.SIGINT
        _say("interrupted")
        return 128 + number
    if isinstance(error, CommandError):
        _say(f"error: {error}")
        return error.exit_code
    if isinstance(error, click.UsageError):
        return _misused(error)
    if isinstance(error, click.ClickException):
        _say(f"error: {error.format_message()}")
        return error.exit_code
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        _say(f"error: {error.filename or 'standard output'}: {reason}")
        _flushed(0)
        return 1
    _say(f"error: {type(error).__name__}: {error}; this is a bug in vmimg")
    return 1


def _misused(error: click.UsageError) -> int:
    command = error.ctx.command if error.ctx is not None else vmimg
    path = error.ctx.command_path if error.ctx is not None else "vmimg"
    _say(f"error: {error.format_message().rstrip('.')}; see '{path} --help'")
    return command.usage_exit if isinstance(command, Verb) else error.exit_code


def _say(message: str) -> None:
    try:
        # Names out of a stranger's file must not steer the terminal, nor make a second line.
        print(printable(f"vmimg: {message}"), file=sys.stderr, flush=True)
    except OSError:
        pass


def _is_broken_pipe(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 16:
        if isinstance(error, BrokenPipeError):
            return True
        error, seen = error.__cause__ or error.__context__, seen + 1
    return False


def _flushed(code: int) -> int:
    """``code``, or 1 where standard output cannot be written; the interpreter's end stays quiet."""
    try:
        sys.stdout.flush()
        return code
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return code or 1


def _prepare_streams() -> None:
    # Where a standard stream was closed, the next file would get its number, and what is printed
    # would end up in an image. Read-only, so that writing an image to it is an error.
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    # Names that are not text in the terminal's encoding are printed escaped, not refused.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


_received = 0


def _catch_signals() -> None:
    """The first signal raises in the main thread; more of them do not disturb the cleaning up."""
    for number in _STOPPING:
        # What the parent told us to ignore (nohup, a background job) stays ignored.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    global _received
    _received = number
    for each in _STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)
