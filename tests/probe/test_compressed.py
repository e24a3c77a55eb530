"""Compressed streams: what is recognised in them, that it is bounded, and what is vetted."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import pytest

import peers
from probe.sample import Sample
from probe.samples_compressed import BAD, GOOD, TEXT
from probe.streams_by_hand import gzip_of, lz4_of, lzip_of, lzop_of, zstd_of
from vmimg.codecs import lz4
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import claims_on
from vmimg.probe.held import Held
from vmimg.probe.policy import Policy
from vmimg.probe.recognisers.compressed import recognise_compressed
from vmimg.probe.streams import Unpacking, stream_kind
from vmimg.probe.vetters.compressed import VETTERS, vet_compressed
from vmimg.storage.base import Storage
from vmimg.storage.file import FileStorage
from vmimg.storage.memory import MemoryStorage


def view_of(data: bytes) -> View:
    return View(MemoryStorage(data, "stream"), 0, len(data))


def claim_on(data: bytes) -> Claim:
    (claim,) = recognise_compressed(view_of(data))
    return claim


def found_in(data: bytes) -> dict[str, Finding]:
    return {finding.code: finding for finding in vet_compressed(view_of(data))}


def made(sample: Sample, folder: Path) -> Path:
    for name in sample.peers:
        peers.require(name)
    return sample.make(folder)


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Sample, Storage]]:
    sample: Sample = request.param
    with FileStorage(made(sample, tmp_path)) as storage:
        yield sample, storage


@pytest.mark.parametrize("opened", GOOD, ids=str, indirect=True)
def test_a_good_stream_is_recognised_and_unpacks(opened: tuple[Sample, Storage]) -> None:
    sample, storage = opened
    view = View(storage, 0, storage.size)
    (claim,) = recognise_compressed(view)
    assert claim.name == sample.claim and claim.family == "compressed"
    assert claim.container_format == "compressed"
    assert claim.confidence >= 60 and "problem" not in claim.details
    unpacked = b"".join(Unpacking(view, claim.name, limit=storage.size))
    assert (unpacked or TEXT) in (TEXT, TEXT + TEXT, TEXT[:60_000])
    desktop = Policy.load("desktop")
    assert not [
        finding
        for finding in map(desktop.judge, VETTERS[claim.name](view))
        if finding.severity == Severity.ERROR
    ]


@pytest.mark.parametrize("opened", BAD, ids=str, indirect=True)
def test_what_is_wrong_with_a_bad_stream_is_named(opened: tuple[Sample, Storage]) -> None:
    sample, storage = opened
    view = View(storage, 0, storage.size)
    (claim,) = recognise_compressed(view)
    assert claim.name == sample.claim
    strict = Policy.load("strict")
    findings = [strict.judge(finding) for finding in VETTERS[claim.name](view)]
    errors = {finding.code for finding in findings if finding.severity == Severity.ERROR}
    assert set(sample.codes) <= errors, findings


@pytest.mark.parametrize(
    ("program", "arguments", "data"),
    [
        ("gzip", ("-t",), gzip_of(TEXT, name=b"text")),
        ("zstd", ("-t",), zstd_of(TEXT, stated=len(TEXT) + (256 << 10), repeat=2)),
        ("lzop", ("-t",), lzop_of(TEXT)),
        ("lzip", ("-t",), lzip_of(TEXT)),
    ],
)
def test_their_own_programs_take_what_is_made_by_hand(
    program: str, arguments: tuple[str, ...], data: bytes
) -> None:
    peers.run(program, *arguments, input=data)


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bzip2", "lzma", "lzip", "lz4", "lzop"])
@pytest.mark.peer("qemu-img")
def test_a_qcow2_in_a_stream_is_claimed_inside(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    peers.run("qemu-img", "create", "-f", "qcow2", image, "64M")
    data = image.read_bytes()
    packed = {
        "gzip": gzip_of(data),
        "xz": lzma.compress(data, preset=0),
        "zstd": zstd_of(data[: 120 << 10], repeat=1),
        "bzip2": bz2.compress(data),
        "lzma": lzma.compress(data, lzma.FORMAT_ALONE),
        "lzip": lzip_of(data),
        "lz4": lz4_of(data[:65536]),
        "lzop": lzop_of(data[:65536]),
    }[kind]
    claim = claim_on(packed)
    assert claim.name == kind
    assert claim.inside[0].name == "qcow2"
    assert (claim.disk_format, claim.container_format) == ("qcow2", "compressed")


def test_the_end_of_a_stream_counts_only_where_it_was_reached() -> None:
    # A footer of a fixed VHD is the last sector of what is unpacked, however the first bytes look.
    disk = TEXT.ljust(512 * 300, b"\0")[: 512 * 300]
    footer = b"conectix" + bytes(504)
    whole = claim_on(gzip_of(disk[: -len(footer)] + footer))
    assert whole.details["unpacked-size"] == len(disk)
    cut = claim_on(gzip_of(disk[: 256 << 10] * 3 + footer))
    assert "unpacked-size" not in cut.details


def test_streams_in_streams_end_after_three() -> None:
    data = TEXT
    for _ in range(12):
        data = gzip_of(data)
    depth, claim = 0, claim_on(data)
    while claim.inside and claim.inside[0].name == "gzip":
        depth, claim = depth + 1, claim.inside[0]
    assert depth <= 3


def test_detecting_unpacks_no_more_than_it_shows() -> None:
    bomb = gzip.compress(bytes(20 << 20), 1)
    before = process_time()
    claim = claim_on(bomb)
    assert process_time() - before < 0.3
    (evidence,) = [e for e in claim.evidence if "unpacks" in e.meaning]
    assert int(evidence.meaning.split()[2]) <= 320 << 10


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"") * 100_000,
        b"\x04\x22\x4d\x18\x60\x40\0" + bytes(4) + b"\x04\x22\x4d\x18\x60\x40\0\0\0\0\0" * 100_000,
        b"\x50\x2a\x4d\x18" + bytes(4) + b"\x51\x2a\x4d\x18\0\0\0\0" * 200_000,
        b"\x02\x21\x4c\x18" + b"\x01\0\0\0\0" * 300_000,
        b"\x04\x22\x4d\x18\x60\x70\0" + (1 << 20).to_bytes(4, "little") + b"\xf0" + b"\xff" * 2**20,
        b"\x02\x21\x4c\x18" + (8 << 20).to_bytes(4, "little") + b"\x10A\x01\0" * (2 << 20),
        zstd_of(b"", repeat=20_000),
    ],
    ids=[
        "empty-gzip",
        "empty-lz4",
        "skippable",
        "empty-blocks",
        "long-length",
        "tiny-matches",
        "zeros",
    ],
)
def test_storms_of_small_things_take_no_time(data: bytes) -> None:
    before = process_time()
    list(recognise_compressed(view_of(data)))
    list(vet_compressed(view_of(data)))
    assert process_time() - before < 1.5


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bzip2", "lz4", "lzop", "lzip", "lzma"])
def test_a_stream_that_is_cut_anywhere_is_no_exception(kind: str) -> None:
    data = {
        "gzip": gzip_of(TEXT[:3000], name=b"x"),
        "xz": lzma.compress(TEXT[:3000]),
        "zstd": zstd_of(TEXT[:3000], stated=3000),
        "bzip2": bz2.compress(TEXT[:3000]),
        "lz4": lz4_of(TEXT[:3000], stated=3000),
        "lzop": lzop_of(TEXT[:3000]),
        "lzip": lzip_of(TEXT[:3000]),
        "lzma": lzma.compress(TEXT[:3000], lzma.FORMAT_ALONE),
    }[kind]
    step = max(1, len(data) // 200)
    for length in range(0, len(data), step):
        cut = view_of(data[:length])
        list(recognise_compressed(cut))
        if stream_kind(data[:length][:16]) == kind:
            assert any(f.severity == Severity.ERROR for f in vet_compressed(cut)), length


def test_a_stream_that_still_runs_is_claimed_by_what_has_come() -> None:
    data = gzip_of(TEXT * 20)
    held = Held("upload")
    held.feed(data)
    held.feed(bytes(100 << 10))
    claims = [claim for claim in claims_on(held) if claim.name == "gzip"]
    assert claims and claims[0].confidence == 100
    assert claims[0].inside[-1].name == "raw"


def test_random_bytes_behind_the_properties_of_lzma_are_no_lzma() -> None:
    import random

    noise = random.Random(3).randbytes(100_000)
    assert not list(recognise_compressed(view_of(b"\x5d\0\0\x80\0" + b"\xff" * 8 + b"\0" + noise)))


def test_the_ratio_is_told_with_its_figures() -> None:
    finding = found_in(gzip.compress(bytes(20 << 20)))["expands"]
    assert finding.severity == Severity.WARNING
    assert "20 MiB" in finding.message


def test_an_honest_stream_of_zeros_at_its_front_is_no_bomb() -> None:
    import random

    noise = random.Random(9).randbytes(1 << 20)
    assert "expands" not in found_in(gzip.compress(bytes(4 << 20) + noise))


def test_a_gzip_in_a_gzip_is_a_note_and_three_are_more() -> None:
    twice = gzip_of(gzip_of(TEXT))
    assert found_in(twice)["nested-archive"].severity == Severity.NOTE
    assert found_in(gzip_of(twice))["nested-archive"].severity == Severity.WARNING


def test_where_hidden_data_begins_is_told() -> None:
    data = gzip_of(TEXT)
    finding = found_in(data + b"secret")["hidden-data"]
    assert finding.offset == len(data)
    assert finding.evidence == b"secret".hex(" ")


def test_zeros_behind_a_stream_are_padding() -> None:
    assert not found_in(gzip_of(TEXT) + bytes(1024))


@pytest.mark.peer("lz4")
def test_a_block_of_lz4_that_is_cut_off_gives_what_comes_first() -> None:
    packed = peers.run("lz4", "-l", "-c", input=TEXT).stdout
    block = packed[8:]
    assert lz4.decompress(block, len(TEXT)) == TEXT
    assert lz4.decompress(block, 1000, partial=True) == TEXT[:1000]
    head = lz4.decompress(block[:500], len(TEXT), partial=True)
    assert len(head) > 500 and TEXT.startswith(head)


@pytest.mark.peer("lz4")
def test_blocks_of_lz4_that_depend_on_each_other_are_decoded() -> None:
    packed = peers.run("lz4", "-BD", "-B4", "-c", input=TEXT * 3).stdout
    assert b"".join(Unpacking(view_of(packed), "lz4", limit=len(packed))) == TEXT * 3
