"""Losses of kinds that carry disks and describe no machine, or little of one. Imports machines."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any

from vmimg.machines.losses import Loss
from vmimg.machines.model import Machine

__all__ = ["unsaid"]


def unsaid(
    machine: Machine, kind: str, *, said: Collection[str] = (), carried: Collection[int] = ()
) -> tuple[Loss, ...]:
    """What is lost of ``machine`` in a ``kind`` ("a UEC image") that says only the fields ``said``
    and carries the disks of the drives ``carried``.
    """
    reason = f"{kind} does not describe the machine"
    losses: list[Loss] = []
    for field in fields(Machine):
        value: Any = getattr(machine, field.name)
        if field.name in said:
            continue
        if field.name == "extras":
            losses += [
                Loss(f"extras.{dialect}[{at}]", f"{key} = {text}", reason)
                for dialect, pairs in value.items()
                for at, (key, text) in enumerate(pairs)
            ]
        elif isinstance(value, tuple):
            losses += [
                Loss(f"{field.name}[{at}]", _told(member), reason)
                for at, member in enumerate(value)
                if field.name != "drives" or at not in carried
            ]
        elif is_dataclass(value) and field.name != "display":
            losses += [
                Loss(f"{field.name}.{inner.name}", str(getattr(value, inner.name)), reason)
                for inner in fields(value)
                if getattr(value, inner.name) != inner.default
            ]
        elif value:
            losses.append(Loss(field.name, _told(value), reason))
    return tuple(losses)


def _told(value: Any) -> str:
    """A member of a list in a word."""
    if not is_dataclass(value):
        return str(value)
    words = [getattr(value, name, "") for name in ("name", "path", "mac", "model", "kind", "bus")]
    return next((word for word in words if word), type(value).__name__.lower())
