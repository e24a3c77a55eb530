"""A Vagrantfile as far as it is plain: assignments of literals, without running any Ruby.

Sources: Vagrant's documentation (Vagrantfile); Ruby's syntax of literals. Imports errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from vmimg.errors import FormatError

__all__ = ["LITERAL", "MAX_BYTES", "Program", "Value", "parse", "quoted", "value_of"]

MAX_BYTES: Final = 1 << 20
_MAX_STATEMENTS: Final = 20_000
_MAX_LINE: Final = 4096

Value = str | int | bool

_STRING: Final = r'"(?:[^"\\\n]|\\.)*"' + r"|'(?:[^'\\\n]|\\.)*'"
LITERAL: Final = rf"(?:{_STRING}|-?\d[\d_]*|true|false|nil|:\w+)"
_ASSIGNMENT: Final = re.compile(rf"\s*(\w+)((?:\.\w+)+)\s*=\s*({LITERAL})\s*(?:#.*)?")
_ELEMENT: Final = re.compile(
    rf"\s*(\w+)\.(vmx|extra_config)\[({_STRING})\]\s*=\s*({LITERAL})\s*(?:#.*)?"
)
_CUSTOMIZE: Final = re.compile(r"\s*(\w+)\.customize\s*\(?\s*\[(.*)\]\s*\)?\s*(?:#.*)?")
_TOPOLOGY: Final = re.compile(r"\s*(\w+)\.(cputopology|usb_controller)\s*\(?\s*(.*?)\)?\s*(?:#.*)?")
_PAIR: Final = re.compile(rf":(\w+)\s*=>\s*({LITERAL})|(\w+):\s*({LITERAL})")
_BLOCK: Final = re.compile(
    r"\s*(\w+)\.vm\.provider\s*\(?\s*(?::|\"|')?([\w-]+)[\"']?\s*\)?.*?(?:do|\{)\s*\|\s*(\w+)"
)
_CONFIGURE: Final = re.compile(r"\s*Vagrant(?:::Config\.run|\.configure).*?\|\s*(\w+)\s*\|")
_DEFINE: Final = re.compile(r".*\.vm\.define\b.*?\|\s*(\w+)")
_ESCAPE: Final = re.compile(r"\\(u\{([0-9A-Fa-f]{1,6})\}|.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "e": "\x1b", "s": " "}


@dataclass(slots=True)
class Program:
    """The assignments of a Vagrantfile, in their order: (provider or "config", setting, value, the
    literal as it stands).
    """

    settings: list[tuple[str, str, Value, str]] = field(default_factory=list)
    providers: list[str] = field(default_factory=list)

    def of(self, provider: str) -> dict[str, Value]:
        """The settings of one of them; the last of a name counts."""
        return {key: value for scope, key, value, _ in self.settings if scope == provider}


def parse(data: bytes, name: str) -> Program:
    """What of a Vagrantfile is plain. Raises FormatError for what is no text."""
    if len(data) > MAX_BYTES:
        raise FormatError(f"{name}: has {len(data)} bytes, which no Vagrantfile has")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: is no text: byte {error.start} is no UTF-8") from None
    program = Program()
    scopes = {"config": "config"}
    for line in text.split("\n", _MAX_STATEMENTS)[:_MAX_STATEMENTS]:
        line = line.rstrip("\r")
        # A line that long has patterns look at it for long.
        if len(line) > _MAX_LINE or line.lstrip().startswith("#"):
            continue
        if match := _BLOCK.match(line):
            scopes[match[3]] = match[2]
            if match[2] not in program.providers:
                program.providers.append(match[2])
        elif match := _CONFIGURE.match(line) or _DEFINE.match(line):
            scopes[match[1]] = "config"
        else:
            program.settings += _statement(line, scopes)
    return program


def _statement(line: str, scopes: dict[str, str]) -> Iterator[tuple[str, str, Value, str]]:
    if match := _ASSIGNMENT.fullmatch(line):
        value = value_of(match[3])
        if match[1] in scopes and value is not None:
            yield scopes[match[1]], match[2][1:], value, match[3]
    elif match := _ELEMENT.fullmatch(line):
        key, value = value_of(match[3]), value_of(match[4])
        if match[1] in scopes and value is not None and isinstance(key, str):
            yield scopes[match[1]], f"vmx[{key.lower()}]", value, match[4]
    elif match := _CUSTOMIZE.fullmatch(line):
        words = [value_of(each) for each in re.findall(LITERAL, match[2])]
        if match[1] in scopes and len(words) == 4 and words[0] == "modifyvm":
            yield scopes[match[1]], f"modifyvm {words[2]}", words[3] or "", match[2]
    elif match := _TOPOLOGY.fullmatch(line):
        if match[1] not in scopes:
            return
        for pair in _PAIR.finditer(match[3]):
            value = value_of(pair[2] or pair[4])
            if value is not None:
                yield scopes[match[1]], f"{match[2]} {pair[1] or pair[3]}", value, ""


def value_of(literal: str) -> Value | None:
    """Of a literal in Ruby; None for nil, and for a string that is put together when it runs."""
    if literal in ("true", "false"):
        return literal == "true"
    if literal == "nil":
        return None
    if literal.startswith(":"):
        return literal[1:]
    if literal[0] == "'":
        return re.sub(r"\\([\\'])", r"\1", literal[1:-1])
    if literal[0] != '"':
        return int(literal.replace("_", "")) if len(literal) < 32 else None
    inner = literal[1:-1]
    if re.search(r"(?<!\\)(?:\\\\)*#[{@$]", inner):
        return None
    return _ESCAPE.sub(_unescaped, inner)


def _unescaped(match: re.Match[str]) -> str:
    if match[2]:
        code = int(match[2], 16)
        return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
    return _ESCAPES.get(match[1], match[1])


def quoted(text: str) -> str:
    """A literal of Ruby that means just ``text``: nothing in it is a program's."""

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        return f"\\{character}" if character in '"\\#' else f"\\u{{{ord(character):x}}}"

    return '"' + re.sub(r'["\\#\x00-\x1f\x7f\x85\u2028\u2029]', escaped, text) + '"'
