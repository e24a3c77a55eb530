"""Vetting VDI images: each thing that is wrong has its code and its place; good ones have none."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from formats import vdi_by_hand as by_hand
from probe.sample import Sample
from probe.samples_vdi import BAD, DATA, GOOD, MAP, plain
from vmimg.formats.registry import FORMATS
from vmimg.storage.memory import MemoryStorage

BLOCK = 65536

PLACES = {
    "vdi-version": 68,
    "vdi-type": by_hand.TYPE,
    "vdi-flags": by_hand.FLAGS,
    "vdi-header-odd": by_hand.CB_HEADER,
    "vdi-header-outside": by_hand.CB_HEADER,
    "vdi-header-cut": 300,
    "vdi-map-over-header": by_hand.OFF_BLOCKS,
    "vdi-map-outside": by_hand.OFF_BLOCKS,
    "vdi-map-count": by_hand.OFF_BLOCKS,
    "vdi-map-unaligned": by_hand.OFF_BLOCKS,
    "vdi-data-over-map": by_hand.OFF_DATA,
    "vdi-size-too-large": by_hand.CB_DISK,
    "vdi-size-too-small": by_hand.C_BLOCKS,
    "vdi-block-size": by_hand.CB_BLOCK,
    "vdi-block-size-null": by_hand.CB_BLOCK,
    "vdi-extra-odd": by_hand.CB_EXTRA,
    "vdi-count": by_hand.C_ALLOCATED,
    "vdi-count-absurd": by_hand.C_ALLOCATED,
    "vdi-block-outside": MAP + 12,
    "vdi-block-twice": MAP + 12,
    "vdi-cut": MAP + 20,
    "vdi-geometry": 360,
    "vdi-no-uuid": by_hand.CREATE,
    "vdi-linkage": by_hand.LINKAGE,
    "vdi-own-parent": by_hand.LINKAGE,
    "vdi-hidden-behind": DATA + 4 * BLOCK + 512,
    "vdi-hidden-between": MAP + 100,
}
"""Where in the file what is wrong is said to be; without those that reading refuses."""


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_image_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vdi")
    assert not errors(found)
    assert not where(found, "hidden-data")


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vdi")
    (code,) = sample.codes
    assert PLACES.get(sample.name) in where(found, code), found


def test_extra_data_is_told_for_qemu_reads_it_as_the_disks() -> None:
    image = by_hand.Image(4 * BLOCK, (0, 1, 2, 3), block=BLOCK, extra=512).build()[0]
    found = list(FORMATS["vdi"].driver().vet(MemoryStorage(image)))
    assert where(found, "odd-field") == [by_hand.CB_EXTRA]


def test_the_evidence_is_text_version_and_type() -> None:
    said = FORMATS["vdi"].driver().evidence(MemoryStorage(plain()))
    assert [each.offset for each in said] == [0, 68, by_hand.TYPE]
    assert said[2].meaning == "image type 1: dynamic"
