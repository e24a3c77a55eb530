"""What a domain says that the model has no word for: found, and put back where it stood.

`kept` compares a domain with what `rendered` would make of the machine that was read from it. An
element or attribute that only the domain has is an extra; its key is the path of where it stood:

    ("devices/channel", "<channel .../>")              a child of <devices>
    ("devices/disk[2]/driver/@cache", "none")           an attribute of the second disk's driver
    ("os/type/@machine", "pc-q35-7.2")                 says more than our word for the same thing
    ("features/acpi", "")                              is not there, and we would write it

Imports XML and words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.libvirt import words
from vmimg.machines.model import Extra
from vmimg.machines.xml import Element, children, encoded, local, printable, snippet

__all__ = ["kept", "put_back"]

_STEP: Final = re.compile(r"([^\[\]/@]+)(?:\[(\d{1,6})\])?")


def _by(table: dict[str, str]) -> Callable[[str, str], bool]:
    return lambda theirs, ours: table.get(theirs, theirs) == table.get(ours, ours)


# Where two values of an attribute mean the same in the model, and theirs says more than ours.
_MEAN_THE_SAME: Final[dict[str, Callable[[str, str], bool]]] = {
    "@type": lambda theirs, ours: ours == "kvm" or theirs == ours,
    "os/type/@machine": lambda theirs, ours: words.chipset(theirs) == words.chipset(ours),
    "cpu/@mode": lambda theirs, ours: (
        {theirs, ours} <= {"host-passthrough", "host-model", "maximum"}
    ),
    "devices/controller/@model": _by(words.USB_NAMES),
    "devices/disk/@device": lambda theirs, ours: {theirs, ours} <= {"disk", "lun"},
    "devices/disk/driver/@type": _by({"vhd": "vpc"}),
    "devices/interface/@type": lambda theirs, ours: ours == "kept",
    "devices/interface/model/@type": _by(words.NETWORK_NAMES),
    "devices/serial/source/@mode": lambda theirs, ours: {theirs, ours} <= {"bind", "connect"},
}
_DEFAULTS: Final = ("features",)
"""Elements of which we write children that nobody asked for."""


def kept(domain: Element, rendered: Element) -> list[Extra]:
    """What ``domain`` has and ``rendered`` has not."""
    extras: list[Extra] = []
    _compare(domain, rendered, "", extras)
    return extras


def put_back(rendered: Element, extras: Iterable[Extra]) -> list[int]:
    """Add ``extras`` to ``rendered``; the places of those in the list that have no place in it."""
    failed: list[int] = []
    found = []
    # Paths count what we wrote, so all are followed before anything is added.
    for at, (key, value) in enumerate(extras):
        above, _, last = key.rpartition("/")
        found.append((at, key, last, value, _follow(rendered, above)))
    for at, key, last, value, element in found:
        if element is None or not _put(element, key, last, value):
            failed.append(at)
    return failed


def _compare(theirs: Element, ours: Element, path: str, extras: list[Extra]) -> None:
    at = path + "/" if path else ""
    for key, value in sorted((str(key), str(value)) for key, value in theirs.attrib.items()):
        if key.startswith("{"):
            continue
        written = ours.get(key)
        same = _MEAN_THE_SAME.get(_plain(f"{at}@{key}"))
        if written is None or (written != value and same is not None and same(value, str(written))):
            extras.append((f"{at}@{key}", value))
    said = (theirs.text or "").strip()
    if said and not len(ours) and not (ours.text or "").strip():
        extras.append((f"{at}text()", said))
    written_children = _numbered(ours)
    their_children = _numbered(theirs)
    extras.extend(
        (at + local(each), encoded(each))
        for key_, (each, _) in their_children.items()
        if key_ not in written_children
    )
    extras.extend(
        (at + local(mine), "")
        for key_, (mine, _) in written_children.items()
        if key_ not in their_children
        and (path in _DEFAULTS or (not path and local(mine) in _DEFAULTS))
    )
    # In our order: so the list is the same when it is read from what we wrote.
    for key_, (mine, step) in written_children.items():
        if key_ in their_children:
            _compare(their_children[key_][0], mine, at + step, extras)


def _numbered(parent: Element) -> dict[tuple[str, str], tuple[Element, str]]:
    """The children by what tells them apart, with their steps in a path."""
    totals = Counter(map(local, parent))
    counts: Counter[str] = Counter()
    found: dict[tuple[str, str], tuple[Element, str]] = {}
    for each in parent:
        name = local(each)
        counts[name] += 1
        step = f"{name}[{counts[name]}]" if totals[name] > 1 else name
        own = str(counts[name])
        if name == "controller":
            own = f"{each.get('type')} {each.get('index', '0')}"
        elif name == "feature":
            own = str(each.get("name"))
        elif name in ("address", "backend"):
            own = str(each.get("type"))
        key = (str(each.tag), own)
        while key in found:  # what breaks libvirt's rules is kept as well
            key = (key[0], key[1] + "+")
        found[key] = (each, step)
    return found


def _follow(element: Element, path: str) -> Element | None:
    for part in path.split("/") if path else []:
        step = _STEP.fullmatch(part)
        if step is None:
            return None
        wanted = int(step[2] or 1)
        found = None
        for count, each in enumerate(children(element, step[1]), 1):
            if count == wanted:
                found = each
                break
        if found is None:
            return None
        element = found
    return element


def _put(element: Element, key: str, last: str, value: str) -> bool:
    if last.startswith("@"):
        return _put_attribute(element, key, last[1:], value)
    if last == "text()":
        if len(element) or (element.text or "").strip() or not value.strip():
            return False
        element.text = printable(value)
        return True
    if not value:
        mine = next(children(element, last), None) if key.startswith(_DEFAULTS) else None
        if mine is None:
            return False
        element.remove(mine)
        return True
    try:
        new = snippet(value)
    except FormatError:
        return False
    if local(new) != last:
        return False
    element.append(new)
    return True


def _put_attribute(element: Element, key: str, name: str, value: str) -> bool:
    if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
        return False
    written = element.get(name)
    if written is None:
        # Dies and clusters are counted as cores in the model.
        if local(element) == "topology" and name in ("dies", "clusters") and value.isdigit():
            cores = int(element.get("cores", "1"))
            if int(value) < 1 or cores % int(value):
                return False
            element.set("cores", str(cores // int(value)))
        element.set(name, printable(value))
        return True
    same = _MEAN_THE_SAME.get(_plain(key))
    if same is None or not same(value, written) or written == value:
        return False
    element.set(name, printable(value))
    return True


def _plain(path: str) -> str:
    return re.sub(r"\[\d+\]", "", path)
