"""Bundles from somebody who means harm: vetting names what is wrong, and opening them stays inside.

Whatever is asked of such a bundle, the answer is one clear error or what is in it: no file beside
it is read, none is written but where it was told to, and it takes neither long nor much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest

import vmimg
from bundles import hostile_by_hand as by_hand
from bundles.hostile_by_hand import OUTSIDE, TRAPS, Trap
from vmimg.errors import UnsafeImage, VmimgError
from vmimg.formats.vetting import Severity

SECRET = b"what nobody else may see. " * 40_000
SECONDS = 2.0
MIB = 256


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for the bundle, with a secret beside it and one further off."""
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = inside / OUTSIDE
    secret.parent.mkdir()
    secret.write_bytes(SECRET)
    return inside


def everything(path: Path, place: Path) -> list[tuple[str, VmimgError | None]]:
    """What is done with bundles, each with the error that it came to; the bytes that it led to must
    not be the secret.
    """
    results: list[tuple[str, VmimgError | None]] = []

    def attempt(name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except VmimgError as error:
            assert str(error).isprintable(), name
            results.append((name, error))
        else:
            results.append((name, None))

    def read() -> None:
        with vmimg.open_bundle(path) as bundle:
            for disk in bundle.disks:
                with bundle.open_disk(disk.name) as opened:
                    assert SECRET[:64] not in opened.read(0, min(opened.size, 1 << 20))

    def verify() -> None:
        with vmimg.open_bundle(path) as bundle:
            list(bundle.verify())

    attempt("open", lambda: vmimg.open_bundle(path).close())
    attempt("read", read)
    attempt("verify", verify)
    attempt("convert", lambda: vmimg.convert(path, place / "converted.raw"))
    attempt("unpack", lambda: vmimg.unpack(path, place / "unpacked"))
    attempt("unpack to qcow2", lambda: vmimg.unpack(path, place / "other", format="raw"))
    attempt("repack", lambda: vmimg.repack(path, place / "repacked.ova"))
    return results


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_vetting_names_what_is_wrong(trap: Trap, place: Path) -> None:
    path = trap.make(place)
    began = process_time()
    report = vmimg.vet(path)
    assert process_time() - began < SECONDS
    errors = {finding.code for finding in report.findings if finding.severity == Severity.ERROR}
    assert trap.code in errors


@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_using_it_stays_inside(trap: Trap, place: Path) -> None:
    path = trap.make(place)
    around = {entry for entry in place.parent.rglob("*") if place not in entry.parents}
    began = process_time()
    results = dict(everything(path, place))
    assert process_time() - began < len(results) * SECONDS
    refused = results["open"]
    if trap.closed:
        assert refused is not None
        assert all(error is not None for error in results.values())
    if trap.named:
        assert isinstance(refused, UnsafeImage)
        codes = {finding.code for finding in vmimg.vet(path).findings}
        assert str(refused).rpartition("(")[2].rstrip(")") in codes
    if trap.unread:
        assert results["convert"] is not None
        assert not (place / "converted.raw").exists()
    made = [entry for entry in place.parent.rglob("*") if entry.is_file()]
    assert {entry for entry in place.parent.rglob("*") if place not in entry.parents} == around
    for entry in made:
        assert not entry.is_symlink()
        if entry.name != "secret.raw":
            assert SECRET[:64] not in entry.read_bytes(), entry
    assert (place / OUTSIDE).read_bytes() == SECRET
    allowed = {path.name, "converted.raw", "unpacked", "other", "repacked.ova"}
    assert {entry.name for entry in place.iterdir()} <= allowed


def test_a_good_one_passes_all_of_it(place: Path) -> None:
    """So that it is not everything that is refused."""
    path = place / "good.ova"
    path.write_bytes(by_hand.tar_of(by_hand.ova()))
    assert vmimg.vet(path, policy="desktop").safe
    assert [(name, error) for name, error in everything(path, place) if error is not None] == []
    assert (place / "unpacked" / "machine.ovf").exists()


# Directories


def machine_folder(place: Path) -> Path:
    """A directory of VMware's, whose disk is still missing."""
    folder = place / "machine"
    folder.mkdir()
    (folder / "machine.vmx").write_text(
        '.encoding = "UTF-8"\nconfig.version = "8"\nvirtualHW.version = "19"\n'
        'memsize = "512"\nscsi0.present = "TRUE"\nscsi0:0.present = "TRUE"\n'
        'scsi0:0.fileName = "disk.vmdk"\n'
    )
    return folder


def test_a_directory_whose_disk_is_a_link_leads_nowhere(place: Path) -> None:
    folder = machine_folder(place)
    (folder / "disk.vmdk").symlink_to(place / OUTSIDE)
    for what in (folder, folder / "machine.vmx"):
        assert "member-link" in {finding.code for finding in vmimg.vet(folder).findings}
        with pytest.raises(VmimgError, match=r"leads out of|not in it"):
            vmimg.convert(what, place / "converted.raw")
    assert not (place / "converted.raw").exists()


def test_a_directory_whose_disk_is_a_pipe_is_not_waited_for(place: Path) -> None:
    folder = machine_folder(place)
    os.mkfifo(folder / "disk.vmdk")
    assert "member-device" in {finding.code for finding in vmimg.vet(folder).findings}
    with pytest.raises(VmimgError, match=r"no file|not in it"):
        vmimg.convert(folder, place / "converted.raw")
    assert not (place / "converted.raw").exists()


# Too much of something

MEASURE = """
import json, re, sys, time
import vmimg
from vmimg.errors import VmimgError
began = time.process_time()
said = ""
try:
    if sys.argv[1] == "vet":
        said = " ".join(finding.code for finding in vmimg.vet(sys.argv[2]).findings)
    else:
        with vmimg.open_bundle(sys.argv[2]) as bundle:
            said = " ".join(disk.name for disk in bundle.disks)
            for disk in bundle.disks:
                with bundle.open_disk(disk.name) as opened:
                    opened.read(opened.size - 512, 512)
except VmimgError as error:
    said = f"{type(error).__name__}: {error}"
seconds = time.process_time() - began
# Not ru_maxrss: it begins with what the parent had.
mib = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(json.dumps([said, seconds, mib]))
"""


def measured(what: str, path: Path) -> tuple[str, float, float]:
    """What vetting or opening says, the processor time that it takes, and the MiB of memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, what, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said, seconds, mib = json.loads(done.stdout)
    return said, seconds, mib


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("a.ova", lambda path: by_hand.many_headers(path, 100_000), "too-many-members"),
        ("a.zip", lambda path: by_hand.many_in_zip(path, 20_000), "too-many-members"),
        ("a.box", lambda path: by_hand.bomb(path, 256 << 20), "expands"),
        ("gce.tar", lambda path: by_hand.sparse_maps(path, 80_000), "too-many-members"),
    ],
    ids=["tar-headers", "zip-members", "gzip-bomb", "sparse-maps"],
)
def test_too_much_of_something(
    name: str, make: Callable[[Path], Path], code: str, tmp_path: Path
) -> None:
    path = make(tmp_path / name)
    said, seconds, mib = measured("vet", path)
    assert code in said.split()
    assert seconds < SECONDS
    assert mib < MIB
    said, seconds, mib = measured("open", path)
    assert mib < MIB
    # Bytes are gone through once at the most: what a good one of this size takes.
    assert seconds < 3 * SECONDS, said


def test_a_good_export_of_many_members_is_opened(tmp_path: Path) -> None:
    """All of them are judged, and that takes no longer than to find them."""
    path = by_hand.long_export(tmp_path / "a.xva", 20_000)
    said, seconds, mib = measured("open", path)
    assert said == "disk1"
    assert seconds < 2 * SECONDS
    assert mib < MIB
