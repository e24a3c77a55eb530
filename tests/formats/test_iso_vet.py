"""Vetting discs: each thing that is wrong has its code; discs that people make have no error."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from test_iso_create import make_tree
from vetted import errors, findings, made, where

import peers
from probe.sample import Sample
from probe.samples_iso import BAD, GOOD, HELLO, disc, record
from vmimg.formats.iso.making import create_iso
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.memory import MemoryStorage

# What follows from the one thing that is wrong, and is said as well.
ALSO = {
    "iso-block-size": {"table-outside", "copies-disagree", "truncated"},
    "iso-root-outside": {"copies-disagree"},
    "iso-two-primaries": {"hidden-data"},
    "iso-path-table-outside": {"copies-disagree"},
    "iso-file-outside": {"copies-disagree"},
    "iso-another-disk": {"several-formats"},
}


def vetted(data: bytes | bytearray) -> list[Finding]:
    return list(FORMATS["iso"].driver().vet(MemoryStorage(bytearray(data))))


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_discs_that_people_make_have_no_error(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "iso")
    assert not [finding for finding in found if finding.severity >= Severity.WARNING]


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_has_its_code(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "iso")
    worse = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    assert set(sample.codes) <= worse
    assert worse - set(sample.codes) <= ALSO.get(sample.name, set())


@pytest.mark.peer("pycdlib")
def test_a_disc_with_everything_awkward_has_no_error(tmp_path: Path) -> None:
    create_iso(make_tree(tmp_path / "tree"), tmp_path / "disc.iso")
    found = findings(tmp_path / "disc.iso", "iso")
    assert not errors(found)
    links = [finding for finding in found if finding.code == "member-link"]
    assert links and {link.severity for link in links} == {Severity.NOTE}
    assert "/etc/passwd" in links[0].message


@pytest.mark.peer("pycdlib")
def test_a_record_that_differs_is_named_with_its_place() -> None:
    file = bytearray(disc())
    place = record(file, HELLO)
    file[place + 6 : place + 10] = struct.pack(">I", 7)
    (finding,) = vetted(file)
    assert finding.offset == place and "hello.txt" in finding.message


@pytest.mark.peer("pycdlib")
def test_more_directories_than_the_budget_are_left_and_said(tmp_path: Path) -> None:
    for number in range(400):
        (tmp_path / f"tree/{number}").mkdir(parents=True)
    create_iso(tmp_path / "tree", tmp_path / "disc.iso")
    found = findings(tmp_path / "disc.iso", "iso")
    assert "unfinished" in {finding.code for finding in found} and not errors(found)


@pytest.mark.peer("xorriso")
def test_padding_is_not_hidden_data(tmp_path: Path) -> None:
    (sample,) = [sample for sample in GOOD if sample.name == "iso-xorriso"]
    path = made(sample, tmp_path)
    with path.open("ab") as file:
        file.write(bytes(300 << 10))
    assert not where(findings(path, "iso"), "hidden-data")


@pytest.mark.peer("mkudffs")
def test_a_udf_that_is_cut_off_is_said(tmp_path: Path) -> None:
    (sample,) = [sample for sample in GOOD if sample.name == "iso-mkudffs"]
    path = made(sample, tmp_path)
    with path.open("r+b") as file:
        file.truncate(4 << 20)
    assert "truncated" in {finding.code for finding in errors(findings(path, "iso"))}


@pytest.mark.peer("xorriso")
def test_evidence_names_the_descriptors(tmp_path: Path) -> None:
    peers.require("pycdlib")
    driver = FORMATS["iso"].driver()
    shown = {e.offset: e.meaning for e in driver.evidence(MemoryStorage(bytearray(disc())))}
    assert "primary" in shown[32768]
    assert any("El Torito" in text for text in shown.values())
    assert any("Joliet" in text for text in shown.values())
