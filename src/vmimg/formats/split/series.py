"""Series: which files beside a part are the other parts of the disk, by their names alone.

::

    disk.001 disk.002 ... disk.999 disk.1000    FTK Imager, HJSplit, 7-Zip; also from .000 on
    disk.00 disk.01 ... disk.99                 split -d
    disk.aa disk.ab ... disk.zz                 split -a 2
    disk.aa ... disk.yz disk.zaaa ... disk.zyzz split, which makes room for more as it goes

Only names and sizes are looked at; nothing is opened here. No numpy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from string import ascii_lowercase
from typing import Final

__all__ = ["Series", "find_series", "names_from"]

_NUMBER: Final = re.compile(r"(.*\.)(\d{2,5})", re.DOTALL)
# Four letters: where split made room. More of them are an extension in its own right.
_LETTERS: Final = re.compile(r"(.*\.)([a-z]{2,3}|z[a-z]{3})", re.DOTALL)
# A part so far behind a missing one may be something else: disk.gz is not the 182nd of disk.aa.
_GAP: Final = 16


@dataclass(frozen=True, slots=True)
class Series:
    """The parts of a disk, by file names without their directory.

    ``names``: those that are there, from the first one without a gap. ``missing``: the one behind
    them, where there are later ones, else None. ``number``: that of the file asked for, from 0; it
    may be behind the gap. ``usual`` is False where files are often called so that are no parts:
    disk-2.00 and disk-2.01 may be two versions.
    """

    folder: str
    names: tuple[str, ...]
    missing: str | None
    number: int
    usual: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        """Where they are."""
        return tuple(os.path.join(self.folder, name) for name in self.names)


def find_series(path: str) -> Series | None:
    """The series that the file at ``path`` belongs to; None where its name says of none.

    A file called .001 is a series, alone or not. What else looks like a first part is one where
    there is a second, and what looks like a later part where there is a first.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    if not os.path.isfile(path):
        return None
    return _numbered(folder, name) or _lettered(folder, name)


def names_from(name: str) -> Iterator[str]:
    """``name``, the first part of a series, and the names behind it. Raises ValueError for the name
    of what is not a first part.
    """
    number = _NUMBER.fullmatch(name)
    if number is not None and int(number[2]) <= 1:
        stem, digits = number.groups()
        most = 10 ** len(digits)
        return (f"{stem}{n:0{len(digits)}}" for n in range(int(digits), most))
    letters = _LETTERS.fullmatch(name)
    if letters is not None and not letters[2].strip("a"):
        return (letters[1] + suffix for suffix in _fixed(len(letters[2])))
    raise ValueError(f"{name} is not the name of a first part")


def _numbered(folder: str, name: str) -> Series | None:
    match = _NUMBER.fullmatch(name)
    if match is None:
        return None
    stem, digits = match.groups()
    # .1000 is behind .999 as well as behind .0999.
    least = len(digits) if digits.startswith("0") else min(len(digits), 3)
    for width in range(len(digits), least - 1, -1):
        found = _numbers_beside(folder, stem, width)
        first = 0 if 0 in found else 1
        if int(digits) not in found or first not in found:
            continue  # without a first one it may be no part of anything
        end = first + 1
        while end in found:
            end += 1
        if len(found) == 1 and (first, width) != (1, 3):
            return None
        names = tuple(found[number] for number in range(first, end))
        missing = f"{stem}{end:0{width}}" if max(found) > end else None
        return Series(folder, names, missing, int(digits) - first, usual=width > 2)
    return None


def _numbers_beside(folder: str, stem: str, width: int) -> dict[int, str]:
    """The files in ``folder`` that are called ``stem`` and a number of ``width`` digits, or of more
    where it needs them.
    """
    found: dict[int, str] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                digits = entry.name.removeprefix(stem)
                if not entry.name.startswith(stem) or not digits.isdecimal() or len(digits) > 5:
                    continue
                if digits == f"{int(digits):0{width}}" and entry.is_file():
                    found[int(digits)] = entry.name
    except OSError:
        pass
    return found


def _lettered(folder: str, name: str) -> Series | None:
    match = _LETTERS.fullmatch(name)
    if match is None:
        return None
    stem, letters = match.groups()
    width = 2 if len(letters) == 4 else len(letters)

    def there(suffix: str) -> bool:
        return os.path.isfile(os.path.join(folder, stem + suffix))

    if not there("a" * width):
        return None
    grown = width == 2 and not there("za") and there("zaaa")
    suffixes = list(_grown() if grown else _fixed(width))
    count = next((n for n, suffix in enumerate(suffixes) if not there(suffix)), len(suffixes))
    missing = None
    if any(there(suffix) for suffix in islice(suffixes, count + 1, count + 1 + _GAP)):
        missing = stem + suffixes[count]
    if letters not in suffixes or (count == 1 and missing is None):
        return None
    number = suffixes.index(letters)
    # disk.img is no part of disk.aaa.
    if number >= count + _GAP or (number > count and missing is None):
        return None
    return Series(folder, tuple(stem + suffix for suffix in suffixes[:count]), missing, number)


def _fixed(width: int) -> Iterator[str]:
    """aa, ab, ..., zz, or with more letters."""
    if not width:
        yield ""
        return
    for start in ascii_lowercase:
        for rest in _fixed(width - 1):
            yield start + rest


def _grown() -> Iterator[str]:
    """aa, ab, ..., yz, zaaa, zaab, ..., zyzz: what split calls its files when it has many."""
    yield from (suffix for suffix in _fixed(2) if suffix[0] != "z")
    yield from ("z" + suffix for suffix in _fixed(3) if suffix[0] != "z")
