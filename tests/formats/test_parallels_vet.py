"""Vetting Parallels, cloop and Bochs images and disks in parts: each thing that is wrong has its
code, good ones have no error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from formats import parallels_by_hand as parallels
from probe.sample import Sample
from probe.samples_parallels import BAD, BOCHS_BAD, CLOOP_BAD, GOOD, HDD_BAD, hdd, knoppix
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Severity
from vmimg.storage.memory import MemoryStorage

# What follows from the one thing that is wrong, and is said as well.
ALSO = {
    "split-link-out": {"odd-field"},
    "cloop-two-headers": {"hidden-data"},
    "cloop-block-outside": {"tables-overlap"},
    "cloop-way": {"expands"},
}
# Where it is said to be.
PLACES = {
    "hdd-version": parallels.VERSION,
    "hdd-cluster-outside": parallels.BAT + 4,
    "hdd-hidden": len(hdd()),
    "cloop-block-outside": 136 + 16,
    "cloop-hidden": len(knoppix()),
    "bochs-extent-outside": 512,
}


def format_of(sample: Sample) -> str:
    first = sample.name.removeprefix("vmimg-").removeprefix("qemu-").partition("-")[0]
    return "parallels" if first == "hdd" else first


def vetted_path(sample: Sample, folder: Path) -> Path:
    path = made(sample, folder)
    return path / "DiskDescriptor.xml" if path.is_dir() else path


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_good_images_have_no_error(sample: Sample, tmp_path: Path) -> None:
    found = findings(vetted_path(sample, tmp_path), format_of(sample))
    worse = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    # Bundles and parts are in several files, and dirty bitmaps may be of unknown kinds.
    assert worse <= {"external-extent", "unknown-features"} and not errors(found)


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_has_its_code(sample: Sample, tmp_path: Path) -> None:
    found = findings(vetted_path(sample, tmp_path), format_of(sample))
    worse = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    assert set(sample.codes) <= worse
    also = ALSO.get(sample.name, set()) | {"external-extent"}
    assert worse - set(sample.codes) <= also
    if sample.name in PLACES:
        assert PLACES[sample.name] in where(found, sample.codes[0])


@pytest.mark.parametrize("sample", [*HDD_BAD, *CLOOP_BAD, *BOCHS_BAD], ids=str)
def test_evidence_never_fails(sample: Sample, tmp_path: Path) -> None:
    driver = FORMATS[format_of(sample)].driver()
    data = made(sample, tmp_path).read_bytes()
    whole = driver.evidence(MemoryStorage(bytearray(data)))
    assert all(0 <= each.offset <= len(data) for each in whole)
    for size in (0, 8, 64, 70, 96, 140, 600):
        driver.evidence(MemoryStorage(bytearray(data[:size])))
        list(driver.vet(MemoryStorage(bytearray(data[:size]))))


def test_of_a_large_bat_a_part_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "disk.hdd"
    image = parallels.Image(1 << 31, [parallels.NONE] * (1 << 19), 4096)
    path.write_bytes(image.build()[0])
    (finding,) = findings(path, "parallels")
    assert (finding.code, finding.severity) == ("unfinished", Severity.NOTE)
