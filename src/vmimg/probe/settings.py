"""Texts that describe machines, line by line: .vmx, .vmsd, Proxmox's .conf, xl's configuration.

A text of a stranger is read as text only where it is one, and no more of it than a description has.
Sources: VMware's .vmx as Workstation writes it; Proxmox's qm.conf(5); Xen's xl.cfg(5). Imports
nothing of vmimg.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["MAX_TEXT", "as_words", "colon_settings", "quoted_settings"]

MAX_TEXT: Final = 4 << 20
"""The largest description that is read. Large ones have some ten KiB."""
_MAX_LINES: Final = 50_000
_MAX_LINE: Final = 64 << 10

_QUOTED: Final = re.compile(r'\s*([\w.][\w.:\-]*)\s*=\s*"([^"]*)"\s*(?:#.*)?')
_COLON: Final = re.compile(r"([A-Za-z][\w-]*):(.*)")
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
# What no text has: the C0 controls but tab, line feed, form feed, return and escape.
_CONTROLS: Final = bytes(set(range(32)) - {9, 10, 12, 13, 27})


def as_words(data: bytes) -> str | None:
    """``data`` as text; None where it is none. A character may be cut off at its end."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            return None if "\0" in text else text
    if len(data.translate(None, _CONTROLS)) != len(data):
        return None
    # Latin-1 takes all bytes: what is not UTF-8 is in the code page of somebody's Windows.
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = "utf-8" if error.start > len(data) - 4 else "latin-1"
        return data.decode(encoding, "replace")


def quoted_settings(text: str) -> tuple[list[tuple[str, str]], int]:
    """The pairs of lines ``key = "value"``, and how many lines are neither that, nor empty, nor a
    comment. VMware writes a quotation mark in a value as ``|22``.
    """
    pairs: list[tuple[str, str]] = []
    others = 0
    for line in _lines(text):
        match = _QUOTED.fullmatch(line)
        if match is not None:
            pairs.append((match[1], re.sub(r"\|([0-9A-Fa-f]{2})", _unescaped, match[2])))
        else:
            others += 1
    return pairs, others


def colon_settings(text: str) -> tuple[list[tuple[str, str]], int]:
    """The pairs of lines ``key: value``, and how many lines are something else. Sections of
    snapshots, ``[name]``, are no pairs.
    """
    pairs: list[tuple[str, str]] = []
    others = 0
    for line in _lines(text):
        match = _COLON.fullmatch(line)
        if match is not None:
            pairs.append((match[1], match[2].strip()))
        elif not (line.startswith("[") and line.rstrip().endswith("]")):
            others += 1
    return pairs, others


def _lines(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n", _MAX_LINES)):
        if number >= _MAX_LINES:
            return
        line = line.rstrip("\r")
        if line.strip() and not line.lstrip().startswith("#") and len(line) <= _MAX_LINE:
            yield line


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))
