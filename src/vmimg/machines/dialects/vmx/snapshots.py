"""The .vmsd beside a .vmx: the tree of its snapshots.

    snapshot.current = "2"                    uid of the one that the machine stands on
    snapshot0.uid, .parent, .displayName, .description, .filename, .type
    snapshot0.createTimeHigh, .createTimeLow  microseconds since 1970, halves with a sign
    snapshot0.disk0.fileName, .node           what each disk was called then

Source: files of Workstation and ESXi. Imports text and the model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from vmimg.errors import FormatError
from vmimg.machines.dialects.vmx.text import Dictionary, compose
from vmimg.machines.model import Bus, Drive, Snapshot

__all__ = ["read_snapshots", "write_snapshots"]

_MAX: Final = 1000
_NODE: Final = re.compile(r"(ide|sata|scsi|nvme)(\d{1,2}):(\d{1,3})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WITH_MEMORY: Final = "1"


def read_snapshots(data: bytes, name: str) -> tuple[Snapshot, ...]:
    """The snapshots in a .vmsd, in its order. Raises FormatError."""
    entries = Dictionary.parse(data, name)
    found = []
    current = entries.look("snapshot.current")
    numbers = [
        int(match[1])
        for key in entries.names()
        if (match := re.fullmatch(r"snapshot(\d{1,6})\.uid", key, re.I))
    ]
    if len(numbers) > _MAX:
        raise FormatError(f"{name}: more than {_MAX} snapshots")
    ids = {entries.look(f"snapshot{number}.uid") for number in numbers}
    for number in numbers:
        prefix = f"snapshot{number}"
        id = entries.look(f"{prefix}.uid")
        parent = entries.look(f"{prefix}.parent")
        with_memory = entries.look(f"{prefix}.type") == _WITH_MEMORY
        found.append(
            Snapshot(
                id=id,
                name=entries.look(f"{prefix}.displayName"),
                description=entries.look(f"{prefix}.description"),
                parent=parent if parent in ids else "",
                created=_time(entries, prefix, name),
                current=id == current,
                drives=_drives(entries, prefix, name),
                memory=entries.look(f"{prefix}.filename") if with_memory else "",
            )
        )
    return tuple(found)


def write_snapshots(snapshots: Sequence[Snapshot], stem: str) -> bytes:
    """The text of a .vmsd. ``stem``: what the names of files begin with. Ids that are no numbers
    become numbers.
    """
    uids = _uids(snapshots)
    lines = [
        ("snapshot.lastUID", str(max(uids.values(), default=0))),
        ("snapshot.numSnapshots", str(len(snapshots))),
    ]
    lines += [("snapshot.current", str(uids[each.id])) for each in snapshots if each.current]
    for number, each in enumerate(snapshots):
        prefix = f"snapshot{number}"
        uid = uids[each.id]
        lines.append((f"{prefix}.uid", str(uid)))
        lines.append((f"{prefix}.filename", each.memory or f"{stem}-Snapshot{uid}.vmsn"))
        if each.memory:
            lines.append((f"{prefix}.type", _WITH_MEMORY))
        if each.parent in uids:
            lines.append((f"{prefix}.parent", str(uids[each.parent])))
        lines.append((f"{prefix}.displayName", each.name))
        if each.description:
            lines.append((f"{prefix}.description", each.description))
        lines += _halves(prefix, each.created)
        lines.append((f"{prefix}.numDisks", str(len(each.drives))))
        for at, drive in enumerate(each.drives):
            place = f"{drive.bus}{drive.controller}:{drive.slot}"
            lines.append((f"{prefix}.disk{at}.fileName", drive.path))
            lines.append((f"{prefix}.disk{at}.node", place))
    return compose(lines)


def _uids(snapshots: Sequence[Snapshot]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in snapshots:
        if re.fullmatch(r"[1-9][0-9]{0,8}", each.id):
            found[each.id] = int(each.id)
    following = max(found.values(), default=0) + 1
    for each in snapshots:
        if each.id not in found:
            found[each.id] = following
            following += 1
    return found


def _time(entries: Dictionary, prefix: str, name: str) -> str:
    limit = 1 << 31
    high = entries.number(f"{prefix}.createTimeHigh", name, low=-limit, high=limit * 2)
    low = entries.number(f"{prefix}.createTimeLow", name, low=-limit, high=limit * 2)
    micros = ((high & 0xFFFFFFFF) << 32) | (low & 0xFFFFFFFF)
    if not micros or micros >= 1 << 57:
        return ""
    try:
        when = _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return ""
    return when.replace(microsecond=0).strftime("%Y-%m-%dT%H:%M:%SZ")


def _halves(prefix: str, created: str) -> list[tuple[str, str]]:
    try:
        when = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return []
    micros = (when - _EPOCH) // timedelta(microseconds=1)
    if micros <= 0:
        return []
    low = micros & 0xFFFFFFFF
    signed = low - (1 << 32) if low >= 1 << 31 else low
    return [
        (f"{prefix}.createTimeHigh", str(micros >> 32)),
        (f"{prefix}.createTimeLow", str(signed)),
    ]


def _drives(entries: Dictionary, prefix: str, name: str) -> tuple[Drive, ...]:
    found = []
    for at in range(entries.number(f"{prefix}.numDisks", name, high=256)):
        path = entries.look(f"{prefix}.disk{at}.fileName")
        node = _NODE.fullmatch(entries.look(f"{prefix}.disk{at}.node").lower())
        bus, controller, slot = (
            (cast("Bus", node[1]), int(node[2]), int(node[3])) if node else ("", 0, 0)
        )
        format = "vmdk" if path.lower().endswith(".vmdk") else ""
        found.append(Drive("disk", bus, controller, slot, path, format=format))
    return tuple(found)
