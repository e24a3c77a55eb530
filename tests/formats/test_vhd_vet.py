"""Vetting VHD images: each thing that is wrong has its code and its place; good ones have none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from formats import vhd_by_hand as by_hand
from probe.sample import Sample
from probe.samples_vhd import (
    BAD,
    BLOCK,
    FOOTER,
    GOOD,
    SIZE,
    child,
    content,
    dynamic,
    fixed,
)
from vmimg.formats.detect import SURE
from vmimg.formats.registry import FORMATS
from vmimg.storage.memory import MemoryStorage

HEADER, BAT = 512, 1536

PLACES = {
    "footer-checksum": FOOTER,
    "copy-checksum": 0,
    "copies-differ": FOOTER + 48,
    "copy-missing": 0,
    "footer-missing": FOOTER,
    "behind-footer": FOOTER + 512,
    "features": 8,
    "version": 12,
    "type": 60,
    "saved-state": 84,
    "reserved": 300,
    "size": 48,
    "size-original": 40,
    "size-odd": 48,
    "geometry": 56,
    "geometry-by-creator": 56,
    "header-outside": 16,
    "header-over-copy": 16,
    "header-checksum": HEADER + 36,
    "header-version": HEADER + 24,
    "header-next": HEADER + 8,
    "block-size": HEADER + 32,
    "block-size-absurd": HEADER + 32,
    "bat-too-small": HEADER + 28,
    "bat-absurd": HEADER + 28,
    "bat-outside": HEADER + 16,
    "bat-over-header": 1024,
    "bat-over-footer": FOOTER,
    "block-outside": BAT + 8,
    "block-twice": BAT + 8,
    "block-over-header": BAT + 8,
    "block-over-footer": BAT + 8,
    "parent-without-type": HEADER + 576,
    "locator-outside": HEADER + 576,
    "locator-over-header": 600,
    "locator-unknown": HEADER + 576,
    "hidden": FOOTER,
    "fixed-other-header": 0,
    "fixed-offset": SIZE + 16,
    "fixed-cut": SIZE + 48,
    "fixed-hidden": SIZE - 512,
    "fixed-slack": SIZE + BLOCK + 48,
    "fixed-cut-in-the-middle": SIZE - 512 + 48,
}
"""Where in the file what is wrong is said to be; without those that reading refuses."""


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_image_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vhd")
    assert not errors(found)
    assert not where(found, "hidden-data") and not where(found, "odd-field")


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vhd")
    (code,) = sample.codes
    assert PLACES.get(sample.name.removeprefix("vhd-")) in where(found, code), found


def test_a_block_in_the_same_place_as_another_is_named_once() -> None:
    image = bytearray(dynamic())
    struct.pack_into(">I", image, BAT + 8, struct.unpack_from(">I", image, BAT + 4)[0])
    found = list(FORMATS["vhd"].driver().vet(MemoryStorage(image)))
    assert [finding.message for finding in found] == ["block 2 lies at 6656, where another one is"]


def test_the_last_block_may_end_where_the_disk_ends() -> None:
    # Without a footer, as far as the disk goes: what is missing is the footer alone.
    image = by_hand.dynamic(content(), block=BLOCK)[:-512]
    found = list(FORMATS["vhd"].driver().vet(MemoryStorage(image[:-512])))
    assert {finding.code for finding in found} == {"truncated"}
    assert where(found, "truncated") == [len(image) - 512]


def test_the_evidence_of_a_dynamic_disk_is_both_footers_and_the_header() -> None:
    said = FORMATS["vhd"].driver().evidence(MemoryStorage(dynamic()))
    assert [each.offset for each in said] == [0, HEADER, FOOTER]
    assert said[0].meaning == "a copy of the footer with a good checksum: dynamic"


def test_the_evidence_of_a_fixed_disk_is_its_size() -> None:
    said = FORMATS["vhd"].driver().evidence(MemoryStorage(fixed()))
    assert [each.offset for each in said] == [SIZE, SIZE]
    assert "fixed" in said[0].meaning


def test_a_fixed_disk_of_another_size_than_its_file_says_where_it_ends() -> None:
    driver = FORMATS["vhd"].driver()
    cut = MemoryStorage(fixed()[512:])
    assert driver.probe(cut) == SURE
    said = driver.evidence(cut)
    assert said[-1].offset == SIZE - 512 + 48 and str(SIZE) in said[-1].meaning


def test_a_differencing_disk_has_only_its_parent_to_decide_about() -> None:
    storage = MemoryStorage(child())
    assert not list(FORMATS["vhd"].driver().vet(storage))
