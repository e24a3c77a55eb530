"""Vetting DMGs: each thing that is wrong has its code; good images of all kinds have none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from probe.sample import Sample
from probe.samples_dmg import BAD, GOOD, SIGNATURE, image, on_koly
from vmimg.errors import FormatError
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Severity
from vmimg.storage.memory import MemoryStorage

# What follows from the one thing that is wrong, and is said as well.
ALSO = {
    "dmg-fork-outside": {"tables-overlap", "copies-disagree", "truncated"},
    "dmg-segments": {"unsupported"},
    "dmg-hidden-in-front": {"truncated"},
    "dmg-list-outside": {"hidden-data"},
    "dmg-table-sectors": {"tables-overlap"},
    "dmg-chunk-huge": {"tables-overlap", "expands"},
    "dmg-table-over-other": {"tables-overlap"},
    "dmg-two-trailers": {"hidden-data"},
}


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_good_images_have_nothing_to_decide_about(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "dmg")
    worse = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    assert worse == ({"encrypted"} if "locked" in sample.name else set())


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_has_its_code(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "dmg")
    worse = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    assert set(sample.codes) <= worse
    also = ALSO.get(sample.name, set()) | {"encrypted"}
    assert worse - set(sample.codes) <= also


def test_a_code_signature_is_not_hidden_data() -> None:
    """It lies behind the property list, where the trailer says."""
    file = bytearray(image().build()[0])
    place = len(file) - 512
    file[-512:-512] = b"\xfa\xde\x0c\xc0".ljust(8192, b"\x11")
    driver = FORMATS["dmg"].driver()
    assert where(list(driver.vet(MemoryStorage(bytearray(file)))), "hidden-data")
    on_koly(SIGNATURE, ">QQ", place, 8192)(file)
    assert not list(driver.vet(MemoryStorage(file)))


def test_a_disk_of_zeros_is_no_bomb() -> None:
    """Chunks that are not stored cost nothing, and a reader knows it beforehand."""
    file = bytearray(image().build()[0])
    struct.pack_into(">Q", file, len(file) - 512 + 492, 1 << 40)
    found = list(FORMATS["dmg"].driver().vet(MemoryStorage(file)))
    assert not where(found, "expands") and not errors(found)


def test_an_other_kind_of_checksum_is_only_worth_a_note() -> None:
    file = bytearray(image().build()[0])
    on_koly(80, ">II", 4, 128)(file)
    (finding,) = FORMATS["dmg"].driver().vet(MemoryStorage(file))
    assert (finding.code, finding.severity) == ("odd-field", Severity.NOTE)


def test_a_list_in_an_encoding_that_is_none_is_no_end_of_vetting() -> None:
    file = bytearray(image().build()[0].replace(b'encoding="UTF-8"', b'encoding="UTF-9"'))
    driver = FORMATS["dmg"].driver()
    with pytest.raises(FormatError, match="in the encoding 'UTF-9'"):
        driver.inspect(MemoryStorage(file))
    assert not where(list(driver.vet(MemoryStorage(file))), "xml-entities")


def test_evidence_says_where_the_tables_are() -> None:
    file = image().build()[0]
    shown = FORMATS["dmg"].driver().evidence(MemoryStorage(bytearray(file)))
    assert [e.offset for e in shown if "property list" in e.meaning] == [file.index(b"<?xml")]
