"""ConcatLayer: several layers, one behind the other, are one."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from vmimg.disk.concat import ConcatLayer
from vmimg.disk.extent import Extent, Kind
from vmimg.disk.layer import Layer
from vmimg.disk.stack import Disk
from vmimg.errors import StorageError
from vmimg.storage.base import Buffer


class Piece(Layer):
    """Bytes, of which those that are 0 are ABSENT, a sector at a time."""

    format = "piece"
    writable = True

    def __init__(self, content: bytes, granularity: int = 512, *, fails: bool = False) -> None:
        self.content = bytearray(content)
        self.size = len(content)
        self.name = "a piece"
        self.granularity = granularity
        self.closed = 0
        self.flushed = 0
        self._fails = fails

    def map(self, start: int, end: int) -> Iterator[Extent]:
        while start < end:
            stop = min(end, start // 512 * 512 + 512)
            held = any(self.content[start // 512 * 512 : stop])
            kind = Kind.DATA if held else Kind.ABSENT
            yield Extent(start, stop - start, kind, start if held else None)
            start = stop

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        absent: list[tuple[int, int]] = []
        for extent in self.map(offset, offset + len(buffer)):
            part = slice(extent.start - offset, extent.end - offset)
            if extent.kind == Kind.ABSENT:
                absent.append((extent.start, extent.end))
                buffer[part] = b"?" * extent.length
            else:
                buffer[part] = self.content[extent.start : extent.end]
        return absent

    def write(self, offset: int, data: Buffer) -> None:
        assert offset >= 0 and offset + len(data) <= self.size
        self.content[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int, *, discard: bool = False) -> None:
        self.write(offset, bytes(length))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1
        if self._fails:
            raise StorageError("a piece: cannot be closed")


def pieces() -> list[Piece]:
    noise = random.Random(1)
    contents = [noise.randbytes(512) * 3 + bytes(1024), bytes(512), b"", noise.randbytes(2048)]
    return [Piece(content) for content in contents]


def test_it_reads_as_its_parts_one_behind_the_other() -> None:
    parts = pieces()
    whole = b"".join(bytes(part.content) for part in parts)
    disk = Disk([ConcatLayer(parts)])
    assert disk.size == len(whole)
    noise = random.Random(2)
    for _ in range(200):
        start = noise.randrange(len(whole))
        end = noise.randrange(start, len(whole)) + 1
        assert disk.read(start, end - start) == whole[start:end]


def test_writes_and_zeros_go_to_the_part_that_has_the_place() -> None:
    parts = pieces()
    model = bytearray(b"".join(bytes(part.content) for part in parts))
    layer = ConcatLayer(parts)
    noise = random.Random(3)
    for _ in range(200):
        start = noise.randrange(len(model))
        length = noise.randrange(len(model) - start) + 1
        data = noise.choice((bytes(length), noise.randbytes(length)))
        if any(data):
            layer.write(start, data)
        else:
            layer.zero(start, length)
        model[start : start + length] = data
        assert b"".join(bytes(part.content) for part in parts) == model
    layer.flush()
    assert {part.flushed for part in parts} == {1}


def test_the_map_tells_files_apart_and_spans_do_not() -> None:
    layer = ConcatLayer(
        [Piece(b"x" * 512), Piece(b"y" * 512), Piece(bytes(512)), Piece(bytes(512))]
    )
    assert [(e.start, e.length, e.offset) for e in layer.map(0, 2048)] == [
        (0, 512, 0), (512, 512, 0), (1024, 1024, None)
    ]  # fmt: skip
    assert list(layer.spans(0, 2048)) == [(0, 1024, Kind.DATA), (1024, 2048, Kind.ABSENT)]
    assert list(layer.spans(100, 600)) == [(100, 600, Kind.DATA)]
    assert list(layer.map(700, 700)) == []


def test_parts_that_begin_inside_a_unit_are_not_aligned() -> None:
    assert ConcatLayer([Piece(bytes(4096), 4096), Piece(bytes(512), 512)]).aligned
    assert not ConcatLayer([Piece(bytes(512), 512), Piece(bytes(4096), 4096)]).aligned
    assert ConcatLayer([Piece(bytes(512), 512), Piece(bytes(4096), 4096)]).granularity == 4096


def test_all_parts_are_closed_even_if_one_cannot_be() -> None:
    parts = [Piece(b"x"), Piece(b"y", fails=True), Piece(b"z")]
    with pytest.raises(StorageError, match="cannot be closed"):
        ConcatLayer(parts).close()
    assert [part.closed for part in parts] == [1, 1, 1]
