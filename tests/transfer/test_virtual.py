"""Virtual images: what convert would write, at any offset, with nothing written.

Every kind that is one plain file is compared with the file that convert makes, whole and in random
ranges, and read by qemu-img once it is copied out. Disks that are too large to be written are read
through the formats' own readers, straight from what was never written.
"""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import peers
import vmimg
from kinds import KINDS, Kind, qemu_view
from samples import border_disk, write_sparse
from vmimg.disk.extent import Extent, Span
from vmimg.disk.extent import Kind as Content
from vmimg.disk.layer import Layer
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError, StorageError
from vmimg.formats.opening import open_disk, open_storage_disk
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure
from vmimg.transfer.virtual import VirtualImage, has_map, virtual_image

SIZE = 5 * (1 << 20) + 512 * 3

PLAIN = [
    kind
    for kind in KINDS
    if kind.format not in ("dmg", "cloop")
    and (
        kind.subformat is None
        or kind.subformat in ("monolithicSparse", "dynamic", "fixed", "expanding")
    )
]
SEVERAL = [
    kind
    for kind in KINDS
    if kind not in PLAIN
    and kind.format in ("vmdk", "parallels")
    and kind.subformat != "streamOptimized"
]
COMPRESSED = [kind for kind in KINDS if kind not in PLAIN and kind not in SEVERAL]

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("qcow2", {"compat": "0.10"}),
    *(("qcow2", {"cluster_size": size}) for size in ("512", "4k", "32k", "128k", "2M")),
    ("qcow2", {"extended_l2": "on", "cluster_size": "16k"}),
    ("qcow2", {"extended_l2": "on", "cluster_size": "2M"}),
    ("qcow2", {"refcount_bits": 1}),
    ("qcow2", {"refcount_bits": 64, "cluster_size": "1k"}),
    ("qcow2", {"lazy_refcounts": "on"}),
    ("qcow2", {"preallocation": "metadata"}),
    ("qcow2", {"preallocation": "metadata", "extended_l2": "on", "cluster_size": "16k"}),
    ("qcow2", {"preallocation": "full", "cluster_size": "4k"}),
    ("raw", {"preallocation": "full"}),
    ("vmdk", {"subformat": "monolithicSparse", "zeroed_grain": "on"}),
    ("vmdk", {"subformat": "monolithicSparse", "adapter_type": "lsilogic"}),
    ("vhd", {"block_size": "512k"}),
    ("vhdx", {"block_size": "1M"}),
    ("vhdx", {"block_state_zero": "off", "log_size": "2M"}),
    ("vhdx", {"subformat": "fixed", "block_size": "1M"}),
    ("vdi", {"block_size": "4k"}),
    ("vdi", {"static": "on"}),
    ("qed", {"cluster_size": "4k", "table_size": 1}),
    ("qed", {"cluster_size": "1M", "table_size": 16}),
    ("parallels", {"cluster_size": "4k"}),
    ("parallels", {"cluster_size": "16M"}),
]


def contents() -> dict[str, bytes]:
    """Disks by what is special about them."""
    noise = random.Random(5)
    full = noise.randbytes((1 << 20) + 512)
    return {
        "sparse": border_disk(SIZE),
        "full": full,
        "zeros": bytes((2 << 20) + 512 * 7),
        "a-sector": noise.randbytes(512),
        "last-sector": bytes((3 << 20) - 512) + b"\1" * 512,
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The disks as qcow2: what is zero in a cluster with data, no map tells."""
    folder = tmp_path_factory.mktemp("sources")
    paths = {}
    for name, content in contents().items():
        raw = write_sparse(folder / f"{name}.raw", content)
        paths[name] = folder / f"{name}.qcow2"
        convert(raw, paths[name])
    return paths


def reader(format: str) -> str:
    """What reads it: a disk in parts that has one part is a raw one."""
    return "raw" if format == "split" else format


def differing(virtual: VirtualImage, file: bytes, seed: int = 1, ranges: int = 25) -> list[Any]:
    """The ranges in which the two differ: of all, and of some by chance, short and long."""
    chance = random.Random(seed)
    end = virtual.size
    asked = [(0, end), (end, end), (0, 1), (end - 1, end)]
    for _ in range(ranges):
        start = chance.randrange(end)
        length = chance.choice([1, 511, 512, 4096, 65536, 300_001, 2 << 20])
        asked.append((start, min(end, start + length)))
    wrong = []
    for low, high in asked:
        buffer = bytearray(b"\xaa") * (high - low)  # what nobody wrote has to be made zeros
        virtual.read_into(low, memoryview(buffer))
        if buffer != file[low:high]:
            wrong.append((low, high))
    return wrong


def kinds_with_options() -> list[Any]:
    named = [pytest.param(kind.format, kind.options, id=str(kind)) for kind in PLAIN]
    for format, options in OPTIONS:
        text = ",".join(f"{name}={value}" for name, value in options.items())
        named.append(pytest.param(format, options, id=f"{format}:{text}"))
    return named


@pytest.mark.parametrize(("format", "options"), kinds_with_options())
def test_a_virtual_image_is_the_file_that_convert_writes(
    tmp_path: Path, sources: dict[str, Path], format: str, options: dict[str, Any]
) -> None:
    for content, source in sources.items():
        path = Kind(format).path(tmp_path / content)
        path.parent.mkdir()
        convert(source, path, format=format, options=options)
        file = path.read_bytes()
        with open_disk(source) as disk:
            virtual = virtual_image(disk, format, options, zeros="data", name=path.name)
            assert (
                virtual.size == len(file) == measure(disk, format=format, options=options).required
            )
            assert differing(virtual, file) == []


@pytest.mark.parametrize(("format", "options"), kinds_with_options())
def test_made_by_the_map_alone_it_is_another_file_and_the_same_disk(
    sources: dict[str, Path], format: str, options: dict[str, Any]
) -> None:
    for content, source in sources.items():
        disk = open_disk(source)
        virtual = virtual_image(disk, format, options, owns=True)
        with open_storage_disk(virtual, format=reader(format)) as read, open_disk(source) as wanted:
            assert read.size == wanted.size, content
            assert read.read(0, read.size) == wanted.read(0, wanted.size), content


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("zeros", ["map", "data"])
@pytest.mark.parametrize("kind", [kind for kind in PLAIN if kind.format != "split"], ids=str)
def test_qemu_reads_what_was_copied_out(
    tmp_path: Path, sources: dict[str, Path], kind: Kind, zeros: Any
) -> None:
    path = kind.path(tmp_path)
    with open_disk(sources["sparse"]) as disk:
        virtual = virtual_image(disk, kind.format, kind.options, zeros=zeros, name=path.name)
        path.write_bytes(virtual.read(0, virtual.size))
    view = qemu_view(kind, path)
    if view is None:  # COW: vmimg's own reader is the only one
        assert compare(path, sources["sparse"], format_a=kind.format).identical
        return
    name, image = view
    peers.run("qemu-img", "compare", "-F", name, sources["sparse"], image)
    if vmimg.FORMATS[kind.format].capabilities.check:
        peers.run("qemu-img", "check", "-f", name, image, ok=(0, 63))


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_its_holes_are_zeros_and_cover_what_the_source_lacks(
    sources: dict[str, Path], kind: Kind
) -> None:
    with open_disk(sources["sparse"]) as disk:
        virtual = virtual_image(disk, kind.format, kind.options)
        extents = list(virtual.extents(0, virtual.size))
        assert extents[0][0] == 0 and extents[-1][1] == virtual.size
        assert all(a[1] == b[0] and a[2] != b[2] for a, b in pairwise(extents))
        holes = [(low, high) for low, high, hole in extents if hole]
        assert all(not any(virtual.read(low, high - low)) for low, high in holes)
        filled = virtual.size - sum(high - low for low, high in holes)
        data = sum(high - low for low, high, kind_ in disk.spans() if kind_ == Content.DATA)
        assert filled < data + (2 << 20)
        middle = virtual.size // 3
        part = list(virtual.extents(middle, middle + 100_000))
        assert (part[0][0], part[-1][1]) == (middle, middle + 100_000)
        assert list(virtual.extents(5, 5)) == []


@pytest.mark.parametrize("kind", SEVERAL, ids=str)
def test_what_is_several_files_is_refused_by_name(kind: Kind) -> None:
    with pytest.raises(OptionError, match=r"is several files|is a directory") as refused:
        virtual_image(Disk([EmptyLayer(1 << 20)]), kind.format, kind.options, name="disk.vmdk")
    if kind.format == "vmdk":
        assert "disk-" in str(refused.value)


@pytest.mark.parametrize("kind", COMPRESSED, ids=str)
def test_what_is_compressed_is_sent_on_to_streams(kind: Kind) -> None:
    with pytest.raises(OptionError, match="can be streamed"):
        virtual_image(Disk([EmptyLayer(1 << 20)]), kind.format, kind.options)
    assert not has_map(kind.format, kind.options, 1 << 20)


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_what_has_a_map_is_known_before_there_is_a_disk(kind: Kind) -> None:
    assert has_map(kind.format, kind.options, 1 << 20)


def test_what_cannot_be_virtual_is_refused_with_its_reason() -> None:
    disk = Disk([EmptyLayer(1 << 20)])
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("luks", {}, "keys"),
        ("qcow2", {"encrypt.format": "luks"}, "keys"),
        ("qcow2", {"data_file": "disk.data"}, "disk.data"),
        ("qcow2", {"backing_file": "base.raw", "backing_fmt": "raw"}, "backing file"),
        ("iso", {}, "not made"),
        ("nonsense", {}, "no format"),
        ("qcow2", {"nonsense": 1}, "no option"),
    ]
    for format, options, words in cases:
        with pytest.raises(OptionError, match=words):
            virtual_image(disk, format, options)
    with pytest.raises(OptionError, match="by map or data"):
        virtual_image(disk, "raw", zeros="guess")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="holds"):
        virtual_image(Disk([EmptyLayer(3 << 40)]), "vhd")


def test_it_cannot_be_written_nor_read_beyond_its_end(sources: dict[str, Path]) -> None:
    with open_disk(sources["sparse"]) as disk:
        virtual = virtual_image(disk, "vhdx")
        for start, length in ((-1, 4), (virtual.size - 1, 2), (virtual.size + 5, 1)):
            with pytest.raises(StorageError, match="cannot read"):
                virtual.read_into(start, memoryview(bytearray(length)))
        assert not virtual.writable
        with pytest.raises(StorageError, match="open for reading only"):
            virtual.write(0, b"x")
        with pytest.raises(StorageError, match="open for reading only"):
            virtual.zero(0, 1)
        with pytest.raises(StorageError, match="open for reading only"):
            virtual.resize(0)


class Unread(Layer):
    """A disk whose map is known and that must not be read."""

    format = "none"
    name = "unread"

    def __init__(self, size: int, data: list[tuple[int, int]]) -> None:
        self.size = size
        self._data = data
        self.closed = False

    def map(self, start: int, end: int) -> Iterator[Extent]:
        at = start
        for low, high in self._data:
            low, high = max(low, start), min(high, end)
            if low < high:
                if at < low:
                    yield Extent(at, low - at, Content.ZERO)
                yield Extent(low, high - low, Content.DATA)
                at = high
        if at < end:
            yield Extent(at, end - at, Content.ZERO)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        raise StorageError("it was read")

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_by_the_map_nothing_is_read_before_the_first_byte(kind: Kind) -> None:
    data = [(0, 512), (3 << 20, 7 << 20), (2000 << 20, 2048 << 20)]
    virtual = virtual_image(Disk([Unread(2 << 30, data)]), kind.format, kind.options)
    assert measure(size=2 << 30, format=kind.format, options=kind.options).required <= virtual.size
    filled = [(low, high) for low, high, hole in virtual.extents(0, virtual.size) if not hole]
    with pytest.raises(StorageError, match="it was read"):
        for low, high in filled:
            virtual.read(low, min(high - low, 8 << 20))


def test_by_the_data_everything_is_read_but_for_disks_without_blocks() -> None:
    disk = Disk([Unread(2 << 30, [(0, 512)])])
    with pytest.raises(StorageError, match="it was read"):
        virtual_image(disk, "qcow2", zeros="data")
    assert virtual_image(disk, "raw", zeros="data").size == 2 << 30
    assert virtual_image(disk, "vhd", {"subformat": "fixed"}, zeros="data").size == (2 << 30) + 512


def test_a_run_of_zeros_costs_blocks_by_the_map_and_none_by_the_data(tmp_path: Path) -> None:
    path = tmp_path / "written.raw"
    path.write_bytes(bytes(8 << 20) + b"x" * 65536)
    with open_disk(path) as disk:
        by_map, by_data = (
            virtual_image(disk, "qcow2", zeros=zeros).size for zeros in ("map", "data")
        )
        assert by_data < 1 << 20 and by_map > 8 << 20


def test_closing_it_closes_the_disk_only_where_it_owns_it() -> None:
    kept, owned = Unread(1 << 20, []), Unread(1 << 20, [])
    virtual_image(Disk([kept]), "qcow2").close()
    virtual_image(Disk([owned]), "qcow2", owns=True).close()
    assert (kept.closed, owned.closed) == (False, True)


@pytest.mark.parametrize("kind", PLAIN, ids=str)
def test_an_empty_disk_of_the_largest_size_is_there_at_once(kind: Kind) -> None:
    sizes = {"vhd": 2040 << 30, "vmdk": (2 << 40) - (1 << 30), "split": 2 << 30, "cow": 256 << 30}
    size = sizes.get(kind.format, 64 << 40)
    virtual = virtual_image(Disk([EmptyLayer(size)]), kind.format, kind.options)
    assert virtual.size == measure(size=size, format=kind.format, options=kind.options).required
    assert virtual.held < 8 << 20
    with open_storage_disk(virtual, format=reader(kind.format)) as disk:
        assert disk.size == size
        assert not any(disk.read(0, 4096)) and not any(disk.read(size - 4096, 4096))


@pytest.mark.parametrize("kind", [k for k in PLAIN if k.subformat != "fixed"], ids=str)
def test_an_empty_image_equals_what_create_makes(tmp_path: Path, kind: Kind) -> None:
    for size in (1 << 20, (100 << 20) + 512):
        path = kind.path(tmp_path / str(size))
        path.parent.mkdir()
        create(path, size, format=kind.format, options=kind.options)
        virtual = virtual_image(Disk([EmptyLayer(size)]), kind.format, kind.options, name=path.name)
        assert virtual.read(0, virtual.size) == path.read_bytes()


class Bytes(Layer):
    """``content`` as a disk, not of whole sectors."""

    format = "none"
    name = "bytes"

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def map(self, start: int, end: int) -> Iterator[Extent]:
        if start < end:
            yield Extent(start, end - start, Content.DATA)

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        buffer[:] = self._content[offset : offset + len(buffer)]
        return []

    def close(self) -> None:
        pass


@pytest.mark.parametrize("kind", PLAIN, ids=str)
@pytest.mark.parametrize("size", [1, 1000, 210_001])
def test_a_disk_that_ends_in_a_sector_is_filled_up(tmp_path: Path, kind: Kind, size: int) -> None:
    disk = Disk([Bytes(random.Random(size).randbytes(size))])
    path = kind.path(tmp_path)
    convert(disk, path, format=kind.format, options=kind.options)
    virtual = virtual_image(disk, kind.format, kind.options, zeros="data", name=path.name)
    assert virtual.read(0, virtual.size) == path.read_bytes()


class Scattered(Layer):
    """A disk of ``units`` units of 64 KiB, each there by the toss of a coin; a sector of it says
    where it is.
    """

    format = "none"
    name = "scattered"
    UNIT = 65536

    def __init__(self, units: int) -> None:
        self.size = units * self.UNIT
        self.there = np.random.default_rng(9).random(units) < 0.5

    def map(self, start: int, end: int) -> Iterator[Extent]:
        raise NotImplementedError

    def spans(self, start: int, end: int) -> Iterator[Span]:
        first, last = start // self.UNIT, -(-end // self.UNIT)
        there = self.there[first:last]
        edges = [0, *(np.flatnonzero(there[1:] != there[:-1]) + 1).tolist(), last - first]
        for low, high in pairwise(edges):
            kind = Content.DATA if there[low] else Content.ZERO
            yield (
                max(start, (first + low) * self.UNIT),
                min(end, (first + high) * self.UNIT),
                kind,
            )

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        sectors = np.arange(offset // 512, (offset + len(buffer)) // 512, dtype=np.int64)
        words = np.zeros((len(sectors), 64), np.int64)
        words[:, 0] = (sectors + 1) * self.there[sectors * 512 // self.UNIT]
        buffer[:] = words.tobytes()
        return []

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("qcow2", {}),
        ("vmdk", {"subformat": "monolithicSparse"}),
        ("qed", {}),
        ("parallels", {"cluster_size": "64k"}),
        ("vdi", {"block_size": "64k"}),
    ],
    ids=str,
)
def test_a_fragmented_disk_takes_little_memory(format: str, options: dict[str, Any]) -> None:
    layer = Scattered(1 << 18)  # 16 GiB in 130 000 pieces; 2 TiB are 128 times that
    virtual = virtual_image(Disk([layer]), format, options)
    assert virtual.size > layer.there.sum() * layer.UNIT
    assert virtual.held * 128 < 100 << 20
    chance = random.Random(2)
    with open_storage_disk(virtual, format=format) as disk:
        for _ in range(100):
            start = chance.randrange(disk.size // 512 - 4096) * 512
            wanted = bytearray(chance.choice([512, 65536, 1 << 20]))
            layer.read_present(start, memoryview(wanted))
            assert disk.read(start, len(wanted)) == wanted


class Blank(Unread):
    """The same, and it may be read."""

    def read_present(self, offset: int, buffer: memoryview) -> list[tuple[int, int]]:
        buffer[:] = bytes(len(buffer))
        return []


def test_neither_making_a_map_nor_reading_by_it_unpacks_all_tables() -> None:
    size = 24 << 30
    layer = Disk([Blank(size, [(0, size)])])
    virtual_image(Disk([EmptyLayer(512)]), "qcow2")  # imports
    tracemalloc.start()
    try:
        virtual = virtual_image(layer, "qcow2", {"cluster_size": "4k"})
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # the tables are 48 MiB
        with open_storage_disk(virtual, format="qcow2") as disk:
            for start in range(0, size, 16 << 20):
                disk.read(start, 512)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_many_readers_at_once_read_the_same(sources: dict[str, Path]) -> None:
    with open_disk(sources["sparse"]) as disk:
        virtual = virtual_image(disk, "qcow2", {"cluster_size": "512"}, zeros="data")
        file = virtual.read(0, virtual.size)
        failures: list[Any] = []

        def read(seed: int) -> None:
            try:
                failures.extend(differing(virtual, file, seed, 100))
            except BaseException as error:
                failures.append(error)

        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert failures == []


def test_a_disk_with_a_parent_is_one_file(tmp_path: Path, sources: dict[str, Path]) -> None:
    overlay, base = tmp_path / "overlay.qcow2", tmp_path / "base.qcow2"
    base.hardlink_to(sources["sparse"])
    create(overlay, format="qcow2", backing="base.qcow2", backing_format="qcow2")
    with open_disk(overlay, writable=True) as disk:
        disk.write(1 << 20, b"changed" * 9999)
        disk.zero(4 << 20, 1 << 20)
    flat = tmp_path / "flat.vhdx"
    convert(overlay, flat)
    with open_disk(overlay) as disk:
        by_data = virtual_image(disk, "vhdx", zeros="data")
        assert by_data.read(0, by_data.size) == flat.read_bytes()
        by_map = virtual_image(disk, "vhdx")
        with open_storage_disk(by_map, format="vhdx") as read:
            assert read.read(0, read.size) == disk.read(0, disk.size)


def test_the_same_disk_makes_the_same_file_each_time(sources: dict[str, Path]) -> None:
    for zeros in ("map", "data"):
        made = set()
        for threads in (1, 2, 5):
            with open_disk(sources["sparse"]) as disk:
                virtual = virtual_image(disk, "vhdx", zeros=zeros, threads=threads)
                made.add(virtual.read(0, virtual.size))
        assert len(made) == 1


def test_the_layout_tells_images_of_one_content_apart(
    tmp_path: Path, sources: dict[str, Path]
) -> None:
    """As an ETag must: the bytes are the same where it is, and only there."""
    thick = tmp_path / "thick.raw"
    with open_disk(sources["sparse"]) as disk:
        thick.write_bytes(disk.read(0, disk.size))
    cases: list[tuple[Path, str, dict[str, Any], Any]] = [
        (source, format, options, zeros)
        for source in (sources["sparse"], thick)
        for format, options in (("vhdx", {}), ("qcow2", {}), ("qcow2", {"cluster_size": "4k"}))
        for zeros in ("map", "data")
    ]
    files: dict[str, bytes] = {}
    for source, format, options, zeros in cases:
        with open_disk(source) as disk:
            virtual = virtual_image(disk, format, options, zeros=zeros)
            file = virtual.read(0, virtual.size)
            assert files.setdefault(virtual.layout, file) == file
    assert len(set(files.values())) == len(files)
    with open_disk(thick) as a, open_disk(sources["sparse"]) as b:
        by_data = {virtual_image(disk, "qcow2", zeros="data").layout for disk in (a, b)}
        by_map = {virtual_image(disk, "qcow2").layout for disk in (a, b)}
    assert (len(by_data), len(by_map)) == (1, 2)


@pytest.mark.parametrize("zeros", ["map", "data"])
def test_making_the_map_can_be_stopped(sources: dict[str, Path], zeros: Any) -> None:
    class Gone(Exception):
        pass

    def progress(done: int, total: int) -> None:
        assert 0 <= done <= total
        raise Gone

    with open_disk(sources["sparse"]) as disk, pytest.raises(Gone):
        virtual_image(disk, "qcow2", zeros=zeros, progress=progress)


def test_the_library_offers_it(sources: dict[str, Path]) -> None:
    with vmimg.open(sources["full"]) as disk:
        virtual = vmimg.virtual_image(disk, "vdi")
        assert isinstance(virtual, vmimg.VirtualImage)
        assert (virtual.format, virtual.read(0, 4)) == ("vdi", b"<<< ")
