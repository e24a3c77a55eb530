"""What a description cannot say: on standard error, a line for each, never in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from vmimg.cli.human import dim, echo, paint, printable

if TYPE_CHECKING:
    from vmimg.machines.losses import Loss

__all__ = ["say_losses"]

_MAX_LINES: Final = 40
_MAX_VALUE: Final = 60
# What an unsaid value is called.
_UNSAID: Final = ("", "none", "None", "0", "()")


def say_losses(losses: Iterable[Loss], where: str) -> None:
    """``where``: the name of the dialect or bundle. What the machine did not say and the dialect
    must is told in one line: nothing is lost by that. What the disks themselves say is not told.
    """
    found = [loss for loss in losses if not loss.said_by]
    lost = [loss for loss in found if loss.value not in _UNSAID]
    chosen = [loss for loss in found if loss.value in _UNSAID and loss.instead is not None]
    if lost:
        echo(paint(f"{printable(where)} does not say:", "yellow"), err=True)
    for loss in lost[:_MAX_LINES]:
        found_there = "" if loss.instead is None else _told(loss.instead)
        instead = "" if found_there in _UNSAID else f"; there: {_shown(found_there)}"
        echo(f"  {loss.key} = {_shown(loss.value)} ({printable(loss.reason)}{instead})", err=True)
    if len(lost) > _MAX_LINES:
        echo(f"  and {len(lost) - _MAX_LINES} more; --output json lists all", err=True)
    if chosen:
        parts = (f"{loss.key} = {_shown(_told(loss.instead))}" for loss in chosen[:_MAX_LINES])
        echo(dim(f"chosen, since nothing was said: {', '.join(parts)}"), err=True)


def _told(value: Any) -> str:
    """A value of the model in words."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    if is_dataclass(value):
        members = (getattr(value, field.name) for field in fields(value))
        return " ".join(_told(member) for member in members if member)
    return str(value)


def _shown(value: str) -> str:
    text = printable(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."
