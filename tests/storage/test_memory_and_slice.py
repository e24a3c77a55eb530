"""Memory and slices: storages that must behave as files do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmimg import storage
from vmimg.errors import StorageError
from vmimg.storage import MemoryStorage, SliceStorage

operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "resize", "write_all"]),
        st.integers(0, 200),
        st.binary(max_size=50),
    ),
    max_size=20,
)


@given(operations)
def test_memory_behaves_as_a_growing_bytearray(steps: list[tuple[str, int, bytes]]) -> None:
    memory, model = MemoryStorage(b"start"), bytearray(b"start")
    for name, offset, data in steps:
        if name == "resize":
            memory.resize(offset)
            model[offset:] = bytes(max(0, offset - len(model)))
        else:
            content = bytes(len(data)) if name == "zero" else data
            model.extend(bytes(max(0, offset + len(data) - len(model))))
            model[offset : offset + len(data)] = content
            if name == "zero":
                memory.zero(offset, len(data))
            elif name == "write":
                memory.write(offset, data)
            else:
                memory.write_all(offset, [data[:3], data[3:]])
        assert memory.size == len(model)
    assert memory.getvalue() == memory.read(0, memory.size) == bytes(model)


def test_memory_refuses_what_does_not_fit() -> None:
    memory = MemoryStorage(b"abc")
    for offset, length in ((1, 3), (-1, 1), (4, 0)):
        with pytest.raises(StorageError):
            memory.read(offset, length)
    with pytest.raises(StorageError):
        memory.write(-1, b"x")
    with pytest.raises(StorageError, match="no memory"):
        memory.write(1 << 62, b"x")
    assert memory.getvalue() == b"abc"


def test_a_slice_is_a_window_that_nothing_leaves() -> None:
    memory = MemoryStorage(b"0123456789")
    window = SliceStorage(memory, 2, 5)
    assert (window.size, window.read(0, 5)) == (5, b"23456")
    window.write(1, b"AB")
    window.zero(4, 1)
    window.write_all(0, [b"x"])
    assert memory.getvalue() == b"01xAB5\x00789"
    for change in (
        lambda: window.write(4, b"xx"),
        lambda: window.zero(-1, 1),
        lambda: window.read(0, 6),
        lambda: window.write_all(3, [b"a", b"bc"]),
        lambda: window.discard(5, 1),
        lambda: window.resize(4),
        lambda: list(window.extents(0, 6)),
    ):
        with pytest.raises(StorageError):
            change()
    assert memory.getvalue() == b"01xAB5\x00789"
    window.resize(5)
    with pytest.raises(StorageError, match="do not lie inside"):
        SliceStorage(memory, 6, 5)


def test_a_slice_passes_on_holes_and_copies(tmp_path: Path) -> None:
    mib = 1 << 20
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.seek(mib)
        file.write(b"x" * 4096)
        file.truncate(4 * mib)
    with storage.open(path) as whole, storage.open(tmp_path / "copy", "create") as copy:
        window = SliceStorage(whole, mib - 100, mib)
        assert list(window.extents(0, mib)) == [
            (0, 100, True),
            (100, 4196, False),
            (4196, mib, True),
        ]
        copy.resize(mib)
        inner = SliceStorage(SliceStorage(copy, 10, 5000), 10, 4900)
        assert window.copy_range(100, inner, 7, 4096)
        assert copy.read(27, 4096) == b"x" * 4096


def test_a_slice_closes_what_it_owns_only(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"0123456789")
    with storage.open(path) as whole:
        SliceStorage(whole, 2, 5).close()
        assert whole.read(0, 1) == b"0"
        SliceStorage(whole, 2, 5, owns=True).close()
        with pytest.raises(StorageError):
            whole.read(0, 1)
