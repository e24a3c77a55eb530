"""--sandbox: the options, and what is said of the sandbox afterwards.

A verb takes `sandbox_options`, asks `sandboxed`, has one of `confined_...` do the work, and in the
end calls `say_confinement`, or puts `confinement` into its JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vmimg.cli.human import echo, printable

if TYPE_CHECKING:
    from vmimg.formats.info import DiskInfo
    from vmimg.probe.detecting import Detection
    from vmimg.probe.policy import Policy
    from vmimg.probe.vetting import Report
    from vmimg.sandbox import Confinement

__all__ = [
    "confined_detect",
    "confined_info",
    "confined_vet",
    "confinement",
    "sandbox_options",
    "sandboxed",
    "say_confinement",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

_WANTED = "vmimg.sandbox"
_REQUIRED = "vmimg.require_sandbox"
_CONFINEMENT = "vmimg.confinement"


def _remember(key: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, param: click.Parameter, value: bool) -> None:
        context.meta[key] = value

    return callback


def sandbox_options(function: _F) -> _F:
    """--sandbox and --require-sandbox; ask `sandboxed` for them."""
    function = click.option(
        "--require-sandbox",
        is_flag=True,
        expose_value=False,
        callback=_remember(_REQUIRED),
        help="Like --sandbox, but refuse where the system lacks a part of it.",
    )(function)
    return click.option(
        "--sandbox",
        is_flag=True,
        expose_value=False,
        callback=_remember(_WANTED),
        help="Parse in a process that can open no file and no connection.",
    )(function)


def sandboxed() -> bool:
    """Whether one of the options was given."""
    meta = click.get_current_context().meta
    return bool(meta.get(_WANTED) or meta.get(_REQUIRED))


def confined_detect(path: str) -> Detection:
    """The answer of `vmimg.sandbox.detect`."""
    from vmimg.sandbox import detect

    return _kept(detect(path, require=_required()))


def confined_vet(path: str, *, policy: Policy, declared: str | None) -> Report:
    """The answer of `vmimg.sandbox.vet`."""
    from vmimg.sandbox import vet

    return _kept(vet(path, policy=policy, declared=declared, require=_required()))


def confined_info(path: str, *, format: str | None, share: bool) -> DiskInfo:
    """The answer of `vmimg.sandbox.info`."""
    from vmimg.sandbox import info

    return _kept(info(path, format=format, share=share, require=_required()))


def _kept(answer: tuple[_T, Confinement]) -> _T:
    click.get_current_context().meta[_CONFINEMENT] = answer[1]
    return answer[0]


def confinement() -> Confinement | None:
    """What held the last parser: for JSON, under the key "sandbox"."""
    held: Confinement | None = click.get_current_context().meta.get(_CONFINEMENT)
    return held


def say_confinement() -> None:
    """One line on standard error: what held the parser, and what this system lacks."""
    held = confinement()
    if held is not None:
        echo(printable(f"vmimg: sandbox: {held}"), err=True)


def _required() -> bool:
    return bool(click.get_current_context().meta.get(_REQUIRED))
