"""XML of strangers: descriptions of machines (OVF, .vbox, .pvs, libvirt), read without harm.

Built on expat, whose handlers tell of a document type before anything in it is used: there the
reading ends, so no entity is ever expanded and no file ever opened. What machines are described
by needs neither. Sources: XML 1.0 (entities and document types, sections 2.8 and 4), the OVF
specification DSP0243 (no document type in it). Imports vetting; recognisers and vetters use it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat

from vmimg.formats.vetting import Finding, printable

__all__ = ["MAX_BYTES", "Element", "Scan", "root_of", "scan", "vet_xml"]

MAX_BYTES: Final = 4 << 20
"""The largest description of a machine that is looked at. Large ones of vCenter have 200 KiB."""
_MAX_DEPTH: Final = 64
_MAX_ELEMENTS: Final = 100_000
_MAX_TEXT: Final = 4096
_MAX_WANTED: Final = 4096
# How much of a file must be there for its root to be found behind a licence in a comment.
_ROOT_BYTES: Final = 64 << 10
# What expat itself knows. For any other name Python would go and look for a codec: a reader that
# does (UTF-7) sees another text than one that does not.
_ENCODINGS: Final = ("utf-8", "utf-16", "utf-16le", "utf-16be", "us-ascii", "iso-8859-1")
# Property lists always have it, and nobody fetches it.
_PLIST: Final = ("plist", "-//Apple//DTD PLIST 1.0//EN", "-//Apple Computer//DTD PLIST 1.0//EN")


@dataclass(slots=True)
class Element:
    """An element that was asked for. Names are without their prefixes, text is cut at 4 KiB.

    ``within``: the names of the elements around it, the root first.
    """

    name: str
    attributes: dict[str, str]
    within: tuple[str, ...]
    text: str = ""


@dataclass(slots=True)
class Scan:
    """What a document holds. ``code``, ``problem``: why it was not read to its end, if so: a code
    of vmimg.formats.vetting and a sentence.
    """

    root: str = ""
    attributes: dict[str, str] | None = None
    elements: tuple[Element, ...] = ()
    code: str = ""
    problem: str = ""


def vet_xml(data: bytes, *, where: str = "", offset: int | None = None) -> Iterator[Finding]:
    """What is wrong with a document; nothing of what it describes.

    ``where``: the words to begin messages with ("its member 'a.ovf': "), ``offset``: where in the
    file the document begins.
    """
    found = scan(data)
    if found.code:
        yield Finding.of(found.code, where + found.problem, offset=offset)


def root_of(data: bytes) -> tuple[str, dict[str, str]] | None:
    """The root element's name without its prefix, and its attributes as they are written (with
    prefixes, ``xmlns`` too). None for what is no XML. ``data`` may end anywhere behind the root's
    tag. Of a document with a document type that declares things, only the name.
    """
    found: list[tuple[str, dict[str, str]]] = []
    parser = _parser()

    def doctype(name: str, _system: str | None, _public: str | None, subset: bool) -> None:
        if subset:
            found.append((_local(name), {}))
            raise _Stop("", "")

    def start(name: str, attributes: dict[str, str]) -> None:
        found.append((_local(name), attributes))
        raise _Stop("", "")

    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    try:
        parser.Parse(data[:_ROOT_BYTES], False)
    except (_Stop, expat.ExpatError):
        pass
    return found[0] if found else None


def scan(data: bytes, wanted: Collection[str] = ()) -> Scan:
    """Read a document, keeping the elements with the names ``wanted`` (at most 4096 of them).

    Never raises; where it stops early, `Scan.code` says why and what came before is there.
    """
    reader = _Reader(frozenset(wanted))
    if len(data) > MAX_BYTES:
        reader.result.code = "xml-oversize"
        reader.result.problem = f"the XML has {len(data)} bytes"
        return reader.result
    try:
        reader.parser.Parse(data, True)
    except _Stop as stop:
        reader.result.code, reader.result.problem = stop.code, stop.problem
    except expat.ExpatError as error:
        words = expat.errors.messages.get(error.code, "not well-formed")
        reader.result.code = "malformed"
        reader.result.problem = f"the XML is broken in line {error.lineno}: {words}"
    reader.result.elements = tuple(reader.kept)
    return reader.result


class _Stop(Exception):
    """Ends the reading from inside a handler."""

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem


class _Reader:
    def __init__(self, wanted: frozenset[str]) -> None:
        self.result = Scan()
        self.kept: list[Element] = []
        self._wanted = wanted
        self._around: list[str] = []
        self._open: list[Element | None] = []
        self._count = 0
        self.parser = _parser()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.EntityDeclHandler = self._entity
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        if wanted:
            self.parser.CharacterDataHandler = self._text

    def _doctype(self, name: str, _system: str | None, public: str | None, subset: bool) -> None:
        if subset or name != _PLIST[0] or public not in _PLIST[1:]:
            kind = "a document type with declarations in it" if subset else "a document type"
            raise _Stop("xml-entities", f"the XML has {kind}, '{printable(name)}'")

    def _entity(self, name: str, *_rest: object) -> None:
        raise _Stop("xml-entities", f"the XML declares an entity, '{printable(name)}'")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MAX_ELEMENTS:
            raise _Stop("xml-oversize", f"the XML has more than {_MAX_ELEMENTS} elements")
        if len(self._around) >= _MAX_DEPTH:
            raise _Stop("xml-oversize", f"the XML is more than {_MAX_DEPTH} elements deep")
        local = _local(name)
        if self._count == 1:
            self.result.root = local
            self.result.attributes = attributes
        element = None
        if local in self._wanted and len(self.kept) < _MAX_WANTED:
            plain = {_local(key): value for key, value in attributes.items()}
            element = Element(local, plain, tuple(self._around))
            self.kept.append(element)
        self._around.append(local)
        self._open.append(element)

    def _end(self, _name: str) -> None:
        self._around.pop()
        self._open.pop()

    def _text(self, text: str) -> None:
        element = self._open[-1] if self._open else None
        if element is not None and len(element.text) < _MAX_TEXT:
            element.text = (element.text + text)[:_MAX_TEXT]


def _parser() -> expat.XMLParserType:
    parser = expat.ParserCreate()

    def declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise _Stop("malformed", f"the XML is in the encoding '{printable(encoding)}'")

    parser.XmlDeclHandler = declaration
    return parser


def _local(name: str) -> str:
    return name.rpartition(":")[2]
