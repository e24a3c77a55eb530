"""What a file says that the model has no word for: found, and put back where it stood.

`kept` compares a file with what would be written of the machine in it. Each leaf that is another
there, or that only the file has, is an extra; its key is its path, with places for identifiers that
Hyper-V makes up anew:

    ("settings/memory/bank/dynamic_memory_enabled", "True")
    ("network0/AllowPacketDirect", "True")      of the first card
    ("scsi1/controller0/drive0/weight", "50")   of the second SCSI controller
    ("manifest/<instance>", "<device> <name>")  a device that no machine of ours has
    ("network0/Data@bytes", "AAIAAA==")         the type, where the text does not tell it

Imports leaves, rendering and hyperv_settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.hyperv_settings import Reading, guid, reading
from vmimg.machines.dialects.hyperv_xml.leaves import Leaf, leaf, leaves_of, tree_of, values_of
from vmimg.machines.dialects.hyperv_xml.rendering import Rendered, rendered, vdev
from vmimg.machines.model import Extra, Machine
from vmimg.machines.xml import Element, printable

__all__ = ["OWN", "kept", "put_back"]

OWN: Final = "hyperv-xml"
_PLACE: Final = re.compile(r"(network|scsi)(\d{1,4})")
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_MANIFEST: Final = "manifest"
# Leaves that are looked at to find the few that do not fit: enough for thousands among a hundred.
_MAX_WORK: Final = 1 << 18


def kept(leaves: Mapping[str, Leaf], found: Reading) -> tuple[Extra, ...]:
    """What the file has and `rendered` has not, in the order of the keys. ``found``: what the
    ``leaves`` were read as.
    """
    ours = rendered(found.machine)
    usual = _placed(ours.leaves, ours.networks, ours.scsi)
    rest = {path: leaves[path] for path in found.rest}
    extras = [
        (_key(path, each), each.text)
        for path, each in _placed(rest, found.networks, found.scsi).items()
        if usual.get(path) != each
    ]
    extras += [
        (f"{_MANIFEST}/{instance}", f"{device} {name}".strip())
        for instance, (device, name) in found.others.items()
    ]
    return tuple(sorted(extras))


def put_back(
    ours: Rendered, extras: Sequence[Extra], machine: Machine
) -> tuple[Element, set[Extra]]:
    """The document of ``ours``, which says ``machine``, with as many of ``extras`` as do not change
    the machine; and those that do.
    """
    lost: set[Extra] = set()
    taken: list[Extra] = []
    waiting = [tuple(extras)]
    work = 0
    while waiting:
        some = waiting.pop(0)
        if not some:
            continue
        work += len(ours.leaves) + len(taken) + len(some)
        if work <= _MAX_WORK and _fits(ours, [*taken, *some], machine):
            taken += some
        elif len(some) == 1 or work > _MAX_WORK:
            lost.update(some)
        else:
            half = len(some) // 2
            waiting[:0] = [some[:half], some[half:]]
    done = _with(ours, taken)
    assert done is not None
    return done, lost


def _fits(ours: Rendered, extras: Sequence[Extra], machine: Machine) -> bool:
    tree = _with(ours, extras)
    if tree is None:
        return False
    try:
        leaves = leaves_of(tree, OWN)
        found = reading(values_of(leaves), OWN)
    except FormatError:
        return False
    return found.machine == machine and kept(leaves, found) == tuple(sorted(extras))


def _with(ours: Rendered, extras: Sequence[Extra]) -> Element | None:
    """The document with ``extras``; None where one has no place in it."""
    leaves = dict(ours.leaves)
    devices = sum(1 for path in leaves if path.endswith("/instance"))
    for key, text in sorted(extras):
        head, _, rest = key.partition("/")
        if head == _MANIFEST:
            device, _, name = text.partition(" ")
            if not guid(rest) or not guid(device):
                return None
            devices += 1
            entry = vdev(devices, device, rest, name)
            leaves |= {path: leaf(value) for path, value in entry.items()}
            leaves["manifest/size"] = leaf(devices)
            continue
        path, _, kind = rest.partition("@")
        if place := _PLACE.fullmatch(head):
            instances = ours.networks if place[1] == "network" else ours.scsi
            if int(place[2]) >= len(instances):
                return None
            head = f"_{instances[int(place[2])]}_"
        if printable(text) != text or "\r" in text:
            return None
        leaves[f"{head}/{path}"] = Leaf(kind if "@" in key else _guessed(text), text)
    return tree_of(leaves)


def _placed(
    leaves: Mapping[str, Leaf], networks: Sequence[str], scsi: Sequence[str]
) -> dict[str, Leaf]:
    """``leaves`` by the places of cards and controllers, not by their instances."""
    places = {f"_{instance}_": f"network{at}" for at, instance in enumerate(networks)}
    places |= {f"_{instance}_": f"scsi{at}" for at, instance in enumerate(scsi)}
    result = {}
    for path, each in leaves.items():
        head, slash, rest = path.partition("/")
        result[f"{places.get(head.lower(), head)}{slash}{rest}"] = each
    return result


def _key(path: str, each: Leaf) -> str:
    return path if _guessed(each.text) == each.kind else f"{path}@{each.kind}"


def _guessed(text: str) -> str:
    """The type that a text looks like."""
    if text in ("True", "False"):
        return "bool"
    return "integer" if _INTEGER.fullmatch(text) else "string"
