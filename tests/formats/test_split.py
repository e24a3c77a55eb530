"""Raw disks in parts: cut by split, joined by cat, made and written here."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import peers
from damaged import objections, put_through
from samples import awkward_disk, write_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, OptionError, StorageError, UnsafeImage
from vmimg.formats.detect import detect, identify
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import by_extension, find
from vmimg.storage import FileStorage, MemoryStorage
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

MIB = 1 << 20
SIZE = 5 * MIB + 512


@pytest.fixture(scope="module")
def content() -> bytes:
    return awkward_disk(SIZE)


def cut(folder: Path, content: bytes, size: int, *options: str, stem: str = "disk.raw.") -> Path:
    """The first of the parts that split makes."""
    before = {*folder.iterdir()}
    peers.run("split", "-b", str(size), *options, "-", folder / stem, input=content)
    return min({*folder.iterdir()} - before)


def content_of(path: Path, **more: object) -> bytes:
    with open_disk(path, **more) as disk:  # type: ignore[arg-type]
        return disk.read(0, disk.size)


@pytest.mark.parametrize(
    ("options", "first", "last"),
    [
        ((), "disk.raw.aa", "disk.raw.ag"),
        (("-a", "3"), "disk.raw.aaa", "disk.raw.aag"),
        (("-d", "-a", "3"), "disk.raw.000", "disk.raw.006"),
        (("--numeric-suffixes=1", "-a", "3"), "disk.raw.001", "disk.raw.007"),
        (("--numeric-suffixes=1", "-a", "4"), "disk.raw.0001", "disk.raw.0007"),
    ],
    ids=str,
)
@pytest.mark.peer("split")
def test_what_split_cuts_is_one_disk(
    tmp_path: Path, content: bytes, options: tuple[str, ...], first: str, last: str
) -> None:
    size = 777_777  # no multiple of anything
    path = cut(tmp_path, content, size, *options)
    assert path.name == first and (tmp_path / last).exists()
    assert content_of(path) == content
    (info,) = image_info(path)
    assert (info.image.format, info.image.virtual_size) == ("split", SIZE)
    parts = info.image.details["parts"]
    assert [part["size"] for part in parts] == [size] * 6 + [SIZE - 6 * size]
    assert [part["filename"] for part in parts] == [str(p) for p in sorted(tmp_path.iterdir())]
    assert info.image.notes[0] == f"7 parts, from {first} to {last}"
    with open_disk(path) as disk:
        assert disk.format == "split"
        for start in random.Random(1).sample(range(SIZE), 50):
            length = min(2 * size, SIZE - start)
            assert disk.read(start, length) == content[start : start + length]


@pytest.mark.peer("split")
def test_split_with_two_digits_is_read_where_it_is_asked_for(
    tmp_path: Path, content: bytes
) -> None:
    path = cut(tmp_path, content, MIB, "-d")
    assert path.name == "disk.raw.00"
    assert image_info(path)[0].image.format == "raw"  # might be versions of a disk
    assert content_of(path, format="split") == content


@pytest.mark.peer("split")
def test_split_that_needs_more_letters_than_it_thought(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(700 * 512)
    path = cut(tmp_path, content, 512)
    assert (tmp_path / "disk.raw.yz").exists() and (tmp_path / "disk.raw.zaaa").exists()
    assert len(image_info(path)[0].image.details["parts"]) == 700
    assert content_of(path) == content
    with pytest.raises(ChainError, match=r"open the first one, disk\.raw\.aa"):
        open_disk(tmp_path / "disk.raw.zaab")


@pytest.mark.peer("split")
def test_676_parts_of_two_letters(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(676 * 512)
    assert content_of(cut(tmp_path, content, 512, "-a", "2")) == content


def test_behind_999_comes_1000(tmp_path: Path) -> None:
    limit = subprocess.run(["sh", "-c", "ulimit -n"], capture_output=True).stdout
    if limit.strip() != b"unlimited" and int(limit) < 1100:
        pytest.skip("so many files cannot be open here")
    for number in range(1, 1003):
        (tmp_path / f"a.{number:03}").write_bytes(b"%03d" % (number % 1000))
    read = content_of(tmp_path / "a.001")
    assert read[: 3 * 1002] == b"".join(b"%03d" % (n % 1000) for n in range(1, 1003))


def test_parts_of_any_size_and_of_none(tmp_path: Path, content: bytes) -> None:
    sizes = (0, 1, 511, 0, 100_000, MIB, 0, 3)
    start = 0
    for number, size in enumerate(sizes):
        (tmp_path / f"a.{number:03}").write_bytes(content[start : start + size])
        start += size
    read = content_of(tmp_path / "a.000")
    assert read == content[:start] + bytes(-start % 512)
    with open_disk(tmp_path / "a.000") as disk:
        spans = list(disk.spans())
        assert spans[0][0] == 0 and spans[-1][1] == disk.size


@pytest.mark.parametrize("style", ["001", "aa"])
def test_a_missing_part_is_named(tmp_path: Path, style: str) -> None:
    names = ("001", "002", "003", "005") if style == "001" else ("aa", "ab", "ac", "ae")
    for name in names:
        (tmp_path / f"a.{name}").write_bytes(bytes(512))
    missing = "a.004" if style == "001" else "a.ad"
    path = tmp_path / f"a.{style}"
    for look in (open_disk, image_info):
        with pytest.raises(ChainError, match=f"its part '{missing}' is missing"):
            look(path)


def test_a_later_part_is_not_the_disk(tmp_path: Path) -> None:
    for name in ("a.001", "a.002", "a.003", "b.aa", "b.ab"):
        (tmp_path / name).write_bytes(bytes(512))
    with pytest.raises(ChainError, match=r"is part 3 of a disk; open the first one, a\.001"):
        open_disk(tmp_path / "a.003")
    with pytest.raises(ChainError, match=r"is part 2 of a disk; open the first one, b\.aa"):
        image_info(tmp_path / "b.ab")
    # Whoever wants the bytes of that one says so.
    assert content_of(tmp_path / "a.003", format="raw") == bytes(512)


def test_what_is_no_part_stays_what_it_is(tmp_path: Path) -> None:
    names = (
        "lone.aa", "lone.000", "other.002", "disk.img", "disk.aaa", "disk.aab", "disk.aa", "a.gz",
        "2", ".001x", "v-1.00", "v-1.01", "001", "a.b.1234567",
    )  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(bytes(512))
    (tmp_path / "lone.001x").mkdir()
    found = {name for name in names if image_info_format(tmp_path / name) == "split"}
    assert found == {"disk.aaa"}
    assert image_info_format(tmp_path / "lone.000") == "raw"


def image_info_format(path: Path) -> str:
    try:
        return image_info(path)[0].image.format
    except ChainError as error:
        return str(error)


def test_a_part_that_is_a_directory_or_a_link_elsewhere(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (home / "a.001").write_bytes(b"1" * 512)
    (home / "a.002").mkdir()
    (home / "a.003").write_bytes(b"3" * 512)
    with pytest.raises(ChainError, match=r"a\.002"):
        open_disk(home / "a.001")
    (home / "a.002").rmdir()
    (other / "secret").write_bytes(b"2" * 512)
    (home / "a.002").symlink_to(other / "secret")
    with pytest.raises(UnsafeImage, match="--allow-dir"):
        open_disk(home / "a.001")
    (info,) = image_info(home / "a.001")
    assert "contents" not in info.image.details
    assert "outside the directory" in info.image.notes[1]
    policy = ParentPolicy(allowed=(other,))
    assert content_of(home / "a.001", policy=policy) == b"1" * 512 + b"2" * 512 + b"3" * 512
    # A link to the first part is that part: the others lie beside what it leads to.
    (home / "a.002").unlink()
    (home / "a.002").write_bytes(b"2" * 512)
    (other / "link").symlink_to(home / "a.001")
    assert content_of(other / "link") == b"1" * 512 + b"2" * 512 + b"3" * 512


def test_one_file_under_two_names_is_not_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a.001").write_bytes(bytes(512))
    os.link(tmp_path / "a.001", tmp_path / "a.002")
    with pytest.raises(ChainError, match=r"a\.001"):
        open_disk(tmp_path / "a.001")


@pytest.mark.peer("qemu-img", "split")
def test_what_is_in_the_first_part_goes_before_its_name(tmp_path: Path) -> None:
    image = tmp_path / "a.qcow2"
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
    path = cut(tmp_path, image.read_bytes(), 100_000, stem="b.")
    with FileStorage(path) as storage:
        assert [claim.format.name for claim in detect(storage)] == ["qcow2", "split", "raw"]
        assert identify(storage).name == "qcow2"


@pytest.mark.peer("sgdisk")
def test_info_says_what_is_on_the_disk_to_its_end(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(40 * MIB)
    peers.run("sgdisk", "-n1:0:0", "-c1:root", disk)
    path = cut(tmp_path, disk.read_bytes(), 7 * MIB, "-d", "-a", "3", stem="x.")
    contents = image_info(path)[0].image.details["contents"]
    assert contents["kind"] == "gpt" and contents["partitions"][0]["label"] == "root"
    assert "problems" not in contents  # the backup at the end is found


def test_a_map_says_in_which_file_things_are(tmp_path: Path) -> None:
    (tmp_path / "a.001").write_bytes(b"x" * 65536)
    (tmp_path / "a.002").write_bytes(b"y" * 65536)
    with (tmp_path / "a.002").open("r+b") as file:
        file.truncate(4 * MIB)
    with open_disk(tmp_path / "a.001") as disk:
        extents = list(disk.map())
    assert [(e.start, e.length, e.kind) for e in extents] == [
        (0, 65536, Kind.DATA), (65536, 65536, Kind.DATA), (131072, 4 * MIB - 65536, Kind.ZERO),
    ]  # fmt: skip
    assert [(e.file, e.offset) for e in extents[:2]] == ([(None, 0), (str(tmp_path / "a.002"), 0)])


# Made here


@pytest.mark.parametrize("part", [512, 8192, 100 * 512, MIB, 3 * MIB, 8 * MIB])
@pytest.mark.peer("cat")
def test_what_is_made_here_cat_joins(tmp_path: Path, content: bytes, part: int) -> None:
    content = content[: 200 * 512] if part == 512 else content
    raw = write_sparse(tmp_path / "raw", content)
    made = tmp_path / "made"
    made.mkdir()
    done = convert(raw, made / "a.001", options={"part_size": part})
    paths = sorted(made.iterdir())
    assert paths[0].name == "a.001" and len(paths) == -(-len(content) // part)
    assert [path.stat().st_size for path in paths[:-1]] == [part] * (len(paths) - 1)
    assert done.file_size == len(content) == sum(path.stat().st_size for path in paths)
    assert peers.run("cat", *paths).stdout == content
    assert content_of(paths[0]) == content


@pytest.mark.peer("7z")
def test_7zip_joins_what_is_made_here(tmp_path: Path, content: bytes) -> None:
    raw = write_sparse(tmp_path / "raw", content)
    convert(raw, tmp_path / "a.001", options={"part_size": MIB})
    assert peers.run("7z", "e", "-so", "-tsplit", tmp_path / "a.001").stdout == content


@pytest.mark.parametrize(
    ("first", "last"), [("a.001", "a.011"), ("a.000", "a.010"), ("a.b.aa", "a.b.ak")]
)
def test_the_first_name_says_how_the_others_are_called(
    tmp_path: Path, content: bytes, first: str, last: str
) -> None:
    assert by_extension(first) is find("split")
    raw = write_sparse(tmp_path / "raw", content)
    convert(raw, tmp_path / first, options={"part_size": "512k"})
    assert sorted(path.name for path in tmp_path.iterdir())[-2] == last
    assert content_of(tmp_path / first) == content


def test_names_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    for name in ("a.raw", "a.002", "001", "a.ab", "a.1", "a."):
        with pytest.raises(OptionError, match=r"is called .*\.001"):
            create(tmp_path / name, MIB, format="split")
    with pytest.raises(OptionError, match=r"is called disk\.001"):
        create(tmp_path / "disk", MIB, format="split", options={"part_size": 512 << 10})
    for name, most in (("a.001", 999), ("a.aa", 676), ("a.000", 1000)):
        options = {"part_size": 512}
        with pytest.raises(OptionError, match=f"names for {most} parts"):
            create(tmp_path / name, (most + 1) * 512, format="split", options=options)
    with pytest.raises(OptionError, match="multiple of 512"):
        create(tmp_path / "a.001", MIB, format="split", options={"part_size": 1000})
    assert not any(tmp_path.iterdir())


def test_an_old_part_is_not_taken_into_a_new_disk(tmp_path: Path) -> None:
    options = {"part_size": MIB}
    create(tmp_path / "a.001", 4 * MIB, format="split", options=options)
    with pytest.raises(OptionError, match=r"a\.003 exists and would be read"):
        create(tmp_path / "a.001", 2 * MIB, format="split", options=options, replace=True)
    create(tmp_path / "a.001", 4 * MIB, format="split", options=options, replace=True)
    (tmp_path / "b.000").write_bytes(b"x")
    with pytest.raises(OptionError, match=r"b\.000 exists"):
        create(tmp_path / "b.001", MIB, format="split")
    with pytest.raises(OptionError, match="exists; pass --force"):
        create(tmp_path / "a.001", 4 * MIB, format="split", options=options)


def test_a_part_has_2_gib_unless_told_otherwise(tmp_path: Path) -> None:
    create(tmp_path / "a.001", (5 << 30) + 512, format="split")
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes == [2 << 30, 2 << 30, (1 << 30) + 512]
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) < 100
    with open_disk(tmp_path / "a.001") as disk:
        assert disk.size == (5 << 30) + 512


def test_preallocation_and_measure(tmp_path: Path, content: bytes) -> None:
    raw = write_sparse(tmp_path / "raw", content)
    options: dict[str, str | int | bool] = {"part_size": MIB, "preallocation": "falloc"}
    convert(raw, tmp_path / "a.001", options=options)
    assert sum(path.stat().st_blocks for path in tmp_path.glob("a.*")) * 512 >= SIZE
    assert content_of(tmp_path / "a.001") == content
    assert measure(raw, format="split", options=options).required == SIZE


def test_a_part_of_the_source_is_no_target(tmp_path: Path, content: bytes) -> None:
    raw = write_sparse(tmp_path / "raw", content)
    convert(raw, tmp_path / "a.001", options={"part_size": MIB})
    with pytest.raises(OptionError, match="is a file of the source"):
        convert(tmp_path / "a.001", tmp_path / "a.003", format="raw", replace=True)


def test_parts_do_not_go_through_a_pipe(tmp_path: Path, content: bytes) -> None:
    raw = write_sparse(tmp_path / "raw", content)
    command = [sys.executable, "-m", "vmimg", "convert", "-O", "split", "-o", "part_size=1M"]
    done = subprocess.run([*command, str(raw), "-"], capture_output=True)
    assert done.returncode == 1 and b"several files" in done.stderr
    driver = find("split").driver()
    assert driver.probe(MemoryStorage(bytes(512))) == 0
    with pytest.raises(FormatError, match="first part"):
        driver.inspect(MemoryStorage(bytes(512)))


def test_what_is_beside_a_part_never_ends_in_more_than_an_error(tmp_path: Path) -> None:
    """Everything that reads images, in a process with limits, over rows that are not what they
    should be.
    """
    rows = {
        "gap.001": ["gap.001", "gap.003"],
        "later.002": ["later.001", "later.002"],
        "lone.001": ["lone.001"],
        "far.001": ["far.001", "far.99999"],
        "many.aa": ["many.aa", "many.ab", "many.zz"],
        "zero.000": ["zero.000", "zero.001"],
    }
    for names in rows.values():
        for name in names:
            (tmp_path / name).write_bytes(b"" if "zero" in name else b"x" * 70_000)
    (tmp_path / "lone.002").mkdir()
    (tmp_path / "self.001").write_bytes(b"x")
    (tmp_path / "self.002").symlink_to(tmp_path / "self.001")
    (tmp_path / "dead.001").write_bytes(b"x")
    (tmp_path / "dead.002").symlink_to(tmp_path / "nowhere")
    images = [tmp_path / name for name in (*rows, "self.001", "dead.001")]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name, outcome in put_through(scratch, images).items():
        said = list(objections(outcome, tmp_path / name, nameless=("OptionError",)))
        assert said == [], name
        wrong = name in ("gap.001", "later.002", "far.001", "self.001")
        for step in ("read", "walk", "convert"):
            assert (step in outcome.raised) == wrong, (name, step, outcome.raised)


# Written in place


def test_random_writes_are_those_of_a_model(tmp_path: Path, content: bytes) -> None:
    model = bytearray(content)
    raw = write_sparse(tmp_path / "raw", content)
    convert(raw, tmp_path / "a.001", options={"part_size": 200 * 1024})
    dice = random.Random(9)
    with open_disk(tmp_path / "a.001", writable=True) as disk:
        for _ in range(150):
            start = dice.randrange(SIZE)
            length = min(SIZE - start, dice.choice((1, 511, 70_000, 500_000)))
            if dice.random() < 0.3:
                disk.zero(start, length)
                model[start : start + length] = bytes(length)
            else:
                data = dice.randbytes(length)
                disk.write(start, data)
                model[start : start + length] = data
            if dice.random() < 0.1:
                assert disk.read(0, SIZE) == model
        disk.flush()
    paths = sorted(tmp_path.glob("a.*"))
    assert [path.stat().st_size for path in paths[:-1]] == [200 * 1024] * (len(paths) - 1)
    assert peers.run("cat", *paths).stdout == model
    assert content_of(tmp_path / "a.001") == model


def test_a_disk_open_for_reading_is_not_written(tmp_path: Path) -> None:
    for name in ("a.001", "a.002"):
        (tmp_path / name).write_bytes(bytes(4096))
    with open_disk(tmp_path / "a.001") as disk, pytest.raises(StorageError):
        disk.write(5000, b"x")
    assert (tmp_path / "a.002").read_bytes() == bytes(4096)
