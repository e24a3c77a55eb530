"""Assignments of strings, numbers and lists, as libxlu reads them. Imports errors.

A string stands in one or two quotes, with the escapes of C; lists nest; a statement ends with the
line or a semicolon, and inside of brackets lines do not count.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from vmimg.errors import FormatError

__all__ = ["Value", "parse", "said"]

Value: TypeAlias = "str | int | list[Value]"

_MAX_BYTES: Final = 1 << 20
_MAX_TOKENS: Final = 100_000
_MAX_DEPTH: Final = 8
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)|(?P<line>\n|;)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>0[xX][0-9a-fA-F]{1,16}|-?[0-9]{1,20})
    |(?P<string>"(?:[^"\\\n]|\\[^\n])*"|'(?:[^'\\\n]|\\[^\n])*')
    |(?P<mark>\+=|[=\[\],])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)")
_ESCAPES: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse(data: bytes, name: str) -> dict[str, Value]:
    """The settings by name; the last of a name counts, and += adds to a list."""
    if len(data) > _MAX_BYTES:
        raise FormatError(f"{name}: {len(data)} bytes are too many for a configuration")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{name}: the configuration is not UTF-8") from None
    found = _Parser(text, name).settings()
    if not found:
        raise FormatError(f"{name}: there are no settings in it")
    return found


def said(value: Value) -> str:
    """The value as it stands in a file."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return (
            '"' + re.sub(r"[\x00-\x1f\x7f]", lambda each: f"\\x{ord(each[0]):02x}", escaped) + '"'
        )
    return "[ " + ", ".join(said(each) for each in value) + " ]" if value else "[ ]"


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._line = 1
        self._tokens = self._scan()
        self._at = 0

    def settings(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while True:
            kind, token = self._next()
            if kind == "end":
                return found
            if kind == "line":
                continue
            if kind != "name":
                raise self._wrong("a name")
            sign = self._next()
            if sign not in (("mark", "="), ("mark", "+=")):
                raise self._wrong("'='")
            value = self._value(0)
            before = found.get(token)
            if sign[1] == "+=" and isinstance(before, list) and isinstance(value, list):
                value = before + value
            found[token] = value
            if self._next()[0] not in ("line", "end"):
                raise self._wrong("the end of the line")

    def _value(self, depth: int) -> Value:
        kind, token = self._next()
        if kind == "number":
            if not token.lower().startswith("0x"):
                return int(token, 8 if re.fullmatch(r"0[0-7]+", token) else 10)
            return int(token, 16)
        if kind == "string":
            return _unescaped(token[1:-1])
        if token != "[" or depth >= _MAX_DEPTH:
            raise self._wrong("a string, a number or a list")
        members: list[Value] = []
        while True:
            self._skip_lines()
            if self._peek()[1] == "]":
                self._next()
                return members
            members.append(self._value(depth + 1))
            self._skip_lines()
            _, mark = self._next()
            if mark == "]":
                return members
            if mark != ",":
                raise self._wrong("',' or ']'")

    def _scan(self) -> list[tuple[str, str, int]]:
        tokens: list[tuple[str, str, int]] = []
        at, line = 0, 1
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None or len(tokens) > _MAX_TOKENS:
                self._line = line
                raise self._wrong("an assignment")
            kind = match.lastgroup or ""
            if kind != "space":
                tokens.append((kind, match[0], line))
            line += match[0] == "\n"
            at = match.end()
        tokens.append(("end", "", line))
        return tokens

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at][:2]

    def _next(self) -> tuple[str, str]:
        kind, token, self._line = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return kind, token

    def _skip_lines(self) -> None:
        while self._peek() == ("line", "\n"):
            self._next()

    def _wrong(self, wanted: str) -> FormatError:
        return FormatError(f"{self._name}: line {self._line}: there should be {wanted}")


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] == "x" and len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape[0] in "01234567":
            return chr(int(escape, 8) & 0xFF)
        return _ESCAPES.get(escape, escape)

    return _ESCAPE.sub(one, text)
