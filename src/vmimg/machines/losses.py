"""Loss: what a dialect cannot say of a machine, and what stands there instead.

A writer lists everything that a reader of its text would not find as it was in the machine. So this
holds for every dialect and every machine, and the tests hold each dialect to it:

    read(write(machine).data) == without(machine, write(machine).losses)

Keys are places in the model: "firmware.tpm", "networks[1].model", "snapshots[0]", "extras.vmx[3]".
Imports the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final, Literal

from vmimg.machines.model import Machine

__all__ = ["Loss", "foreign", "graded", "without"]

_SIZE: Final = re.compile(r"((?:snapshots\[\d+\]\.)?drives\[\d+\])\.size")
_STEP: Final = re.compile(r"([a-z_-]+)(?:\[(\d+)\])?")


@dataclass(frozen=True, slots=True)
class Loss:
    """``key``: a place in the model. ``value``: what is there, as text. ``reason``: in a few words,
    why the dialect does not say it. ``instead``: what a reader finds there: a value of the field's
    type, or None for the field's default (of a member of a list: it is left out). ``said_by``: who
    says it all the same: "image", for what the image of a disk tells by itself, "" for nobody.
    """

    key: str
    value: str
    reason: str
    instead: Any = None
    said_by: Literal["", "image"] = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "value": self.value,
            "reason": self.reason,
            "instead": None if self.instead is None else str(self.instead),
            "said-by": self.said_by or None,
        }


def without(machine: Machine, losses: Iterable[Loss]) -> Machine:
    """``machine`` as it is when everything in ``losses`` happened to it."""
    removed: list[tuple[str, int]] = []
    changed: Any = machine
    for loss in losses:
        steps = [(name, int(at) if at else None) for name, at in _STEP.findall(loss.key)]
        if steps[-1][1] is not None and loss.instead is None:
            removed.append((loss.key.rpartition("[")[0], steps[-1][1]))
        else:
            changed = _set(changed, steps, loss.instead)
    # Inner lists first, and each from its end: the places of what is left out later stay what they
    # are.
    for path, at in sorted(removed, key=lambda each: (-each[0].count("["), -each[1])):
        steps = [(name, int(index) if index else None) for name, index in _STEP.findall(path)]
        members = _get(changed, steps)
        changed = _set(changed, steps, (*members[:at], *members[at + 1 :]))
    extras = {dialect: pairs for dialect, pairs in changed.extras.items() if pairs}
    result: Machine = replace(changed, extras=extras)
    return result


def graded(machine: Machine, losses: Iterable[Loss]) -> tuple[Loss, ...]:
    """``losses`` of ``machine``, those marked that the disks themselves make up for: the size of an
    image that a description names, and says no other size of.
    """
    found = []
    for loss in losses:
        place = _SIZE.fullmatch(loss.key)
        if place is not None and not loss.instead:
            steps = [(name, int(at) if at else None) for name, at in _STEP.findall(place[1])]
            if _get(machine, steps).path:
                loss = replace(loss, said_by="image")
        found.append(loss)
    return tuple(found)


def foreign(machine: Machine, own: str) -> list[Loss]:
    """The losses of what ``machine`` keeps verbatim of other dialects than ``own``."""
    return [
        Loss(f"extras.{dialect}[{at}]", f"{key} = {value}", f"a word of {dialect} only")
        for dialect, pairs in machine.extras.items()
        if dialect != own
        for at, (key, value) in enumerate(pairs)
    ]


def _get(value: Any, steps: list[tuple[str, int | None]]) -> Any:
    for name, at in steps:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
        if at is not None:
            value = value[at]
    return value


def _set(value: Any, steps: list[tuple[str, int | None]], new: Any) -> Any:
    if not steps:
        return new
    (name, at), rest = steps[0], steps[1:]
    if name == "extras" and not rest and at is None:
        return replace(value, extras=new or {})
    if isinstance(value, dict):
        inner = value.get(name, ())
    else:
        inner = getattr(value, name)
    if at is not None:
        members = list(inner)
        members[at] = _set(members[at], rest, new)
        inner = tuple(members)
    elif rest:
        inner = _set(dict(inner) if name == "extras" else inner, rest, new)
    else:
        inner = _default(value, name) if new is None else new
    if isinstance(value, dict):
        return {**value, name: inner}
    return replace(value, **{name: inner})


def _default(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return ()
    assert is_dataclass(value)
    found = next(each for each in fields(value) if each.name == name)
    if callable(found.default_factory):
        return found.default_factory()
    return found.default
