"""XML for the dialects: read a stranger's without harm, write ours the same each time.

A document is read twice. expat goes first: it tells of a document type before anything in it is
used, and counts depth and elements while nothing is built of them. What is left is plain XML, and
lxml makes a tree of it with entities, document types and the network off besides. Comments and
processing instructions are left out. Sources: XML 1.0 (2.2 characters, 2.8 prolog, 4 entities);
VirtualBox nests a snapshot two elements deeper than its parent, and 100 deep is allowed there.
Imports lxml and errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final
from xml.parsers import expat

from lxml import etree

from vmimg.errors import FormatError

__all__ = [
    "Element",
    "attribute",
    "child",
    "children",
    "encoded",
    "find",
    "flag",
    "local",
    "make",
    "moved",
    "namespace",
    "number",
    "parse",
    "printable",
    "serialise",
    "snippet",
    "text",
]

Element = etree._Element

MAX_BYTES: Final = 16 << 20
_MAX_DEPTH: Final = 250
_MAX_ELEMENTS: Final = 200_000
_MAX_ATTRIBUTES: Final = 1 << 20  # characters of one element's attributes together
# What expat knows by itself. Any other name makes readers guess differently (UTF-7).
_ENCODINGS: Final = ("utf-8", "utf-16", "utf-16le", "utf-16be", "us-ascii", "iso-8859-1")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,30}")
_UNSAYABLE: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_XML: Final = "http://www.w3.org/XML/1998/namespace"
_CIM: Final = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
_PREFIXES: Final = {
    "http://schemas.dmtf.org/ovf/envelope/1": "ovf",
    "http://schemas.dmtf.org/ovf/envelope/1/": "ovf",
    "http://schemas.dmtf.org/ovf/envelope/2": "ovf",
    f"{_CIM}/CIM_ResourceAllocationSettingData": "rasd",
    f"{_CIM}/CIM_VirtualSystemSettingData": "vssd",
    "http://www.vmware.com/schema/ovf": "vmw",
    "http://www.virtualbox.org/ovf/machine": "vbox",
    "http://www.virtualbox.org/": "vb",
    "http://www.w3.org/2001/XMLSchema-instance": "xsi",
    "http://libvirt.org/schemas/domain/qemu/1.0": "qemu",
}
_FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse(data: bytes, name: str, *, root: Iterable[str] | str = ()) -> Element:
    """The root element of ``data``; ``root``: the local names that it may have (any, if empty).

    Raises FormatError, with ``name`` and the line, for what is not well-formed, has a document
    type, or is larger or deeper than any description of a machine.
    """
    _precheck(data, name)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        collect_ids=False,
    )
    try:
        found = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        words = (error.msg or "it is not well-formed").partition(", line ")[0]
        raise FormatError(f"{name}: the XML is broken in line {error.lineno}: {words}") from None
    except ValueError as error:
        raise FormatError(f"{name}: the XML is broken: {error}") from None
    wanted = (root,) if isinstance(root, str) else tuple(root)
    if wanted and local(found) not in wanted:
        raise FormatError(
            f"{name}: the root element is <{local(found)[:80]}>, not <{'> or <'.join(wanted)}>"
        )
    return found


def local(element: Element) -> str:
    """The element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def namespace(element: Element) -> str:
    """The element's namespace, "" for none."""
    return _space(element.tag)


def children(element: Element, name: str = "", *, within: str | None = None) -> Iterator[Element]:
    """The children with the local ``name`` (all, if empty), of the namespace ``within`` or any."""
    for each in element:
        if name and local(each) != name:
            continue
        if within is None or namespace(each) == within:
            yield each


def child(element: Element, name: str, *, within: str | None = None) -> Element | None:
    """The first of `children`."""
    return next(children(element, name, within=within), None)


def find(element: Element, *path: str) -> Element | None:
    """What the local names in ``path`` lead to from ``element``, the first at each step that leads
    on.
    """
    if not path:
        return element
    for each in children(element, path[0]):
        found = find(each, *path[1:])
        if found is not None:
            return found
    return None


def text(element: Element, *path: str, default: str = "") -> str:
    """The text of what ``path`` leads to, without white space around it."""
    found = find(element, *path)
    if found is None:
        return default
    return "".join(found.itertext()).strip()


def attribute(element: Element, name: str, default: str = "", *, within: str | None = None) -> str:
    """The attribute with the local ``name``: of the namespace ``within``, or else, as with
    ``within`` None, without one or of whichever has it. Makers of OVF leave the prefix out.
    """
    if within is not None and (found := element.get(f"{{{within}}}{name}")) is not None:
        return found
    if (found := element.get(name)) is not None:
        return found
    for key, value in element.attrib.items():
        if str(key).rpartition("}")[2] == name:
            return str(value)
    return default


def number(
    value: str, what: str, name: str, *, low: int = 0, high: int = (1 << 63) - 1, default: int = 0
) -> int:
    """``value`` as an integer, ``default`` for an empty one.

    Raises FormatError, with ``what`` it is and the file's ``name``, for anything else and for what
    is not between ``low`` and ``high``.
    """
    value = value.strip()
    if not value:
        return default
    if not _INTEGER.fullmatch(value):
        raise FormatError(f"{name}: {what} is no number: '{printable(value[:40])}'")
    found = int(value)
    if not low <= found <= high:
        raise FormatError(f"{name}: {what} is {found}, and may be {low} to {high}")
    return found


def flag(value: str) -> bool | None:
    """A truth value of XML Schema (and "yes", "no"); None for everything else."""
    return _FLAGS.get(value.strip().lower())


def printable(value: str) -> str:
    """``value`` with U+FFFD for each character that XML 1.0 cannot hold."""
    return _UNSAYABLE.sub("\ufffd", value)


def make(
    tag: str,
    attributes: Mapping[str, str] | None = None,
    content: str = "",
    *,
    nsmap: Mapping[str | None, str] | None = None,
    parent: Element | None = None,
) -> Element:
    """A new element, at the end of ``parent``. ``tag`` and names of attributes as lxml has them:
    "{namespace}name". What XML cannot hold is replaced, see `printable`.
    """
    plain = {key: printable(value) for key, value in (attributes or {}).items()}
    names = dict(nsmap) if nsmap else None
    if parent is None:
        element = etree.Element(tag, plain, names)
    else:
        element = etree.SubElement(parent, tag, plain, names)
    if content:
        element.text = printable(content)
    return element


def serialise(root: Element, *, declaration: bool = True, indent: str = "  ") -> bytes:
    """UTF-8 with a line end at the end; elements without text of their own are indented."""
    etree.indent(root, space=indent)
    out = etree.tostring(root, encoding="unicode")
    head = '<?xml version="1.0" encoding="UTF-8"?>\n' if declaration else ""
    return (head + out + "\n").encode()


def encoded(element: Element) -> str:
    """The element as text, with the namespaces that it needs, for a machine's extras: equal for
    equal content, however it was indented and whatever its prefixes were.
    """
    return etree.tostring(_with_usual_prefixes(element), encoding="unicode")


def moved(element: Element, space: Callable[[str], str]) -> Element:
    """A copy in which each namespace (of elements, and of attributes that have one) is what
    ``space`` makes of it.
    """
    made = etree.Element(_named(space(namespace(element)), local(element)))
    for key, value in element.attrib.items():
        old, name = _space(key), str(key).rpartition("}")[2]
        made.set(_named(space(old), name) if old and old != _XML else key, value)
    made.text = element.text
    for each in element:
        inner = moved(each, space)
        inner.tail = each.tail
        made.append(inner)
    return made


def snippet(data: str | bytes, name: str = "extras") -> Element:
    """The element that `encoded` made ``data`` of. Raises FormatError."""
    return parse(data.encode() if isinstance(data, str) else data, name)


def _with_usual_prefixes(element: Element) -> Element:
    """A copy whose namespaces have the prefixes that people know, or n1, n2...; its own namespace
    is the default, where no attribute needs a prefix of it.
    """
    own = namespace(element)
    elements = dict.fromkeys(namespace(each) for each in element.iter())
    attributes = dict.fromkeys(_space(key) for each in element.iter() for key in each.attrib)
    names: dict[str | None, str] = {}
    for number, space in enumerate(each for each in {**elements, **attributes} if each):
        if space == _XML:
            continue
        bare = space == own and space not in attributes
        names[None if bare else _PREFIXES.get(space, f"n{number}")] = space
    return _copy(element, names)


def _copy(element: Element, names: Mapping[str | None, str]) -> Element:
    made = etree.Element(element.tag, None, dict(names))
    # In the order of their names: that of the file says nothing.
    for key in sorted(map(str, element.attrib)):
        made.set(key, str(element.attrib[key]))
    made.text = element.text if not len(element) or (element.text or "").strip() else None
    for each in element:
        inner = _copy(each, names)
        inner.tail = each.tail if (each.tail or "").strip() else None
        made.append(inner)
    return made


def _named(space: str, name: str) -> str:
    return f"{{{space}}}{name}" if space else name


def _space(name: object) -> str:
    space, brace, _ = str(name).rpartition("}")
    return space[1:] if brace else ""


class _Stop(Exception):
    """Ends expat's reading from inside a handler."""


def _precheck(data: bytes, name: str) -> None:
    if len(data) > MAX_BYTES:
        raise FormatError(f"{name}: the XML has {len(data)} bytes, more than {MAX_BYTES}")
    depth = count = 0
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise _Stop(f"is in the encoding '{printable(encoding[:40])}'")

    def doctype(_name: str, _system: str | None, _public: str | None, _subset: bool) -> None:
        raise _Stop("has a document type, which could declare entities")

    def start(_name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth += 1
        count += 1
        if depth > _MAX_DEPTH:
            raise _Stop(f"is more than {_MAX_DEPTH} elements deep")
        if count > _MAX_ELEMENTS:
            raise _Stop(f"has more than {_MAX_ELEMENTS} elements")
        if sum(map(len, attributes.values())) > _MAX_ATTRIBUTES:
            raise _Stop(f"has attributes of more than {_MAX_ATTRIBUTES} characters")

    def end(_name: str) -> None:
        nonlocal depth
        depth -= 1

    parser.XmlDeclHandler = declaration
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    try:
        parser.Parse(data, True)
    except _Stop as stop:
        line = parser.CurrentLineNumber
        raise FormatError(f"{name}: the XML {stop} (line {line})") from None
    except expat.ExpatError as error:
        words = expat.errors.messages.get(error.code, "not well-formed")
        raise FormatError(f"{name}: the XML is broken in line {error.lineno}: {words}") from None
