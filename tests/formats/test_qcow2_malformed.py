"""Malformed qcow2 images: one clear error of the vmimg tree, at once, in little memory.

Every case is an image of qemu-img's with one thing made wrong. It goes through everything that
reads images (`ordeal.py`), in a process with limits. ``says``: words of the error that the steps
named in ``steps`` must raise; the others may raise it as well, and never anything but a VmimgError.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import peers
from damaged import (
    MAX_MIB,
    MAX_SECONDS,
    Outcome,
    any_value,
    complaints,
    missed,
    objections,
    put_through,
)
from rounds import rounds
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import Qcow2Header, read_header
from vmimg.formats.qcow2.snapshots import read_snapshots
from vmimg.storage import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")

MIB = 1 << 20


class Bytes(bytearray):
    """An image in memory, with its header and its tables at hand."""

    @property
    def header(self) -> Qcow2Header:
        return read_header(MemoryStorage(self))

    def get(self, offset: int, width: int = 8) -> int:
        return int.from_bytes(self[offset : offset + width], "big")

    def put(self, offset: int, value: int, width: int = 8) -> None:
        self[offset : offset + width] = value.to_bytes(width, "big")

    def set_header(self, **fields: int) -> None:
        raw = s.Header.from_buffer(self)
        for name, value in fields.items():
            setattr(raw, name, value)
        del raw

    def cut(self, size: int) -> None:
        del self[size:]

    @property
    def l1(self) -> int:
        return self.header.l1_table_offset

    @property
    def l2(self) -> int:
        """The first L2 table."""
        return self.get(self.l1) & s.OFFSET_MASK

    def entry(self, cluster: int) -> int:
        """Where the L2 entry of a cluster of the first table is."""
        return self.l2 + cluster * self.header.l2_entry_size

    def compressed(self) -> tuple[int, int]:
        """Where the first compressed cluster's L2 entry is, and where its data."""
        header = self.header
        for cluster in range(header.l2_entries):
            value = self.get(self.entry(cluster))
            if value & s.COMPRESSED_FLAG:
                return self.entry(cluster), value & ((1 << (70 - header.cluster_bits)) - 1)
        raise AssertionError("there is no compressed cluster")


Change = Callable[[Bytes], None]


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ("read",)
    base: str = "plain"


OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")


def header(**fields: int) -> Change:
    return lambda image: image.set_header(**fields)


def put(where: Callable[[Bytes], int], value: Callable[[Bytes], int]) -> Change:
    return lambda image: image.put(where(image), value(image))


def cut(where: Callable[[Bytes], int]) -> Change:
    return lambda image: image.cut(where(image))


def extension(kind: int, length: int, data: bytes = b"") -> Change:
    """Put an extension first in the list."""

    def change(image: Bytes) -> None:
        start = image.header.header_length
        image[start : start + 8] = bytes(s.ExtensionHeader(kind, length))
        image[start + 8 : start + 8 + len(data)] = data

    return change


def garble(where: Callable[[Bytes], int], length: int = 200) -> Change:
    def change(image: Bytes) -> None:
        start = where(image)
        image[start : start + length] = bytes(b ^ 0x5A for b in image[start : start + length])

    return change


def snapshot_field(name: str, value: int) -> Change:
    def change(image: Bytes) -> None:
        start = image.header.snapshots_offset
        entry = s.SnapshotEntry.from_buffer(image, start)
        setattr(entry, name, value)
        del entry

    return change


def longer_compressed(image: Bytes) -> None:
    """The last descriptor's sectors reach past the end of the file: legal, data may be shorter."""
    place, _ = image.compressed()
    shift = 70 - image.header.cluster_bits
    image.put(place, image.get(place) | ((1 << (62 - shift)) - 1) << shift)


CASES = [
    # What it is
    Case("wrong magic", lambda i: i.put(0, 0x51464900, 4), "", ()),
    Case("empty file", cut(lambda i: 0), "", ()),
    Case("only a magic", cut(lambda i: 4), "", ()),
    Case("magic and version", cut(lambda i: 8), "header", ALL),
    Case("half a header", cut(lambda i: 71), "header", ALL),
    Case("version 2 header cut in two", cut(lambda i: 40), "header", ALL, "v2"),
    Case("version 3 header cut", cut(lambda i: 100), "header_length", ALL),
    Case("nothing but the header", cut(lambda i: 112), "behind the end", OPENING),
    Case("version 0", header(version=0), "version 0", ALL),
    Case("version 1", header(version=1), "cluster_bits is 0", ALL),
    Case("version 4", header(version=4), "version 4", ALL),
    Case("version 2^32-1", header(version=2**32 - 1), "version 4294967295", ALL),
    # Numbers of the header
    Case("cluster_bits 0", header(cluster_bits=0), "cluster_bits is 0", ALL),
    Case("cluster_bits 8", header(cluster_bits=8), "cluster_bits is 8", ALL),
    Case("cluster_bits 22", header(cluster_bits=22), "cluster_bits is 22", ALL),
    Case("cluster_bits 31", header(cluster_bits=31), "cluster_bits is 31", ALL),
    Case("cluster_bits 64", header(cluster_bits=64), "cluster_bits is 64", ALL),
    Case("cluster_bits 2^32-1", header(cluster_bits=2**32 - 1), "cluster_bits", ALL),
    Case("cluster_bits too large for the tables", header(cluster_bits=16), "", ALL),
    Case("refcount_order 7", header(refcount_order=7), "refcount_order is 7", ALL),
    Case("refcount_order 9", header(refcount_order=9), "refcount_order is 9", ALL),
    Case("refcount_order 2^31", header(refcount_order=2**31), "refcount_order", ALL),
    Case("header_length 0", header(header_length=0), "header_length is 0", ALL),
    Case("header_length 103", header(header_length=103), "header_length", ALL),
    Case("header_length 2^32-8", header(header_length=2**32 - 8), "header_length", ALL),
    Case("size 2^63", header(size=2**63), "L1 table", ALL),
    Case("size 2^64-1", header(size=2**64 - 1), "", ALL),
    Case("size 2^62", header(size=2**62), "L1 table", ALL),
    Case("size beyond the L1 table", header(size=2**40), "L1 table", ALL),
    Case("l1_size 0", header(l1_size=0), "L1 table has 0", ALL),
    Case("l1_size 2^31", header(l1_size=2**31), "L1 table of 2147483648", ALL),
    Case("l1_size 2^32-1", header(l1_size=2**32 - 1), "L1 table", ALL),
    Case("l1_size behind the end", header(l1_size=2**22), "behind the end", OPENING),
    Case("a huge size with a huge L1", header(l1_size=2**32 - 1, size=2**63), "L1 table", ALL),
    Case("L1 at 0", header(l1_table_offset=0), "L1 table at offset 0", OPENING),
    Case("L1 not aligned", header(l1_table_offset=4097), "cluster boundary", ALL),
    Case("L1 behind the end", header(l1_table_offset=2**40), "behind the end", OPENING),
    Case("L1 at 2^63", header(l1_table_offset=2**63), "behind the end", OPENING),
    Case("L1 at 2^64-4096", header(l1_table_offset=2**64 - 4096), "behind the end", OPENING),
    Case("no refcount table", header(refcount_table_clusters=0), "refcount table", OPENING),
    Case("refcount table at 0", header(refcount_table_offset=0), "refcount table", OPENING),
    Case("refcount table not aligned", header(refcount_table_offset=4100), "boundary", ALL),
    Case("refcount table at 2^63", header(refcount_table_offset=2**63), "behind", OPENING),
    Case(
        "refcount table of 2^32-1 clusters", header(refcount_table_clusters=2**32 - 1), "8 MiB", ALL
    ),
    Case("encryption 3", header(crypt_method=3), "encryption method 3", ALL),
    # What is not encrypted decrypts to noise: with this method nobody can tell.
    Case("AES that is not there", header(crypt_method=1), "", ()),
    Case("LUKS that is not there", header(crypt_method=2), "LUKS", OPENING),
    # Features
    Case("unknown incompatible feature", header(incompatible_features=1 << 63), "bit 63", ALL),
    Case("all features", header(incompatible_features=2**64 - 1), "not known here", ALL),
    Case(
        "external data without a name", header(incompatible_features=4), "does not name it", OPENING
    ),
    Case("compression type 2", header(compression_type=2), "compression type 2", ALL),
    Case("compression type 255", header(compression_type=255), "compression type 255", ALL),
    Case("zstd without its bit", header(compression_type=1), "feature bit", ALL),
    Case("zstd's bit without zstd", header(incompatible_features=8), "feature bit", ALL),
    Case("subclusters in small clusters", header(incompatible_features=16), "16 KiB", ALL),
    # Extensions and the backing file name
    Case("extension of 2^32-1 bytes", extension(0x1234, 2**32 - 1), "first cluster", ALL),
    Case("extension past the cluster", extension(0x1234, 4096), "first cluster", ALL),
    Case("no end of extensions", extension(0x1234, 4096 - 120), "", ()),
    Case("data file with a NUL", extension(s.EXT_DATA_FILE, 6, b"ab\0cd\0\0\0"), "", ()),
    Case("bitmaps extension too short", extension(s.EXT_BITMAPS, 8, bytes(8)), "", ()),
    Case("LUKS extension at 2^64-1", extension(s.EXT_ENCRYPTION, 16, b"\xff" * 16), "", ()),
    Case(
        "backing name behind the end",
        header(backing_file_offset=2**40, backing_file_size=9),
        "name",
        ALL,
    ),
    Case(
        "backing name at 2^64-1",
        header(backing_file_offset=2**64 - 1, backing_file_size=9),
        "name",
        ALL,
    ),
    Case(
        "backing name of 2^32-1",
        header(backing_file_offset=512, backing_file_size=2**32 - 1),
        "name",
        ALL,
    ),
    Case(
        "backing name of 1024", header(backing_file_offset=512, backing_file_size=1024), "1023", ALL
    ),
    Case(
        "backing name in the header",
        header(backing_file_offset=8, backing_file_size=8),
        "name",
        ALL,
    ),
    Case("backing name of zeros", header(backing_file_offset=2048, backing_file_size=8), "", ()),
    # Tables
    Case("L1 entry behind the end", put(lambda i: i.l1, lambda i: s.COPIED | 1 << 50), "ends at"),
    Case("L1 entry not aligned", put(lambda i: i.l1, lambda i: s.COPIED | 0x10200), "boundary"),
    Case("L1 entry on the header", put(lambda i: i.l1, lambda i: s.COPIED | 512), "boundary"),
    Case("L1 entry on the L1", put(lambda i: i.l1, lambda i: s.COPIED | i.l1), "over the L1 table"),
    Case(
        "L1 entry on the refcount table",
        put(lambda i: i.l1, lambda i: s.COPIED | i.header.refcount_table_offset),
        "over the refcount table",
    ),
    Case("L1 entry of ones", put(lambda i: i.l1, lambda i: 2**64 - 1), ""),
    Case(
        "L2 entry behind the end",
        put(lambda i: i.entry(0), lambda i: s.COPIED | 1 << 50),
        "ends at",
    ),
    Case("L2 entry not aligned", put(lambda i: i.entry(0), lambda i: s.COPIED | 0x200), "boundary"),
    Case("L2 entry on the L2 table", put(lambda i: i.entry(0), lambda i: s.COPIED | i.l2), "", ()),
    Case("L2 entry of ones", put(lambda i: i.entry(0), lambda i: 2**64 - 1), ""),
    Case("L2 table of ones", lambda i: i.__setitem__(slice(i.l2, i.l2 + 4096), b"\xff" * 4096), ""),
    Case("zero flag in version 2", put(lambda i: i.entry(0), lambda i: 1), "version 2", base="v2"),
    Case(
        "L1 and refcount table overlap",
        lambda i: i.set_header(refcount_table_offset=i.l1),
        "",
        ("examine",),
    ),
    Case(
        "snapshot table on the L1", lambda i: i.set_header(snapshots_offset=i.l1), "", ("snapshot",)
    ),
    # Files that were cut off
    Case("cut in the L1", cut(lambda i: i.l1 + 3), "behind the end", OPENING),
    Case("cut in the L2", cut(lambda i: i.l2 + 100), "ends at"),
    Case(
        "cut in the first data", cut(lambda i: (i.get(i.entry(0)) & s.OFFSET_MASK) + 100), "ends at"
    ),
    Case("cut in compressed data", cut(lambda i: i.compressed()[1] + 3), "", ("read_data",)),
    Case(
        "cut before compressed data", cut(lambda i: i.compressed()[1]), "truncated", ("read_data",)
    ),
    Case("cut in the refcount table", cut(lambda i: i.header.refcount_table_offset + 1), "", ()),
    Case(
        "cut in the snapshot table",
        cut(lambda i: i.header.snapshots_offset + 20),
        "snapshot",
        ("info", "snapshot"),
    ),
    Case(
        "cut before the snapshot table", cut(lambda i: i.header.snapshots_offset), "behind", OPENING
    ),
    # Compressed clusters
    Case("garbled deflate", garble(lambda i: i.compressed()[1]), "is damaged", ("read_data",)),
    Case("garbled zstd", garble(lambda i: i.compressed()[1]), "is damaged", ("read_data",), "zstd"),
    Case(
        "deflate of nothing",
        lambda i: i.__setitem__(slice(i.compressed()[1], i.compressed()[1] + 2), b"\x03\x00"),
        "is damaged",
        ("read_data",),
    ),
    Case(
        "compressed data behind the end",
        put(lambda i: i.compressed()[0], lambda i: s.COMPRESSED_FLAG | 1 << 50),
        "ends at",
        ("read_data",),
    ),
    Case(
        "compressed data at the greatest offset",
        put(lambda i: i.compressed()[0], lambda i: s.COMPRESSED_FLAG | ((1 << 58) - 1)),
        "ends at",
        ("read_data",),
    ),
    Case("compressed data longer than it is", longer_compressed, "", ()),
    # Subclusters
    Case(
        "subclusters both allocated and zero",
        put(lambda i: i.entry(0) + 8, lambda i: 2**64 - 1),
        "contradicts itself",
        base="extended",
    ),
    Case(
        "subclusters allocated nowhere",
        lambda i: i.__setitem__(slice(i.entry(0), i.entry(0) + 16), bytes(12) + b"\xff" * 4),
        "contradicts itself",
        base="extended",
    ),
    # Snapshots
    Case("snapshots 2^31", header(nb_snapshots=2**31), "2147483648 snapshots", OPENING),
    Case("snapshots 65536", header(nb_snapshots=65536), "snapshot", ("info", "snapshot")),
    Case("snapshots at 2^63", header(snapshots_offset=2**63), "behind", OPENING),
    Case("snapshots not aligned", header(snapshots_offset=4100), "boundary", OPENING),
    Case(
        "extra data of 2^32-1", snapshot_field("extra_data_size", 2**32 - 1), "snapshot", ("info",)
    ),
    Case("id of 65535", snapshot_field("id_str_size", 65535), "snapshot", ("info",)),
    Case("name of 65535", snapshot_field("name_size", 65535), "snapshot", ("info",)),
    Case(
        "snapshot's L1 of 2^32-1", snapshot_field("l1_size", 2**32 - 1), "L1 table", ("snapshot",)
    ),
    Case("snapshot's L1 of 0", snapshot_field("l1_size", 0), "L1 table", ("snapshot",)),
    Case(
        "snapshot's L1 at 2^63", snapshot_field("l1_table_offset", 2**63), "L1 table", ("snapshot",)
    ),
    Case("snapshot's L1 at 1", snapshot_field("l1_table_offset", 1), "L1 table", ("snapshot",)),
]


def make_plain(folder: Path, name: str, *options: str, compressed: bool = True) -> None:
    path = folder / name
    given = [word for option in options for word in ("-o", option)]
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", *given, path, "1M")
    noise = folder / "noise"
    noise.write_bytes(bytes(range(256)) * 16)
    commands = ["write -P 1 0 64k", f"write -s {noise} 128k 64k", "write -z 256k 64k"]
    if compressed:
        # Enough of them that the limits of each can be seen.
        commands += [f"write -c -s {noise} {512 + 64 * n}k 64k" for n in range(4)]
    words = [word for command in commands for word in ("-c", command)]
    peers.run("qemu-io", "-f", "qcow2", *words, path, ok=(0, 1))
    peers.run("qemu-img", "snapshot", "-c", "snap", path)
    peers.run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 8k", path)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("bases")
    small = "cluster_size=4k"
    make_plain(folder, "plain", small)
    make_plain(folder, "zstd", small, "compression_type=zstd")
    make_plain(folder, "v2", small, "compat=0.10")
    make_plain(folder, "extended", "cluster_size=16k", "extended_l2=on")
    return {name: (folder / name).read_bytes() for name in ("plain", "zstd", "v2", "extended")}


@pytest.fixture(scope="module")
def outcomes(
    bases: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Outcome]]:
    folder = tmp_path_factory.mktemp("malformed")
    paths = []
    for number, case in enumerate(CASES):
        image = Bytes(bases[case.base])
        case.change(image)
        path = folder / f"{number}.qcow2"
        path.write_bytes(image)
        paths.append(path)
    found = put_through(folder, paths, batch=40)
    return {case.name: (path, found[path.name]) for case, path in zip(CASES, paths, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    assert list(missed(outcome, case.steps, case.says)) == []


@pytest.mark.parametrize("base", ["plain", "zstd", "v2", "extended"])
def test_the_images_are_fine_before_anything_is_made_wrong(
    base: str, bases: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.qcow2").write_bytes(bases[base])
    assert put_through(tmp_path, [tmp_path / "a.qcow2"])["a.qcow2"].raised == {}


@pytest.mark.parametrize("base", ["plain", "extended"])
def test_cut_anywhere_an_image_is_an_error_or_reads_as_it_was(
    base: str, bases: dict[str, bytes], tmp_path: Path
) -> None:
    """At every cluster boundary, and one byte to each side of it."""
    whole = bases[base]
    cluster = Bytes(whole).header.cluster_size
    sizes = {at + off for at in range(0, len(whole), cluster) for off in (-1, 0, 1)}
    chosen = sorted(size for size in sizes if 0 <= size < len(whole))[
        :: 4 if base == "plain" else 2
    ]
    paths = []
    for size in chosen:
        path = tmp_path / f"{size}.qcow2"
        path.write_bytes(whole[:size])
        paths.append(path)
    found = put_through(tmp_path, paths, batch=60)
    for path in paths:
        assert list(objections(found[path.name], path)) == [], path.name


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_metadata_never_ends_otherwise(
    seed: int, bases: dict[str, bytes], tmp_path: Path
) -> None:
    dice = random.Random(seed)
    paths = []
    for number in range(rounds(40)):
        image = Bytes(bases[dice.choice(sorted(bases))])
        head = image.header
        places = [
            *range(0, 112, 4),
            *(head.l1_table_offset + 8 * n for n in range(head.l1_size)),
            *(image.entry(n) for n in range(64)),
            *(head.snapshots_offset + 4 * n for n in range(20)),
            *(head.refcount_table_offset + 8 * n for n in range(4)),
        ]
        for _ in range(dice.choice((1, 1, 2, 5))):
            value = any_value(dice)
            image.put(dice.choice(places), value, 4)
        path = tmp_path / f"{number}.qcow2"
        path.write_bytes(image)
        paths.append(path)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_chain_that_loops_and_one_that_leads_out_are_refused(tmp_path: Path) -> None:
    for name, parent, format in (
        ("loop.qcow2", "other.qcow2", "qcow2"),
        ("other.qcow2", "loop.qcow2", "qcow2"),
        ("passwd.qcow2", "/etc/passwd", "raw"),
    ):
        peers.run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / name, "1M")
        command = ("rebase", "-u", "-b", parent, "-F", format, tmp_path / name)
        peers.run("qemu-img", *command)
    paths = [tmp_path / "loop.qcow2", tmp_path / "passwd.qcow2"]
    found = put_through(tmp_path, paths)
    for path, kind in zip(paths, ("ChainError", "UnsafeImage"), strict=True):
        outcome = found[path.name]
        assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB
        for step in (*OPENING, "chain"):
            assert outcome.raised[step][0] == kind, step
        assert "info" not in outcome.raised


def test_a_backing_name_straight_behind_an_old_header_is_no_extension(tmp_path: Path) -> None:
    # QEMU 0.10 had no extensions; the name begins where they do now.
    path = tmp_path / "old.qcow2"
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", path, "1M")
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "base.qcow2", "1M")
    image = Bytes(path.read_bytes())
    image[72:90] = b"base.qcow2" + bytes(8)
    image.set_header(backing_file_offset=72, backing_file_size=10)
    path.write_bytes(image)
    assert read_header(MemoryStorage(image)).backing_file == "base.qcow2"
    said = peers.run_json("qemu-img", "info", "-f", "qcow2", "--output", "json", path)
    assert said["backing-filename"] == "base.qcow2"


def test_a_snapshot_table_that_grows_without_end_is_read_no_further_than_allowed() -> None:
    # 65536 entries of which each says that it has 64 KiB of extra data: 4 GiB, of which 64 MiB
    # count.
    from vmimg.errors import FormatError

    class Endless(MemoryStorage):
        count = 0

        def read_into(self, offset: int, buffer: memoryview) -> None:
            self.count += len(buffer)
            entry = s.SnapshotEntry(extra_data_size=65536 - 40)
            pattern = bytes(entry).ljust(65536, b"\0")
            start = offset % 65536
            need = -(-(start + len(buffer)) // 65536)
            buffer[:] = (pattern * need)[start : start + len(buffer)]

    storage = Endless(b"")
    storage.size = 1 << 40
    head = Qcow2Header(
        version=3, cluster_bits=16, size=0, l1_size=0, l1_table_offset=0,
        refcount_table_offset=0, refcount_table_clusters=1, nb_snapshots=65536,
    )  # fmt: skip
    with pytest.raises(FormatError, match="64 MiB"):
        read_snapshots(storage, head)
    assert storage.count < 130 * MIB
