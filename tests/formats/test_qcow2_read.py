"""qcow2 images that qemu-img and qemu-io make are read byte for byte as they read them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import peers
from rounds import rounds
from vmimg.disk.extent import Kind
from vmimg.disk.stack import Disk
from vmimg.formats.opening import open_disk
from vmimg.units import KIB, MIB

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")


@dataclass
class Maker:
    """Makes an image with qemu-img and lets qemu-io write all sorts of things into it."""

    folder: Path
    seed: int = 0
    options: dict[str, str] = field(default_factory=dict)
    compress: bool = True

    def create(self, name: str, size: int, *, parent: str | None = None) -> Path:
        given = [word for key, value in self.options.items() for word in ("-o", f"{key}={value}")]
        if parent is not None:
            given += ["-b", parent, "-F", "qcow2"]
        command = ("create", "-q", "-f", "qcow2", *given, name, str(size))
        peers.run("qemu-img", *command, cwd=self.folder)
        return self.folder / name

    def scribble(self, path: Path, size: int, count: int = 40) -> None:
        """Random writes: plain, compressed, zeros, unmapped zeros, discards, of all lengths."""
        dice = random.Random(self.seed)
        cluster = self._cluster_size()
        commands: list[str] = []
        # The sources of random bytes, which do not compress.
        noise = self.folder / "noise"
        noise.write_bytes(dice.randbytes(256 * KIB))
        for number in range(count):
            kind = dice.choice("wwwwnczZud")
            unit = dice.choice([unit for unit in (512, 4096, cluster) if unit <= size])
            start = dice.randrange(0, size - unit + 1, unit) // unit * unit
            length = min(dice.choice((1, 2, 3, 8, 40)) * unit, size - start, MIB)
            if kind == "c":
                # qemu-io compresses one cluster at a time.
                start = start // cluster * cluster
                if not self.compress or start + cluster > size:
                    continue
                commands.append(f"write -c -P {1 + number % 255} {start} {cluster}")
            elif kind == "n":
                commands.append(f"write -s {noise} {start} {length}")
            elif kind == "w":
                commands.append(f"write -P {1 + number % 255} {start} {length}")
            elif kind in "zZ":
                commands.append(f"write -z {'-u ' if kind == 'Z' else ''}{start} {length}")
            else:
                commands.append(f"discard {start} {length}")
        given = [word for command in commands for word in ("-c", command)]
        # 1: QEMU does not compress into clusters that are there already, and goes on with the next.
        command = ("qemu-io", "-d", "unmap", "-f", "qcow2", *given, path.name)
        peers.run(*command, ok=(0, 1), cwd=path.parent)

    def _cluster_size(self) -> int:
        text = self.options.get("cluster_size", "64k")
        return int(text.rstrip("kM")) << {"k": 10, "M": 20}.get(text[-1], 0)


def truth(path: Path, *options: str) -> bytes:
    """All bytes of the disk, as qemu-img reads them."""
    out = path.with_suffix(".truth")
    # QEMU looks for a data file in the current directory, wherever the image is.
    command = ("qemu-img", "convert", *options, "-O", "raw", path.name, out.name)
    peers.run(*command, cwd=path.parent)
    data = out.read_bytes()
    out.unlink()
    return data


def assert_reads(disk: Disk, expected: bytes, seed: int = 0) -> None:
    """The whole at once, and in pieces of all sizes at all offsets."""
    assert disk.size == len(expected)
    assert disk.read(0, disk.size) == expected
    dice = random.Random(seed)
    for _ in range(60):
        length = min(dice.choice((1, 3, 511, 512, 4096, 70000, 300000)), disk.size)
        start = dice.randrange(disk.size - length + 1)
        assert disk.read(start, length) == expected[start : start + length]


def assert_maps(disk: Disk, path: Path, expected: bytes) -> None:
    """The map covers the disk, tells the truth of it, and has its data where qemu-img has it."""
    position = 0
    for extent in disk.map():
        assert extent.start == position and extent.length > 0
        position = extent.end
        if extent.kind != Kind.DATA:
            assert not any(expected[extent.start : extent.end])
    assert position == disk.size
    assert merged(disk.spans()) == merged((e.start, e.end, e.kind) for e in disk.map())
    command = ("qemu-img", "map", "-f", "qcow2", "--output", "json", path.name)
    theirs = json.loads(peers.run(*command, cwd=path.parent).stdout)
    # qemu-img also looks for holes of the file inside the data, and cuts it there; and what is
    # nowhere gets the depth of the layer that it asked last.
    assert data_runs(
        (e.start, e.length, e.depth, e.offset) for e in disk.map() if e.kind == Kind.DATA
    ) == data_runs(
        (e["start"], e["length"], e["depth"], e.get("offset")) for e in theirs if e["data"]
    )


def merged(spans: Iterable[tuple[int, int, Kind]]) -> list[tuple[int, int, Kind]]:
    found: list[tuple[int, int, Kind]] = []
    for start, end, kind in spans:
        assert start < end
        if found and found[-1][2] == kind:
            start = found.pop()[0]
        found.append((start, end, kind))
    return found


def data_runs(
    extents: Iterable[tuple[int, int, int, int | None]],
) -> list[tuple[int, int, int, int | None]]:
    """(start, length, depth, offset), what continues each other made one."""
    found: list[tuple[int, int, int, int | None]] = []
    for start, length, depth, offset in extents:
        if found:
            before, size, layer, place = found[-1]
            follows = None if place is None else place + size
            if (before + size, layer, follows) == (start, depth, offset):
                found[-1] = (before, size + length, layer, place)
                continue
        found.append((start, length, depth, offset))
    return found


COMBINATIONS = [
    {"compat": "0.10"},
    {"compat": "0.10", "cluster_size": "512"},
    {"compat": "0.10", "cluster_size": "2M"},
    {"cluster_size": "512"},
    {"cluster_size": "4k"},
    {"cluster_size": "64k"},
    {"cluster_size": "2M"},
    *({"refcount_bits": str(1 << order), "cluster_size": "4k"} for order in range(7)),
    {"lazy_refcounts": "on"},
    *({"compression_type": "zstd", "cluster_size": size} for size in ("512", "4k", "64k", "2M")),
    *({"extended_l2": "on", "cluster_size": size} for size in ("16k", "64k", "128k", "2M")),
    {"extended_l2": "on", "compression_type": "zstd", "refcount_bits": "64"},
    *({"preallocation": mode} for mode in ("metadata", "falloc", "full")),
    {"preallocation": "metadata", "extended_l2": "on"},
    {"preallocation": "full", "cluster_size": "512"},
    {"data_file": "data"},
    {"data_file": "data", "extended_l2": "on"},
    {"data_file": "data", "data_file_raw": "on"},
    {"data_file": "data", "data_file_raw": "on", "cluster_size": "4k"},
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda o: ",".join(map("=".join, o.items())))
def test_every_option_is_read_byte_for_byte(tmp_path: Path, options: dict[str, str]) -> None:
    sizes = (3 * MIB, 4 * MIB + 512, 777 * 512)
    first = COMBINATIONS.index(options)
    for seed in range(first, first + rounds(len(sizes), least=1)):
        size = sizes[seed % len(sizes)]
        maker = Maker(tmp_path, seed, options, compress="data_file" not in options)
        image = maker.create(f"{seed}.qcow2", size)
        with open_disk(image) as disk:
            assert_reads(disk, bytes(size), seed)
        maker.scribble(image, size)
        expected = truth(image)
        assert any(expected)
        with open_disk(image) as disk:
            assert_reads(disk, expected, seed)
            assert_maps(disk, image, expected)
        (tmp_path / "data").unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster_size", ["512", "4k", "64k", "2M"])
def test_images_that_qemu_img_compressed(tmp_path: Path, kind: str, cluster_size: str) -> None:
    dice = random.Random(1)
    size = 5 * MIB
    words = [dice.randbytes(8) for _ in range(50)]
    content = bytearray(b"".join(dice.choices(words, k=size // 8)))
    content[MIB : 2 * MIB] = bytes(MIB)
    content[3 * MIB : 3 * MIB + 200000] = dice.randbytes(200000)
    (tmp_path / "raw").write_bytes(content)
    given = f"cluster_size={cluster_size},compression_type={kind}"
    image = tmp_path / "a.qcow2"
    peers.run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", given, tmp_path / "raw", image)
    with open_disk(image) as disk:
        assert_reads(disk, bytes(content))
        assert any(extent.compressed for extent in disk.map())
        assert_maps(disk, image, bytes(content))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cluster_size": "4k"},
        {"extended_l2": "on"},
        {"compat": "0.10"},
        {"compression_type": "zstd"},
    ],
    ids=str,
)
def test_chains_with_shorter_and_longer_parents(tmp_path: Path, options: dict[str, str]) -> None:
    sizes = (2 * MIB + 512, MIB + 1536, 4 * MIB, 3 * MIB + 512)
    parent = None
    for depth, size in enumerate(sizes):
        maker = Maker(tmp_path, depth, options)
        image = maker.create(f"{depth}.qcow2", size, parent=parent)
        maker.scribble(image, size, count=12)
        parent = image.name
        expected = truth(image)
        with open_disk(image) as disk:
            assert len(disk.layers) == depth + 1
            assert_reads(disk, expected, depth)
            assert_maps(disk, image, expected)


def test_a_chain_of_unlike_layers(tmp_path: Path) -> None:
    raw = tmp_path / "base.raw"
    raw.write_bytes(random.Random(5).randbytes(MIB + 1000))
    layers: list[dict[str, str]] = [
        {"cluster_size": "2M"},
        {"cluster_size": "512", "compat": "0.10"},
        {"extended_l2": "on", "compression_type": "zstd"},
    ]
    parent, format = raw.name, "raw"
    for number, options in enumerate(layers):
        maker = Maker(tmp_path, number, options)
        image = maker.create(f"{number}.qcow2", 2 * MIB)
        peers.run("qemu-img", "rebase", "-u", "-b", parent, "-F", format, image.name, cwd=tmp_path)
        maker.scribble(image, 2 * MIB, count=6)
        parent, format = image.name, "qcow2"
        expected = truth(image)
        with open_disk(image) as disk:
            assert_reads(disk, expected)


@pytest.mark.parametrize(
    "options",
    [{}, {"compat": "0.10"}, {"cluster_size": "512"}, {"extended_l2": "on"}],
    ids=str,
)
def test_internal_snapshots_are_read_as_they_were(tmp_path: Path, options: dict[str, str]) -> None:
    image = Maker(tmp_path, 0, options).create("a.qcow2", 2 * MIB)
    then: list[bytes] = []
    for number in range(3):
        Maker(tmp_path, number, options).scribble(image, 2 * MIB, count=10)
        peers.run("qemu-img", "snapshot", "-c", f"snap {number}", image)
        then.append(truth(image))
    Maker(tmp_path, 9, options).scribble(image, 2 * MIB, count=10)
    for number, expected in enumerate(then):
        named = f"snapshot.name=snap {number}"
        assert truth(image, "-l", named) == expected
        with open_disk(image, snapshot=f"snap {number}") as disk:
            assert_reads(disk, expected)
    with open_disk(image) as disk:
        assert_reads(disk, truth(image))


def test_a_snapshot_of_a_disk_that_was_smaller_then(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    image = maker.create("a.qcow2", MIB)
    maker.scribble(image, MIB, count=10)
    expected = truth(image)
    peers.run("qemu-img", "snapshot", "-c", "small", image)
    peers.run("qemu-img", "resize", "-q", image, "8M")
    with open_disk(image, snapshot="small") as disk:
        assert_reads(disk, expected)
    with open_disk(image) as disk:
        assert_reads(disk, expected + bytes(7 * MIB))


def test_an_empty_disk_of_8_tib_is_opened_mapped_and_read_at_once(tmp_path: Path) -> None:
    image = Maker(tmp_path).create("a.qcow2", 8 << 40)
    with open_disk(image) as disk:
        extents = list(disk.map())
        assert [(e.kind, e.length) for e in extents] == [(Kind.ABSENT, 8 << 40)]
        assert disk.read((8 << 40) - 10, 10) == bytes(10)
    peers.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 5T 64k", image)
    with open_disk(image) as disk:
        assert disk.read(5 << 40, 3) == b"\7\7\7"
        assert [e.kind for e in disk.map()] == [Kind.ABSENT, Kind.DATA, Kind.ABSENT]


def test_a_disk_of_size_0(tmp_path: Path) -> None:
    image = Maker(tmp_path).create("a.qcow2", 0)
    with open_disk(image) as disk:
        assert disk.size == 0 and list(disk.map()) == [] and disk.read(0, 0) == b""


def test_threads_read_one_disk_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    maker = Maker(tmp_path, 3, {"cluster_size": "4k"})
    image = maker.create("a.qcow2", 4 * MIB)
    maker.scribble(image, 4 * MIB, count=120)
    expected = truth(image)

    def read(seed: int) -> None:
        assert_reads(disk, expected, seed)

    with open_disk(image) as disk, ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(8)))


def test_the_real_alpine_image(alpine: Any, tmp_path: Path) -> None:
    image = tmp_path / "alpine.qcow2"
    image.symlink_to(alpine.qcow2)
    with open_disk(image) as disk:
        spans = list(disk.spans())
        assert disk.size == 1 << 30
        extents = [extent for extent in disk.map() if extent.kind == Kind.DATA]
        data = [disk.read(e.start, min(e.length, 64 * KIB)) for e in extents[:200]]
    out = tmp_path / "raw"
    peers.run("qemu-img", "convert", "-O", "raw", image, out)
    with out.open("rb") as file:
        for extent, piece in zip(extents, data, strict=False):
            file.seek(extent.start)
            assert file.read(len(piece)) == piece
        for start, end, kind in spans:
            if kind != Kind.DATA:
                file.seek(start)
                assert not any(file.read(min(end - start, MIB)))
