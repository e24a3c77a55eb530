"""Vetting qcow, QED and COW images: each thing that is wrong has its code and its place; good ones
have none.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from vetted import Counted, errors, findings, made, where

from probe.sample import Sample
from probe.samples_qcow import BAD, COW, GOOD, OLD_FILE, PLACES, PLAIN
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Severity
from vmimg.storage.memory import MemoryStorage

IMAGES = {"qcow": OLD_FILE, "qed": PLAIN.build()[0], "cow": COW.build()}


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_image_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), sample.claim)
    assert not errors(found)
    assert {f.code for f in found} <= {"backing-file", "backing-file-undeclared"}


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), sample.claim)
    (code,) = sample.codes
    assert where(found, code), found
    if sample.name in PLACES:
        assert PLACES[sample.name] in where(found, code), found
    assert {finding.code for finding in errors(found)} <= {code}, found


def test_a_dirty_qed_is_a_warning(tmp_path: Path) -> None:
    (sample,) = (sample for sample in BAD if sample.name == "qed-dirty")
    (found,) = findings(made(sample, tmp_path), "qed")
    assert (found.code, found.severity) == ("dirty", Severity.WARNING)


@pytest.mark.parametrize("format", IMAGES)
def test_noise_in_it_ends_in_findings(format: str) -> None:
    for seed in range(60):
        dice = random.Random(seed)
        file = bytearray(IMAGES[format])
        for _ in range(dice.randrange(1, 30)):
            place = 4 * dice.randrange(1, dice.choice((20, 400, len(file) // 4 - 2)))
            value = dice.choice((0, 2**64 - 1, 4096, 1 << 63, dice.getrandbits(64)))
            file[place : place + 8] = value.to_bytes(8, dice.choice(("big", "little")))
        storage = Counted(MemoryStorage(file))
        for finding in FORMATS[format].driver().vet(storage):
            assert finding.message.isprintable()
        assert storage.bytes < 6 << 20


@pytest.mark.parametrize(
    ("format", "places"), [("qcow", [32, 33]), ("qed", [4, 8]), ("cow", [4, 1048])]
)
def test_the_evidence_is_in_the_header(format: str, places: list[int]) -> None:
    driver = FORMATS[format].driver()
    assert [e.offset for e in driver.evidence(MemoryStorage(bytearray(IMAGES[format])))] == places
    assert driver.evidence(MemoryStorage(bytearray(b"\xff" * 64))) == ()
