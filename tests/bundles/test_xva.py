"""XVA: blocks by number, holes, checksums; read in place, made so that xapi's rules hold."""

from __future__ import annotations

import gzip
import hashlib
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest

import peers
from bundles import xva_by_hand as by_hand
from bundles.xva_by_hand import MIB
from samples import awkward_disk, write_sparse
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.bundle import Bundle
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import pack, repack
from vmimg.bundles.xva.blocks import BlockStorage
from vmimg.bundles.xva.members import blocks_of
from vmimg.errors import FormatError, OptionError, UnsafeImage, UnsupportedFeature, VmimgError
from vmimg.machines.model import CPUs, Drive, Machine
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.memory import MemoryStorage

# Not a multiple of a block; holes of whole blocks inside.
SIZE = 9 * MIB + 4096
CONTENT = bytearray(awkward_disk(SIZE, seed=3))
CONTENT[2 * MIB : 5 * MIB] = bytes(3 * MIB)
CONTENT[6 * MIB : 7 * MIB] = bytes(MIB)


def content(bundle: Bundle, name: str | None = None) -> bytes:
    with bundle.open_disk(name) as disk:
        return disk.read(0, disk.size)


class Members(Folder):
    """Members in memory."""

    name = "export.xva"

    def __init__(self, members: list[tuple[str, bytes]]) -> None:
        self._members = dict(members)

    def names(self) -> tuple[str, ...]:
        return tuple(self._members)

    def size(self, name: str) -> int:
        return len(self._members[name])

    def open(self, name: str) -> Storage:
        return MemoryStorage(self._members[name], name)

    def close(self) -> None:
        pass


def disk_of(members: list[tuple[str, bytes]], size: int) -> BlockStorage:
    folder = Members(members)
    (blocks,) = blocks_of(folder.names(), folder.name).values()
    return BlockStorage(folder, blocks, size)


# The blocks


def test_missing_blocks_read_as_zeros_and_are_holes() -> None:
    storage = disk_of(by_hand.blocks("Ref:7", bytes(CONTENT)), SIZE)
    assert storage.read(0, SIZE) == CONTENT
    data = [(start, end) for start, end, hole in storage.extents(0, SIZE) if not hole]
    assert data == [(0, 2 * MIB), (5 * MIB, 6 * MIB), (7 * MIB, SIZE)]
    assert storage.allocated() < SIZE - 3 * MIB


@pytest.mark.parametrize(
    "start, length",
    [
        (0, 1),
        (MIB - 1, 2),
        (2 * MIB - 5, MIB),
        (3 * MIB, 100),
        (5 * MIB - 1, 3 * MIB + 7),
        (SIZE - 1, 1),
    ],
)
def test_reads_may_begin_and_end_anywhere(start: int, length: int) -> None:
    storage = disk_of(by_hand.blocks("Ref:7", bytes(CONTENT)), SIZE)
    assert storage.read(start, length) == CONTENT[start : start + length]
    covered = list(storage.extents(start, start + length))
    assert covered[0][0] == start
    assert covered[-1][1] == start + length
    assert all(a[1] == b[0] for a, b in pairwise(covered))


def test_a_block_without_bytes_takes_a_number_and_no_room() -> None:
    # xapi sends one when nothing was sent for five seconds, and counts on.
    members = by_hand.blocks("Ref:7", bytes(CONTENT), "")
    at = next(i for i, (name, _) in enumerate(members) if name.endswith("00000005"))
    later = [(f"Ref:7/{int(name[-8:]) + 1:08d}", data) for name, data in members[at:]]
    storage = disk_of([*members[:at], ("Ref:7/00000004", b""), *later], SIZE)
    assert storage.read(0, SIZE) == CONTENT


def test_blocks_may_have_another_size_than_a_mib() -> None:
    members = by_hand.blocks("vdi_hda", bytes(CONTENT), unit=1_000_000)
    assert disk_of(members, SIZE).read(0, SIZE) == CONTENT


def test_an_export_that_was_cut_off_is_no_disk_that_ends_in_zeros() -> None:
    members = by_hand.blocks("Ref:7", bytes(CONTENT), "")
    with pytest.raises(FormatError, match="cut off"):
        disk_of(members[:-1], SIZE)
    with pytest.raises(FormatError, match="first block"):
        disk_of(members[1:], SIZE)


@pytest.mark.parametrize(
    "members",
    [
        [("Ref:7/00000000", bytes(MIB)), ("Ref:7/00000009", bytes(MIB))],  # beyond the size
        [("Ref:7/00000000", bytes(MIB)), ("Ref:7/999999999999", bytes(MIB))],
        [("Ref:7/00000000", b"")],
        [("Ref:7/00000000", bytes(MIB)), ("Ref:7/00000001", bytes(5)), ("Ref:7/00000002", b"x")],
        [("Ref:7/00000000", bytes(MIB)), ("./Ref:7/00000000", bytes(MIB))],
        [("Ref:7/00000000", bytes(2 * MIB))],
        [("Ref:7/000000001", bytes(MIB))],
        [("..:/00000000", bytes(MIB))],
    ],
)
def test_blocks_that_make_no_disk_are_refused(members: list[tuple[str, bytes]]) -> None:
    with pytest.raises(FormatError):
        disk_of(members, MIB)


def test_a_hundred_thousand_blocks_take_little_memory() -> None:
    import tracemalloc

    count = 100_000

    class Many(Folder):
        name = "large.xva"

        def names(self) -> tuple[str, ...]:
            raise AssertionError("not all at once")

        def members(self):  # type: ignore[no-untyped-def]
            for number in range(0, count * 2, 2):
                yield f"Ref:7/{number:08d}", 0, MIB

        def size(self, name: str) -> int:
            return MIB

        def open(self, name: str) -> Storage:
            return MemoryStorage(bytes([int(name[-8:]) % 251]) * MIB, name)

        def close(self) -> None:
            pass

    folder = Many()
    (blocks,) = blocks_of((name for name, _, _ in folder.members()), "x").values()
    assert sys.getsizeof(blocks.numbers) < 2 << 20
    tracemalloc.start()
    storage = BlockStorage(folder, blocks, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
    assert storage.size == (2 * count - 1) * MIB
    assert storage.read(150_000 * MIB, 4) == bytes([150_000 % 251]) * 4
    assert storage.read(150_001 * MIB, 4) == bytes(4)
    assert sum(1 for _ in storage.extents(0, storage.size)) == 2 * count - 1


# Exports


@pytest.mark.parametrize("checksum", ["sha1", "xxhash", ""])
def test_an_export_is_read_in_place_and_verified(tmp_path: Path, checksum: str) -> None:
    if checksum == "xxhash":
        peers.require("xxhash")
    path = by_hand.xva(tmp_path / "a.xva", bytes(CONTENT), bytes(MIB), checksum=checksum)
    with open_bundle(path) as bundle:
        assert bundle.kind == "xva"
        (machine,) = bundle.machines
        assert (machine.name, machine.cpus.count, machine.memory) == ("machine", 2, 1 << 30)
        assert [(disk.name, disk.member) for disk in bundle.disks] == [
            ("disk1", "Ref:7"), ("disk2", "Ref:8"),
        ]  # fmt: skip
        assert content(bundle, "disk1") == CONTENT
        assert content(bundle, "Ref:8") == bytes(MIB)
        found = [(verdict.subject, verdict.state) for verdict in bundle.verify()]
        if checksum:
            assert found == [("Ref:7", "good"), ("Ref:8", "good")]
        else:
            assert {state for _, state in found} == {"unlisted"}


@pytest.mark.parametrize("program", ["gzip", "zstd"])
def test_a_compressed_export_is_read(tmp_path: Path, program: str) -> None:
    plain = by_hand.xva(tmp_path / "plain", bytes(CONTENT))
    peers.run(program, "-k", plain)
    packed = next(tmp_path.glob("plain.*")).rename(tmp_path / "a.xva")
    with open_bundle(packed) as bundle:
        assert bundle.kind == "xva"
        assert content(bundle) == CONTENT


def test_every_block_is_checked(tmp_path: Path) -> None:
    members = [("ova.xml", by_hand.ova_xml(("Ref:7", SIZE)))]
    members += by_hand.blocks("Ref:7", bytes(CONTENT))
    changed = [
        (name, b"\1" + data[1:]) if name == "Ref:7/00000005" else (name, data)
        for name, data in members
        if name != "Ref:7/00000007.checksum"
    ]
    with open_bundle(by_hand.tar_of(tmp_path / "a.xva", changed)) as bundle:
        found = {verdict.subject: verdict.state for verdict in bundle.verify()}
    assert found == {"Ref:7/00000005": "bad", "Ref:7/00000007": "unlisted", "Ref:7": "bad"}


def test_a_raw_disk_is_raw_whatever_the_guest_wrote_into_it(tmp_path: Path) -> None:
    evil = bytearray(MIB)
    evil[:8] = b"QFI\xfb\0\0\0\2"
    with open_bundle(by_hand.xva(tmp_path / "a.xva", bytes(evil))) as bundle:
        assert content(bundle) == evil


def test_without_its_description_it_is_no_export(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    (folder / "Ref:7").mkdir(parents=True)
    (folder / "Ref:7" / "00000000").write_bytes(bytes(MIB))
    from vmimg.bundles.xva.reading import XvaBundle

    with pytest.raises(FormatError, match=r"ova\.xml"):
        XvaBundle(DirectoryFolder(folder))


@pytest.mark.parametrize("ref", ["Ref:../../etc", "../x", "/etc/passwd", "Ref:8"])
def test_a_description_that_names_other_disks_opens_none(tmp_path: Path, ref: str) -> None:
    members = [("ova.xml", by_hand.ova_xml((ref, SIZE)))]
    members += by_hand.blocks("Ref:7", bytes(CONTENT))
    with open_bundle(by_hand.tar_of(tmp_path / "a.xva", members)) as bundle:
        assert [disk.member for disk in bundle.disks] == ["", "Ref:7"]
        with pytest.raises(UnsupportedFeature):
            bundle.open_disk("disk1")


# Before version 4.1


@pytest.mark.parametrize("chunk", [1_000_000, 4 * MIB, 1 << 30])
def test_old_exports_are_read(tmp_path: Path, chunk: int) -> None:
    path = by_hand.old_xva(tmp_path / "old.xva", bytes(CONTENT), chunk)
    with open_bundle(path) as bundle:
        (machine,) = bundle.machines
        assert (machine.name, machine.cpus.count, machine.memory) == ("Old machine", 2, 256 << 20)
        assert content(bundle, "disk1") == CONTENT


def test_old_exports_that_are_not_whole_or_have_no_end_are_refused(tmp_path: Path) -> None:
    with tarfile.open(by_hand.old_xva(tmp_path / "a", bytes(CONTENT), MIB)) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    without = [member for member in members if not member[0].endswith("003.gz")]
    with pytest.raises(FormatError, match="missing"):
        open_bundle(by_hand.tar_of(tmp_path / "b.xva", without))
    with (
        open_bundle(by_hand.tar_of(tmp_path / "c.xva", members[:-1])) as bundle,
        pytest.raises(FormatError, match="unpacks to"),
    ):
        bundle.open_disk()
    bomb = [*members[:-1], (members[-1][0], gzip.compress(bytes(100 * MIB), 1))]
    with (
        open_bundle(by_hand.tar_of(tmp_path / "d.xva", bomb)) as bundle,
        pytest.raises(UnsafeImage),
    ):
        bundle.open_disk()


# Making


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "disk.raw", bytes(CONTENT))


def refs_of(path: Path) -> dict[str, int]:
    with open_bundle(path) as bundle:
        return {disk.member: disk.size for disk in bundle.disks}


@pytest.mark.parametrize("checksum", ["sha1", "xxhash"])
@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_what_is_made_is_what_xapi_reads(
    tmp_path: Path, disk: Path, checksum: str, compress: str
) -> None:
    if checksum == "xxhash":
        peers.require("xxhash")
    small = write_sparse(tmp_path / "small.raw", bytes(MIB))
    path = tmp_path / "vm.xva"
    machine = Machine(
        name="vm",
        cpus=CPUs(count=2),
        memory=1 << 30,
        drives=(Drive(bus="xen"), Drive(bus="xen", slot=1)),
    )
    pack([disk, small], path, machine=machine, options={"checksum": checksum, "compress": compress})
    plain = path
    if compress != "none":
        program = {"gzip": "gzip", "zstd": "zstd"}[compress]
        plain = tmp_path / "plain.tar"
        plain.write_bytes(peers.run(program, "-dc", path).stdout)
    sizes = refs_of(path)
    disks = by_hand.decoded(plain, sizes)
    assert list(disks.values()) == [bytes(CONTENT), bytes(MIB)]
    with tarfile.open(plain) as archive:
        names = [name for name in archive.getnames() if name.startswith(next(iter(sizes)))]
    assert [int(name[-8:]) for name in names[::2]] == [0, 1, 5, 7, 8, 9]
    with open_bundle(path) as bundle:
        assert {verdict.state for verdict in bundle.verify()} == {"good"}
        assert bundle.machines[0].memory == 1 << 30


def test_drives_in_any_order_get_their_own_data(tmp_path: Path, disk: Path) -> None:
    small = write_sparse(tmp_path / "small.raw", b"small" * 1024)
    machine = Machine(
        name="vm",
        drives=(
            Drive(bus="scsi", slot=5),
            Drive("cdrom", "ide", 1, 0, path="/isos/a.iso"),
            Drive(bus="ide", slot=0),
        ),
    )
    made = pack([disk, small], tmp_path / "vm.xva", machine=machine)
    assert not [loss for loss in made.losses if loss.key == "drives[0].path"]
    disks = by_hand.decoded(tmp_path / "vm.xva", refs_of(tmp_path / "vm.xva"))
    assert list(disks.values()) == [bytes(CONTENT), b"small" * 1024]
    with open_bundle(tmp_path / "vm.xva") as bundle:
        assert [each.drive for each in bundle.disks] == [(0, 0), (0, 2)]
        assert content(bundle, "disk2") == b"small" * 1024


def test_the_same_disk_makes_the_same_export_whatever_the_threads(
    tmp_path: Path, disk: Path
) -> None:
    for compress in ("none", "zstd"):
        digests = set()
        for threads in (1, 2, 3):
            path = tmp_path / "vm.xva"
            pack([disk], path, options={"compress": compress}, threads=threads, replace=True)
            digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
        assert len(digests) == 1


def test_an_export_becomes_an_ova_and_an_export_again(tmp_path: Path) -> None:
    path = by_hand.xva(tmp_path / "a.xva", bytes(CONTENT))
    repack(path, tmp_path / "b.ova")
    repack(tmp_path / "b.ova", tmp_path / "c.xva")
    with open_bundle(tmp_path / "c.xva") as bundle:
        assert content(bundle) == CONTENT
        assert bundle.machines[0].name == "machine"


def test_disks_of_an_export_have_no_format(tmp_path: Path, disk: Path) -> None:
    with pytest.raises(OptionError):
        pack([disk], tmp_path / "vm.xva", format="qcow2")
    assert not (tmp_path / "vm.xva").exists()


@pytest.mark.parametrize("cut", [0, 513, 3000, MIB + 4000])
def test_a_damaged_export_is_an_error_of_ours(tmp_path: Path, cut: int) -> None:
    whole = by_hand.xva(tmp_path / "a.xva", bytes(CONTENT)).read_bytes()
    path = tmp_path / "b.xva"
    path.write_bytes(whole[:cut])
    with pytest.raises(VmimgError), open_bundle(path) as bundle:
        content(bundle)
