"""The text of .vmx and .vmsd files: a dictionary in a character set that it names itself.

A value is in quotes; what cannot stand there is |xx, a byte in hexadecimal (open-vm-tools,
lib/dict). Keys do not depend on case. VMware refuses a key that is set twice; where both
values are the same, nothing is lost by reading on. Imports errors.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import Final

from vmimg.errors import FormatError

__all__ = ["Dictionary", "compose", "sayable_key"]

_MAX_BYTES: Final = 1 << 20
_MAX_LINES: Final = 50_000
_KEY: Final = re.compile(r"[A-Za-z0-9_.:/\-]+")
_ESCAPE: Final = re.compile(rb"\|([0-9A-Fa-f]{2})")
_UNSAYABLE: Final = re.compile(r'[\x00-\x1f\x7f"|\u0085\u2028\u2029]')
_ENCODING: Final = re.compile(rb'^\s*\.?encoding\s*=\s*"?([A-Za-z0-9_.:\-]{1,40})', re.M | re.I)
# Names that Windows, ICU and VMware use, where Python's differ.
_CODECS: Final = {
    "windows-936": "gbk", "windows-932": "cp932", "windows-949": "cp949", "windows-950": "cp950",
    "windows-874": "cp874", "ibm-1252": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
}  # fmt: skip


class Dictionary:
    """Keys and values in the order of the file. Values come out unescaped."""

    def __init__(self, entries: Iterable[tuple[str, str]] = ()) -> None:
        self._entries = {key.lower(): (key, value) for key, value in entries}
        self._used: set[str] = set()

    @classmethod
    def parse(cls, data: bytes, name: str) -> Dictionary:
        """Raises FormatError."""
        if len(data) > _MAX_BYTES:
            raise FormatError(f"{name}: has {len(data)} bytes; no such file has")
        codec = _codec(data, name)
        self = cls()
        lines = re.split(rb"\r\n|\n|\r", data.removeprefix(codecs.BOM_UTF8))
        if len(lines) > _MAX_LINES:
            raise FormatError(f"{name}: has more than {_MAX_LINES} lines")
        for number, raw in enumerate(lines, 1):
            line = _decoded(raw, codec, name, number)
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            key, told = _pair(line, name, number)
            value = _unescaped(told, codec, name, number)
            known = self._entries.get(key.lower())
            if known is not None and known[1] != value:
                raise FormatError(f"{name}: line {number} sets '{key[:60]}' a second time")
            self._entries[key.lower()] = (key, value)
        return self

    def __contains__(self, key: str) -> bool:
        return key.lower() in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> Iterator[str]:
        """All keys as they are written."""
        return (key for key, _ in self._entries.values())

    def look(self, key: str) -> str:
        """The value of ``key``, "" where it is not set."""
        return self._entries.get(key.lower(), ("", ""))[1]

    def take(self, key: str) -> str:
        """The same; the key counts as understood from then on."""
        if key.lower() in self._entries:
            self._used.add(key.lower())
        return self.look(key)

    def flag(self, key: str) -> bool | None:
        """A truth value; None where it is not set or says something else."""
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
            self.take(key).strip().lower()
        )

    def number(
        self, key: str, name: str, *, low: int = 0, high: int = 1 << 40, default: int = 0
    ) -> int:
        """A whole number. Raises FormatError."""
        text = self.take(key).strip()
        if not text:
            return default
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or not low <= int(text) <= high:
            raise FormatError(f"{name}: {key} is {text[:40]!r}, and may be {low} to {high}")
        return int(text)

    def rest(self) -> tuple[tuple[str, str], ...]:
        """What nobody took, in the order of the file."""
        return tuple(entry for key, entry in self._entries.items() if key not in self._used)


def compose(entries: Iterable[tuple[str, str]]) -> bytes:
    """The text of a file in UTF-8. Of keys that come again, the first counts."""
    lines = ['.encoding = "UTF-8"']
    seen = {".encoding"}
    for key, value in entries:
        if key.lower() in seen or not sayable_key(key):
            continue
        seen.add(key.lower())
        lines.append(f'{key} = "{_escaped(value)}"')
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def sayable_key(key: str) -> bool:
    """Whether a line can begin with it."""
    return _KEY.fullmatch(key) is not None


def _pair(line: str, name: str, number: int) -> tuple[str, str]:
    """The key and the value of a line, without quotes and without a comment behind it."""
    key, equals, rest = line.partition("=")
    key, rest = key.strip(), rest.strip()
    value, _, behind = rest.partition("#")
    value = value.strip()
    if rest.startswith('"'):
        value, quote, behind = rest[1:].partition('"')
        behind = behind.strip()
        if not quote or (behind and not behind.startswith("#")):
            equals = ""
    elif '"' in value:
        equals = ""
    if not equals or not key or re.search(r'[\s"#]', key):
        raise FormatError(f"{name}: line {number} is not 'key = \"value\"'")
    return key, value


def _escaped(value: str) -> str:
    return _UNSAYABLE.sub(
        lambda found: "".join(f"|{byte:02X}" for byte in found[0].encode()), value
    )


def _unescaped(value: str, codec: str, name: str, line: int) -> str:
    if "|" not in value:
        return value
    raw = value.encode(codec, "replace")
    plain = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), raw)
    return _decoded(plain, codec, name, line)


def _decoded(raw: bytes, codec: str, name: str, line: int) -> str:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{name}: line {line} is no {codec}: byte {raw[error.start]:#04x}"
        ) from None


def _codec(data: bytes, name: str) -> str:
    found = _ENCODING.search(data)
    if found is None:
        # Before there was such a line, it was the character set of the host.
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return "cp1252" if b"\x81" not in data else "latin-1"
        return "utf-8"
    told = found[1].decode("ascii").lower()
    try:
        info = codecs.lookup(_CODECS.get(told, told))
    except LookupError:
        raise FormatError(f"{name}: is in an unknown character set, '{told}'") from None
    # rot13, zlib and the like are no character sets; in UTF-16 nothing here would be readable.
    if not info._is_text_encoding or info.name.startswith(("utf-16", "utf-32", "utf-7", "idna")):
        raise FormatError(f"{name}: is in a character set that no such file has, '{told}'")
    if info.name in ("unicode_escape", "raw_unicode_escape", "punycode", "undefined"):
        raise FormatError(f"{name}: is in a character set that no such file has, '{told}'")
    return info.name
