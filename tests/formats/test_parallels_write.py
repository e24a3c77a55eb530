"""Making Parallels images and writing into them: what QEMU, dissect.hypervisor, libphdi and ploop
make of it.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from test_parallels_read import IDS, by_dissect, by_phdi, content_of, with_bitmaps

import parallels_by_hand as by_hand
import peers
from model import Operation, Twins, operation_lists
from parallels_by_hand import FIRST, NONE, SECOND, TOP, Bundle, Image, flat, tree
from powerfail import (
    Operation as Step,
)
from powerfail import (
    Recorder,
    after_power_failure,
    agrees,
    chosen_steps,
    left_at,
    next_operation,
    record,
)
from rounds import rounds
from samples import awkward_disk, write_sparse
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, OptionError, UnsupportedFeature, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.parallels.allocation import WritableParallelsLayer
from vmimg.formats.parallels.check import check_file
from vmimg.formats.parallels.header import read_header
from vmimg.storage.file import FileStorage
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
BUNDLES = ["expanding-bundle", "plain-bundle", "ploop"]


def number(file: bytes, offset: int, width: int = 4) -> int:
    return int.from_bytes(file[offset : offset + width], "little")


def images_of(path: Path) -> list[Path]:
    """The expanding images in a bundle, or the file itself."""
    return sorted(path.glob("*.hds")) if path.is_dir() else [path]


def sound(path: Path) -> None:
    """Nothing wrong by our check, nor by qemu-img's."""
    report = check(path)
    assert report.exit_code == 0, report.problems
    for image in images_of(path):
        if image.read_bytes()[:7] == b"Without" or image.read_bytes()[:6] == b"Withou":
            peers.run("qemu-img", "check", "-f", "parallels", image)


# Making images


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("size", [MIB, 3 * MIB + 512, 40 * MIB])
def test_an_empty_image_is_the_one_of_qemu_img(tmp_path: Path, size: int) -> None:
    ours, theirs = tmp_path / "a.hds", tmp_path / "b.hds"
    for cluster in ("1M", "64k", "4k"):
        create(ours, size, format="parallels", options={"cluster_size": cluster}, replace=True)
        peers.run(
            *("qemu-img", "create", "-q", "-f", "parallels", "-o", f"cluster_size={cluster}"),
            *(theirs, str(size)),
        )
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("cluster_size", ["4k", "64k", "1M", "64M"])
@pytest.mark.parametrize("size", [512, MIB, 10_000_384])
def test_qemu_reads_what_we_make(tmp_path: Path, cluster_size: str, size: int) -> None:
    content = awkward_disk(size)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.hds"
    convert(raw, image, options={"cluster_size": cluster_size})
    assert content_of(image) == content
    peers.run("qemu-img", "compare", "-f", "parallels", "-F", "raw", image, raw)
    assert peers.run_json("qemu-img", "info", "--output=json", image)["virtual-size"] == size
    sound(image)


@pytest.mark.peer("dissect.hypervisor")
@pytest.mark.parametrize("split", [None, "2M"])
@pytest.mark.parametrize("subformat", BUNDLES)
@pytest.mark.parametrize("size", [512, 5 * MIB + 1536])
def test_dissect_reads_the_bundles_we_make(
    tmp_path: Path, subformat: str, size: int, split: str | None
) -> None:
    content = awkward_disk(size)
    raw, path = write_sparse(tmp_path / "raw", content), tmp_path / "a & b.hdd"
    options = {"subformat": subformat} | ({} if split is None else {"split": split})
    if split is not None and subformat == "ploop":
        with pytest.raises(OptionError, match="split"):
            convert(raw, path, format="parallels", options=options)
        return
    convert(raw, path, format="parallels", options=options)
    assert content_of(path) == content == by_dissect(path)
    pieces = -(-size // (2 * MIB)) if split else 1
    assert len(images_of(path)) == pieces
    assert len(list(path.iterdir())) == pieces + 1
    if subformat == "plain-bundle":
        assert b"".join(image.read_bytes() for image in images_of(path)) == content
    sound(path)


@pytest.mark.peer("pyphdi")
def test_libphdi_reads_the_plain_bundles_we_make(tmp_path: Path) -> None:
    # Of expanding images it knows the old signature only; pieces it opens all in one place.
    content = awkward_disk(3 * MIB)
    raw, path = write_sparse(tmp_path / "raw", content), tmp_path / "a.hdd"
    convert(raw, path, format="parallels", options={"subformat": "plain-bundle"})
    assert by_phdi(path) == content


def test_files_are_called_as_their_makers_call_them(tmp_path: Path) -> None:
    create(tmp_path / "w.hdd", MIB, format="parallels", options={"subformat": "expanding-bundle"})
    assert {file.name for file in (tmp_path / "w.hdd").iterdir()} == {
        "DiskDescriptor.xml",
        f"w.hdd.0.{TOP}.hds",
    }
    create(tmp_path / "root.hdd", MIB, format="parallels", options={"subformat": "ploop"})
    names = {file.name for file in (tmp_path / "root.hdd").iterdir()}
    assert names == {"DiskDescriptor.xml", "root.hds"}


@pytest.mark.peer("ploop")
@pytest.mark.parametrize("size", [9 * MIB, 2 << 40])
def test_ploop_finds_nothing_wrong(tmp_path: Path, size: int) -> None:
    # Its check fails for what the kernel module does not take: holes in the file.
    path = tmp_path / "root.hdd"
    if size > MIB << 10:
        create(path, size, format="parallels", options={"subformat": "ploop"})
    else:
        raw = write_sparse(tmp_path / "raw", awkward_disk(size))
        convert(raw, path, format="parallels", options={"subformat": "ploop"})
    with open_disk(path, writable=True) as disk:
        disk.write(5 * MIB + 70000, b"x" * 2 * MIB)
    before = (path / "root.hds").read_bytes()
    said = peers.run("ploop", "check", "--ro", "--force", "--check", path / "root.hds")
    assert b"rror" not in said.stdout + said.stderr
    assert (path / "root.hds").read_bytes() == before
    listed = peers.run("ploop", "snapshot-list", "-H", path / "DiskDescriptor.xml")
    assert TOP.encode() in listed.stdout


@pytest.mark.parametrize("subformat", ["expanding", *BUNDLES])
def test_any_number_of_threads_makes_the_same_bytes(tmp_path: Path, subformat: str) -> None:
    raw = write_sparse(tmp_path / "raw", awkward_disk(20 * MIB + 512))
    options = {"subformat": subformat, "cluster_size": "64k"}
    made = []
    for threads in (1, 4):
        path = tmp_path / str(threads) / "disk"
        path.parent.mkdir()
        convert(raw, path, format="parallels", options=options, threads=threads)
        files = [path] if path.is_file() else sorted(path.iterdir())
        made.append([(file.name, file.read_bytes()) for file in files])
    assert made[0] == made[1]
    assert measure(raw, format="parallels", options=options).required == sum(
        len(data) for _, data in made[0]
    )
    if subformat == "expanding":
        command = (sys.executable, "-m", "vmimg", "convert", "-O", "parallels")
        done = subprocess.run(
            (*command, "-o", "cluster_size=64k", raw, "-"), stdout=subprocess.PIPE, check=True
        )
        assert done.stdout == made[0][0][1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cluster_size": "1000"}, "power of two"),
        ({"cluster_size": "512"}, "power of two"),
        ({"cluster_size": "128M"}, "power of two"),
        ({"cluster_size": "4k"}, "larger clusters"),
        ({"split": "1G"}, "split is for bundles"),
        ({"subformat": "ploop", "split": "1G"}, "split is for bundles"),
        ({"subformat": "plain-bundle", "split": "1M"}, "4096 files"),
        ({"subformat": "plain-bundle", "split": "1000000"}, "multiple of cluster_size"),
        ({"subformat": "plain-bundle", "split": "0"}, "multiple of cluster_size"),
        ({"subformat": "plain"}, "expanding, expanding-bundle"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, str], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        create(tmp_path / "a.hdd", 1 << 42, format="parallels", options=options)
    assert list(tmp_path.iterdir()) == []


# Writing in place

SIZE = 6 * MIB + 1536
PLACES = (1, NONE, 4, 0, 2, NONE, NONE)


def start_from(origin: str, folder: Path) -> tuple[Path, bytes]:
    """An image to write into, and what it reads as."""
    path = folder / "image.hdd"
    if origin.startswith("bundle"):
        kind = {"root": "Plain"} if origin.endswith("plain") else {}
        bundle, contents = tree(cluster=65536, pieces=3 if "split" in origin else 1, **kind)  # type: ignore[arg-type]
        return bundle.write(path), contents[TOP]
    if origin in BUNDLES or origin == "qemu":
        content = bytearray(SIZE)
        content[MIB : 2 * MIB + 5] = random.Random(1).randbytes(MIB + 5)
        raw = write_sparse(folder / "raw", bytes(content))
        if origin == "qemu":
            peers.run("qemu-img", "convert", "-O", "parallels", raw, path)
        else:
            options = {"subformat": origin}
            if origin == "plain-bundle":
                options["split"] = "2M"
            convert(raw, path, format="parallels", options=options)
        return path, bytes(content)
    image = {
        "old": Image(SIZE, PLACES, old=True, data_off=0),
        "odd clusters": Image(SIZE, (), cluster=63 * 512, old=True),
        "small clusters": Image(SIZE, (), cluster=4096, data_off=8 * 30),
    }[origin]
    if not image.places:
        count = -(-SIZE // image.cluster)
        image.places = random.Random(2).sample(range(40), 40) + [NONE] * (count - 40)
    file, blocks = image.build()
    path.write_bytes(file)
    return path, flat(SIZE, blocks, image.cluster)


OPERATIONS = operation_lists(
    [1, 512, 5000, 65536, 300_000, 1 << 20, 3 << 20], [1, 512, 65536, 1 << 20], most=16
)


@pytest.mark.peer("qemu-img", "dissect.hypervisor")
@pytest.mark.parametrize(
    "origin",
    ["qemu", "old", "odd clusters", "small clusters", "bundle", "bundle split", "bundle plain",
     "plain-bundle", "ploop"],
)  # fmt: skip
@given(operations=OPERATIONS)
@settings(max_examples=rounds(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_writes_leave_what_others_read(origin: str, operations: list[Operation]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, content = start_from(origin, folder)
        states = {}
        if origin.startswith("bundle"):
            states = {guid: content_of(path, guid) for guid in (FIRST, SECOND)}
        twins = Twins(path, content)
        for operation in operations:
            start, length = twins.perform(operation)
            assert twins.disk.read(start, length) == twins.content[start : start + length]
        twins.disk.close()

        model = twins.content
        assert content_of(path) == model
        sound(path)
        if path.is_dir():
            # dissect misreads clusters that lie where a gap of that length would end.
            if origin in ("plain-bundle",):
                assert by_dissect(path) == model
            for guid, before in states.items():
                assert content_of(path, guid) == before, "a snapshot was written to"
        if len(images_of(path)) == 1:
            raw = folder / "model"
            raw.write_bytes(model)
            peers.run("qemu-img", "compare", "-f", "parallels", "-F", "raw", *images_of(path), raw)
        if origin == "bundle":
            top, second, first = (
                f'"driver":"parallels","file.driver":"file","file.filename":"{path}/disk.hdd.0.{g}.hds"'
                for g in (TOP, SECOND, FIRST)
            )
            whole = f'json:{{{top},"backing":{{{second},"backing":{{{first}}}}}}}'
            raw = folder / "model"
            raw.write_bytes(model)
            peers.run("qemu-img", "compare", whole, "-F", "raw", raw)


def test_opening_for_writing_changes_nothing_before_the_first_write(tmp_path: Path) -> None:
    path, _ = start_from("old", tmp_path)
    before = path.read_bytes()
    with open_disk(path, writable=True) as disk:
        disk.read(0, SIZE)
        disk.flush()
        disk.zero(MIB, MIB)  # was never written
    assert path.read_bytes() == before


@pytest.mark.parametrize("before", [0, by_hand.CLOSED, 0x37316470])
def test_an_image_is_marked_as_in_use_while_it_is_written(tmp_path: Path, before: int) -> None:
    path = tmp_path / "a.hds"
    path.write_bytes(Image(SIZE, PLACES, in_use=before, flags=1).build()[0])
    with open_disk(path, writable=True) as disk:
        assert number(path.read_bytes(), by_hand.USED) == before
        disk.write(0, b"a")
        assert number(path.read_bytes(), by_hand.USED) == by_hand.IN_USE
        assert image_info(path, share=True)[0].image.dirty
        # ploop's flag says that nothing was ever written.
        assert number(path.read_bytes(), by_hand.FLAGS) == 0
    assert number(path.read_bytes(), by_hand.USED) == 0
    assert not image_info(path)[0].image.dirty


def test_dirty_bitmaps_do_not_outlive_a_write(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    image = with_bitmaps()
    path.write_bytes(image.build()[0])
    before = content_of(path)
    with open_disk(path, writable=True) as disk:
        disk.read(0, disk.size)
    assert [b["id"] for b in image_info(path)[0].image.details["bitmaps"]] == list(map(str, IDS))
    with open_disk(path, writable=True) as disk:
        disk.write(5 * 4096, b"new")
    file = path.read_bytes()
    assert number(file, by_hand.EXT_OFF, 8) == 0
    assert "bitmaps" not in image_info(path)[0].image.details
    assert content_of(path) == before[: 5 * 4096] + b"new" + before[5 * 4096 + 3 :]
    # Their clusters were free for what is new, and what is left of them is cut off.
    assert len(file) == image.data_start + 3 * 4096
    sound(path)


@pytest.mark.parametrize("flags", [1, 2], ids=["necessary", "transit"])
def test_an_unknown_extension_that_must_be_kept_keeps_from_writing(
    tmp_path: Path, flags: int
) -> None:
    path = tmp_path / "a.hds"
    path.write_bytes(with_bitmaps(features=by_hand.feature(0x1234, flags, b"data")).build()[0])
    before = path.read_bytes()
    with (
        open_disk(path, writable=True) as disk,
        pytest.raises(UnsupportedFeature, match="0x0000000000001234"),
    ):
        disk.write(0, b"x")
    assert path.read_bytes() == before
    path.write_bytes(with_bitmaps(features=by_hand.feature(0x1234, 0, b"data")).build()[0])
    with open_disk(path, writable=True) as disk:
        disk.write(0, b"x")


def test_discarded_clusters_are_forgotten_and_their_places_used_again(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    path.write_bytes(Image(8 * MIB, (0, 1, 2, 3, 4, 5, 6, 7)).build()[0])
    before = content_of(path)
    with open_disk(path, writable=True) as disk:
        disk.discard(2 * MIB, 3 * MIB)
        disk.flush()
        assert path.stat().st_blocks * 512 <= 6 * MIB + 4096
        disk.write(3 * MIB, b"x" * MIB)
        disk.discard(6 * MIB, 2 * MIB)
    assert path.stat().st_size == 7 * MIB
    wanted = before[: 2 * MIB] + bytes(MIB) + b"x" * MIB + bytes(MIB) + before[5 * MIB : 6 * MIB]
    assert content_of(path) == wanted + bytes(2 * MIB)
    sound(path)


def test_a_place_is_not_used_again_before_the_bat_has_forgotten_it(tmp_path: Path) -> None:
    storage = MemoryStorage(Image(4 * 4096, (0, 1, NONE, NONE), cluster=4096).build()[0])
    disk = Disk([WritableParallelsLayer(storage, read_header(storage))])
    disk.discard(0, 4096)
    disk.write(2 * 4096, b"x" * 4096)
    assert storage.size == 4096 + 3 * 4096
    disk.flush()
    disk.write(3 * 4096, b"y" * 4096)
    assert storage.size == 4096 + 3 * 4096
    disk.close()
    assert number(storage.getvalue(), by_hand.BAT + 12) == 1


def test_zeros_above_a_snapshot_hide_it(tmp_path: Path) -> None:
    bundle, contents = tree()
    path = bundle.write(tmp_path / "disk.hdd")
    model = bytearray(contents[TOP])
    with open_disk(path, writable=True) as disk:
        for start, length, discard in ((65536, 65536, False), (3 * 65536 - 5, 70000, True)):
            assert any(model[start : start + length])
            (disk.discard if discard else disk.zero)(start, length)
            model[start : start + length] = bytes(length)
    assert content_of(path) == model
    assert content_of(path, SECOND) == contents[SECOND]
    sound(path)


def test_files_of_snapshots_are_only_read(tmp_path: Path) -> None:
    path = tree()[0].write(tmp_path / "disk.hdd")
    # Whoever reads a file keeps others from writing to it.
    with FileStorage(path / f"disk.hdd.0.{FIRST}.hds"), open_disk(path, writable=True) as disk:
        disk.write(0, b"in the present state")
    with (
        FileStorage(path / f"disk.hdd.0.{TOP}.hds"),
        pytest.raises(VmimgError, match=r"in use|lock"),
    ):
        open_disk(path, writable=True)


def test_a_snapshot_is_not_written_to(tmp_path: Path) -> None:
    path = tree()[0].write(tmp_path / "disk.hdd")
    with pytest.raises(OptionError, match="can be read, not written"):
        open_disk(path, snapshot=FIRST, writable=True)


def test_pieces_that_end_inside_a_cluster_are_not_written_above_a_snapshot(tmp_path: Path) -> None:
    bundle, contents = tree(pieces=2)
    low, high = 6 * 65536 - 512, 12 * 65536 - 512
    bundle.size = high
    bundle.files = [(0, low, *f[2:]) if not f[0] else (low, high, *f[2:]) for f in bundle.files]
    path = bundle.write(tmp_path / "disk.hdd")
    with open_disk(path) as disk:
        assert disk.read(0, low) == contents[TOP][:low]
    with pytest.raises(UnsupportedFeature, match="whole clusters"):
        open_disk(path, writable=True)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image(2 * MIB, (0, 0)), "share a place"),
        (Image(2 * MIB, (0, 5)), "file ends at"),
        (Image(2 * MIB, (0, NONE), old=True, data_off=0), "where clusters begin"),
        (Image(2 * MIB, (0, NONE)), "data area is said to begin"),
    ],
    ids=["shared", "outside", "between", "data_off"],
)
def test_a_damaged_image_is_not_written_to(tmp_path: Path, image: Image, says: str) -> None:
    path = tmp_path / "a.hds"
    file = bytearray(image.build()[0])
    if says.startswith("file"):
        del file[3 * MIB :]
    elif says.startswith("where"):
        file[by_hand.BAT] += 1
        file += bytes(512)
    elif says.startswith("data"):
        file[by_hand.DATA_OFF : by_hand.DATA_OFF + 4] = bytes(4)
    path.write_bytes(file)
    with open_disk(path, writable=True) as disk, pytest.raises(FormatError, match=says):
        disk.write(0, b"x")
    assert path.read_bytes() == bytes(file)


def test_clusters_that_are_too_large_to_be_written_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    file, blocks = Image(3 * MIB, (NONE,), cluster=128 * MIB, old=True).build()
    path.write_bytes(file)
    assert content_of(path) == flat(3 * MIB, blocks, 3 * MIB)
    with pytest.raises(UnsupportedFeature, match="too large to be written"):
        open_disk(path, writable=True)


def test_an_image_that_the_bundle_cuts_off_is_written_up_to_there(tmp_path: Path) -> None:
    file, blocks = Image(4 * MIB, (0, NONE, NONE, 1)).build()
    size = 2 * MIB + 512
    bundle = Bundle(size, [(0, size, TOP, "Compressed", "a")], names={"a": file})
    path = bundle.write(tmp_path / "disk.hdd")
    with open_disk(path, writable=True) as disk:
        disk.write(2 * MIB, b"x" * 512)
    assert content_of(path) == flat(2 * MIB, blocks, MIB) + b"x" * 512
    one = content_of(path / "a")
    assert one[3 * MIB :] == blocks[3] and not any(one[2 * MIB + 512 : 3 * MIB])


# Being cut off

SMALL = Image(64 * 4096 - 512, (1, 0, 3) + (NONE,) * 61, cluster=4096)


class SizeRecorder(Recorder):
    """Remembers what size the file was given, too."""

    def resize(self, size: int) -> None:
        self.log.append(size)
        super().resize(size)


def draw(source: random.Random) -> Step:
    return next_operation(source, SMALL.size, (100, 4096, 20000), (5, 1, 3, 2))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cut_off_at_any_moment_what_was_flushed_is_there(seed: int) -> None:
    begin, blocks = SMALL.build()
    content = flat(SMALL.size, blocks, SMALL.cluster)
    storage = SizeRecorder(begin)
    disk = Disk([WritableParallelsLayer(storage, read_header(storage))])
    expected = record(storage, disk, content, random.Random(seed), draw, 60)
    dice = random.Random(seed)
    for step, left in left_at(begin, storage.log, chosen_steps(storage.log, 40, 40)):
        failed = after_power_failure(begin, storage.log, step, dice, full_length=bool(step % 2))
        for file in (left, failed):
            after = MemoryStorage(file)
            header = read_header(after)
            with Disk([_reader(after)]) as reader:
                assert agrees(reader.read(0, SMALL.size), expected[step]), step
            entries = [number(file, at) for at in range(by_hand.BAT, header.table_end, 4)]
            used = [entry for entry in entries if entry]
            assert len(used) == len(set(used)), step
            report = check_file(after)
            assert report.corruptions == header.dirty, report.problems


def _reader(storage: MemoryStorage) -> WritableParallelsLayer:
    header = read_header(storage)
    header.in_use = 0
    return WritableParallelsLayer(storage, header)


def test_after_a_kill_the_image_is_mended_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    create(path, 8 * MIB, format="parallels")
    code = (
        "import os, sys; from vmimg.formats.opening import open_disk\n"
        "disk = open_disk(sys.argv[1], writable=True)\n"
        "disk.write(0, b'x' * 5000); disk.flush(); disk.write(3 << 20, b'y'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)])
    assert done.returncode == 9
    assert image_info(path)[0].image.dirty
    with pytest.raises(FormatError, match="--repair"):
        open_disk(path, writable=True)
    assert check(path).exit_code == 2
    assert check(path, repair="all").exit_code == 0
    with open_disk(path, writable=True) as disk:
        assert disk.read(0, 5001) == b"x" * 5000 + b"\0"
        disk.write(4 * MIB, b"z")
    sound(path)
