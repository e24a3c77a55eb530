"""Whatever call to the system fails, pack, unpack and sign make all of it, or nothing and an error.

Each operation runs once for every call that it makes, and this one call fails. Killed in the
middle, it leaves no bundle that looks complete; and two that make the same one do not mix.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vmimg
from faults import READS, WRITES, Faults, ordeal, snapshot
from samples import awkward_disk, write_sparse
from vmimg.bundles.signing import sign
from vmimg.errors import StorageError, VmimgError

SIZE = 256 << 10
CONTENT = awkward_disk(SIZE, borders=8192)
# Of all calls, those that come to the data or the directory: a copy of the whole is made by few.
STEP = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk, and packages of it."""
    folder = tmp_path_factory.mktemp("sources")
    vmimg.convert(write_sparse(folder / "disk.raw", CONTENT), folder / "disk.qcow2")
    for name in ("a.ova", "a.xva", "a.box"):
        vmimg.pack([folder / "disk.qcow2"], folder / name)
    return folder


def copied(sources: Path, *names: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes((sources / name).read_bytes())

    return prepare


PACKS: list[tuple[str, dict[str, Any]]] = [
    ("new.ova", {}),
    ("new.ova", {"format": "vmdk", "options": {"manifest": "sha1"}}),
    ("new.ova", {"format": "qcow2", "options": {"compress": False}}),
    ("new.ovf", {"kind": "ovf"}),
    ("new.xva", {}),
    ("new.xva", {"options": {"compress": "gzip"}}),
    ("new.box", {}),
    ("new.box", {"options": {"provider": "virtualbox"}}),
    ("new.tar.gz", {"kind": "gce"}),
    ("new.tar", {"kind": "oci"}),
    ("new.vmwarevm", {"kind": "vmware"}),
    ("new.export", {"kind": "hyperv"}),
]


@pytest.mark.parametrize(("target", "how"), PACKS, ids=lambda value: str(value))
def test_a_call_that_fails_leaves_no_bundle_and_the_source(
    target: str, how: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    def operation(folder: Path) -> None:
        vmimg.pack([folder / "disk.qcow2"], folder / target, threads=1, **how)

    prepare = copied(sources, "disk.qcow2")
    assert ordeal(tmp_path, prepare, operation, kinds=WRITES) > 3
    ordeal(tmp_path, prepare, operation, kinds=READS, step=STEP)


@pytest.mark.parametrize(("target", "how"), PACKS, ids=lambda value: str(value))
def test_a_bundle_that_is_replaced_is_the_old_one_or_the_new_one(
    target: str, how: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        content = CONTENT if folder == new else CONTENT[::-1]
        write_sparse(folder / "disk.raw", content)
        vmimg.pack([folder / "disk.raw"], folder / target, threads=1, **how)
        (folder / "disk.raw").unlink()
    before, after = snapshot(old), snapshot(new)
    assert before != after

    def prepare(folder: Path) -> None:
        for name, data in before.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        write_sparse(folder / "disk.raw", CONTENT)

    def judge(folder: Path, failure: VmimgError | None) -> None:
        there = snapshot(folder)
        assert there.pop("disk.raw") == CONTENT
        if failure is None:
            assert there == after
        elif "ovf" in how.values():
            # Files side by side cannot be replaced at once: each is the old one or the new one.
            assert there.keys() == after.keys()
            assert all(data in (before[name], after[name]) for name, data in there.items())
        else:
            assert there in (before, after)

    def operation(folder: Path) -> None:
        vmimg.pack([folder / "disk.raw"], folder / target, replace=True, threads=1, **how)

    ordeal(tmp_path / "ordeal", prepare, operation, judge=judge, kinds=WRITES)


@pytest.mark.parametrize("source", ["a.ova", "a.xva", "a.box"])
@pytest.mark.parametrize("how", [{}, {"format": "raw"}, {"format": "qcow2", "dialect": "vmx"}])
def test_unpacking_makes_the_whole_directory_or_none(
    source: str, how: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    def operation(folder: Path) -> None:
        vmimg.unpack(folder / source, folder / "there", threads=1, **how)

    prepare = copied(sources, source)
    assert ordeal(tmp_path, prepare, operation, kinds=WRITES) > 3
    ordeal(tmp_path, prepare, operation, kinds=READS, step=STEP)


def test_repacking_reads_one_and_makes_the_other_or_none(sources: Path, tmp_path: Path) -> None:
    def operation(folder: Path) -> None:
        vmimg.repack(folder / "a.ova", folder / "new.box", threads=1)

    ordeal(tmp_path, copied(sources, "a.ova"), operation, step=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and its certificate."""
    folder = tmp_path_factory.mktemp("pair")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=maker",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


@pytest.mark.peer("openssl")
def test_signing_makes_a_signed_one_or_leaves_the_old_one(
    sources: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    def operation(folder: Path) -> None:
        sign(folder / "a.ova", *pair)

    def judge(folder: Path, failure: VmimgError | None) -> None:
        there = (folder / "a.ova").read_bytes()
        if failure is not None and there == (sources / "a.ova").read_bytes():
            return
        with vmimg.open_bundle(folder / "a.ova") as bundle:
            states = {verdict.subject: verdict.state for verdict in bundle.verify()}
        assert set(states.values()) <= {"good", "unknown"}
        assert len(states) > 2

    ordeal(tmp_path, copied(sources, "a.ova"), operation, judge=judge, kinds=WRITES)


# Calls that do less than they should, and a file system without room


@pytest.mark.parametrize("trouble", ["short", "slow"])
@pytest.mark.parametrize(("target", "how"), PACKS, ids=lambda value: str(value))
def test_short_and_slow_calls_change_nothing(
    target: str, how: dict[str, Any], trouble: str, sources: Path, tmp_path: Path
) -> None:
    for folder in ("whole", "troubled"):
        (tmp_path / folder).mkdir()
    vmimg.pack([sources / "disk.qcow2"], tmp_path / "whole" / target, **how)
    with Faults(short=trouble == "short", slow=trouble == "slow") as faults:
        vmimg.pack([sources / "disk.qcow2"], tmp_path / "troubled" / target, threads=3, **how)
    assert faults.calls > 10
    assert snapshot(tmp_path / "troubled") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize(("target", "how"), PACKS, ids=lambda value: str(value))
def test_a_full_file_system_leaves_nothing(
    target: str, how: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    failed = 0
    for room in (0, 1, 511, 4096, 20_000, 1 << 30):
        with Faults(room=room):
            try:
                vmimg.pack([sources / "disk.qcow2"], tmp_path / target, threads=1, **how)
            except StorageError as error:
                assert "no space left on device; free some space" in str(error)
                failed += 1
                assert list(tmp_path.iterdir()) == []
            else:
                assert (tmp_path / target).exists()
    assert 3 <= failed < 6


def test_unpacking_to_a_full_file_system_leaves_nothing(sources: Path, tmp_path: Path) -> None:
    for room in (0, 1000, 30_000):
        with Faults(room=room), pytest.raises(StorageError, match="no space left"):
            vmimg.unpack(sources / "a.ova", tmp_path / "there", format="raw", threads=1)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["new.ova", "new.xva", "new.box"])
def test_a_medium_that_goes_away_is_an_error_and_no_hang(
    name: str, sources: Path, tmp_path: Path
) -> None:
    kinds = {"preadv", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate"}
    for at in range(1, 40, 4):
        with Faults(at=at, kinds=kinds, every=True, error=errno.EIO) as faults:
            try:
                vmimg.pack([sources / "disk.qcow2"], tmp_path / name, threads=2)
            except VmimgError:
                assert list(tmp_path.iterdir()) == []
            else:
                assert not faults.failed
        (tmp_path / name).unlink(missing_ok=True)


# Killed, and two at a time

PACK = """
import sys, vmimg
vmimg.pack([sys.argv[1]], sys.argv[2], replace=True)
"""


def packing(source: Path, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PACK, source, target])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("large") / "disk.raw", awkward_disk(6 << 20))


@pytest.mark.parametrize("name", ["new.ova"])
def test_a_killed_pack_leaves_a_complete_bundle_or_the_old_one(
    name: str, large: Path, tmp_path: Path
) -> None:
    moments = random.Random(7)
    target = tmp_path / name
    began = time.monotonic()
    assert packing(large, target).wait() == 0
    whole = time.monotonic() - began
    complete = target.read_bytes()
    finished = 0
    kills = 6
    for number in range(kills):
        old = number % 2 == 0
        target.unlink(missing_ok=True)
        if old:
            target.write_bytes(b"older")
        process = packing(large, target)
        time.sleep(moments.uniform(0.5, 1.1) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = target.read_bytes() if target.exists() else None
        assert there in (complete, b"older" if old else None)
        finished += there == complete
        for path in tmp_path.iterdir():
            # Where the file system has no nameless files, nobody is left to tidy up.
            assert path == target or path.name.endswith(".vmimg-part")
            if path != target:
                path.unlink()
    assert finished < kills, "no kill came in time: the test proves nothing"


@pytest.mark.parametrize("name", ["new.ova", "new.vmwarevm"])
def test_two_packs_to_one_target_make_one_of_the_two(
    name: str, sources: Path, tmp_path: Path
) -> None:
    kind = "vmware" if name.endswith("vmwarevm") else None
    disks = {"one": CONTENT, "two": CONTENT[::-1]}
    made = []
    for label, content in disks.items():
        write_sparse(tmp_path / f"{label}.raw", content)
        (tmp_path / label).mkdir()
        vmimg.pack([tmp_path / f"{label}.raw"], tmp_path / label / name, kind=kind)
        made.append(snapshot(tmp_path / label))
    for _ in range(5):
        place = tmp_path / "place"
        place.mkdir()
        together = threading.Barrier(2)
        errors: list[VmimgError] = []

        def pack(label: str, place: Path = place, together: threading.Barrier = together) -> None:
            together.wait()
            try:
                vmimg.pack([tmp_path / f"{label}.raw"], place / name, kind=kind)
            except VmimgError as error:
                errors.append(error)  # noqa: B023

        threads = [threading.Thread(target=pack, args=(label,)) for label in disks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 1
        assert "exists" in str(errors[0])
        assert snapshot(place) in made
        os.rename(place, tmp_path / f"done-{time.monotonic_ns()}")
