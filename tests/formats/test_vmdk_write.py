"""Writing in place into VMDK: what qemu-img makes of it, and what being cut off leaves."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peers
import powerfail
from model import Operation, Twins, operation_lists
from powerfail import Expected, Recorder, after_power_failure, agrees, left_at
from rounds import rounds
from vmdk_by_hand import cowd, descriptor, hosted, se_sparse, stream
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, StorageError, UnsupportedFeature, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vmdk.allocation import WritableSparseLayer
from vmimg.formats.vmdk.descriptor import parse_descriptor
from vmimg.formats.vmdk.header import read_extent_header
from vmimg.formats.vmdk.image import VmdkImage
from vmimg.storage.base import Buffer
from vmimg.storage.memory import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img")

GRAIN = 65536
KINDS = (
    "monolithicSparse",
    "monolithicSparse,zeroed_grain=on",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "vmfsSparse",
    "three extents",
)
SIZES = (1 << 20, 3 * (1 << 20) + 1536, 5 * GRAIN + 512)

OPERATIONS = operation_lists(
    [1, 100, 512, 4096, 5000, GRAIN, 200_000, 1 << 20], [1, GRAIN], most=20
)


def create(image: Path, kind: str, size: int, base: Path | None = None) -> None:
    if kind not in ("vmfsSparse", "three extents"):
        parent = ("-b", str(base), "-F", "vmdk") if base is not None else ()
        options = ("-o", f"subformat={kind}", *parent)
        peers.run("qemu-img", "create", "-q", "-f", "vmdk", *options, image, str(size))
        return
    sectors = -(-size // 512)
    if kind == "vmfsSparse":
        (image.parent / "image-delta.vmdk").write_bytes(cowd(bytes(size)))
        lines = [f'RW {sectors} VMFSSPARSE "image-delta.vmdk"']
    else:
        first, second = 2 * 128, 128
        (image.parent / "image-s1.vmdk").write_bytes(hosted(bytes(first * 512)))
        (image.parent / "image-f2.vmdk").write_bytes(bytes(second * 512 + 1024))
        rest = sectors - first - second
        (image.parent / "image-s3.vmdk").write_bytes(hosted(bytes(rest * 512), zeroed={9**9}))
        lines = [
            f'RW {first} SPARSE "image-s1.vmdk"', f'RW {second} FLAT "image-f2.vmdk" 2',
            f'RW {rest} SPARSE "image-s3.vmdk"',
        ]  # fmt: skip
    kind = "vmfsSparse" if kind == "vmfsSparse" else "twoGbMaxExtentSparse"
    text = descriptor(*lines, kind=kind)
    if base is not None:
        cid = image_info(base)[0].image.details["cid"]
        text = descriptor(*lines, kind=kind, parent=f"{cid:08x}", hint=base.name)
    image.write_bytes(text)


def by_qemu(image: Path) -> bytes:
    raw = image.with_suffix(".out")
    peers.run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, raw)
    return raw.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@given(
    operations=OPERATIONS,
    child=st.booleans(),
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 1 << 16),
)
@settings(max_examples=rounds(8), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_qemu_reads(
    kind: str, operations: list[Operation], child: bool, size: int,
    seed: int,
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image.vmdk")
        model = bytearray(size)
        base: Path | None = None
        if child and "Flat" not in kind and kind != "three extents":  # flat hides the parent
            source = random.Random(seed)
            for _ in range(4):
                start = source.randrange(size)
                part = source.randbytes(min(size - start, source.choice([1, 4096, 300_000])))
                model[start : start + len(part)] = part
            Path(folder, "raw").write_bytes(model)
            base = Path(folder, "base.vmdk")
            peers.run("qemu-img", "convert", "-O", "vmdk", Path(folder, "raw"), base)
        create(image, kind, size, base)
        twins = Twins(image, model)
        for operation in operations:
            twins.perform(operation, some_zeros=False)
        model = twins.content
        assert twins.disk.read(0, size) == model
        twins.disk.close()
        assert by_qemu(image) == model
        peers.run("qemu-img", "check", "-q", "-f", "vmdk", image)
        report = check(image)
        assert report.exit_code == 0, report.problems


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_gives_the_image_another_cid_and_opening_does_not(
    tmp_path: Path, kind: str
) -> None:
    image = tmp_path / "image.vmdk"
    create(image, kind, 1 << 20)
    before = image_info(image)[0].image.details["cid"]
    with open_disk(image, writable=True) as disk:
        disk.read(0, 512)
        disk.flush()
    assert image_info(image)[0].image.details["cid"] == before
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
        changed = image_info(image, share=True)[0].image.details["cid"]
        assert changed != before
        disk.write(1, b"x")
    assert image_info(image)[0].image.details["cid"] == changed
    theirs = peers.run_json("qemu-img", "info", "--output", "json", image)
    assert theirs["format-specific"]["data"]["cid"] == changed


def test_the_rest_of_a_descriptor_stays_as_it_was(tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    create(image, "vmfsSparse", 1 << 20)
    before = image.read_bytes()
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x")
    after = image.read_bytes()
    place = parse_descriptor(before, "x").cid_place
    assert place is not None
    start, digits = place
    assert (before[:start], before[start + digits :]) == (after[:start], after[start + digits :])


def test_the_mark_of_an_open_disk_is_there_while_it_is_written(tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    create(image, "monolithicSparse", 1 << 20)
    with open_disk(image, writable=True) as disk:
        assert image.read_bytes()[72] == 0
        disk.write(0, b"x")
        assert image.read_bytes()[72] == 1
        assert image_info(image, share=True)[0].image.dirty
    assert image.read_bytes()[72] == 0


def test_what_is_dropped_is_used_again(tmp_path: Path) -> None:
    image = tmp_path / "image.vmdk"
    create(image, "monolithicSparse", 64 << 20)
    with open_disk(image, writable=True) as disk:
        disk.write(0, b"x" * (8 << 20))
        disk.flush()
        size = image.stat().st_size
        for n in range(1, 8):
            disk.discard((n - 1) * (8 << 20), 8 << 20)
            disk.flush()
            disk.write(n * (8 << 20), b"%d" % n * (8 << 20))
    assert image.stat().st_size == size
    assert check(image).exit_code == 0
    assert by_qemu(image) == bytes(56 << 20) + b"7" * (8 << 20)


def test_redundant_tables_say_the_same(tmp_path: Path) -> None:
    text = descriptor('RW 163840 SPARSE "image.vmdk"')
    begin = hosted(bytes(80 << 20), text=text, absent=range(1280))
    path = tmp_path / "image.vmdk"
    path.write_bytes(begin)
    with open_disk(path, writable=True) as disk:
        disk.write(33 << 20, b"x" * 200_000)
        disk.write(70 << 20, b"y" * 200_000)
    data = path.read_bytes()
    for first, second in zip(begin.gts, begin.rgts, strict=True):
        assert data[first : first + 2048] == data[second : second + 2048]
    assert any(data[begin.gts[1] : begin.gts[1] + 2048])


def test_tables_are_made_where_there_are_none(tmp_path: Path) -> None:
    text = descriptor('RW 163840 SPARSE "image.vmdk"')
    image = hosted(bytes(80 << 20), text=text, absent=range(1280))
    for n in range(3):
        image.put(image.gd + 4 * n, 0)
        image.put(image.rgd + 4 * n, 0)
    path = tmp_path / "image.vmdk"
    path.write_bytes(image)
    with open_disk(path, writable=True) as disk:
        disk.write(0, b"x" * 5)
        disk.write((32 << 20) - 10, b"y" * (33 << 20))
        assert disk.read((32 << 20) - 11, 3) == b"\0yy"
    expected = b"x" * 5 + bytes((32 << 20) - 15) + b"y" * (33 << 20)
    assert by_qemu(path) == expected.ljust(80 << 20, b"\0")
    assert check(path).exit_code == 0


def test_the_next_free_sector_of_a_cow_disk_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "image.vmdk"
    path.write_bytes(cowd(b"x" * 4096 + bytes(1 << 20)))
    begin = path.stat().st_size
    for round in range(2):
        with open_disk(path, writable=True) as disk:
            disk.write((1 + round) * 100_000, b"y" * 1000)
    data = path.read_bytes()
    assert int.from_bytes(data[28:32], "little") * 512 == len(data) == begin + 2 * 3 * 512


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (stream(b"x" * GRAIN, text=None), "streamOptimized"),
        (bytes(se_sparse(b"x" * GRAIN)), "seSparse"),
        (bytes(hosted(b"x" * GRAIN, version=3)), "version 3"),
    ],
    ids=("stream", "seSparse", "version 3"),
)
def test_kinds_that_are_only_read(tmp_path: Path, image: bytes, says: str) -> None:
    (tmp_path / "image.vmdk").write_bytes(image)
    with pytest.raises(UnsupportedFeature, match=f"{says}.*convert it first"):
        open_disk(tmp_path / "image.vmdk", writable=True)


def test_a_read_only_extent_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(512))
    (tmp_path / "b").write_bytes(bytes(512))
    path = tmp_path / "image.vmdk"
    path.write_bytes(descriptor('RW 1 FLAT "a" 0', 'RDONLY 1 FLAT "b" 0', "RW 1 ZERO"))
    with open_disk(path, writable=True) as disk:
        disk.write(0, b"x" * 512)
        for place in (512, 1024):
            with pytest.raises(StorageError):
                disk.write(place, b"x")
    assert (tmp_path / "b").read_bytes() == bytes(512)


def test_damaged_tables_are_not_written_to(tmp_path: Path) -> None:
    content = b"x" * (1 << 20)
    over_metadata = hosted(content)
    over_metadata.put(over_metadata.entry(1), 1)
    outside = hosted(content)
    outside.put(outside.gd, 1 << 30)
    uneven = hosted(content)
    uneven.put(uneven.rgd, 0)
    path = tmp_path / "image.vmdk"
    for image in (over_metadata, outside, uneven):
        path.write_bytes(image)
        with (
            open_disk(path, writable=True) as disk,
            pytest.raises(FormatError, match="vmimg check"),
        ):
            disk.write(70_000, b"y")
        assert path.read_bytes()[73:] == image[73:]


# Cut off

CUT_SIZE = 5 << 20


def next_operation(source: random.Random) -> powerfail.Operation:
    return powerfail.next_operation(source, CUT_SIZE, [512, 4096, GRAIN, 200_000])


BEGINNINGS: dict[str, Callable[[int], bytearray]] = {
    "tables are there": lambda size: hosted(bytes(size), grain=8),
    "zeroed grains": lambda size: hosted(bytes(size), grain=8, version=2, zeroed={1}),
    "COWD": lambda size: cowd(bytes(size)),
}


@pytest.mark.parametrize("name", [*BEGINNINGS, "no tables"])
@pytest.mark.parametrize("power", [False, True], ids=("killed", "power fails"))
def test_cut_off_anywhere_what_was_flushed_is_there(name: str, power: bool) -> None:
    if name == "no tables":
        made = hosted(bytes(CUT_SIZE), grain=8)
        for n in range(len(made.gts)):
            made.put(made.gd + 4 * n, 0)
            made.put(made.rgd + 4 * n, 0)
        begin = bytes(made)
    else:
        begin = bytes(BEGINNINGS[name](CUT_SIZE))
    storage = Recorder(begin)
    layer = WritableSparseLayer(storage, read_extent_header(storage), VmdkImage(storage))
    source = random.Random(name)
    expected = powerfail.record(
        storage, Disk([layer]), bytes(CUT_SIZE), source, next_operation, count=40
    )
    steps = len(storage.log)
    for step in sorted(source.sample(range(steps), min(steps, 30))):
        if power:
            file = after_power_failure(begin, storage.log, step, source)
        else:
            [(_, file)] = left_at(begin, storage.log, {step})
        verify(file, expected[step])


def verify(data: bytes, wanted: Expected) -> None:
    """Nothing but leaks and differing copies, and what was sure to be there."""
    from vmimg.formats.vmdk.check import check_image
    from vmimg.formats.vmdk.driver import VmdkDriver

    def nothing(name: str, role: str) -> MemoryStorage:
        raise VmimgError(name)

    storage = MemoryStorage(data)
    report = check_image(storage, companions=nothing)
    harmless = ("redundant grain tables that differ", "tables that only one", "closed properly")
    assert not report.errors
    assert all(any(words in line for words in harmless) for line in report.problems)
    layer = VmdkDriver().open(storage, writable=False, companions=nothing)
    assert agrees(Disk([layer]).read(0, layer.size), wanted)
    mended = MemoryStorage(data)
    mended.writable = True
    assert check_image(mended, companions=nothing, repair="all").exit_code == 0
    layer = VmdkDriver().open(mended, writable=False, companions=nothing)
    assert agrees(Disk([layer]).read(0, layer.size), wanted)


class Failing(MemoryStorage):
    """Refuses to write, for once, whatever lies in a range."""

    def __init__(self, data: bytes, low: int, high: int) -> None:
        super().__init__(data)
        self._range = (low, high)

    def write(self, offset: int, data: Buffer) -> None:
        low, high = self._range
        if offset < high and low < offset + len(data):
            self._range = (0, 0)
            raise StorageError("no space left on device")
        super().write(offset, data)


@pytest.mark.parametrize("where", ["directory", "table", "redundant table"])
def test_a_flush_that_failed_can_be_made_again(where: str) -> None:
    made = hosted(bytes(40 << 20), absent=range(640))
    made.put(made.gd + 4, 0)
    made.put(made.rgd + 4, 0)
    low = {"directory": made.gd + 4, "table": made.gts[0], "redundant table": made.rgts[0]}[where]
    storage = Failing(bytes(made), low, low + 4)
    layer = WritableSparseLayer(storage, read_extent_header(storage), VmdkImage(storage))
    disk = Disk([layer])
    disk.write(0, b"x" * 100)
    disk.write(35 << 20, b"y" * 100)
    with pytest.raises(StorageError, match="no space"):
        disk.flush()
    disk.write(38 << 20, b"z" * 100)
    disk.flush()
    disk.close()
    again = MemoryStorage(storage.getvalue())
    layer = WritableSparseLayer(again, read_extent_header(again), VmdkImage(again))
    disk = Disk([layer])
    for place, byte in ((0, b"x"), (35 << 20, b"y"), (38 << 20, b"z")):
        assert disk.read(place, 100) == byte * 100
