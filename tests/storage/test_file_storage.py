"""FileStorage over real files and, where root may make them, real block devices."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmimg import storage
from vmimg.errors import InUseError, StorageError
from vmimg.storage import FileStorage, MemoryStorage, syscalls

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.raw"


def sparse(path: Path) -> Path:
    """Data in [1 MiB, 1 MiB + 4 KiB) and [3 MiB, 3 MiB + 4 KiB) of 8 MiB."""
    with path.open("wb") as file:
        for start in (1, 3):
            file.seek(start * MIB)
            file.write(b"x" * PAGE)
        file.truncate(8 * MIB)
    return path


# Reading


def test_a_read_beyond_the_end_is_an_error_and_allocates_nothing(path: Path) -> None:
    path.write_bytes(b"abc")
    with storage.open(path) as opened:
        assert opened.read(1, 2) == b"bc"
        for offset, length in ((1, 3), (3, 1), (-1, 2), (1 << 63, 1), (0, 1 << 60)):
            with pytest.raises(StorageError, match="it ends at 3"):
                opened.read(offset, length)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(path: Path) -> None:
    path.write_bytes(bytes(100))
    with storage.open(path, lock=False) as opened:
        os.truncate(path, 40)
        with pytest.raises(StorageError, match="it now ends at 40"):
            opened.read(0, 100)


def test_holes_are_seen_where_they_are(path: Path) -> None:
    with storage.open(sparse(path)) as opened:
        assert list(opened.extents(0, opened.size)) == [
            (0, MIB, True),
            (MIB, MIB + PAGE, False),
            (MIB + PAGE, 3 * MIB, True),
            (3 * MIB, 3 * MIB + PAGE, False),
            (3 * MIB + PAGE, 8 * MIB, True),
        ]
        # A part of it, cut in the middle of a hole and of data.
        assert list(opened.extents(MIB - 10, MIB + 10)) == [
            (MIB - 10, MIB, True),
            (MIB, MIB + 10, False),
        ]
        assert list(opened.extents(5, 5)) == []
        assert opened.allocated() == 2 * PAGE


def test_a_file_system_that_cannot_tell_holes_is_data_throughout(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "HAS_HOLES", False)
    with storage.open(sparse(path)) as opened:
        assert list(opened.extents(0, 100)) == [(0, 100, False)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".", "it is a directory"),
        ("/dev/null", "it is a character device"),
        ("pipe", "it is a pipe"),
        ("missing", "no such file or directory"),
        ("nul\0byte", "null byte"),
    ],
)
@pytest.mark.parametrize("mode", ["r", "rw"])
@pytest.mark.timeout(10)
def test_what_is_no_file_is_refused_by_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str, mode: storage.Mode
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(StorageError, match=says):
        storage.open(name, mode)


# Writing


def test_pieces_are_written_one_behind_the_other_however_many(path: Path) -> None:
    pieces: list[storage.Buffer] = [bytes([i % 251]) * (i % 7) for i in range(5000)]
    with storage.open(path, "create") as opened:
        opened.write_all(3, pieces)
        assert opened.size == 3 + sum(map(len, pieces))
    assert path.read_bytes() == bytes(3) + b"".join(pieces)


def test_short_writes_and_reads_are_carried_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write, real_read = syscalls.write_at, syscalls.read_at

    def short_write(fd: int, pieces: list[memoryview], offset: int) -> int:
        piece = next(piece for piece in pieces if piece)
        return real_write(fd, [piece[: max(1, len(piece) // 2)]], offset)

    monkeypatch.setattr(syscalls, "write_at", short_write)
    monkeypatch.setattr(
        syscalls, "read_at", lambda fd, buffer, offset: real_read(fd, buffer[:7], offset)
    )
    content = os.urandom(1000)
    with storage.open(path, "create") as opened:
        opened.write_all(0, [content[:10], content[10:600], content[600:]])
        assert opened.read(0, 1000) == content


def test_zeroing_punches_a_hole_and_moves_the_end_without_writing(path: Path) -> None:
    with storage.open(path, "create") as opened:
        opened.write(0, b"x" * MIB)
        opened.zero(PAGE, 10 * MIB)
        assert opened.size == PAGE + 10 * MIB
        assert opened.allocated() == PAGE
        assert opened.read(PAGE, opened.size - PAGE) == bytes(10 * MIB)
        assert opened.read(0, PAGE) == b"x" * PAGE


def test_zeros_are_written_where_no_hole_can_be_punched(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise syscalls._unsupported()

    monkeypatch.setattr(syscalls, "_fallocate", unsupported)
    with storage.open(path, "create") as opened:
        opened.write(0, b"x" * (3 * MIB))
        opened.zero(5, 3 * MIB - 10)
        opened.zero(3 * MIB - 2, 100)
        opened.discard(0, 3)
        opened.allocate(4 * MIB, MIB)
        assert opened.allocated() >= 3 * MIB
    content = path.read_bytes()
    assert content[: 3 * MIB + 98] == b"xxxxx" + bytes(3 * MIB - 10) + b"xxx" + bytes(100)
    assert len(content) == 5 * MIB


def test_discarding_gives_space_back_and_does_not_change_the_size(path: Path) -> None:
    with storage.open(path, "create") as opened:
        opened.write(0, b"x" * MIB)
        opened.discard(PAGE, 100 * MIB)
        assert (opened.size, opened.allocated()) == (MIB, PAGE)


def test_allocating_takes_space_and_leaves_what_is_there(path: Path) -> None:
    with storage.open(path, "create") as opened:
        opened.write(0, b"content")
        opened.allocate(0, 4 * MIB)
        assert opened.size == 4 * MIB
        assert opened.allocated() >= 4 * MIB
        assert opened.read(0, 4 * MIB) == b"content" + bytes(4 * MIB - 7)


def test_threads_that_extend_by_writing_and_zeroing_lose_nothing(path: Path) -> None:
    # Were the end moved by a plain ftruncate, a zero() would cut off a write() further on.
    block, count = 4096, 400
    with storage.open(path, "create") as opened:

        def work(first: int) -> None:
            for index in range(first, count, 4):
                if index % 4 == 1:
                    opened.zero(index * block, block)
                else:
                    opened.write(index * block, bytes([index % 255 + 1]) * block)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert opened.size == count * block
    content = path.read_bytes()
    for index in range(count):
        expected = 0 if index % 4 == 1 else index % 255 + 1
        assert content[index * block : (index + 1) * block] == bytes([expected]) * block


def test_what_is_open_for_reading_is_not_written(path: Path) -> None:
    path.write_bytes(b"content")
    with storage.open(path) as opened:
        for change in (
            lambda: opened.write(0, b"x"),
            lambda: opened.zero(0, 1),
            lambda: opened.discard(0, 1),
            lambda: opened.resize(0),
            lambda: opened.allocate(0, 1),
        ):
            with pytest.raises(StorageError, match="open for reading only"):
                change()
        opened.flush()
    assert path.read_bytes() == b"content"


def test_offsets_that_no_file_has_are_an_error(path: Path) -> None:
    with storage.open(path, "create") as opened:
        for offset in (-1, (1 << 63) - 1, 1 << 70):
            with pytest.raises(StorageError, match="no file reaches there"):
                opened.write(offset, b"xx")
        assert opened.size == 0


def test_creating_empties_a_file_that_is_there(path: Path) -> None:
    path.write_bytes(b"content")
    storage.open(path, "create").close()
    assert path.read_bytes() == b""


def test_a_closed_file_is_an_error_and_closing_twice_is_not(path: Path) -> None:
    path.write_bytes(b"content")
    opened = storage.open(path)
    opened.close()
    opened.close()
    with pytest.raises(StorageError):
        opened.read(0, 1)


def test_an_open_file_is_not_passed_on_to_other_programs(path: Path) -> None:
    path.write_bytes(b"")
    with FileStorage(path) as opened:
        assert not os.get_inheritable(opened.fileno())


# Copying inside the kernel


def test_ranges_are_copied_inside_the_kernel(path: Path, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    path.write_bytes(content)
    with storage.open(path) as source, storage.open(tmp_path / "copy", "create") as target:
        assert source.copy_range(1000, target, 77, MIB - 1000)
        assert target.read(77, MIB - 1000) == content[1000:]
        assert not source.copy_range(0, MemoryStorage(), 0, 10)
        assert not source.copy_range(MIB - 5, target, 0, 10)


def test_a_copy_that_the_kernel_does_not_do_says_so_and_does_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(syscalls, "copy_range", unsupported)
    monkeypatch.setattr(syscalls, "clone_range", unsupported)
    path.write_bytes(b"x" * PAGE)
    with storage.open(path) as source, storage.open(tmp_path / "copy", "create") as target:
        target.resize(PAGE)
        assert source.copy_range(0, target, 0, PAGE) is False
        assert target.read(0, PAGE) == bytes(PAGE)


# Failures of the system


def test_a_full_file_system_is_named_with_what_to_do(small_file_system: Path) -> None:
    with storage.open(small_file_system / "disk.raw", "create") as opened:
        for change in (
            lambda: opened.write(0, b"x" * (2 * MIB)),
            lambda: opened.allocate(0, 2 * MIB),
        ):
            with pytest.raises(StorageError, match="no space left on device; free some space"):
                change()


def test_a_limit_on_the_size_of_files_is_an_error_and_no_signal(path: Path) -> None:
    program = (
        "import sys; from vmimg import storage; from vmimg.errors import StorageError\n"
        "opened = storage.open(sys.argv[1], 'create')\n"
        "try: opened.write(0, bytes(1 << 20))\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "file too large" in done.stdout


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    _as_root("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


# Block devices


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 4 MiB, full of x."""
    backing = tmp_path / "device"
    backing.write_bytes(b"x" * (4 * MIB))
    name = _as_root("losetup", "--show", "-f", str(backing)).strip()
    try:
        yield Path(name)
    finally:
        subprocess.run(["losetup", "-d", name], check=True)


def _as_root(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    if done.returncode:
        pytest.skip(f"{command[0]} is not allowed here: {done.stderr.strip()}")
    return done.stdout


def test_a_device_has_the_size_that_it_has(device: Path) -> None:
    with FileStorage(device, "rw") as opened:
        assert (opened.is_device, opened.size, opened.sector_size) == (True, 4 * MIB, 512)
        assert list(opened.extents(0, 4 * MIB)) == [(0, 4 * MIB, False)]
        opened.resize(MIB)
        assert opened.size == 4 * MIB
        with pytest.raises(StorageError, match="the device holds 4194304; choose a larger one"):
            opened.resize(4 * MIB + 1)
        with pytest.raises(StorageError, match="the device ends at 4194304"):
            opened.write(4 * MIB - 1, b"xx")


def test_a_device_is_zeroed_exactly_sector_aligned_or_not(device: Path) -> None:
    with FileStorage(device, "rw") as opened:
        expected = bytearray(b"x" * (4 * MIB))
        for start, length in ((MIB, 512), (5, 3000), (2 * MIB + 1, 100), (4 * MIB - 700, 700)):
            opened.zero(start, length)
            expected[start : start + length] = bytes(length)
            assert opened.read(0, 4 * MIB) == expected
        opened.discard(3, 2000)
        opened.flush()


def test_a_device_is_zeroed_without_fallocate(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise syscalls._unsupported()

    monkeypatch.setattr(syscalls, "_fallocate", unsupported)
    with FileStorage(device, "rw") as opened:
        opened.zero(100, 2 * MIB)
        assert opened.read(0, 4 * MIB) == b"x" * 100 + bytes(2 * MIB) + b"x" * (2 * MIB - 100)


def test_a_mounted_device_is_not_written(device: Path, tmp_path: Path) -> None:
    _as_root("mkfs.ext4", "-q", str(device))
    place = tmp_path / "mounted"
    place.mkdir()
    _as_root("mount", str(device), str(place))
    try:
        with pytest.raises(InUseError, match="has it mounted"):
            FileStorage(device, "rw")
        FileStorage(device).close()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_device_is_one_thing_under_all_its_names(device: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(device)
    with FileStorage(device) as first, FileStorage(link) as second:
        assert first.identity() == second.identity()


# Other platforms, as far as Linux can stand in for them


@pytest.mark.parametrize(
    "missing", [("preadv", "pwritev"), ("preadv", "pwritev", "pread", "pwrite")]
)
def test_a_platform_without_positional_calls_reads_and_writes(
    path: Path, missing: tuple[str, ...]
) -> None:
    program = (
        "import os, sys\n"
        f"for name in {missing!r}: delattr(os, name)\n"
        "sys.platform = 'other'\n"
        "from vmimg import storage\n"
        "opened = storage.open(sys.argv[1], 'create')\n"
        "opened.write_all(0, [b'', b'abc', b'', b'def'])\n"
        "opened.zero(1, 2); opened.zero(5, 10); opened.discard(0, 1); opened.allocate(0, 20)\n"
        "assert opened.read(0, opened.size) == b'a' + bytes(2) + b'de' + bytes(15)\n"
        "opened.flush(); opened.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


def test_opening_a_file_imports_nothing_slow(path: Path) -> None:
    path.write_bytes(b"content")
    program = (
        "import sys; from vmimg import storage\n"
        "storage.open(sys.argv[1]).read(0, 1)\n"
        "slow = {'numpy', 'ctypes', 'subprocess', 'asyncio', 'tempfile', 'isal', 'rich'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
