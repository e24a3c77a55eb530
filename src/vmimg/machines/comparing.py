"""Losses by reading back: what a reader of our text does not find as it was in the machine.

A writer says why it leaves things out; what is left out, it does not have to be believed: the text
is read again and compared with the machine, so nothing can be missing from the list. Imports model
and losses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from vmimg.machines.losses import Loss, foreign
from vmimg.machines.model import Machine

__all__ = ["losses_of"]


def losses_of(
    machine: Machine,
    found: Machine,
    own: str,
    reasons: Mapping[str, str],
    *,
    left_out: Collection[str] = (),
) -> tuple[Loss, ...]:
    """The losses between ``machine`` and what was ``found`` in the text of the dialect ``own``.

    ``reasons``: why, by places in the model without numbers: "networks.mac", "networks"; the
    nearest one around a place holds for it. ``left_out``: the members of lists that were not
    written: "drives[2]".
    """
    losses = foreign(machine, own)
    for name in (each.name for each in fields(machine)):
        before, after = getattr(machine, name), getattr(found, name)
        if name == "extras":
            mine, theirs = tuple(before.get(own, ())), tuple(after.get(own, ()))
            if mine != theirs:
                losses.extend(_extras(own, mine, theirs, reasons))
        else:
            losses.extend(_compare(name, before, after, reasons, left_out))
    return tuple(losses)


def _compare(
    key: str, before: Any, after: Any, reasons: Mapping[str, str], left_out: Collection[str]
) -> Iterator[Loss]:
    if before == after:
        return
    if isinstance(before, tuple):
        yield from _members(key, before, after, reasons, left_out)
    elif is_dataclass(before) and type(before) is type(after):
        for each in fields(before):
            yield from _compare(
                f"{key}.{each.name}",
                getattr(before, each.name),
                getattr(after, each.name),
                reasons,
                left_out,
            )
    else:
        yield Loss(key, _short(before), _reason(key, reasons), after)


def _members(
    key: str,
    before: tuple[Any, ...],
    after: tuple[Any, ...],
    reasons: Mapping[str, str],
    left_out: Collection[str],
) -> Iterator[Loss]:
    order = _order(before, after)
    if order is not None:
        yield _moved(key, before, after, order, reasons)
        return
    gone = [at for at in range(len(before)) if not after or f"{key}[{at}]" in left_out]
    kept = [at for at in range(len(before)) if at not in gone]
    if len(kept) != len(after) or not all(map(_alike, (before[at] for at in kept), after)):
        yield Loss(key, _told(before), _reason(key, reasons), after)
        return
    for at in gone:
        yield Loss(f"{key}[{at}]", _told((before[at],)), _reason(key, reasons))
    for at, found in zip(kept, after, strict=True):
        yield from _compare(f"{key}[{at}]", before[at], found, reasons, left_out)


def _order(before: tuple[Any, ...], after: tuple[Any, ...]) -> list[int] | None:
    """Where each member of ``before`` is in ``after``, if they are the same in another order."""
    names = [_identity(each) for each in before], [_identity(each) for each in after]
    if names[0] == names[1] or len(set(names[0])) < len(before) or set(names[0]) != set(names[1]):
        return None
    return [names[1].index(each) for each in names[0]]


def _identity(member: Any) -> tuple[Any, ...]:
    return tuple(getattr(member, name, member) for name in ("device", "path", "id"))


def _moved(
    key: str,
    before: tuple[Any, ...],
    after: tuple[Any, ...],
    order: list[int],
    reasons: Mapping[str, str],
) -> Loss:
    """One loss for a list that comes in another order; it tells what else its members lose."""
    said = ["another order"]
    for at, now in enumerate(order):
        found = _compare(f"{key}[{at}]", before[at], after[now], reasons, ())
        said += [f"{each.key}={each.value}" for each in found]
    return Loss(key, ", ".join(said), _reason(key, reasons), after)


def _alike(before: Any, after: Any) -> bool:
    """Whether they are the same member, however changed: for others a comparison says nothing."""
    names = ("device", "path", "id")
    return (
        type(before) is type(after)
        and sum(getattr(before, name, None) != getattr(after, name, None) for name in names) <= 1
    )


def _extras(
    own: str,
    mine: tuple[Any, ...],
    theirs: tuple[Any, ...],
    reasons: Mapping[str, str],
) -> Iterator[Loss]:
    kept = list(theirs)
    gone = []
    for at, pair in enumerate(mine):
        if kept and kept[0] == pair:
            kept.pop(0)
        else:
            gone.append(at)
    reason = _reason("extras", reasons)
    if kept:
        yield Loss(f"extras.{own}", _told(mine), reason, theirs)
        return
    for at in gone:
        yield Loss(f"extras.{own}[{at}]", " = ".join(mine[at]), reason)


def _reason(key: str, reasons: Mapping[str, str]) -> str:
    plain = "".join(part.partition("]")[2] if "]" in part else part for part in key.split("["))
    while plain:
        if plain in reasons:
            return reasons[plain]
        plain = plain.rpartition(".")[0]
    return reasons.get("", "there is no word for it")


def _told(members: tuple[Any, ...]) -> str:
    return ", ".join(_short(each) for each in members) or "none"


def _short(value: Any) -> str:
    if not is_dataclass(value):
        return str(value)
    said = [
        f"{each.name}={getattr(value, each.name)}"
        for each in fields(value)
        if getattr(value, each.name) not in ("", 0, None, ())
    ]
    return " ".join(said)
