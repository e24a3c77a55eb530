"""The keys and values in Hyper-V's binary store (.vmcx, .vmrs).

    0x0000, 0x1000   headers; that with the higher sequence number counts
    0x2000           table of objects: tables of keys, values that are too large for one
    table of keys    2, index, sequence number; then entries: type, size, parent, name, value

A table may be there twice while it is changed: the higher sequence number counts. A file with a log
that is not replayed is refused: half of a change would be read. Source: dissect.hypervisor's
description of VmDataStore.dll. Imports the structures.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe import state_structures as s
from vmimg.probe.state_reading import active_hyperv_header

__all__ = ["Value", "read_keys"]

Value = str | int | bool | float | bytes

# A machine with a hundred disks has some thousands of keys, a few levels deep.
_MAX_KEYS: Final = 1 << 17
_MAX_DEPTH: Final = 32
_MAX_TABLES: Final = 64
_MAX_TABLE: Final = 16 << 20
_MAX_VALUE: Final = 1 << 20
_MAX_BYTES: Final = 64 << 20
"""Of all values that lie outside of the tables together: many may name the same bytes."""
_MAX_TEXT: Final = 32 << 20
"""Characters of all paths together."""
_INT, _UINT, _DOUBLE, _STRING, _ARRAY, _BOOL, _NODE = range(3, 10)
_FREE: Final = 1
_ELSEWHERE: Final = 0x100


@dataclass(slots=True)
class _Entry:
    """A key: of the ``kind``, under the one that is at ``parent`` (table and offset)."""

    kind: int
    parent: tuple[int, int]
    name: str
    data: bytes
    elsewhere: bool


def read_keys(view: View, name: str) -> dict[str, Value]:
    """All values by their paths, in the order in which they lie there.

    Raises FormatError for what breaks the format's rules, UnsupportedFeature for another version.
    """
    return _Store(view, name).values()


class _Store:
    def __init__(self, view: View, name: str) -> None:
        self._view = view
        self._name = name
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._read = 0
        header = active_hyperv_header(view)
        if header is None:
            raise FormatError(f"{name}: is no store of Hyper-V: the signature is missing")
        if header.version != s.HYPERV_VERSION:
            raise UnsupportedFeature(
                f"{name}: is a store of Hyper-V of version 0x{header.version:x}; only "
                "0x400 is known"
            )
        log = view.structure(s.HyperVReplayLog, header.replay_log_offset)
        if log is not None and log.signature == s.HYPERV_LOG_SIGNATURE and log.num_entries:
            raise UnsupportedFeature(
                f"{name}: {log.num_entries} changes in its log are not in their place yet; "
                "export the machine again"
            )
        objects = list(self._objects())
        self._files = {each.offset: each.size for each in objects if each.type == s.HYPERV_FILE}
        tables = [each for each in objects if each.type == s.HYPERV_KEY_TABLE]
        if len(tables) > _MAX_TABLES:
            raise FormatError(f"{name}: has {len(tables)} tables of keys, more than {_MAX_TABLES}")
        newest: dict[int, tuple[int, s.HyperVObject]] = {}
        for each in tables:
            start = view.structure(s.HyperVKeyTable, each.offset)
            if start is None or start.signature != s.HYPERV_KEYS_SIGNATURE:
                raise FormatError(f"{name}: a table of keys at offset {each.offset} is none")
            if start.index not in newest or newest[start.index][0] < start.sequence_number:
                newest[start.index] = (start.sequence_number, each)
        for index, (_, each) in newest.items():
            self._table(index, each)

    def values(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        paths: dict[tuple[int, int], str] = {}
        length = 0
        for place, entry in self._entries.items():
            path = self._path(place, paths)
            if entry.kind == _NODE:
                continue
            again, number = path, 1
            while again in found and number < 16:
                number += 1
                again = f"{path}[{number}]"
            length += len(again)
            if length > _MAX_TEXT:
                raise FormatError(f"{self._name}: the names of its keys are too long")
            found[again] = self._value(entry)
        return found

    def _objects(self) -> Iterator[s.HyperVObject]:
        """Those that are in use, of the first table and of those it leads to."""
        waiting, seen = [s.HYPERV_OBJECT_TABLE], set[int]()
        while waiting:
            offset = waiting.pop(0)
            if offset in seen or len(seen) >= _MAX_TABLES:
                raise FormatError(f"{self._name}: its tables of objects lead in a circle")
            seen.add(offset)
            table = self._view.structure(s.HyperVObjectTable, offset)
            if table is None or table.signature != s.HYPERV_TABLE_SIGNATURE:
                raise FormatError(f"{self._name}: a table of objects at offset {offset} is none")
            step = ctypes.sizeof(s.HyperVObject)
            count = min(table.num_entries, s.MAX_HYPERV_OBJECTS)
            data = self._view.read(offset + ctypes.sizeof(s.HyperVObjectTable), count * step)
            for at in range(len(data) // step):
                each = s.HyperVObject.from_buffer_copy(data, at * step)
                if not each.allocated:
                    continue
                if each.type == s.HYPERV_OBJECTS:
                    waiting.append(each.offset)
                else:
                    yield each

    def _table(self, index: int, where: s.HyperVObject) -> None:
        if where.size > _MAX_TABLE or where.offset + where.size > self._view.size:
            raise FormatError(
                f"{self._name}: its table of keys {index}, of {where.size} bytes at offset "
                f"{where.offset}, does not fit into it"
            )
        data = self._view.read(where.offset, where.size)
        offset = ctypes.sizeof(s.HyperVKeyTable)
        step = ctypes.sizeof(s.HyperVKey)
        while offset + step <= len(data):
            key = s.HyperVKey.from_buffer_copy(data, offset)
            if key.size == 0:
                break
            end = offset + key.size
            body = data[offset + step : end]
            if key.size < step or end > len(data) or key.data_offset > len(body):
                raise FormatError(
                    f"{self._name}: a key at offset {where.offset + offset} does not fit into its "
                    "table"
                )
            if key.type & 0xFF != _FREE:
                if len(self._entries) >= _MAX_KEYS:
                    raise FormatError(f"{self._name}: has more than {_MAX_KEYS} keys")
                title = body[: max(key.data_offset - 1, 0)].decode("utf-8", "replace")
                self._entries[index, offset] = _Entry(
                    key.type & 0xFF,
                    (key.parent_table, key.parent_offset),
                    printable(title).replace("/", "_"),
                    body[key.data_offset :],
                    bool(key.type & _ELSEWHERE),
                )
            offset = end

    def _path(self, place: tuple[int, int], known: dict[tuple[int, int], str]) -> str:
        steps: list[tuple[tuple[int, int], str]] = []
        path = ""
        while True:
            entry = self._entries.get(place)
            if place in known:
                path = known[place]
                break
            if entry is None:
                raise FormatError(
                    f"{self._name}: a key is under one at {place[1]} in table {place[0]}, where "
                    "there is none"
                )
            steps.append((place, entry.name))
            if len(steps) > _MAX_DEPTH:
                raise FormatError(f"{self._name}: its keys are more than {_MAX_DEPTH} deep")
            if entry.parent[0] == 0:
                break
            place = entry.parent
        for where, title in reversed(steps):
            path = f"{path}/{title}" if path else title
            if self._entries[where].kind == _NODE:
                known[where] = path
        return path

    def _value(self, entry: _Entry) -> Value:
        data = entry.data
        if entry.kind in (_STRING, _ARRAY):
            data = self._bytes(entry)
            return data.decode("utf-16-le", "replace") if entry.kind == _STRING else data
        layout = {_INT: "<q", _UINT: "<Q", _DOUBLE: "<d", _BOOL: "<I"}.get(entry.kind)
        if layout is None:
            return b""
        if len(data) < struct.calcsize(layout):
            raise FormatError(f"{self._name}: the value of '{entry.name}' is cut short")
        value: int | float = struct.unpack_from(layout, data)[0]
        return bool(value) if entry.kind == _BOOL else value

    def _bytes(self, entry: _Entry) -> bytes:
        """The value of a key that has a length: behind it, or in an object of its own."""
        if not entry.elsewhere:
            size = int.from_bytes(entry.data[:4], "little")
            if size > len(entry.data) - 4:
                raise FormatError(f"{self._name}: the value of '{entry.name}' is cut short")
            return entry.data[4 : 4 + size]
        size = int.from_bytes(entry.data[:4], "little")
        offset = int.from_bytes(entry.data[4:12], "little")
        self._read += size
        if size > min(self._files.get(offset, 0), _MAX_VALUE) or self._read > _MAX_BYTES:
            raise FormatError(
                f"{self._name}: the value of '{entry.name}', of {size} bytes at offset {offset}, "
                "is in no object"
            )
        return self._view.read(offset, size)
