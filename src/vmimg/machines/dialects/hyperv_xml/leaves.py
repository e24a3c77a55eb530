"""The document as what its leaves say: a type and a text by the path of each. Imports XML.

    "settings/processors/count": Leaf("integer", "2")

A second element of a name among its siblings is "name[2]".
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from lxml import etree

from vmimg.errors import FormatError
from vmimg.machines.dialects.hyperv_settings import Value
from vmimg.machines.xml import Element, local, make

__all__ = ["ROOT", "Leaf", "leaf", "leaves_of", "serialised", "tree_of", "values_of"]

ROOT: Final = "configuration"
# Characters of all paths together: a few long names would make much of little.
_MAX_TEXT: Final = 16 << 20
_STEP: Final = re.compile(r"([A-Za-z_][\w.-]*)(?:\[(\d{1,5})\])?", re.ASCII)


class Leaf(NamedTuple):
    """``kind``: "string", "integer", "bool" or "bytes", whose text is base64 in one line."""

    kind: str
    text: str


def leaf(value: Value) -> Leaf:
    """The leaf that says ``value``."""
    if isinstance(value, bytes):
        return Leaf("bytes", base64.b64encode(value).decode())
    if isinstance(value, bool):
        return Leaf("bool", str(value))
    return Leaf("integer" if isinstance(value, int) else "string", str(value))


def leaves_of(root: Element, name: str) -> dict[str, Leaf]:
    """All leaves below ``root``, in the order of their paths. Raises FormatError."""
    found: dict[str, Leaf] = {}
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
            said = (element.text or "").strip()
            kind = str(element.get("type", ""))
            found[path] = Leaf(kind, "".join(said.split()) if kind == "bytes" else said)
    return dict(sorted(found.items()))


def values_of(leaves: Mapping[str, Leaf]) -> dict[str, Value]:
    """What the leaves say: text, but for bytes."""
    return {path: _value(each) for path, each in leaves.items()}


def _value(each: Leaf) -> Value:
    if each.kind == "bytes":
        try:
            return base64.b64decode(each.text)
        except (binascii.Error, ValueError):
            return each.text
    return each.text


def tree_of(leaves: Mapping[str, Leaf]) -> Element | None:
    """The document; None where two of the leaves cannot stand in one."""
    steps: dict[str, Any] = {}
    for path, each in leaves.items():
        inside = steps
        *above, last = path.split("/")
        for step in above:
            inside = inside.setdefault(step, {})
            if not isinstance(inside, dict):
                return None
        if last in inside:
            return None
        inside[last] = each
    root = make(ROOT)
    return root if _fill(root, steps) else None


def _fill(parent: Element, steps: Mapping[str, Any]) -> bool:
    order = []
    for step, value in steps.items():
        found = _STEP.fullmatch(step)
        if found is None:
            return False
        order.append((found[1], int(found[2] or 1), value))
    for tag, _, value in sorted(order, key=lambda each: each[:2]):
        if isinstance(value, Leaf):
            attributes = {"type": value.kind} if value.kind else {}
            make(tag, attributes, value.text, parent=parent)
        elif not _fill(make(tag, parent=parent), value):
            return False
    return True


def serialised(root: Element) -> bytes:
    """The document as Hyper-V writes it."""
    etree.indent(root, space="  ")
    head = '<?xml version="1.0" encoding="UTF-16" standalone="yes"?>\n'
    # Elements that are empty are written with an end of their own.
    text = head + etree.tostring(root, encoding="unicode", method="xml") + "\n"
    return codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le")
