"""WIM archives against wimlib, which reads and writes all kinds of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import peers
from probe.sample import Sample
from probe.samples_wim import BAD, GOOD, files
from probe.wim_by_hand import HEADER, wim_of
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Severity
from vmimg.probe.held import Held
from vmimg.probe.policy import Policy
from vmimg.probe.recognisers.wim import recognise_wim
from vmimg.probe.vetters.wim import vet_wim
from vmimg.probe.wim import read_wim
from vmimg.storage.memory import MemoryStorage


def made(sample: Sample, folder: Path) -> Path:
    for name in sample.peers:
        peers.require(name)
    return sample.make(folder)


def view_of(path: Path) -> View:
    storage = MemoryStorage(path.read_bytes(), path.name)
    return View(storage, 0, storage.size)


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_archive_is_what_it_is_and_has_no_error(sample: Sample, tmp_path: Path) -> None:
    view = view_of(made(sample, tmp_path))
    claims = {claim.name: claim for claim in recognise_wim(view)}
    assert set(claims) == {"wim", sample.claim}
    assert sample.claim == "wim" or "wim" in claims[sample.claim].refines
    desktop = Policy.load("desktop")
    findings = list(map(desktop.judge, vet_wim(view)))
    assert all(finding.severity < Severity.WARNING for finding in findings), findings


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_what_is_wrong_with_a_bad_archive_is_named(sample: Sample, tmp_path: Path) -> None:
    view = view_of(made(sample, tmp_path))
    assert [claim.name for claim in recognise_wim(view)] == [sample.claim]
    strict = Policy.load("strict")
    findings = [strict.judge(finding) for finding in vet_wim(view)]
    errors = {finding.code for finding in findings if finding.severity == Severity.ERROR}
    assert set(sample.codes) <= errors, findings


@pytest.mark.parametrize("sample", [s for s in GOOD if s.peers], ids=str)
def test_the_header_says_what_wimlib_says(sample: Sample, tmp_path: Path) -> None:
    path = made(sample, tmp_path)
    text = peers.run("wimlib-imagex", "info", path, "--header").stdout.decode()
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    said = {key.strip(): value.strip() for key, value in pairs}
    wim = read_wim(view_of(path))
    assert wim is not None
    header = wim.header
    assert said["GUID"] == bytes(header.guid).hex()
    for name, key in (
        ("Version", "version"),
        ("Flags", "flags"),
        ("Chunk Size", "chunk_size"),
        ("Part Number", "part_number"),
        ("Total Parts", "total_parts"),
        ("Image Count", "image_count"),
        ("Boot Index", "boot_index"),
    ):
        assert int(said[name], 0) == getattr(header, key), name
    assert int(said["Blob Table Offset"]) == header.blob_table.offset
    assert int(said["Blob Table Size"]) == header.blob_table.size
    assert int(said["Integrity Size"]) == header.integrity.size


@pytest.mark.peer("wimlib-imagex")
def test_images_have_the_names_that_wimlib_gave_them(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    source = files(tmp_path)
    peers.run("wimlib-imagex", "capture", source, path, "Fürst & <one>")
    peers.run("wimlib-imagex", "append", source, path, "second")
    (claim,) = recognise_wim(view_of(path))
    assert claim.details["images"] == ["Fürst & <one>", "second"]
    assert claim.details["compression"] == "LZX"


@pytest.mark.peer("wimlib-imagex")
def test_wimlib_takes_what_is_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.wim"
    path.write_bytes(wim_of())
    said = peers.run("wimlib-imagex", "info", path).stdout.decode()
    assert re.search(r"Image Count:\s+1\n", said) and re.search(r"Size:\s+1000 bytes", said)


def test_in_a_stream_the_archive_is_known_by_its_first_bytes() -> None:
    data = wim_of()
    held = Held("upload")
    held.feed(data[:HEADER] + bytes(100 << 10))
    claims = list(recognise_wim(View(held, 0, 1 << 40)))
    assert [claim.name for claim in claims] == ["wim"]


def test_an_archive_that_is_cut_anywhere_is_no_exception() -> None:
    data = wim_of()
    for length in range(0, len(data), 3):
        storage = MemoryStorage(data[:length])
        view = View(storage, 0, length)
        list(recognise_wim(view))
        codes = [finding.code for finding in vet_wim(view)]
        assert codes or length < HEADER
