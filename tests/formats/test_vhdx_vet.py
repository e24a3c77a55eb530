"""Vetting VHDX images: each thing that is wrong has its code and its place; good ones have none."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from formats.vhdx_by_hand import BAT, BLOCKS, FULL, HEADERS, KIB, METADATA, MIB, REGION_TABLES
from probe.sample import Sample
from probe.samples_vhdx import (
    BAD,
    FIRST_ENTRY,
    GOOD,
    ITEM_ENTRY,
    ITEM_PLACES,
    SECTOR,
    child,
    dirty,
    plain,
    torn_header,
)
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.memory import MemoryStorage

# The sound one with the higher sequence number.
HEADER = HEADERS[1]
END = BLOCKS + 2 * MIB

PLACES = {
    "cut-in-front": 100 * KIB,
    "headers-checksum": HEADERS[0],
    "headers-same-sequence": HEADERS[1] + 8,
    "headers-differ": HEADERS[1] + 72,
    "version": HEADER + 66,
    "log-version": HEADER + 64,
    "log-outside": HEADER + 72,
    "log-over-headers": 0,
    "log-over-bat": BAT,
    "log-pending": HEADER + 48,
    "tables-checksum": REGION_TABLES[0],
    "table-checksum": REGION_TABLES[1],
    "tables-differ": REGION_TABLES[1] + 16,
    "region-unknown": FIRST_ENTRY + 64,
    "region-unneeded": FIRST_ENTRY + 64,
    "region-outside": FIRST_ENTRY + 16,
    "regions-overlap": METADATA,
    "region-over-headers": 0,
    "item-unknown": ITEM_ENTRY + 160,
    "item-twice": ITEM_ENTRY + 160,
    "item-outside": ITEM_ENTRY + 48,
    "items-overlap": ITEM_PLACES["parameters"],
    "item-over-table": METADATA + 64,
    "size": ITEM_PLACES["size"],
    "size-odd": ITEM_PLACES["size"],
    "block-size": ITEM_PLACES["parameters"],
    "logical-sector": ITEM_PLACES["logical"],
    "physical-sector": ITEM_PLACES["physical"],
    "parameters": ITEM_PLACES["parameters"] + 4,
    "bat-too-small": ITEM_PLACES["size"],
    "block-outside": BAT + 16,
    "block-twice": BAT + 16,
    "block-over-bat": BAT + 16,
    "block-over-headers": BAT + 16,
    "block-state": BAT + 8,
    "block-reserved": BAT + 16,
    "block-partial": BAT + 16,
    "cut": BAT + 16,
    "hidden": END + 4096,
    "no-bitmap": BAT + 8,
    "locator-unneeded": ITEM_ENTRY + 160,
    "locator-type": child().item_places["locator"],
    "no-linkage": child().item_places["locator"],
}
"""Where in the file what is wrong is said to be; without those that reading refuses."""


def vetted(image: bytes) -> list[Finding]:
    return list(FORMATS["vhdx"].driver().vet(MemoryStorage(image)))


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_image_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vhdx")
    assert not errors(found)
    assert not where(found, "hidden-data") and not where(found, "odd-field")


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vhdx")
    (code,) = sample.codes
    assert PLACES.get(sample.name.removeprefix("vhdx-")) in where(found, code), found


def test_one_torn_header_is_only_noted() -> None:
    (finding,) = vetted(torn_header())
    assert (finding.code, finding.offset) == ("checksum-wrong", HEADERS[1])
    assert finding.severity == Severity.NOTE


def test_a_log_is_said_to_hold_what_it_holds() -> None:
    (finding,) = vetted(dirty((BLOCKS, SECTOR), (BLOCKS + MIB, 4096))())
    assert "2 changes" in finding.message
    (finding,) = vetted(dirty()())
    assert finding.code == "log-pending" and "nothing in its log" in finding.message


def test_the_tables_are_looked_at_as_they_are_when_the_log_is_replayed() -> None:
    bat = bytearray(plain()[BAT : BAT + 4096])
    bat[8:16] = (BLOCKS | FULL).to_bytes(8, "little")
    found = vetted(dirty((BAT, bytes(bat)))())
    assert where(found, "tables-overlap") == [BAT + 8]


def test_many_findings_of_one_kind_are_counted_not_told() -> None:
    image = plain()
    for start in REGION_TABLES:
        image.put(start + 8, 1000, 4)
    image.seal()
    assert len(where(vetted(image), "hidden-data")) == 8


def test_the_evidence_is_headers_and_region_tables() -> None:
    said = FORMATS["vhdx"].driver().evidence(MemoryStorage(plain()))
    assert [each.offset for each in said] == [*HEADERS, *REGION_TABLES]
