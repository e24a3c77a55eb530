"""What a verb is: a click command that says which exit codes its failures have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from vmimg.errors import Interrupted, VmimgError

__all__ = ["CommandError", "Verb", "examples", "exit_codes"]


class CommandError(Exception):
    """A failure on its way to the one place that prints them, with the exit code of its verb.

    ``str()`` of it is the one line that a user reads.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


# What passes through as it is: whoever runs the command knows them.
_NOT_FAILURES: Final = (
    CommandError,
    Interrupted,
    click.ClickException,
    click.exceptions.Exit,
    click.Abort,
)


class Verb(click.Command):
    """A verb whose function returns the exit code; None is 0.

    ``error_exit`` is the code of failures, ``usage_exit`` that of mistakes in the command line:
    some verbs of qemu-img give 1 and 2 a meaning of their own.
    """

    error_exit = 1
    usage_exit = 2

    def __init__(
        self, *arguments: Any, error_exit: int = 1, usage_exit: int = 2, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.error_exit = error_exit
        self.usage_exit = usage_exit

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _NOT_FAILURES:
            raise
        except Exception as error:
            raise CommandError(_message(error), self.error_exit) from error


def _message(error: Exception) -> str:
    """One line for people."""
    if isinstance(error, VmimgError):
        return str(error)
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        # What has no name is no image: those are opened by name, and their errors are not OSErrors.
        return f"{error.filename or 'standard output'}: {reason}"
    if isinstance(error, MemoryError):
        return "out of memory"
    return (
        f"{type(error).__name__}: {error}; this is a bug in vmimg, "
        "VMIMG_DEBUG=1 in the environment shows where"
    )


def examples(*lines: str) -> str:
    """The end of a verb's help."""
    return _verbatim("Examples:", *(f"  {line}" for line in lines))


def exit_codes(codes: Mapping[int, str]) -> str:
    """What the exit codes of a verb mean; goes in front of the examples."""
    return _verbatim("Exit codes:", *(f"  {code:<3} {text}" for code, text in codes.items()))


def _verbatim(*lines: str) -> str:
    # click wraps all paragraphs that do not begin like this.
    return "\n".join(("\b", *lines, "", ""))
