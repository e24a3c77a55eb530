"""Hyper-V's .xml of a machine or a snapshot: Windows Server 2008 to 2012 R2. It is only read.

    <configuration>
      <properties> <name type="string"/> <subtype type="integer"/>
      <settings> <processors> <count type="integer"/>
      <manifest> <vdev001> <device type="string"/>
      <_83f8638b-8dca-4152-9eda-2ca8b33039b4_> <controller0> <drive0> <pathname type="string"/>

What the elements say is in `hyperv_settings`. An export of Windows Server 2008 describes the
machine in a .exp instead, WMI's own XML. Imports XML and hyperv_settings.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.hyperv_exp import machines_in_exp
from vmimg.machines.dialects.hyperv_settings import Value, created, machine_of
from vmimg.machines.model import Machine
from vmimg.machines.xml import Element, local, parse

__all__ = ["read", "read_created"]

_ROOT: Final = "configuration"
# Characters of all paths together: a few long names would make much of little.
_MAX_TEXT: Final = 16 << 20


def read(data: bytes, name: str) -> tuple[Machine, ...]:
    """The machine in ``data``."""
    root = parse(data, name, root=(_ROOT, "DECLARATIONS"))
    if local(root) == "DECLARATIONS":
        return machines_in_exp(root, name)
    return (machine_of(_values(root, name), "hyperv-xml", name),)


def read_created(data: bytes, name: str) -> str:
    """When the machine or the snapshot was made, "" where that is not told."""
    root = parse(data, name, root=(_ROOT, "DECLARATIONS"))
    return created(_values(root, name)) if local(root) == _ROOT else ""


def _values(root: Element, name: str) -> dict[str, Value]:
    values: dict[str, Value] = {}
    length = 0
    waiting = [(root, "")]
    while waiting:
        element, path = waiting.pop()
        counts: Counter[str] = Counter()
        for each in element:
            tag = local(each)
            counts[tag] += 1
            step = tag if counts[tag] == 1 else f"{tag}[{counts[tag]}]"
            length += len(path) + len(step)
            if length > _MAX_TEXT:
                raise FormatError(f"{name}: the names of its elements are too long")
            waiting.append((each, f"{path}/{step}" if path else step))
        if path and not len(element):
            values[path] = _value(element)
    return dict(sorted(values.items()))


def _value(element: Element) -> Value:
    said = (element.text or "").strip()
    if element.get("type") == "bytes":
        try:
            return base64.b64decode(said)
        except (binascii.Error, ValueError):
            return said
    return said
