"""Vetting VMDK images: each thing that is wrong has its code and its place; good ones have none."""

from __future__ import annotations

from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from formats import vmdk_by_hand as by_hand
from probe.sample import Sample
from probe.samples_vmdk import BAD, GOOD, hosted, stream, text
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.memory import MemoryStorage

# Header at 0, descriptor at 512 (in a file of its own at 0), redundant directory at 10752, its
# table at 11264, directory at 13312, its table at 13824; of the stream: grains from 65536, footer
# at 77824 between two markers.
PLACES = {
    "oslo-line": 606,
    "oslo-extent-path": 628,
    "oslo-no-extents": 512,
    "oslo-no-type": 512,
    "oslo-type-long": 576,
    "oslo-letters": 615,
    "oslo-place": 28,
    "oslo-version": 4,
    "oslo-empty": 512,
    "type-twice": 606,
    "cid-twice": 606,
    "type-in-comment": 608,
    "parent-in-value": 621,
    "type-unknown": 576,
    "version-text": 534,
    "version-missing": 512,
    "cid-missing": 512,
    "cid-wrong": 544,
    "control": 622,
    "hidden-line": 615,
    "separator": 616,
    "extent-unknown": 628,
    "parent-cid": 557,
    "parent-name": 606,
    "encrypted": 606,
    "tracked": 606,
    "tracked-outside": 606,
    "sectors-differ": 12,
    "several-extents": 652,
    "behind-text": 10240,
    "text-too-long": 36,
    "text-outside": 28,
    "extent-up": 106,
    "extent-windows": 106,
    "extent-sub": 106,
    "device-windows": 106,
    "device-linux": 106,
    "device-type": 64,
    "device-rdm": 106,
    "extent-beside": 114,
    "extent-sparse-type": 116,
    "extents-same": 124,
    "no-extents": 0,
    "text-huge": 1048575,
    "text-many-lines": 0,
    "text-tail": 277,
    "flags": 8,
    "method": 77,
    "method-without-flag": 8,
    "newlines": 73,
    "unclean-odd": 72,
    "grain": 20,
    "gtes": 44,
    "capacity": 12,
    "overhead": 64,
    "gd-outside": 56,
    "rgd-outside": 48,
    "gd-over-header": 0,
    "gd-over-text": 2560,
    "gt-outside": 13312,
    "gt-over-text": 13312,
    "gt-missing": 10752,
    "gt-twice": 13312,
    "gt-differs": 11276,
    "grain-outside": 13836,
    "grain-over-text": 13836,
    "grain-over-gt": 13824,
    "grain-twice": 13840,
    "grains-shared": 13312,
    "cut": 13880,
    "header-cut": 300,
    "oslo-footer-version": 77828,
    "oslo-footer-text": 77860,
    "oslo-footer-again": 77880,
    "oslo-footer-signature": 78848,
    "oslo-footer-marker": 77328,
    "oslo-footer-marker-type": 78848,
    "oslo-end-marker": 78348,
    "oslo-end-missing": 78336,
    "oslo-end-padded": 78848,
    "footer-capacity": 77836,
    "footer-grain": 77844,
    "footer-missing": 77312,
    "behind-stream": 78848,
    "gd-at-outside": 77880,
    "marker-differs": 65536,
    "marker-size": 65544,
    "cowd-version": 4,
    "cowd-flags": 8,
    "cowd-grain": 16,
    "cowd-directory": 24,
    "cowd-outside": 20,
    "cowd-over-header": 512,
    "sesparse-version": 8,
    "sesparse-flags": 40,
    "sesparse-grain": 24,
    "sesparse-volatile": 80,
    "sesparse-journal": 536,
    "sesparse-entry": 8192,
    "sesparse-grain-outside": 8704,
}
"""Where in the file what is wrong is said to be."""


def vetted(image: bytes) -> list[Finding]:
    return list(FORMATS["vmdk"].driver().vet(MemoryStorage(image)))


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_image_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vmdk")
    assert not errors(found)
    assert not where(found, "hidden-data") and not where(found, "odd-field")


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "vmdk")
    (code,) = sample.codes
    assert PLACES.get(sample.name.removeprefix("vmdk-")) in where(found, code), found


def test_a_sparse_disk_in_one_file_names_nothing() -> None:
    assert not vetted(hosted()) and not vetted(stream())


def test_an_extent_by_itself_is_said_to_be_a_part() -> None:
    (finding,) = vetted(by_hand.hosted(bytes(1 << 20), text=None))
    assert finding.code == "odd-descriptor" and finding.severity == Severity.WARNING


def test_names_in_other_letters_are_no_error_by_themselves() -> None:
    described = text(extents=('RW 2048 SPARSE "\u0434\u0438\u0441\u043a.vmdk"',))
    (finding,) = vetted(hosted(described))
    assert (finding.code, finding.severity) == ("odd-descriptor", Severity.WARNING)


def test_tables_of_an_image_that_was_not_closed_may_differ() -> None:
    image = hosted()
    image.put(image.entry(3, redundant=True), 0)
    (finding,) = vetted(image)
    assert (finding.code, finding.severity) == ("copies-disagree", Severity.ERROR)
    image.put(72, 1, 1)
    (finding,) = vetted(image)
    assert finding.severity == Severity.WARNING


def test_thousands_of_lines_of_one_kind_are_counted_not_told() -> None:
    lines = [f'RW 1 FLAT "/etc/{number}" 0' for number in range(20_000)]
    found = vetted(text(kind="custom", extents=tuple(lines)))
    outside = [finding for finding in found if finding.code == "extent-outside"]
    assert len(outside) == 4 and "19996 more" in outside[-1].message


def test_the_evidence_of_a_stream_is_version_type_and_footer() -> None:
    image = stream()
    said = FORMATS["vmdk"].driver().evidence(MemoryStorage(image))
    assert [each.meaning for each in said] == [
        "version 3",
        "a footer in front of the end-of-stream marker",
        "a descriptor",
        'createType="streamOptimized"',
    ]
    assert [each.offset for each in said] == [4, len(image) - 1024, 512, 564 + 12]


def test_the_evidence_of_a_descriptor_by_itself_is_its_type() -> None:
    said = FORMATS["vmdk"].driver().evidence(MemoryStorage(text(kind="vmfs")))
    assert [(each.offset, each.meaning) for each in said] == [
        (0, "a descriptor"),
        (64, 'createType="vmfs"'),
    ]
