"""Files over a system that fails, comes short, is slow or is interrupted."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import Faults, ordeal
from vmimg import storage
from vmimg.errors import StorageError
from vmimg.storage import syscalls
from vmimg.storage.file import FileStorage
from vmimg.storage.output import OutputSet
from vmimg.storage.stream import spool

CONTENT = os.urandom(100_000)


@pytest.mark.parametrize("trouble", [{"short": True}, {"slow": True}])
def test_short_and_slow_calls_write_and_read_everything(
    trouble: dict[str, bool], tmp_path: Path
) -> None:
    with Faults(short="short" in trouble, slow="slow" in trouble) as faults:
        with storage.open(tmp_path / "file", "create") as file:
            file.write_all(0, [CONTENT[:1], CONTENT[1:70_000], b"", CONTENT[70_000:]])
            file.zero(200_000, 50_000)
            file.write(150_000, CONTENT)
            assert file.read(0, 100_000) == CONTENT
            assert file.read(100_000, 50_000) == bytes(50_000)
            assert file.read(150_000, 100_000) == CONTENT
            with storage.open(tmp_path / "copy", "create") as copy:
                if not file.copy_range(0, copy, 0, 100_000):
                    copy.write(0, CONTENT)
                assert copy.read(0, 100_000) == CONTENT
        assert faults.calls > 10


OPERATIONS: dict[str, tuple[str, Callable[[FileStorage], object]]] = {
    "read": ("preadv", lambda file: file.read(0, 4096)),
    "write": ("pwritev", lambda file: file.write(0, b"x")),
    "grow": ("ftruncate", lambda file: file.resize(1 << 20)),
    "zero beyond the end": ("ftruncate", lambda file: file.zero(90_000, 50_000)),
    "punch": ("fallocate", lambda file: file.zero(0, 65536)),
    "discard": ("fallocate", lambda file: file.discard(0, 65536)),
    "allocate": ("fallocate", lambda file: file.allocate(0, 65536)),
    "flush": ("fdatasync", lambda file: file.flush()),
    "map": ("lseek", lambda file: list(file.extents(0, 4096))),
    "close": ("close", lambda file: file.close()),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_the_system_cannot_do_is_a_storage_error(name: str, tmp_path: Path) -> None:
    call, operation = OPERATIONS[name]
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    file = FileStorage(path, "rw")
    with (
        Faults(at=1, kinds={call}) as faults,
        pytest.raises(StorageError, match="input/output error") as error,
    ):
        operation(file)
    assert faults.failed == [call]
    assert str(path) in str(error.value)
    file.close()


def test_what_was_only_read_has_lost_nothing_when_it_cannot_be_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    file = storage.open(tmp_path / "file")
    with Faults(at=1, kinds={"close"}) as faults:
        file.close()
    assert faults.failed == ["close"]


def test_a_write_that_meets_the_end_of_the_space_says_so(tmp_path: Path) -> None:
    with storage.open(tmp_path / "file", "create") as file:
        with Faults(room=70_000), pytest.raises(StorageError, match=r"no space left.*free some"):
            file.write(0, CONTENT)
        # What was there before the write is still there, and what comes later as well.
        file.write(0, CONTENT)
        assert file.read(0, 100_000) == CONTENT


def test_an_interrupted_fallocate_is_carried_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [errno.EINTR, errno.EINTR, 0]

    def interrupted(fd: int, mode: int, offset: int, length: int) -> int:
        ctypes.set_errno(answers.pop(0))
        return -1 if ctypes.get_errno() else 0

    monkeypatch.setattr(syscalls, "_libc", interrupted)
    monkeypatch.setattr("sys.platform", "linux")
    with storage.open(tmp_path / "file", "create") as file:
        file.allocate(0, 4096)
    assert answers == []


def test_files_that_belong_together_appear_all_or_none(tmp_path: Path) -> None:
    def operation(folder: Path) -> None:
        with OutputSet() as outputs:
            outputs.add(folder / "data").write(0, CONTENT)
            outputs.add(folder / "image").write(0, CONTENT[::-1])

    assert ordeal(tmp_path, lambda folder: None, operation) > 15


def test_a_directory_appears_with_all_that_is_in_it_or_not_at_all(tmp_path: Path) -> None:
    def operation(folder: Path) -> None:
        with OutputSet() as outputs:
            inside = Path(outputs.folder(folder / "image", "index"))
            outputs.add(inside / "data").write(0, CONTENT)
            outputs.add(inside / "index").write(0, CONTENT[::-1])

    assert ordeal(tmp_path, lambda folder: None, operation) > 15


def test_a_copy_of_a_stream_is_whole_or_an_error(tmp_path: Path) -> None:
    """From a pipe, with a fault at every call."""

    def operation(folder: Path) -> None:
        reader, writer = os.pipe()
        try:
            os.write(writer, CONTENT[:60_000])
            os.close(writer)
            with spool(reader, directory=folder) as copy:
                assert copy.read(0, copy.size) == CONTENT[:60_000]
        finally:
            os.close(reader)

    assert ordeal(tmp_path, lambda folder: None, operation) > 5
