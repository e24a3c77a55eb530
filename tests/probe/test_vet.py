"""vet: declared formats, polyglots, what lies inside, and that nothing is followed."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from vmimg.errors import StorageError
from vmimg.formats.vetting import Severity, is_outside
from vmimg.probe.vetting import Report, vet
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

MIB = 1 << 20


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk with a GPT and a file system."""
    path = tmp_path / "disk.raw"
    with open(path, "wb") as file:
        file.truncate(8 * MIB)
    peers.run("sgdisk", "-n", "1:2048:", path)
    return path


def errors(report: Report) -> set[str]:
    return {finding.code for finding in report.findings if finding.severity == Severity.ERROR}


@pytest.mark.parametrize(
    ("declared", "right"),
    [
        ("qcow2", True), ("QCOW2", True), ("raw", False), ("vmdk", False), ("ami", False),
        ("iso", False), ("ova", False), ("vhd", False),
    ],
)  # fmt: skip
def test_what_is_declared_for_a_qcow2_is_checked(
    declared: str, right: bool, tmp_path: Path
) -> None:
    path = tmp_path / "upload"
    create(path, MIB, format="qcow2")
    assert errors(vet(path, declared=declared)) == (set() if right else {"declared-wrong"})


@pytest.mark.peer("sgdisk")
@pytest.mark.parametrize(("declared", "right"), [("raw", True), ("ami", True), ("qcow2", False)])
def test_what_is_declared_for_a_raw_disk_is_checked(declared: str, right: bool, raw: Path) -> None:
    assert errors(vet(raw, declared=declared)) == (set() if right else {"declared-wrong"})


@pytest.mark.parametrize("name", ["vhd", "vpc"])
def test_a_format_may_be_declared_by_all_of_its_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    create(path, MIB, format="vhd")
    assert vet(path, declared=name).clean


def test_a_guest_that_writes_a_header_into_its_raw_disk_is_found_out(tmp_path: Path) -> None:
    """CVE-2008-2004: the next to open the disk follows a name that the guest chose."""
    path = tmp_path / "disk.raw"
    create(path, MIB, format="qcow2")
    with open(path, "r+b") as file:
        file.truncate(8 * MIB)
    assert "declared-wrong" in errors(vet(path, declared="raw"))


@pytest.mark.peer("sgdisk")
def test_what_is_on_a_fixed_vhd_is_no_second_format(raw: Path, tmp_path: Path) -> None:
    vhd = tmp_path / "disk.vhd"
    convert(raw, vhd, options={"subformat": "fixed"})
    report = vet(vhd)
    assert report.detection.best.name == "vhd"
    assert "gpt" in [claim.name for claim in report.detection.best.inside]
    assert report.clean, report.findings


def test_a_qcow2_header_in_a_fixed_vhd_is_a_polyglot(tmp_path: Path) -> None:
    inner, vhd = tmp_path / "inner.qcow2", tmp_path / "disk.vhd"
    create(inner, MIB, format="qcow2")
    convert(inner, vhd, source_format="raw", options={"subformat": "fixed"})
    report = vet(vhd, policy="desktop")
    assert "several-formats" in errors(report)
    assert report.detection.polyglot
    (finding,) = [f for f in report.findings if f.code == "several-formats"]
    assert "qcow2" in finding.message and "vhd" in finding.message


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("base.qcow2", False), ("sub/base.qcow2", False), ("./base", False), ("a/../b", False),
        ("file:base", False), ("uuid:1234", False), ("..base", False),
        ("../base", True), ("sub/../../base", True), ("/etc/passwd", True), ("", True),
        ("C:\\disk.vhd", True), ("\\\\server\\share\\disk", True), ("..\\disk.vhd", True),
        ("a\\..\\..\\disk.vhd", True), ("file:/etc/passwd", True), ("nbd:localhost:10809", True),
        ("http://example.org/disk", True), ("json:{}", True), ("base\0", True),
        ("\\\\.\\PhysicalDrive0", True),
    ],
)  # fmt: skip
def test_names_that_lead_out_are_told_from_those_beside(name: str, outside: bool) -> None:
    assert is_outside(name) == outside


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of files that were opened since."""
    opened: list[str] = []
    real = os.open

    def note(path: object, *arguments: object, **named: object) -> int:
        opened.append(str(path))
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", note)
    yield opened


def test_nothing_that_an_image_names_is_opened(tmp_path: Path, watched: list[str]) -> None:
    base, data, child = tmp_path / "base.qcow2", tmp_path / "data.raw", tmp_path / "child.qcow2"
    create(base, MIB, format="qcow2")
    create(child, MIB, format="qcow2", options={"data_file": str(data)},
           backing=base, backing_format="qcow2")  # fmt: skip
    del watched[:]
    report = vet(child, policy="strict")
    assert {"backing-file-outside", "data-file"} & {f.code for f in report.findings}
    named = [name for name in watched if "base.qcow2" in name or "data.raw" in name]
    assert child.name in " ".join(watched) and not named


@pytest.mark.peer("qemu-img")
def test_the_disk_in_an_ova_is_vetted_in_its_place(tmp_path: Path) -> None:
    disk = tmp_path / "disk1.vmdk"
    peers.run("qemu-img", "create", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw",
              disk, "1M")  # fmt: skip
    ovf = tmp_path / "appliance.ovf"
    ovf.write_text(
        '<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1">'
        '<References><File href="disk1.vmdk" id="f1"/></References></Envelope>'
    )
    ova = tmp_path / "appliance.ova"
    with tarfile.open(ova, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(ovf, ovf.name)
        tar.add(disk, disk.name)
    report = vet(ova)
    (finding,) = [f for f in report.findings if f.code == "backing-file-outside"]
    assert finding.within == "disk1.vmdk" and "/etc/passwd" in finding.message
    assert finding.to_json()["within"] == "disk1.vmdk"


def test_the_image_in_a_gzip_stream_is_vetted(tmp_path: Path) -> None:
    base, child, packed = tmp_path / "base", tmp_path / "child", tmp_path / "child.gz"
    create(base, MIB, format="raw")
    create(child, MIB, format="qcow2", backing=base, backing_format="raw")
    packed.write_bytes(gzip.compress(child.read_bytes()))
    report = vet(packed)
    assert report.detection.best.name == "gzip"
    assert "backing-file-outside" in errors(report)


def test_a_file_that_is_not_there_cannot_be_vetted(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        vet(tmp_path / "gone")
