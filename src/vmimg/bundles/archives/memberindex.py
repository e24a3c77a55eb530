"""MemberIndex: the members of an archive in so little memory that there may be millions of them.

An XVA of a disk of 1 TiB has two million members. Objects for them would take a gigabyte; here a
member is a name in one row of bytes, and a few numbers in arrays. Imports nothing of vmimg but
errors.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from vmimg.errors import UnsafeImage

__all__ = ["MemberIndex"]

_MAX_MEMBERS: Final = 1 << 22
_MAX_NAMES: Final = 256 << 20
_EMPTY: Final = 0xFFFFFFFF


class MemberIndex:
    """Names with three numbers each, in the order in which they were added; the first of a name is
    found. ``what`` it is of, for messages. Raises UnsafeImage beyond four million.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._names = bytearray()
        self._ends = array("Q")
        self._numbers = (array("q"), array("q"), array("q"))
        self._table = array("I", [_EMPTY]) * 64
        """Numbers of members by the hashes of their names: open addressing, at most half full."""

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, name: str, *numbers: int) -> bool:
        """One more; whether it is the first of its name."""
        index = len(self._ends)
        raw = name.encode("utf-8", "surrogateescape")
        first, second, third = numbers
        if index >= _MAX_MEMBERS or len(self._names) + len(raw) > _MAX_NAMES:
            raise UnsafeImage(f"{self._what}: has more members than are taken ({index})")
        if 2 * index >= len(self._table):
            self._grow()
        self._names += raw
        self._ends.append(len(self._names))
        rows = self._numbers
        rows[0].append(first)
        rows[1].append(second)
        rows[2].append(third)
        return self._enter(index, raw)

    def find(self, name: str) -> int | None:
        """The number of the first member of that name."""
        try:
            raw = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return None
        found = self._table[self._slot(raw)]
        return None if found == _EMPTY else found

    def name(self, index: int) -> str:
        return self._raw(index).decode("utf-8", "surrogateescape")

    def numbers(self, index: int) -> tuple[int, int, int]:
        first, second, third = self._numbers
        return first[index], second[index], third[index]

    def firsts(self) -> Iterator[int]:
        """The numbers of all members that are the first of their name."""
        for index in range(len(self._ends)):
            if self._table[self._slot(self._raw(index))] == index:
                yield index

    def _raw(self, index: int) -> bytes:
        start = self._ends[index - 1] if index else 0
        return bytes(self._names[start : self._ends[index]])

    def _enter(self, index: int, raw: bytes) -> bool:
        table = self._table
        slot = hash(raw) & (len(table) - 1)
        if table[slot] != _EMPTY:
            slot = self._slot(raw)
            if table[slot] != _EMPTY:
                return False
        table[slot] = index
        return True

    def _slot(self, raw: bytes) -> int:
        """Where ``raw`` stands in the table, or would."""
        mask = len(self._table) - 1
        slot = hash(raw) & mask
        while (found := self._table[slot]) != _EMPTY and self._raw(found) != raw:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        self._table = array("I", [_EMPTY]) * (4 * len(self._table))
        for index in range(len(self._ends)):
            self._enter(index, self._raw(index))
