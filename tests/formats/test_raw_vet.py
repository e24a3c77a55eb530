"""Vetting raw disks: each thing that is wrong has its code; what mkfs, sgdisk and parted make has
none of severity error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from vetted import errors, findings, made, where

from probe.sample import Sample
from probe.samples_contents import BAD, GOOD, LAST, gpt, mbr, partition
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.memory import MemoryStorage

# Where it is said to be, of those that are in one place.
PLACES = {
    "gpt-header-checksum": 512 + 16,
    "gpt-entries-checksum": 512 + 88,
    "gpt-backup-checksum": LAST * 512 + 16,
    "gpt-primary-gone": 512,
    "gpt-copies-guid": LAST * 512 + 56,
    "gpt-cut": 512 + 32,
    "gpt-overlap": 300 * 512,
    "gpt-hidden-behind": (LAST + 33) * 512,
    "gpt-hidden-unpartitioned": 920 * 512,
    "gpt-oslo-boot-flag": 446,
    "gpt-oslo-chs": 447,
    "gpt-oslo-lba": 454,
    "oslo-no-partitions": 446,
    "mbr-hidden": 1010 * 512,
    "ext4-hidden": 900 * 512,
}


def vetted(data: bytes | bytearray) -> list[Finding]:
    return list(FORMATS["raw"].driver().vet(MemoryStorage(bytearray(data))))


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_what_makers_of_disks_write_is_no_error(sample: Sample, tmp_path: Path) -> None:
    assert not errors(findings(made(sample, tmp_path), "raw"))


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_has_its_code(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "raw")
    worse = {finding.code for finding in found if finding.severity >= Severity.WARNING}
    assert worse == set(sample.codes)
    if sample.name in PLACES:
        assert PLACES[sample.name] in where(found, sample.codes[0])


@pytest.mark.parametrize("sample", BAD, ids=str)
@pytest.mark.peer("oslo_utils")
def test_what_openstack_refuses_is_found(sample: Sample, tmp_path: Path) -> None:
    from oslo_utils.imageutils import format_inspector as oslo

    path = made(sample, tmp_path)
    with path.open("rb") as file:
        wrapper = oslo.InspectWrapper(file)
        while wrapper.read(1 << 20):
            pass
        wrapper.close()
    refused = False
    for inspector in wrapper.formats or []:
        try:
            inspector.safety_check()
        except oslo.SafetyCheckFailed:
            refused = True
    assert refused or "oslo" not in sample.name
    if refused:
        assert where(findings(path, "raw"), "partition-table")


def test_a_disk_that_was_enlarged_is_only_worth_a_note() -> None:
    (finding,) = vetted(gpt(sectors=LAST + 65))
    assert (finding.code, finding.severity) == ("partition-table", Severity.NOTE)
    assert "enlarged" in finding.message


def test_a_boot_loader_behind_the_mbr_is_only_worth_a_note() -> None:
    disk = mbr(partition(0x83, 64, 300, flag=0x80))
    disk[512:530] = b"a boot loader here"
    (finding,) = vetted(disk)
    assert (finding.code, finding.severity, finding.offset) == ("hidden-data", Severity.NOTE, 512)


def test_a_disk_that_ends_within_a_sector_is_only_worth_a_note() -> None:
    (finding,) = vetted(bytes(1000))
    assert (finding.code, finding.severity) == ("odd-field", Severity.NOTE)


def test_a_boot_sector_of_a_file_system_is_a_warning_as_openstack_refuses_it() -> None:
    disk = bytearray(1 << 20)
    disk[3:11] = b"NTFS    "
    disk[11:13] = (512).to_bytes(2, "little")
    disk[40:48] = (2047).to_bytes(8, "little")
    disk[446:510] = b"\xcc" * 64
    disk[510:512] = b"\x55\xaa"
    (finding,) = vetted(disk)
    assert (finding.code, finding.severity) == ("partition-table", Severity.WARNING)


def test_a_chain_of_logical_partitions_without_end_is_left_unfinished() -> None:
    disk = mbr(partition(0x05, 1, 1000))
    for link in range(1, 400):
        following = partition(0x05, link, 2)
        disk[link * 512 : link * 512 + 512] = (
            bytes(446) + partition(0x83, 1, 1) + following + bytes(32) + b"\x55\xaa"
        )
    assert "unfinished" in {finding.code for finding in vetted(disk)}


def test_nothing_is_read_of_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    disk = gpt(((1, 40, 60),))
    path.write_bytes(disk)
    with path.open("r+b") as file:
        file.truncate(1 << 43)
    assert not errors(findings(path, "raw"))
