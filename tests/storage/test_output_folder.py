"""An image that is a directory appears with all of its files, or not at all."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from vmimg.errors import InUseError, OptionError, StorageError
from vmimg.storage import output_folder, syscalls
from vmimg.storage.file import FileStorage
from vmimg.storage.output import OutputSet

INDEX = "index.xml"


@pytest.fixture(params=["exchange", "rename"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the new directory takes the place of the old one: systems differ."""

    if request.param == "rename":
        monkeypatch.setattr(syscalls, "exchange", syscalls_without_exchange)
    return str(request.param)


def make(target: Path, content: bytes = b"new", *, replace: bool = False) -> None:
    with OutputSet() as outputs:
        folder = outputs.folder(target, INDEX, replace=replace)
        outputs.add(os.path.join(folder, "data.bin")).write(0, content * 2)
        outputs.add(os.path.join(folder, INDEX)).write(0, content)
        if not target.exists():
            # Seen by its other name only.
            assert [name for name in os.listdir(target.parent) if name == target.name] == []


def content(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_the_directory_appears_with_its_files(tmp_path: Path) -> None:
    make(tmp_path / "disk.hdd")
    assert content(tmp_path / "disk.hdd") == {INDEX: b"new", "data.bin": b"newnew"}
    assert os.listdir(tmp_path) == ["disk.hdd"]


def test_a_name_that_ends_in_a_slash_is_meant_as_it_looks(tmp_path: Path) -> None:
    with OutputSet() as outputs:
        folder = outputs.folder(f"{tmp_path}/disk.hdd/", INDEX)
        outputs.add(os.path.join(folder, INDEX)).write(0, b"x")
    assert content(tmp_path / "disk.hdd") == {INDEX: b"x"}


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), OutputSet() as outputs:
        folder = outputs.folder(tmp_path / "disk.hdd", INDEX)
        outputs.add(os.path.join(folder, INDEX)).write(0, b"x")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("way")
def test_an_image_is_replaced_only_when_that_is_wanted(tmp_path: Path) -> None:
    target = tmp_path / "disk.hdd"
    make(target, b"old")
    (target / "more.bin").write_bytes(b"of the old one")
    with pytest.raises(OptionError, match="--force"):
        make(target)
    assert content(target)[INDEX] == b"old" and os.listdir(tmp_path) == ["disk.hdd"]
    make(target, replace=True)
    assert content(target) == {INDEX: b"new", "data.bin": b"newnew"}
    assert os.listdir(tmp_path) == ["disk.hdd"]


def test_a_directory_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "letter.txt").write_bytes(b"dear")
    with pytest.raises(StorageError, match="something else"):
        make(target, replace=True)
    assert content(target) == {"letter.txt": b"dear"} and os.listdir(tmp_path) == ["home"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "disk.hdd").mkdir()
    make(tmp_path / "disk.hdd")
    assert INDEX in content(tmp_path / "disk.hdd")


def test_a_file_of_that_name_is_kept(tmp_path: Path) -> None:
    (tmp_path / "disk.hdd").write_bytes(b"a bare image")
    with pytest.raises(StorageError, match="it is a file"):
        make(tmp_path / "disk.hdd", replace=True)
    assert (tmp_path / "disk.hdd").read_bytes() == b"a bare image"


def test_an_image_in_use_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "disk.hdd"
    make(target, b"old")
    with FileStorage(target / "data.bin", "rw"), pytest.raises(InUseError):
        make(target, replace=True)
    assert content(target)[INDEX] == b"old" and os.listdir(tmp_path) == ["disk.hdd"]


def syscalls_without_exchange(one: str, other: str) -> None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def test_a_name_that_cannot_be_given_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "disk.hdd"
    make(target, b"old")
    rename = os.rename

    def refuse(source: str, destination: str) -> None:
        if destination == str(target) and "vmimg-part" in source and moved:
            moved.clear()
            raise OSError(5, "Input/output error")
        if source == str(target):
            moved.append(1)
        rename(source, destination)

    moved: list[int] = []
    monkeypatch.setattr(syscalls, "exchange", syscalls_without_exchange)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(StorageError, match="input/output"):
        make(target, replace=True)
    monkeypatch.undo()
    assert content(target)[INDEX] == b"old"
    assert os.listdir(tmp_path) == ["disk.hdd"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_there_is_no_moment_without_the_image_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "disk.hdd"
    make(target, b"old")
    real = syscalls.exchange
    seen: list[bytes] = []

    def exchange(one: str, other: str) -> None:
        seen.append(content(target)[INDEX])
        real(one, other)
        seen.append(content(target)[INDEX])

    monkeypatch.setattr(syscalls, "exchange", exchange)
    make(target, replace=True)
    assert seen == [b"old", b"new"]
    assert os.listdir(tmp_path) == ["disk.hdd"]


@pytest.mark.usefixtures("way")
def test_a_name_that_cannot_be_made_durable_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "disk.hdd"
    make(target, b"old")
    real = output_folder.sync_folder

    def fail(path: str) -> None:
        if path == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(path)

    monkeypatch.setattr(output_folder, "sync_folder", fail)
    with pytest.raises(StorageError, match="input/output"):
        make(target, replace=True)
    assert content(target) == {INDEX: b"old", "data.bin": b"oldold"}
    assert os.listdir(tmp_path) == ["disk.hdd"]
