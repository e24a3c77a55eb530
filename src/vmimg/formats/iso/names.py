"""Names on a disc: those of ISO 9660, which few letters may be in, and those of Joliet.

Both are made unique in their directory. Rock Ridge keeps every name as it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["iso_directory_name", "iso_file_name", "joliet_name", "unique"]

_LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
# ECMA-119 7.5.1 and 7.6.3: a file's name and extension have 30 letters together, a directory's
# name 31.
_FILE: Final = 30
_EXTENSION: Final = 8
_DIRECTORY: Final = 31
# Joliet has 64 letters; pycdlib counts them as bytes of UTF-8.
_JOLIET: Final = 64
_JOLIET_FORBIDDEN: Final = str.maketrans(dict.fromkeys("*/:;?\\", "_"))


def unique(
    wanted: Iterable[str], make: Callable[[str, str], str], taken: Iterable[str] = ()
) -> list[str]:
    """A name for each of ``wanted``, in their order: no two are equal, nor one of ``taken``.

    ``make(name, suffix)`` gives the name with a suffix ("" first, then "1", "2", ...) that makes it
    another.
    """
    used = set(taken)
    counters: dict[str, int] = {}
    names = []
    for each in wanted:
        first = name = make(each, "")
        while name in used:
            counters[first] = counters.get(first, 0) + 1
            name = make(each, str(counters[first]))
        used.add(name)
        names.append(name)
    return names


def iso_file_name(name: str, suffix: str = "") -> str:
    """``READ_ME.TXT;1`` for ``read me.txt``."""
    stem, dot, extension = name.rpartition(".")
    if not dot or not stem:
        stem, extension = name, ""
    extension = _plain(extension)[:_EXTENSION] if extension else ""
    stem = _plain(stem)[: _FILE - len(extension) - len(suffix)] + suffix
    # Without a dot it is no file identifier (7.5.1); a few readers insist.
    return f"{stem}.{extension};1"


def iso_directory_name(name: str, suffix: str = "") -> str:
    """``LOST_FOUND`` for ``lost+found``."""
    return _plain(name)[: _DIRECTORY - len(suffix)] + suffix


def joliet_name(name: str, suffix: str = "") -> str:
    """``name`` without what Joliet forbids, cut to its length in front of the extension."""
    plain = "".join(
        "_" if unicodedata.category(letter) == "Cc" else letter
        for letter in name.translate(_JOLIET_FORBIDDEN)
    )
    if not suffix and _length(plain) <= _JOLIET:
        return plain
    stem, dot, extension = plain.rpartition(".")
    if not stem or _length(extension) > _EXTENSION * 2:
        stem, dot, extension = plain, "", ""
    room = _JOLIET - _length(dot + extension) - len(suffix)
    while _length(stem) > room:
        stem = stem[:-1]
    return stem + suffix + dot + extension


def _plain(text: str) -> str:
    # Ä becomes A, what has no such letter becomes _.
    flat = unicodedata.normalize("NFKD", text)
    flat = "".join(letter for letter in flat if not unicodedata.combining(letter)).upper()
    # Never nothing: of a name that is only accents.
    return "".join(letter if letter in _LETTERS else "_" for letter in flat) or "_"


def _length(text: str) -> int:
    return len(text.encode())
