"""Reads an XML property list from a stranger, in little memory: in pieces, data decoded at once.

plistlib holds every line of a base64 text as a string of its own, ten times what they say. Here
expat's pieces are decoded as they come. Entities are refused, none is followed; how deep a list may
be has a limit, how large is up to the caller. Dates, numbers and truth values are not kept.
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from collections.abc import Iterable
from typing import Any, Final
from xml.parsers import expat

from vmimg.formats.vetting import printable

__all__ = ["PropertyListError", "new_parser", "read_property_list"]

_DEPTH: Final = 16
_BUFFER: Final = 1 << 16
_CONTAINERS: Final = ("dict", "array")
_TEXTS: Final = ("key", "string", "data", "integer")
# What expat itself knows. For any other name Python looks for a codec, or fails in its own words.
_ENCODINGS: Final = ("utf-8", "utf-16", "us-ascii", "iso-8859-1")


class PropertyListError(Exception):
    """It is none; ``str()`` says why, in one line."""


def read_property_list(pieces: Iterable[bytes]) -> Any:
    """What the list in ``pieces`` holds: dict, list, str (of strings and integers), bytearray, or
    None of what is left out. Raises PropertyListError.
    """
    reader = _Reader()
    try:
        for piece in pieces:
            reader.parser.Parse(piece, False)
        reader.parser.Parse(b"", True)
    except (expat.ExpatError, Error, UnicodeError) as error:
        raise PropertyListError(str(error)) from None
    return reader.top


def new_parser() -> expat.XMLParserType:
    """Raises PropertyListError in `Parse` for an encoding that no property list is in."""
    parser = expat.ParserCreate()

    def declaration(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise PropertyListError(f"it is in the encoding '{printable(encoding)}'")

    parser.XmlDeclHandler = declaration
    return parser


class _Reader:
    """What expat calls."""

    def __init__(self) -> None:
        self.top: Any = None
        self.parser = new_parser()
        self.parser.buffer_text = True
        self.parser.buffer_size = _BUFFER
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity
        self._stack: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []
        """The key in each container of the stack that waits for its value."""
        self._element = ""
        """The one whose text is read now."""
        self._pieces: list[str] = []
        self._data = bytearray()
        self._rest = b""
        """Characters of base64 that are not yet four."""

    def _entity(self, *_: object) -> None:
        raise PropertyListError("it declares entities")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._element:
            raise PropertyListError(f"<{name}> stands in <{self._element}>")
        if name in _CONTAINERS:
            if len(self._stack) >= _DEPTH:
                raise PropertyListError(f"it is more than {_DEPTH} deep")
            made: dict[str, Any] | list[Any] = {} if name == "dict" else []
            self._add(made)
            self._stack.append(made)
            self._keys.append(None)
        elif name in _TEXTS:
            self._element = name
            self._pieces, self._data, self._rest = [], bytearray(), b""
        elif name != "plist":
            self._element = name  # left out

    def _end(self, name: str) -> None:
        if name in _CONTAINERS:
            self._stack.pop()
            self._keys.pop()
            return
        if name == "plist":
            return
        self._element = ""
        if name == "data":
            self._data += a2b_base64(self._rest)
            self._add(self._data)
        elif name == "key":
            if not self._stack or not isinstance(self._stack[-1], dict):
                raise PropertyListError("a key stands outside of a dictionary")
            self._keys[-1] = "".join(self._pieces)
        else:
            self._add("".join(self._pieces) if name in _TEXTS else None)

    def _text(self, text: str) -> None:
        if self._element == "data":
            characters = self._rest + text.encode().translate(None, b" \t\r\n")
            whole = len(characters) & ~3
            self._data += a2b_base64(characters[:whole])
            self._rest = characters[whole:]
        elif self._element in _TEXTS:
            self._pieces.append(text)

    def _add(self, value: Any) -> None:
        if not self._stack:
            self.top = value
            return
        container, key = self._stack[-1], self._keys[-1]
        if isinstance(container, list):
            container.append(value)
        elif key is None:
            raise PropertyListError("a value in a dictionary has no key")
        else:
            container[key] = value
            self._keys[-1] = None
