"""Where the command gets passphrases from: a file, the environment, or a prompt.

Never from an argument, which every user of the machine can read in the list of processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from vmimg.cli.human import printable
from vmimg.errors import LockedImage, OptionError
from vmimg.formats.keys import Keys

__all__ = [
    "given_passphrases",
    "key_option",
    "passphrases",
    "target_key_option",
    "target_passphrases",
]

_F = TypeVar("_F", bound=Callable[..., Any])

_VARIABLE: Final = "VMIMG_PASSPHRASE"
_TARGET_VARIABLE: Final = "VMIMG_TARGET_PASSPHRASE"
# As cryptsetup: more is not a key file.
_MOST_BYTES: Final = 8 << 20


def key_option(function: _F) -> _F:
    """--key-file; see `passphrases`."""
    return click.option(
        "--key-file",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help=f"Passphrase of what is encrypted; else ${_VARIABLE}, else it is asked for.",
    )(function)


def target_key_option(function: _F) -> _F:
    """--target-key-file; see `target_passphrases`."""
    return click.option(
        "--target-key-file",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help=f"Passphrase of an encrypted DST, where not that of SRC; ${_TARGET_VARIABLE}.",
    )(function)


def passphrases(key_file: str | None, *, new: bool = False) -> Keys:
    """Keys from ``key_file``, the environment, or a prompt for each image.

    ``new``: an image is to be made with it, so that a prompt asks twice.
    """
    return _from(key_file, _VARIABLE) or _Prompt(new=new)


def given_passphrases(key_file: str | None) -> Keys | None:
    """Keys from ``key_file`` or the environment; None, without asking, where there are none."""
    return _from(key_file, _VARIABLE)


def target_passphrases(key_file: str | None, source_key_file: str | None, *, new: bool) -> Keys:
    """Keys of what convert writes to: its own, or else those that were given for the source."""
    return _from(key_file, _TARGET_VARIABLE) or passphrases(source_key_file, new=new)


def _from(key_file: str | None, variable: str) -> Keys | None:
    if key_file is not None:
        key = _read(key_file)
        return lambda name: key
    if variable in os.environ:
        given = os.fsencode(os.environ[variable])
        return lambda name: given
    return None


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        key = file.read(_MOST_BYTES + 1)
    if not key:
        raise OptionError(f"{path}: the key file is empty")
    if len(key) > _MOST_BYTES:
        raise OptionError(f"{path}: a key file has 8 MiB at most")
    return key


class _Prompt:
    """Asks once for each image."""

    def __init__(self, *, new: bool) -> None:
        self._new = new
        self._known: dict[str, bytes] = {}

    def __call__(self, name: str) -> bytes:
        if name not in self._known:
            self._known[name] = self._ask(name)
        return self._known[name]

    def _ask(self, name: str) -> bytes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            what = "is to be encrypted" if self._new else "is encrypted"
            raise LockedImage(
                f"{name}: {what}; pass --key-file FILE or set {_VARIABLE} in the environment"
            )
        text: str = click.prompt(
            f"Passphrase of {printable(name)}",
            hide_input=True,
            confirmation_prompt=self._new,
            err=True,
        )
        return text.encode(errors="surrogateescape")
