"""What a config.pvs says that the model has no word for: found, and put back where it stood.

`kept` compares a file with what would be written of the machine in it. Each text that is another
there, or that only the file has, is an extra; its key is the path of its element:

    ("Settings/Tools/IsolatedVm", "0")                 only the file says it
    ("Hardware/Hdd[2]/UserFriendlyName", "archive")    of the second disk, in the model's order
    ("Hardware/TpmChip/Type", "2")                     says more than our number for the same thing

Imports XML, words and reading.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.parallels import words
from vmimg.machines.dialects.parallels.reading import drive_place, machine_of
from vmimg.machines.model import BUSES, Extra, Machine
from vmimg.machines.xml import Element, find, make, printable, text

__all__ = ["kept", "put_back"]

_STEP: Final = re.compile(r"([A-Za-z_][\w.-]*)(?:\[(\d{1,5})\])?")
# Characters of all paths together: a few long names would make much of little.
_MAX_TEXT: Final = 16 << 20
# What Parallels writes of its lists and of what it once changed in them: nothing of the machine.
_BOOKKEEPING: Final = ("dyn_lists", "id")


def kept(root: Element, machine: Machine) -> tuple[Extra, ...]:
    """What the file has and `rendered` has not, in the order of the keys."""
    from vmimg.machines.dialects.parallels.writing import fitted, rendered

    ours = _leaves(rendered(fitted(machine).fitted))
    theirs = _leaves(_ordered(root))
    return tuple(sorted((key, value) for key, value in theirs.items() if ours.get(key) != value))


def put_back(
    root: Element, extras: Sequence[Extra], machine: Machine
) -> tuple[Element, list[Extra]]:
    """``root``, which says ``machine``, with as many of ``extras`` as do not change the machine;
    and those that do.
    """
    lost: list[Extra] = []
    kept_: list[Extra] = []
    waiting = [tuple(extras)]
    while waiting:
        some = waiting.pop(0)
        if not some:
            continue
        if _fits(root, [*kept_, *some], machine):
            kept_ += some
        elif len(some) == 1:
            lost += some
        else:
            half = len(some) // 2
            waiting[:0] = [some[:half], some[half:]]
    done = _with(root, kept_)
    return root if done is None else done, lost


def _fits(root: Element, extras: Sequence[Extra], machine: Machine) -> bool:
    tried = _with(root, extras)
    if tried is None:
        return False
    found = machine_of(tried, "extras")
    return found == replace(machine, extras={}, snapshots=()) and kept(tried, found) == tuple(
        sorted(extras)
    )


def _with(root: Element, extras: Sequence[Extra]) -> Element | None:
    """A copy of ``root`` with ``extras``; None where one has no place in it."""
    copy = deepcopy(root)
    for key, value in extras:
        path, _, attribute = key.partition("/@")
        element = _reached(copy, path)
        if element is None or printable(value) != value:
            return None
        if attribute:
            if not _STEP.fullmatch(attribute) or attribute in _BOOKKEEPING:
                return None
            element.set(attribute, value)
        elif len(element):
            return None
        else:
            element.text = value
    return copy


def _reached(root: Element, path: str) -> Element | None:
    """The element at ``path``, made where it is not there."""
    element = root
    for part in path.split("/") if path else ():
        step = _STEP.fullmatch(part)
        if step is None:
            return None
        wanted = int(step[2] or 1)
        named = [each for each in element if each.tag == step[1]]
        if wanted > len(named) + 1 or (not named and (element.text or "").strip()):
            return None
        element = named[wanted - 1] if wanted <= len(named) else make(step[1], parent=element)
    return element


def _leaves(root: Element) -> dict[str, str]:
    """Texts and attributes by their paths; what is empty says nothing."""
    found: dict[str, str] = {}
    length = 0
    waiting = [(root, "")]
    while waiting:
        element, path = waiting.pop()
        for key, value in element.attrib.items():
            name = str(key)
            if name not in _BOOKKEEPING and not name.endswith("_patch") and "}" not in name:
                found[f"{path}/@{name}"] = str(value)
        counts: Counter[str] = Counter()
        for each in element:
            tag = str(each.tag)
            counts[tag] += 1
            step = tag if counts[tag] == 1 else f"{tag}[{counts[tag]}]"
            length += (len(path) + len(step)) * (1 + len(each.attrib))
            if length > _MAX_TEXT:
                raise FormatError("config.pvs: the names of its elements are too long")
            waiting.append((each, f"{path}/{step}" if path else step))
        said = "" if len(element) else text(element)
        if said:
            found[path] = said
    return found


def _ordered(root: Element) -> Element:
    """A copy with the drives in the model's order, in which we write them."""
    copy = deepcopy(root)
    hardware = find(copy, "Hardware")
    rank = {bus: at for at, bus in enumerate(("", *BUSES))}
    for tag in words.DEVICES if hardware is not None else ():
        assert hardware is not None
        drives = [each for each in hardware if each.tag == tag]
        places = [hardware.index(each) for each in drives]

        def key(element: Element) -> tuple[int, int, int]:
            bus, controller, slot = drive_place(element, "")
            return rank[bus], controller, slot

        for each in drives:
            hardware.remove(each)
        for at, each in zip(places, sorted(drives, key=key), strict=True):
            hardware.insert(at, each)
    return copy
