"""A bundle that is many files is replaced as one: whatever fails, and however late, the old one is
whole, and nothing else is left.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from boxes_by_hand import content, disk_file, opened

from vmimg.bundles.packing import pack
from vmimg.errors import FormatError, StorageError
from vmimg.machines.model import CPUs, Machine
from vmimg.storage import output_folder
from vmimg.storage.output import Output
from vmimg.transfer.convert import convert

MIB = 1 << 20
MACHINE = Machine(name="web", architecture="x86_64", cpus=CPUs(2), memory=512 * MIB)
KINDS = {
    "ovf": "web", "ovf files": "web.ovf", "vmware": "web", "virtualbox": "web", "pvm": "web.pvm",
    "hyperv": "web",
}  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _packed(tmp_path: Path, kind: str, seed: int, *, damaged: bool = False) -> Path:
    """A machine of two disks whose content ``seed`` says, in a directory of its own; ``damaged``:
    the second half of the second one cannot be read.
    """
    disks = [
        disk_file(tmp_path, f"{seed} {at}.raw", seed=seed + at, size=(at + 1) * MIB)
        for at in range(2)
    ]
    if damaged:
        packed = tmp_path / "damaged.vmdk"
        convert(disks[1], packed, format="vmdk", options={"subformat": "streamOptimized"})
        with packed.open("r+b") as file:
            file.seek(packed.stat().st_size // 2)
            file.write(b"\xff" * (256 << 10))
        disks[1] = packed
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    path = place / KINDS[kind]
    pack(disks, path, kind=kind.split()[0], machine=MACHINE, replace=True)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_replaced_is_the_new_one_and_nothing_of_the_old(
    tmp_path: Path, kind: str
) -> None:
    _packed(tmp_path, kind, 1)
    names = set(_files(tmp_path / "place"))
    path = _packed(tmp_path, kind, 50)
    assert set(_files(tmp_path / "place")) == names
    with opened(path) as bundle:
        found = [content(bundle, disk.name) for disk in bundle.disks]
    assert found == [(tmp_path / f"50 {at}.raw").read_bytes() for at in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_on_the_last_disk_leaves_the_old_one(tmp_path: Path, kind: str) -> None:
    _packed(tmp_path, kind, 1)
    before = _files(tmp_path / "place")

    with pytest.raises(FormatError):
        _packed(tmp_path, kind, 50, damaged=True)
    assert _files(tmp_path / "place") == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_when_names_are_given_leaves_the_old_one(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _packed(tmp_path, kind, 1)
    before = _files(tmp_path / "place")
    sync, name_it = output_folder.sync_folder, Output._name_it
    given: list[str] = []

    def sync_or_fail(path: str) -> None:
        if path == str(tmp_path / "place"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(path)

    def name_or_fail(output: Output) -> bool:
        if os.path.dirname(output.path) == str(tmp_path / "place"):
            given.append(output.path)
            if len(given) == 3:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return name_it(output)

    monkeypatch.setattr(output_folder, "sync_folder", sync_or_fail)
    monkeypatch.setattr(Output, "_name_it", name_or_fail)
    with pytest.raises(StorageError, match="input/output error"):
        _packed(tmp_path, kind, 50)
    assert _files(tmp_path / "place") == before
