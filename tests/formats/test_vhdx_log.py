"""The log of VHDX: replayed before the first read, and written so that no cut does harm.

Logs to read are put together by hand, and QEMU replays the same. Cut off are sessions of vmimg's:
at every write of the file, with any part of what was not yet flushed, and by kill -9.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from test_vhdx_read import content_of

import peers
import powerfail
import vhdx_by_hand as by_hand
from powerfail import (
    Expected,
    Operation,
    after_power_failure,
    agrees,
    chosen_steps,
    left_at,
    possible,
    writers,
)
from vhdx_by_hand import BAT, FULL, LOG, LOG_LENGTH, MIB, log_entry
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.vhdx.driver import VhdxDriver
from vmimg.formats.vhdx.header import read_headers
from vmimg.formats.vhdx.log import LogOverlay, Patch, Replay
from vmimg.storage.base import Storage
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.create import create

DATA = random.Random(1).randbytes(MIB)


def base() -> by_hand.Image:
    """Four blocks; in front of them one that no table names."""
    image = by_hand.make(4 * MIB, {0: (FULL, b"old")})
    image += DATA
    return image


def bat_sector(image: by_hand.Image, *blocks: int) -> bytes:
    """The first sector of the BAT, with these blocks at what no table names."""
    changed = by_hand.Image(image)
    changed.ratio = image.ratio
    for block in blocks:
        changed.put(image.entry(block), (len(image) - MIB) | FULL)
    return bytes(changed[BAT : BAT + 4096])


def reads(image: by_hand.Image, path: Path, *, empty: bool = False) -> bytes:
    """What all ways to open agree on: the file as it is, replayed by us, replayed by QEMU (which
    leaves a log that is empty marked as used).
    """
    image.save(path)
    content = content_of(path)
    assert path.read_bytes() == image  # reading changed nothing
    for replayer in ("qemu", "check", "open"):
        copy = image.save(path.with_suffix(f".{replayer}.vhdx"))
        if replayer == "qemu":
            peers.run("qemu-img", "check", "-f", "vhdx", "-r", "all", copy)
        elif replayer == "check":
            assert check(copy, repair="all").exit_code == 0
        else:
            open_disk(copy, writable=True).close()
        assert empty or not image_info(copy)[0].image.dirty
        assert content_of(copy) == content
        raw = copy.with_suffix(".raw")
        peers.run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", copy, raw)
        assert raw.read_bytes() == content
    return content


# Logs by hand


@pytest.mark.peer("qemu-img")
def test_a_dirty_log_is_replayed_before_the_first_read(tmp_path: Path) -> None:
    image = base()
    image.dirty(log_entry(5, [(BAT, bat_sector(image, 2))], file_size=len(image)))
    content = reads(image, tmp_path / "image.vhdx")
    assert content == b"old".ljust(2 * MIB, b"\0") + DATA + bytes(MIB)
    info = image_info(tmp_path / "image.vhdx")[0].image
    assert info.dirty
    assert "1 changes in its log" in info.notes[0]


@pytest.mark.peer("qemu-img")
def test_entries_are_replayed_in_order_and_zeros_are_zeros(tmp_path: Path) -> None:
    image = base()
    size = len(image)
    entries = (
        log_entry(7, [(BAT, bat_sector(image, 1, 2)), (size - MIB, 8192)], file_size=size),
        log_entry(8, [(BAT, bat_sector(image, 3))], file_size=size),
        log_entry(9, [(size - MIB + 4096, b"\5" * 4096)], file_size=size),
    )
    image.dirty(*entries)
    content = reads(image, tmp_path / "image.vhdx")
    wanted = bytes(4096) + b"\5" * 4096 + DATA[8192:]
    assert content == b"old".ljust(3 * MIB, b"\0") + wanted


@pytest.mark.peer("qemu-img")
def test_a_torn_entry_ends_the_sequence(tmp_path: Path) -> None:
    # In the header or a descriptor as well; but QEMU 7.2 does not open such an image at all.
    for torn in (4096 + 700, 4096 + 4090, 100, 20):
        image = base()
        entries = (
            log_entry(5, [(BAT, bat_sector(image, 2))], file_size=len(image)),
            log_entry(6, [(BAT, bat_sector(image, 3))], file_size=len(image)),
        )
        image.dirty(*entries)
        image[LOG + len(entries[0]) + torn] ^= 1
        path = tmp_path / "image.vhdx"
        content = reads(image, path) if torn > 4096 else content_of(image.save(path))
        assert content[2 * MIB :] == DATA + bytes(MIB)


@pytest.mark.peer("qemu-img")
def test_entries_of_another_log_are_none(tmp_path: Path) -> None:
    image = base()
    entries = (
        log_entry(5, [(BAT, bat_sector(image, 2))], file_size=len(image)),
        log_entry(6, [(BAT, bat_sector(image, 3))], file_size=len(image), log_guid=b"\7" * 16),
    )
    image.dirty(*entries)
    assert reads(image, tmp_path / "image.vhdx")[2 * MIB : 3 * MIB] == DATA


def test_of_two_sequences_the_newer_counts_and_of_it_what_the_tail_names(tmp_path: Path) -> None:
    # QEMU is no judge here: it looks at no tails.
    image = base()
    size = len(image)
    old = [log_entry(20 + n, [(BAT, bat_sector(image, 1))], file_size=size) for n in range(2)]
    new = [
        log_entry(30, [(size - MIB, 4096)], file_size=size, tail=65536),
        log_entry(31, [(BAT, bat_sector(image, 3))], file_size=size, tail=65536 + 4096),
    ]
    image.dirty(*old, *new, places=(0, 8192, 65536, 65536 + 4096))
    content = content_of(image.save(tmp_path / "image.vhdx"))
    assert content == b"old".ljust(3 * MIB, b"\0") + DATA  # entry 30 was done with


def test_a_sequence_may_go_round_the_end_of_the_ring(tmp_path: Path) -> None:
    image = base()
    size = len(image)
    tail = LOG_LENGTH - 12288
    entries = (
        log_entry(3, [(BAT, bat_sector(image, 1))], file_size=size, tail=tail),
        log_entry(4, [(size - MIB, b"\6" * 4096)], file_size=size, tail=tail),
        log_entry(5, [(BAT, bat_sector(image, 3))], file_size=size, tail=tail),
    )
    image.dirty(*entries, places=(tail, tail + 8192, 4096))
    content = content_of(image.save(tmp_path / "image.vhdx"))
    assert content == b"old".ljust(3 * MIB, b"\0") + b"\6" * 4096 + DATA[4096:]


def test_a_sequence_whose_tail_is_gone_is_not_replayed(tmp_path: Path) -> None:
    image = base()
    entry = log_entry(6, [(BAT, bat_sector(image, 3))], file_size=len(image), tail=40960)
    image.dirty(entry)
    assert content_of(image.save(tmp_path / "image.vhdx"))[3 * MIB :] == bytes(MIB)


@pytest.mark.peer("qemu-img")
def test_a_log_in_which_nothing_stands_is_clean(tmp_path: Path) -> None:
    # QEMU names a log in the headers before it writes into it, and may be killed in between.
    image = base()
    image.dirty()
    assert reads(image, tmp_path / "image.vhdx", empty=True)[:3] == b"old"


def test_a_file_cut_off_since_its_log_was_written_is_refused(tmp_path: Path) -> None:
    image = base()
    image.dirty(log_entry(5, [(BAT, bat_sector(image, 2))], file_size=len(image)))
    path = image.save(tmp_path / "image.vhdx")
    os.truncate(path, len(image) - MIB)
    for writable in (False, True):
        with pytest.raises(FormatError, match=r"it is truncated"):
            open_disk(path, writable=writable)


def test_the_file_grows_to_what_the_log_asks_for(tmp_path: Path) -> None:
    image = base()
    flushed = len(image)
    changed = by_hand.Image(image)
    changed.put(image.entry(1), flushed | FULL)
    sector = bytes(changed[BAT : BAT + 4096])
    entry = log_entry(5, [(BAT, sector)], file_size=flushed + MIB, flushed=flushed)
    image.dirty(entry)
    path = image.save(tmp_path / "image.vhdx")
    assert content_of(path) == b"old".ljust(4 * MIB, b"\0")
    open_disk(path, writable=True).close()
    assert path.stat().st_size == flushed + MIB
    assert content_of(path) == b"old".ljust(4 * MIB, b"\0")


@pytest.mark.parametrize("where", [0, 65536, 131072, LOG, LOG + LOG_LENGTH - 4096, 1 << 40])
def test_a_log_must_not_write_just_anywhere(tmp_path: Path, where: int) -> None:
    image = base()
    image.dirty(log_entry(5, [(where, b"\1" * 4096)], file_size=len(image)))
    path = image.save(tmp_path / "image.vhdx")
    for writable in (False, True):
        with pytest.raises(FormatError, match="its log wants to write"):
            open_disk(path, writable=writable)
    assert path.read_bytes() == image


def test_logs_with_much_in_them_are_read_by_numpy_the_same_way(tmp_path: Path) -> None:
    image = base()
    size = len(image)
    changes = [(size - MIB + 4096 * n, bytes([n + 1]) * 4096) for n in range(100)]
    entries = [
        log_entry(5, [(BAT, bat_sector(image, 3)), *changes], file_size=size),
        log_entry(6, changes[:50], file_size=size),
    ]
    image.dirty(*entries)
    wanted = b"".join(data for _, data in changes)
    content = content_of(image.save(tmp_path / "image.vhdx"))
    assert content[3 * MIB :] == wanted + DATA[len(wanted) :]
    image[LOG + 5000] ^= 1
    assert content_of(image.save(tmp_path / "image.vhdx"))[3 * MIB :] == bytes(MIB)


def test_too_much_to_replay_is_said() -> None:
    image = base()
    zeros = [(BAT, 4096)] * 16000
    entries = [log_entry(n, zeros, file_size=len(image)) for n in (5,)]
    image.dirty(*entries)
    image.grow(80 * MIB)
    for start in by_hand.HEADERS:
        image.put(start + 68, 70 * MIB, 4)
        image.put(start + 72, 6 * MIB)
    image.seal(tables=False)
    with pytest.raises(UnsupportedFeature, match="64 MiB are the most"):
        VhdxDriver().inspect(MemoryStorage(image))


def test_an_overlay_is_what_was_written_over_each_other() -> None:
    source = random.Random(4)
    for _ in range(200):
        below = source.randbytes(64)
        model = bytearray(below.ljust(80, b"\0"))
        patches = []
        for _ in range(source.randrange(1, 8)):
            start = source.randrange(80)
            length = source.randrange(80 - start + 1)
            data = source.choice([None, source.randbytes(length)])
            patches.append(Patch(start, length, data))
            model[start : start + length] = bytes(length) if data is None else data
        overlay = LogOverlay(MemoryStorage(below), Replay(tuple(patches), 80, 1))
        for _ in range(5):
            start = source.randrange(81)
            length = source.randrange(80 - start + 1)
            assert overlay.read(start, length) == model[start : start + length]


# Sessions that are cut off

SIZE = 4 * MIB
KINDS = ("dynamic", "child", "full")


class Recorder(powerfail.Recorder):
    """Remembers how long the file was made, too."""

    def resize(self, size: int) -> None:
        self.log.append(size)
        super().resize(size)


def begin(folder: Path, kind: str) -> tuple[Path, bytes]:
    """The image to begin with, and its content."""
    path = folder / "begin.vhdx"
    options = {"block_size": "1M"}
    if kind == "child":
        below = random.Random(3).randbytes(SIZE // 2) + bytes(SIZE // 2)
        create(folder / "parent.vhdx", SIZE, format="vhdx", options=dict(options))
        with open_disk(folder / "parent.vhdx", writable=True) as disk:
            disk.write(0, below)
        create(
            path,
            format="vhdx",
            options=dict(options),
            backing="parent.vhdx",
            backing_format="vhdx",
        )
        return path, below
    create(path, SIZE, format="vhdx", options=dict(options))
    content = bytes(SIZE)
    if kind == "full":
        content = random.Random(5).randbytes(SIZE)
        with open_disk(path, writable=True) as disk:
            disk.write(0, content)
    return path, content


def next_operation(source: random.Random) -> Operation:
    """Whole blocks are discarded."""
    operation = source.choices(["write", "zero", "discard", "flush"], [6, 1, 2, 3])[0]
    offset = source.randrange(SIZE)
    length = source.choice([512, 4096, 30_000, 200_000])
    if operation == "discard":
        offset, length = offset // MIB * MIB, MIB
    length = min(SIZE - offset, length)
    return operation, offset, source.randbytes(length) if operation == "write" else bytes(length)


def layers(storage: Storage, parent: Path | None, *, writable: bool) -> Disk:
    def companions(named: str, role: str) -> Storage:
        raise AssertionError

    driver = VhdxDriver()
    found = [driver.open(storage, writable=writable, companions=companions)]
    if parent is not None:
        below = MemoryStorage(parent.read_bytes())
        found.append(driver.open(below, writable=False, companions=companions))
    return Disk(found)


def record(
    start: bytes, parent: Path | None, content: bytes, seed: int, count: int
) -> tuple[Recorder, list[Expected]]:
    """What writing does to the file, and what must be found for each length of the log."""
    storage = Recorder(start)
    disk = layers(storage, parent, writable=True)
    source = random.Random(seed)
    return storage, powerfail.record(storage, disk, content, source, next_operation, count)


def verify(
    file: bytes, parent: Path | None, wanted: Expected, scratch: Path, *, qemu: bool
) -> None:
    with layers(MemoryStorage(file), parent, writable=False) as disk:
        before = disk.read(0, SIZE)
    assert agrees(before, wanted)
    image = scratch / "image.vhdx"
    image.write_bytes(file)
    dirty = read_headers(MemoryStorage(file)).header.dirty
    report = check(image, repair="all")
    assert report.exit_code == 0, report.problems
    assert report.fixed_corruptions <= dirty + 1  # a torn header may be one
    with layers(MemoryStorage(image.read_bytes()), parent, writable=False) as disk:
        assert disk.read(0, SIZE) == before
    if qemu and parent is None:
        image.write_bytes(file)
        peers.run("qemu-img", "check", "-f", "vhdx", "-r", "all", image)
        peers.run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", image, scratch / "raw")
        assert (scratch / "raw").read_bytes() == before


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("kind", KINDS)
def test_every_write_of_the_file_may_be_the_last(tmp_path: Path, kind: str) -> None:
    start, content = begin(tmp_path, kind)
    parent = tmp_path / "parent.vhdx" if kind == "child" else None
    storage, expected = record(start.read_bytes(), parent, content, seed=1, count=50)
    chosen = chosen_steps(storage.log, near=18, others=5)
    by_qemu = set(random.Random(4).sample(sorted(chosen), 6))
    for step, file in left_at(start.read_bytes(), storage.log, chosen):
        verify(file, parent, expected[step], tmp_path, qemu=step in by_qemu)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("kind", KINDS)
def test_the_power_may_fail_at_any_moment(tmp_path: Path, kind: str) -> None:
    start, content = begin(tmp_path, kind)
    parent = tmp_path / "parent.vhdx" if kind == "child" else None
    storage, expected = record(start.read_bytes(), parent, content, seed=6, count=50)
    source = random.Random(5)
    for number, step in enumerate(sorted(source.sample(range(len(storage.log)), 18))):
        # A file is as long as it was made, or not.
        file = after_power_failure(start.read_bytes(), storage.log, step, source, full_length=False)
        verify(file, parent, expected[step], tmp_path, qemu=number % 4 == 0)


def test_a_ring_that_is_full_begins_anew_under_another_name(tmp_path: Path) -> None:
    # One GUID for two rounds would let QEMU replay what the first one left.
    path = tmp_path / "image.vhdx"
    create(path, 600 * MIB, format="vhdx", options={"block_size": "1M"})
    storage = Recorder(path.read_bytes())
    disk = layers(storage, None, writable=True)
    seen = []
    for number in range(260):
        disk.write(number * MIB, b"data")
        disk.flush()
        seen.append(read_headers(storage).header.log_guid)
    names = sorted(set(seen), key=seen.index)
    assert len(names) > 2
    assert seen == sorted(seen, key=names.index)  # none comes back
    disk.close()
    assert not read_headers(storage).header.dirty
    logged = [entry[0] for entry in storage.log if isinstance(entry, tuple)]
    assert max(place for place in logged if place < 2 * MIB) < 2 * MIB - 8192


def test_a_commit_is_two_flushes(tmp_path: Path) -> None:
    path = tmp_path / "image.vhdx"
    create(path, 60 * MIB, format="vhdx", options={"block_size": "1M"})
    storage = Recorder(path.read_bytes())
    disk = layers(storage, None, writable=True)
    disk.write(0, b"data")
    disk.flush()
    before = storage.log.count(None)
    for number in range(1, 11):
        disk.write(number * MIB, b"data")
        disk.flush()
    assert storage.log.count(None) - before == 20
    before = storage.log.count(None)
    disk.write(MIB, b"over what is there")
    disk.flush()
    assert storage.log.count(None) - before == 1
    disk.close()


@pytest.mark.peer("qemu-img")
def test_a_killed_writer_leaves_what_everyone_recovers(tmp_path: Path) -> None:
    begins = []
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        begins.append(begin(tmp_path / kind, kind))
    source = random.Random(6)
    flushes = 0
    with writers("test_vhdx_log") as write_until_killed:
        for turn in range(12):
            start, content = begins[turn % 3]
            parent = start.with_name("parent.vhdx") if KINDS[turn % 3] == "child" else None
            image = start.with_name("image.vhdx")
            image.write_bytes(start.read_bytes())
            seed = source.randrange(1 << 30)
            flushed = write_until_killed(image, seed, source.random() * 0.08)
            flushes += len(flushed)
            acknowledged = flushed[-1] if flushed else 0
            wanted = possible(content, random.Random(seed), next_operation, acknowledged)
            verify(image.read_bytes(), parent, wanted, tmp_path, qemu=True)
    assert flushes > 5
