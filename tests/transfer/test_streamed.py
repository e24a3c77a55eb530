"""Streamed images: the bytes of convert's file, in order, to whoever still listens."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vmimg
from kinds import KINDS, Kind
from samples import border_disk, write_sparse
from vmimg.disk.extent import Extent
from vmimg.disk.extent import Kind as Content
from vmimg.disk.layer import Layer
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError, StorageError
from vmimg.formats.opening import open_disk
from vmimg.storage.base import Buffer
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert
from vmimg.transfer.streamed import streamed_image

SIZE = 6 * (1 << 20) + 512 * 3
SEVERAL = [
    kind
    for kind in KINDS
    if kind.format in ("vmdk", "parallels")
    and kind.subformat not in ("monolithicSparse", "streamOptimized", "expanding")
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", border_disk(SIZE))


def collect(into: bytearray) -> Callable[[Buffer], None]:
    def send(data: Buffer) -> None:
        into.extend(data)

    return send


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SEVERAL], ids=str)
def test_a_stream_is_the_file_that_convert_writes(tmp_path: Path, raw: Path, kind: Kind) -> None:
    path, sent = kind.path(tmp_path), bytearray()
    convert(raw, path, format=kind.format, options=kind.options)
    with open_disk(raw) as disk:
        size = streamed_image(disk, kind.format, collect(sent), kind.options, name=path.name)
    assert size == path.stat().st_size
    assert sent == path.read_bytes()


@pytest.mark.parametrize(
    ("format", "options", "level"),
    [
        ("qcow2", {}, "default"),
        ("qcow2", {"compression_type": "zstd"}, "fast"),
        ("qcow", {}, "best"),
        ("vmdk", {"subformat": "streamOptimized"}, "best"),
    ],
    ids=str,
)
def test_a_compressed_stream_is_the_file_that_convert_writes(
    tmp_path: Path, raw: Path, format: str, options: dict[str, Any], level: str
) -> None:
    path, sent = tmp_path / "disk.image", bytearray()
    compress = format != "vmdk"
    convert(raw, path, format=format, options=options, compress=compress, level=level)
    with open_disk(raw) as disk:
        streamed_image(
            disk, format, collect(sent), options, name=path.name, compress=compress, level=level
        )
    assert sent == path.read_bytes()


def test_an_encrypted_image_can_be_streamed(tmp_path: Path, raw: Path) -> None:
    path, sent = tmp_path / "disk.luks", bytearray()
    with open_disk(raw) as disk:
        streamed_image(disk, "luks", collect(sent), {"iter-time": 10}, keys="secret")
    path.write_bytes(sent)
    with open_disk(path, keys="secret") as inside:
        assert inside.format == "luks"
        assert compare(inside, raw).identical


@pytest.mark.parametrize("kind", SEVERAL, ids=str)
def test_what_is_several_files_is_refused_before_anything_is_sent(raw: Path, kind: Kind) -> None:
    sent = bytearray()
    with (
        open_disk(raw) as disk,
        pytest.raises(OptionError, match=r"is several files|is a directory"),
    ):
        streamed_image(disk, kind.format, collect(sent), kind.options)
    assert not sent


class Noise(Layer):
    """A disk of ``size`` bytes that do not compress; ``read`` counts those that were asked for."""

    format = "none"
    name = "noise"

    def __init__(self, size: int) -> None:
        self.size = size
        self.read = 0
        self._noise = bytes((i * i * 7919 >> 5) & 0xFF | 1 for i in range(1 << 16))

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if start < end:
            yield Extent(start, end - start, Content.DATA)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        self.read += len(buffer)
        for start in range(0, len(buffer), len(self._noise)):
            part = buffer[start : start + len(self._noise)]
            part[:] = self._noise[: len(part)]
        return []

    def close(self) -> None:
        pass


class Gone(Exception):
    """The receiver hung up."""


@pytest.mark.parametrize(
    ("format", "options", "compress"),
    [
        ("vmdk", {"subformat": "streamOptimized"}, False),
        ("qcow2", {}, True),
        ("raw", {}, False),
        ("vhdx", {}, False),
    ],
    ids=str,
)
def test_a_receiver_that_goes_away_stops_the_work(
    format: str, options: dict[str, Any], compress: bool
) -> None:
    disk = Noise(1 << 30)
    sent = 0

    def send(data: Buffer) -> None:
        nonlocal sent
        sent += len(data)
        if sent > 1 << 20:
            raise Gone

    if format in ("qcow2", "vhdx"):
        # What stands in front is known only when all was read once.
        disk = Noise(64 << 20)
    with pytest.raises(Gone):
        streamed_image(Disk([disk]), format, send, options, compress=compress)
    assert sent < 8 << 20
    assert disk.read < (192 << 20)


def test_a_receiver_that_goes_away_before_anything_is_sent_stops_the_work() -> None:
    disk, sent = Noise(64 << 30), bytearray()

    def progress(done: int, total: int) -> None:
        assert 0 <= done <= total
        if done:
            raise Gone

    for compress in (True, False):
        with pytest.raises(Gone):
            streamed_image(
                Disk([disk]), "qcow2", collect(sent), compress=compress, progress=progress
            )
    assert not sent


def test_memory_does_not_grow_with_the_image() -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("vmdk", {"subformat": "streamOptimized"}),
        ("vdi", {}),
    ]
    for format, options in cases:
        streamed_image(Disk([Noise(1 << 20)]), format, len, options)  # imports
        tracemalloc.start()
        try:
            streamed_image(Disk([Noise(96 << 20)]), format, len, options, threads=2)
            assert tracemalloc.get_traced_memory()[1] < 24 << 20
        finally:
            tracemalloc.stop()


def test_a_source_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path) -> None:
    source = tmp_path / "shrinking.raw"
    source.write_bytes(b"x" * (8 << 20))

    def send(data: Buffer) -> None:
        source.write_bytes(b"")

    with open_disk(source) as disk, pytest.raises(StorageError, match="shrinking"):
        streamed_image(disk, "vmdk", send, {"subformat": "streamOptimized"}, threads=1)


def test_the_library_offers_it(raw: Path) -> None:
    sent = bytearray()
    with vmimg.open(raw) as disk:
        assert vmimg.streamed_image(disk, "raw", collect(sent)) == SIZE
    assert sent == raw.read_bytes()
