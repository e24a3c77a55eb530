"""check and repair of qcow2, against qemu-img: the same damage, the same numbers, the same cure."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peers
from rounds import rounds
from vmimg import storage
from vmimg.errors import FormatError, OptionError, StorageError, VmimgError
from vmimg.formats.driver import CheckReport
from vmimg.formats.qcow2.check import check_image
from vmimg.storage import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")

COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET = 0x00FF_FFFF_FFFF_FE00
FIXED = ("leaks-fixed", "corruptions-fixed")
LEFT = ("leaks", "corruptions", "check-errors", "allocated-clusters", "total-clusters")


def no_companions(named: str, role: str) -> storage.Storage:
    raise AssertionError(f"check opened the {role} {named}")


def ours(path: Path, repair: str = "") -> CheckReport:
    with storage.open(path, "rw" if repair else "r") as file:
        return check_image(file, companions=no_companions, repair=repair)


def qemu(path: Path, *arguments: str) -> tuple[int, dict[str, Any] | None]:
    """Exit code and JSON; None where it stops without a report."""
    done = peers.run("qemu-img", "check", "--output", "json", *arguments, path, ok=(0, 1, 2, 3))
    return done.returncode, json.loads(done.stdout) if done.stdout else None


@dataclass
class Image:
    """The metadata of a small image, to be damaged by hand."""

    data: bytearray

    def u64(self, offset: int) -> int:
        return int.from_bytes(self.data[offset : offset + 8], "big")

    def put(self, offset: int, value: int, size: int = 8) -> None:
        self.data[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "big")

    def flip(self, offset: int, bits: int) -> None:
        self.put(offset, self.u64(offset) ^ bits)

    @property
    def cluster(self) -> int:
        return 1 << struct.unpack_from(">I", self.data, 20)[0]

    @property
    def l1(self) -> int:
        return self.u64(40)

    @property
    def reftable(self) -> int:
        return self.u64(48)

    @property
    def refblock(self) -> int:
        return self.u64(self.reftable)

    @property
    def width(self) -> int:
        """Bits of a refcount."""
        version = struct.unpack_from(">I", self.data, 4)[0]
        return 1 << struct.unpack_from(">I", self.data, 96)[0] if version == 3 else 16

    @property
    def snapshot(self) -> int:
        """Offset of the first snapshot's entry."""
        return self.u64(64)

    @property
    def end(self) -> int:
        """The first cluster behind the file, as an offset."""
        return -(-len(self.data) // self.cluster) * self.cluster

    def l2(self, l1: int | None = None) -> int:
        return self.u64(self.l1 if l1 is None else l1) & OFFSET

    def entry(self, wanted: Callable[[int], bool], step: int = 8) -> int:
        """Offset of the first entry of the active L2 tables that is as wanted."""
        l1_size = struct.unpack_from(">I", self.data, 36)[0]
        starts = [self.l2(self.l1 + 8 * index) for index in range(l1_size)]
        return next(
            offset
            for start in starts
            if start
            for offset in range(start, start + self.cluster, step)
            if wanted(self.u64(offset))
        )

    def set_refcount(self, cluster: int, value: int) -> None:
        if self.width >= 8:
            self.put(self.refblock + cluster * self.width // 8, value, self.width // 8)
            return
        per_byte = 8 // self.width
        where, shift = self.refblock + cluster // per_byte, cluster % per_byte * self.width
        mask = ((1 << self.width) - 1) << shift
        self.data[where] = self.data[where] & ~mask | value << shift

    def cluster_of(self, wanted: Callable[[int], bool], step: int = 8) -> int:
        return (self.u64(self.entry(wanted, step)) & OFFSET) // self.cluster


def plain(entry: int) -> bool:
    return bool(entry & COPIED) and not entry & COMPRESSED and bool(entry & OFFSET)


def shared(entry: int) -> bool:
    return not entry & (COPIED | COMPRESSED) and bool(entry & OFFSET)


def packed(entry: int) -> bool:
    return bool(entry & COMPRESSED)


KINDS = {
    "v3": "cluster_size=4k",
    "v2": "compat=0.10,cluster_size=4k",
    "64k": "cluster_size=64k",
    "512": "cluster_size=512",
    "lazy": "cluster_size=4k,lazy_refcounts=on",
    "ext": "cluster_size=16k,extended_l2=on",
    "zstd": "cluster_size=4k,compression_type=zstd",
    "data": "cluster_size=4k,data_file={folder}/data.raw",
    "snap": "cluster_size=4k",
    "snap64k": "cluster_size=64k,refcount_bits=8",
    "bitmap": "cluster_size=4k",
    **{f"bits{bits}": f"cluster_size=4k,refcount_bits={bits}" for bits in (1, 2, 4, 8, 32, 64)},
}


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Image]:
    """Images of 8 MiB by qemu-img: plain, zero and compressed clusters, snapshots, bitmaps."""
    folder = tmp_path_factory.mktemp("originals")
    made: dict[str, bytes] = {}

    def make(kind: str) -> Image:
        if kind in made:
            return Image(bytearray(made[kind]))
        path = folder / f"{kind}.qcow2"
        options = KINDS[kind].format(folder=folder)
        peers.run("qemu-img", "create", "-f", "qcow2", "-o", options, path, "8M")
        writes = [
            "write -P 1 0 90k",
            "write -P 2 128k 20k",
            "write -z 200k 64k",
            "write -P 3 4M 60k",
        ]
        if kind != "data":
            writes += ["write -c -P 4 320k 64k", "write -c -P 5 384k 64k"]
        _qemu_io(path, *writes)
        if kind.startswith("snap"):
            for name, write in (("one", "write -P 7 8k 30k"), ("two", "write -P 8 5M 64k")):
                peers.run("qemu-img", "snapshot", "-c", name, path)
                _qemu_io(path, write)
        if kind == "bitmap":
            peers.run("qemu-img", "bitmap", "--add", path, "backup")
            _qemu_io(path, "write -P 9 6M 64k")
        made[kind] = path.read_bytes()
        return Image(bytearray(made[kind]))

    return make


def _qemu_io(path: Path, *commands: str) -> None:
    peers.run("qemu-io", *(word for c in commands for word in ("-c", c)), path)


@dataclass(frozen=True)
class Damage:
    kind: str
    name: str
    apply: Callable[[Image], object]


def _free_cluster(image: Image) -> int:
    image.data.extend(bytes(3 * image.cluster))
    return len(image.data) // image.cluster - 2


def _leak(image: Image) -> None:
    image.set_refcount(_free_cluster(image), 1)


def _too_low(image: Image) -> None:
    image.set_refcount(image.cluster_of(plain), 0)


def _double(image: Image) -> None:
    # Two guest clusters in one host cluster, with a refcount of one.
    first = image.entry(plain)
    image.put(first + 8, image.u64(first))


def _cut(image: Image, part: float) -> None:
    del image.data[int(len(image.data) * part) :]


def _misplace_zero(image: Image) -> None:
    entry = image.entry(plain)
    image.put(entry, image.u64(entry) + 512 | 1)


def _snapshot_without_extra(image: Image) -> None:
    # Move id and name forward over the extra data: an entry as version 2 wrote it.
    at = image.snapshot
    sizes = struct.unpack_from(">HH", image.data, at + 12)
    extra = struct.unpack_from(">I", image.data, at + 36)[0]
    names = image.data[at + 40 + extra : at + 40 + extra + sum(sizes)]
    image.put(at + 36, 0, 4)
    image.put(60, 1, 4)
    image.data[at + 40 : at + 40 + sum(sizes)] = names


REFCOUNT_ZERO = [kind for kind in KINDS if kind not in ("data", "ext", "snap")]

DAMAGES = [
    *(Damage(kind, "none", lambda image: None) for kind in KINDS),
    *(Damage(kind, "leak", _leak) for kind in KINDS if kind != "snap64k"),
    *(Damage(kind, "refcount zero", _too_low) for kind in KINDS if kind in REFCOUNT_ZERO),
    *(Damage(f"bits{bits}", "shared cluster", _double) for bits in (1, 2, 4, 8, 32, 64)),
    *(
        Damage(f"bits{bits}", "refcount too high", lambda i: i.set_refcount(i.cluster_of(plain), 3))
        for bits in (2, 4, 8, 32, 64)
    ),
    Damage("v3", "shared cluster", _double),
    Damage("v3", "COPIED of L1", lambda i: i.flip(i.l1, COPIED)),
    Damage("v3", "COPIED of L2", lambda i: i.flip(i.entry(plain), COPIED)),
    Damage("data", "COPIED with a data file", lambda i: i.flip(i.entry(plain), COPIED)),
    Damage("snap", "COPIED of shared cluster", lambda i: i.flip(i.entry(shared), COPIED)),
    Damage("ext", "COPIED", lambda i: i.flip(i.entry(plain, 16), COPIED)),
    Damage("v3", "COPIED of compressed", lambda i: i.flip(i.entry(packed), COPIED)),
    Damage(
        "v3", "L2 entry past the end", lambda i: i.put(i.entry(plain), COPIED | i.end + (1 << 40))
    ),
    Damage("v3", "L2 entry just past the end", lambda i: i.put(i.entry(plain), COPIED | i.end)),
    Damage("v3", "L2 entry not aligned", lambda i: i.flip(i.entry(plain), 512)),
    Damage("v3", "zero entry not aligned", _misplace_zero),
    Damage("v3", "reserved bit low", lambda i: i.flip(i.entry(plain), 4)),
    Damage("v3", "reserved bit high", lambda i: i.flip(i.entry(plain), 1 << 58)),
    Damage("v3", "L2 entry on the header", lambda i: i.put(i.entry(plain), COPIED | 512)),
    Damage("v3", "L2 entry on the L1 table", lambda i: i.put(i.entry(plain), COPIED | i.l1)),
    Damage("v3", "L1 entry past the end", lambda i: i.put(i.l1, COPIED | i.end + (1 << 30))),
    Damage("v3", "L1 entry not aligned", lambda i: i.flip(i.l1, 512)),
    Damage("v3", "L1 entry with reserved bit", lambda i: i.flip(i.l1, 1 << 57)),
    Damage("v3", "L1 entry gone", lambda i: i.put(i.l1, 0)),
    Damage("v3", "L1 entry of nothing", lambda i: i.put(i.l1, COPIED)),
    Damage("v3", "one L2 table twice", lambda i: i.put(i.l1 + 16, i.u64(i.l1))),
    Damage("v3", "refcount block gone", lambda i: i.put(i.reftable, 0)),
    Damage("v3", "refcount block not aligned", lambda i: i.flip(i.reftable, 512)),
    Damage("v3", "refcount block reserved bit", lambda i: i.flip(i.reftable, 8)),
    Damage("v3", "refcount block past the end", lambda i: i.put(i.reftable + 8, i.end)),
    Damage("v3", "refcount block on an L2 table", lambda i: i.put(i.reftable, i.l2())),
    Damage("v3", "refcount block twice", lambda i: i.put(i.reftable + 8, i.refblock)),
    Damage("v3", "refcount table past the end", lambda i: i.put(48, i.end + (1 << 20))),
    Damage("v3", "no refcount table", lambda i: i.put(56, 0, 4)),
    Damage("v3", "compressed span longer", lambda i: i.flip(i.entry(packed), 15 << 58)),
    Damage("v3", "compressed past the end", lambda i: i.flip(i.entry(packed), 1 << 40)),
    Damage("zstd", "compressed refcount", lambda i: i.set_refcount(i.cluster_of(packed), 1)),
    Damage("512", "compressed span", lambda i: i.flip(i.entry(packed), 1 << 61)),
    Damage("v3", "cut in the middle", partial(_cut, part=0.5)),
    Damage("v3", "cut in a cluster", partial(_cut, part=0.777)),
    Damage("v3", "dirty", lambda i: i.flip(72, 1)),
    Damage("lazy", "dirty and refcounts behind", lambda i: (i.flip(72, 1), _too_low(i))),
    Damage("v3", "marked corrupt", lambda i: i.flip(72, 2)),
    Damage(
        "ext", "subcluster both stored and zero", lambda i: i.flip(i.entry(plain, 16) + 8, 1 << 32)
    ),
    Damage("ext", "stored without a cluster", lambda i: i.put(i.entry(plain, 16), 0)),
    Damage("ext", "not aligned", lambda i: i.flip(i.entry(plain, 16), 512)),
    Damage(
        "ext",
        "not aligned and without data",
        lambda i: (i.put(i.entry(plain, 16) + 8, 3 << 32), i.flip(i.entry(plain, 16), 512)),
    ),
    Damage("ext", "compressed with subclusters", lambda i: i.flip(i.entry(packed, 16) + 8, 1)),
    Damage("data", "compressed", lambda i: i.flip(i.entry(plain), COMPRESSED)),
    Damage("snap", "snapshot L1 past the end", lambda i: i.put(i.snapshot, i.end + (1 << 30))),
    Damage("snap", "snapshot L1 not aligned", lambda i: i.flip(i.snapshot, 512)),
    Damage("snap", "snapshot L1 huge", lambda i: i.put(i.snapshot + 8, (1 << 22) + 1, 4)),
    Damage("snap", "snapshot L1 entry", lambda i: i.flip(i.u64(i.snapshot), 1 << 16)),
    Damage("snap", "snapshot L1 is the active one", lambda i: i.put(i.snapshot, i.l1)),
    Damage("snap", "snapshot forgotten", lambda i: i.put(60, 1, 4)),
    Damage("snap", "snapshot without extra data", _snapshot_without_extra),
    Damage("snap64k", "snapshot forgotten", lambda i: i.put(60, 0, 4)),
    Damage("bitmap", "bitmaps stale", lambda i: i.flip(88, 1)),
]

# QEMU's numbers of repairs say more here: see check.py.
COUNTED_OTHERWISE = {
    # QEMU extends the file to where the block would be.
    "refcount block past the end",
}


@pytest.fixture(params=DAMAGES, ids=lambda d: f"{d.kind}-{d.name}")
def damage(request: pytest.FixtureRequest) -> Damage:
    found: Damage = request.param
    return found


@pytest.fixture
def damaged(damage: Damage, originals: Callable[[str], Image], tmp_path: Path) -> Path:
    image = originals(damage.kind)
    damage.apply(image)
    path = tmp_path / "damaged.qcow2"
    path.write_bytes(image.data)
    return path


def test_the_numbers_are_those_of_qemu_img(damage: Damage, damaged: Path) -> None:
    code, report = qemu(damaged)
    mine = ours(damaged)
    assert report is not None
    assert mine.to_json(str(damaged)) == report
    assert mine.exit_code == code
    assert bool(mine.problems) == (code != 0)
    if damage.name == "none":
        assert code == 0


@pytest.mark.parametrize("repair", ["leaks", "all"])
def test_both_find_after_a_repair_what_qemu_img_leaves(
    damage: Damage, damaged: Path, tmp_path: Path, repair: str
) -> None:
    theirs, mine = tmp_path / "theirs.qcow2", tmp_path / "mine.qcow2"
    shutil.copy(damaged, theirs)
    shutil.copy(damaged, mine)
    _, repaired = qemu(theirs, "-r", repair)
    report = ours(mine, repair)
    code, _ = qemu(theirs)
    my_code, left = qemu(mine)

    assert left is not None
    assert ours(mine).to_json(str(mine)) == left
    assert not (code == 0 and my_code != 0), report.problems
    if repaired is not None and code == my_code:
        numbers = report.to_json("")
        keys = LEFT if damage.name in COUNTED_OTHERWISE else (*LEFT, *FIXED)
        assert {k: numbers.get(k, 0) for k in keys} == {k: repaired.get(k, 0) for k in keys}
    if code == 0:
        # Repair never touches what the guest sees more than QEMU's does.
        peers.run("qemu-img", "compare", theirs, mine)
        assert mine.read_bytes()[72:80] == theirs.read_bytes()[72:80] or damage.kind == "v2"


@settings(
    max_examples=rounds(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_flipped_bits_in_metadata_count_as_in_qemu_img(
    originals: Callable[[str], Image], tmp_path: Path, data: st.DataObject
) -> None:
    image = originals(data.draw(st.sampled_from([k for k in KINDS if k not in ("bitmap",)])))
    places = [image.l1, image.reftable, image.refblock, image.l2()]
    if image.u64(64):
        places += [image.u64(image.snapshot), image.l2(image.u64(image.snapshot))]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.sampled_from(places))
        word = start + 8 * data.draw(st.integers(0, 63))
        image.flip(word, 1 << data.draw(st.integers(0, 63)))
    path = tmp_path / "flipped.qcow2"
    path.write_bytes(image.data)
    code, report = qemu(path)
    if report is None:
        with storage.open(path) as file:
            assert _stops(file)
        return
    mine = ours(path)
    assert mine.to_json(str(path)) == report
    assert mine.exit_code == code


def _stops(file: storage.Storage) -> bool:
    try:
        return check_image(file, companions=no_companions).exit_code != 0
    except VmimgError:
        return True


@settings(max_examples=rounds(150), deadline=20000)
@given(data=st.data())
def test_anything_gives_a_report_or_one_error(
    originals: Callable[[str], Image], data: st.DataObject
) -> None:
    image = originals(data.draw(st.sampled_from(list(KINDS))))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, 200) | st.integers(0, len(image.data) - 8))
        image.put(
            at, data.draw(st.integers(0, (1 << 64) - 1)), data.draw(st.sampled_from([1, 4, 8]))
        )
    if data.draw(st.booleans()):
        del image.data[data.draw(st.integers(0, len(image.data))) :]
    for repair in ("", "leaks", "all"):
        file = MemoryStorage(bytes(image.data))
        try:
            check_image(file, companions=no_companions, repair=repair)
        except VmimgError as error:
            assert str(error)


class Recorder(MemoryStorage):
    """Remembers the content after each write."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.states = [data]

    def write(self, offset: int, data: storage.Buffer) -> None:
        super().write(offset, data)
        self.states.append(self.getvalue())


@pytest.mark.parametrize(
    "name",
    [
        "refcount block gone",
        "shared cluster",
        "leak",
        "snapshot without extra data",
        "snapshot forgotten",
    ],
)
def test_a_repair_that_is_killed_leaves_nothing_worse(
    originals: Callable[[str], Image], name: str
) -> None:
    chosen = next(d for d in DAMAGES if d.name == name and d.kind in ("v3", "snap"))
    image = originals(chosen.kind)
    chosen.apply(image)
    file = Recorder(bytes(image.data))
    before = check_image(file, companions=no_companions)
    after = check_image(file, companions=no_companions, repair="all")
    assert (before.exit_code != 0, after.exit_code) == (True, 0)
    assert len(file.states) > 1
    for state in file.states:
        # A COPIED flag that is not set yet costs a copy, no data.
        report = check_image(MemoryStorage(state), companions=no_companions)
        assert report.corruptions <= max(before.corruptions, report.allocated_clusters)
        assert report.errors <= before.errors
        cured = check_image(MemoryStorage(state), companions=no_companions, repair="all")
        assert cured.exit_code == 0


def test_snapshots_survive_the_repair_of_an_image_with_bitmaps(
    originals: Callable[[str], Image], tmp_path: Path
) -> None:
    """QEMU 7.2 loses them: it writes the header before it has read the snapshots."""
    image = originals("bitmap")
    path = tmp_path / "both.qcow2"
    path.write_bytes(image.data)
    peers.run("qemu-img", "snapshot", "-c", "kept", path)
    image = Image(bytearray(path.read_bytes()))
    _leak(image)
    path.write_bytes(image.data)
    report = ours(path, "all")
    assert (report.fixed_leaks, report.exit_code) == (1, 0)
    assert "kept" in peers.run("qemu-img", "snapshot", "-l", path).stdout.decode()


def test_a_snapshot_table_that_is_cut_off_is_left_alone_or_dropped(
    originals: Callable[[str], Image],
) -> None:
    image = originals("snap")
    image.put(64, image.end + (1 << 20))
    report = check_image(MemoryStorage(image.data), companions=no_companions, repair="leaks")
    assert (report.exit_code, report.fixed_leaks) == (1, 0)
    file = MemoryStorage(image.data)
    report = check_image(file, companions=no_companions, repair="all")
    assert report.exit_code == 0
    assert file.read(60, 4) == bytes(4)


def test_leaks_alone_do_not_rebuild(originals: Callable[[str], Image]) -> None:
    image = originals("v3")
    image.put(image.reftable, 0)
    file = MemoryStorage(image.data)
    report = check_image(file, companions=no_companions, repair="leaks")
    assert report.exit_code == 1
    assert any("--repair all" in line for line in report.problems)
    assert file.getvalue() == bytes(image.data)


def test_tables_that_point_at_one_another_do_not_keep_the_reader_busy() -> None:
    # An L1 table of 4 Mi entries, all of which name the same 2 MiB of L2 table: 8 TiB to read.
    cluster = 2 << 20
    data = bytearray(30 * cluster)
    struct.pack_into(
        ">4sIQIIQIIQQI", data, 0, b"QFI\xfb", 3, 0, 0, 21, 0, 0, 1 << 22, cluster, 20 * cluster, 1
    )
    struct.pack_into(">II", data, 96, 4, 104)
    data[cluster : 17 * cluster] = (COPIED | 18 * cluster).to_bytes(8, "big") * (1 << 22)
    data[18 * cluster : 19 * cluster] = (COPIED | 19 * cluster).to_bytes(8, "big") * (cluster // 8)
    report = check_image(MemoryStorage(data), companions=no_companions)
    assert report.exit_code == 2
    assert report.allocated_clusters == (1 << 22) * (cluster // 8)


def test_what_cannot_be_asked_for_is_refused(originals: Callable[[str], Image]) -> None:
    file = MemoryStorage(originals("v3").data)
    with pytest.raises(OptionError):
        check_image(file, companions=no_companions, repair="some")
    file.writable = False
    with pytest.raises(StorageError):
        check_image(file, companions=no_companions, repair="all")
    with pytest.raises(FormatError):
        check_image(MemoryStorage(bytes(4096)), companions=no_companions)
