"""Snapshots.xml beside a config.pvs: the tree of states that were kept.

    <ParallelsSavedStates>
      <SavedStateItem guid="">                       the root, which is no state
        <SavedStateItem guid="{...}" state="poweroff" current="yes"> <Name/> <DateTime/> ...

The disks of a state are in the .hdd bundles, under the same identifier. Source: Virtuozzo's
libvzctl (snapshot.c). Imports XML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid5

from vmimg.machines.model import Snapshot
from vmimg.machines.xml import Element, children, make, parse, serialise, text

__all__ = ["TIME", "guid", "read_snapshots", "write_snapshots"]

_ROOT: Final = "ParallelsSavedStates"
_ITEM: Final = "SavedStateItem"
TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)Z")
"""As the model has it; there is a space in the file, and no zone."""
_THERE: Final = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)Z?")
_SPACE: Final = UUID("6a0c2c2e-44a5-5b53-9b75-0d1f6c3a7a11")
"""For identifiers that are made of what a state is called."""


def read_snapshots(data: bytes, name: str) -> tuple[Snapshot, ...]:
    """The states in ``data``, parents before children. Raises FormatError."""
    found: list[Snapshot] = []
    waiting = [(each, "") for each in children(parse(data, name, root=_ROOT), _ITEM)]
    while waiting:
        element, parent = waiting.pop(0)
        id_ = str(element.get("guid", "")).strip("{} ").lower()
        below = [(each, id_ or parent) for each in children(element, _ITEM)]
        waiting[:0] = below
        if id_:
            found.append(_snapshot(element, id_, parent))
    return tuple(found)


def _snapshot(element: Element, id_: str, parent: str) -> Snapshot:
    time = _THERE.fullmatch(text(element, "DateTime"))
    return Snapshot(
        id=id_,
        name=text(element, "Name"),
        description=text(element, "Description"),
        parent=parent,
        created=f"{time[1]}T{time[2]}Z" if time else "",
        current=element.get("current") == "yes",
    )


def write_snapshots(snapshots: Sequence[Snapshot]) -> bytes:
    """The file with the names and the tree of ``snapshots``."""
    root = make(_ROOT)
    items = {"": make(_ITEM, {"guid": ""}, parent=root)}
    for tag in ("Name", "DateTime", "Creator", "ScreenShot", "Description"):
        make(tag, parent=items[""])
    for each in snapshots:
        attributes = {"guid": f"{{{guid(each.id)}}}", "state": "poweroff"}
        if each.current:
            attributes["current"] = "yes"
        item = make(_ITEM, attributes, parent=items.get(each.parent, items[""]))
        items[each.id] = item
        make("Name", content=each.name, parent=item)
        make("DateTime", content=each.created.replace("T", " ").rstrip("Z"), parent=item)
        make("Creator", parent=item)
        make("ScreenShot", parent=item)
        make("Description", content=each.description, parent=item)
    return serialise(root)


def guid(id_: str) -> str:
    """The identifier itself, or one made of it."""
    try:
        return str(UUID(id_))
    except ValueError:
        return str(uuid5(_SPACE, id_))
