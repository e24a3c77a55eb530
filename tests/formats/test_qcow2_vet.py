"""Vetting qcow2 images: each thing wrong has its code and its place; good ones have none."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from vetted import Counted, errors, findings, made, where

import peers
from formats import qcow2_by_hand as by_hand
from formats.qcow2_by_hand import Image, put
from probe.sample import Sample
from probe.samples_qcow2 import BAD, GOOD, PLACES, WORDS
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.memory import MemoryStorage


def vet(image: bytes | bytearray) -> list[Finding]:
    return list(FORMATS["qcow2"].driver().vet(MemoryStorage(bytearray(image))))


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_image_has_no_errors(sample: Sample, tmp_path: Path) -> None:
    assert not errors(findings(made(sample, tmp_path), "qcow2"))


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_is_told_with_its_place(sample: Sample, tmp_path: Path) -> None:
    found = findings(made(sample, tmp_path), "qcow2")
    (code,) = sample.codes
    assert where(found, code), found
    if sample.name in PLACES:
        assert PLACES[sample.name] in where(found, code), found
    assert WORDS.get(sample.name, "") in " ".join(finding.message for finding in found)
    # One thing is wrong, and nothing else is said to be an error.
    assert {finding.code for finding in errors(found)} <= {code}, found


@pytest.mark.peer("qemu-img")
def test_the_images_by_hand_are_as_qemu_has_them(tmp_path: Path) -> None:
    for number, sample in enumerate(s for s in GOOD if s.name.startswith("by-hand")):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = sample.make(folder)
        if "luks" not in sample.name:
            peers.run("qemu-img", "check", "-f", "qcow2", path)


def test_a_cluster_may_be_shared_by_its_count_a_few_times() -> None:
    image = Image(clusters="p...")
    file = image.build()
    for number in range(3):
        put(file, image.entry(number), image.at["data"])
    assert where(vet(file), "tables-overlap") == [image.entry(2)]
    image.count(file, image.at["data"] // image.cluster, 3)
    assert not vet(file)


def test_what_older_programs_do_not_know_is_a_note_for_them() -> None:
    (found,) = vet(Image(clusters="p", bits=14, extended=True).build())
    assert (found.code, found.severity) == ("recent-features", Severity.NOTE)


def test_features_that_may_be_ignored_are_notes() -> None:
    found = vet(Image(features=(0, 1 << 9, 1 << 40), extensions=((0x12345678, b"x"),)).build())
    assert [f.severity for f in found] == [Severity.NOTE] * 3
    assert [f.offset for f in found] == [80, 88, 112]


def test_the_memory_in_a_snapshot_is_told() -> None:
    image = Image(snapshot=True, vm_state=4096)
    found = vet(image.build())
    assert [(f.code, f.offset) for f in found] == [("snapshots", image.at["snapshots"])]


def test_what_grows_a_thousandfold_is_told() -> None:
    # Compressed clusters of 2 MiB in a few bytes each, as zstd can.
    image = Image(clusters="", bits=21, size=(1 << 21) * 20000)
    file = image.build()
    for number in range(20000):
        put(file, image.entry(number), (image.at["data"] + 64 * number) | by_hand.COMPRESSED)
    file += bytes(64 * 20000)
    found = [f for f in vet(file) if f.code == "expands"]
    assert [f.severity for f in found] == [Severity.WARNING]


def test_data_behind_the_first_mebibyte_of_tables_is_only_sampled(tmp_path: Path) -> None:
    path = tmp_path / "large.qcow2"
    peers.require("qemu-img")
    peers.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "20G"
    )
    found = findings(path, "qcow2")  # which counts the bytes that are read
    assert {f.code for f in found} == {"unfinished"}


@pytest.mark.parametrize("seed", range(40))
def test_noise_in_its_tables_ends_in_findings(seed: int) -> None:
    dice = random.Random(seed)
    image = Image(clusters="ppcz.p" * 20, snapshot=bool(seed % 2))
    file = image.build()
    for _ in range(dice.randrange(1, 40)):
        start = dice.choice((8, 16, 24, 32, 40, 48, 56, 64, 72, 96, *image.at.values()))
        place = min(start + 8 * dice.randrange(4), len(file) - 8)
        put(file, place, dice.choice((0, 1 << 63, 4096, 2**64 - 1, dice.getrandbits(64), 1 << 40)))
    storage = Counted(MemoryStorage(file))
    for finding in FORMATS["qcow2"].driver().vet(storage):
        assert finding.message.isprintable()
    assert storage.bytes < 6 << 20


def test_vetting_needs_no_numpy(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    path.write_bytes(Image().build())
    program = (
        "import sys; from vmimg import storage; from vmimg.formats.registry import FORMATS\n"
        f"list(FORMATS['qcow2'].driver().vet(storage.open({str(path)!r})))\n"
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_evidence_is_version_clusters_and_the_l1_table() -> None:
    said = FORMATS["qcow2"].driver().evidence(MemoryStorage(Image().build()))
    assert [(e.offset, e.meaning) for e in said] == [
        (4, "version 3"),
        (20, "clusters of 4 KiB"),
        (100, "a header of 112 bytes"),
        (40, "an L1 table of 1 entries, at 12288"),
    ]
