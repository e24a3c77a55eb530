"""What is claimed of a raw disk: names, evidence and confidence, of files and of streams."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import peers
from probe.sample import Sample
from probe.samples_contents import GOOD, LAST, SECTORS, ext4, gpt, mbr, partition
from probe.samples_iso import GOOD as DISCS
from vmimg.formats.raw import structures as s
from vmimg.formats.raw.findings import View
from vmimg.probe.claims import SURE, Claim
from vmimg.probe.detecting import detect
from vmimg.probe.held import Held
from vmimg.probe.recognisers.contents import recognise_contents, watch_contents
from vmimg.storage.base import Storage
from vmimg.storage.file import FileStorage
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.convert import convert


def claims(storage: Storage) -> list[Claim]:
    return list(recognise_contents(View(storage, 0, storage.size)))


def of(data: bytes | bytearray) -> list[Claim]:
    return claims(MemoryStorage(bytearray(data)))


def held(data: bytes, *, ended: bool = True) -> Held:
    """What is kept of a stream of ``data``."""
    kept = Held("stream")
    for start in range(0, len(data), 60_000):
        kept.feed(memoryview(data)[start : start + 60_000])
    if ended:
        kept.end()
    return kept


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_what_makers_of_disks_write_is_claimed_by_its_name(sample: Sample, tmp_path: Path) -> None:
    for peer in sample.peers:
        peers.require(peer)
    with FileStorage(sample.make(tmp_path)) as storage:
        found = claims(storage)
    sure = [claim.name for claim in found if claim.confidence >= SURE]
    assert sure == ([] if sample.claim == "raw" else [sample.claim])
    for claim in found:
        assert claim.evidence and claim.family == "content" and claim.title.isprintable()


def test_a_gpt_is_claimed_by_both_of_its_headers() -> None:
    (claim,) = of(gpt())
    shown = {each.offset: each.meaning for each in claim.evidence}
    assert "right checksum" in shown[512] and "0xEE" in shown[446]
    assert "55 aa" in shown[510] and "backup" in shown[LAST * 512]
    assert (claim.name, claim.confidence, claim.details["partitions"]) == ("gpt", 100, 2)


def test_a_gpt_whose_checksum_is_wrong_is_less_than_certain() -> None:
    disk = gpt()
    disk[512 + 60] ^= 1
    disk[LAST * 512 + 60] ^= 1
    (claim,) = of(disk)
    assert claim.name == "gpt" and SURE <= claim.confidence < 100


def test_two_bytes_are_no_file_system() -> None:
    disk = bytearray(1 << 20)
    disk[1080:1082] = b"\x53\xef"
    assert all(claim.confidence < SURE for claim in of(disk))
    assert of(ext4(1024))[0].confidence == 100


def test_a_boot_sector_with_no_table_is_only_a_guess() -> None:
    (claim,) = of(mbr())
    assert claim.name == "boot-sector" and claim.confidence < SURE


def test_the_older_of_two_things_on_a_disk_is_no_contradiction() -> None:
    disk = mbr(partition(0x83, 64, 900))
    disk[1024:2048] = ext4(512)[1024:2048]
    found = of(disk)
    assert [claim.name for claim in found] == ["mbr", "ext4"]
    assert [claim.confidence >= SURE for claim in found] == [True, False]


@pytest.mark.parametrize("sample", DISCS, ids=str)
def test_a_disc_is_no_polyglot_whatever_tables_it_has(sample: Sample, tmp_path: Path) -> None:
    for peer in sample.peers:
        peers.require(peer)
    found = detect(sample.make(tmp_path))
    assert found.best.name == "iso" and not found.polyglot
    tables = [claim for claim in found.claims if claim.family == "content"]
    assert bool(tables) == ("hybrid" in sample.name)
    assert all(claim.details["hybrid"] for claim in tables)


def test_a_partition_table_in_a_qcow2_is_a_polyglot(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    (tmp_path / "disk.raw").write_bytes(bytes(SECTORS * 512))
    convert(tmp_path / "disk.raw", path, format="qcow2")
    assert not detect(path).polyglot
    with path.open("r+b") as file:
        file.seek(446)
        file.write(mbr(partition(0x83, 64, 900))[446:512])
    assert set(detect(path).contradictions) == {"qcow2", "mbr"}


@pytest.mark.parametrize(("kind", "name"), [("UDRO", "gpt"), ("UDBZ", ""), ("ULMO", "")])
def test_what_a_dmg_begins_with_is_no_contradiction(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "disk.raw").write_bytes(gpt())
    path = tmp_path / "disk.dmg"
    convert(tmp_path / "disk.raw", path, format="dmg", options={"subformat": kind})
    found = detect(path)
    assert found.best.name == "dmg" and not found.polyglot
    assert name in [claim.name for claim in found.best.inside] + [""]


def test_squashfs_says_how_it_is_compressed() -> None:
    block = s.SquashfsSuperblock(
        s_magic=b"hsqs", s_major=4, compression=6, block_log=17, block_size=1 << 17
    )
    (claim,) = of(bytes(block).ljust(8192, b"\0"))
    assert (claim.name, claim.confidence) == ("squashfs", 100)
    assert claim.details["compression"] == "zstd"


@pytest.mark.parametrize(("offset", "magic", "title"), s.VOLUME_MAGICS, ids=str)
def test_what_is_known_by_its_magic_alone(offset: int, magic: bytes, title: str) -> None:
    disk = bytearray(offset + 8192)
    disk[offset : offset + len(magic)] = magic
    (claim,) = [claim for claim in of(disk) if title in claim.title]
    assert claim.name == claim.name.lower() and " " not in claim.name
    assert claim.evidence[0].offset == offset and claim.confidence >= SURE


def test_of_a_stream_the_same_is_claimed() -> None:
    small = bytes(gpt())
    assert claims(held(small)) == of(small)
    large = small[: LAST * 512] + bytes(3 << 20)
    for ended in (True, False):
        (claim,) = claims(held(large, ended=ended))
        assert (claim.name, claim.confidence) == ("gpt", 100)


def test_what_lies_far_into_a_stream_is_asked_for() -> None:
    disk = bytearray(2 << 20)
    disk[1 << 20 : (1 << 20) + 4] = b"\x0d\xd0\x01\xc0"
    kept = held(bytes(disk))
    assert not claims(kept)
    watch = watch_contents()
    place, length = next(watch)
    assert place == 0
    place, length = watch.send(bytes(disk[:length]))
    kept.keep(place, bytes(disk[place : place + length]))
    assert [claim.name for claim in claims(kept)] == ["vmfs"]


def test_labels_are_printable() -> None:
    disk = ext4(512)
    disk[1024 + 120 : 1024 + 136] = b"\x1b[31mroot\n\xff\0\0\0\0\0"
    (claim,) = of(disk)
    assert claim.details["label"].isprintable() and "root" in claim.title


def test_random_bytes_with_marks_in_them_never_fail() -> None:
    dice = random.Random(3)
    magics = [magic for _, magic, _ in s.VOLUME_MAGICS]
    magics += [b"EFI PART", b"\x55\xaa", b"CD001", b"\x53\xef", b"XFSB", b"LABELONE", b"PM"]
    for size in (0, 1, 511, 512, 4096, 40_000, 300_000):
        for _ in range(20):
            data = bytearray(dice.randbytes(size))
            for offset in (0, 3, 446, 510, 512, 1024, 1080, 4096, 32769, 65600):
                magic = dice.choice(magics)
                data[offset : offset + len(magic)] = magic
            for claim in of(data[:size]) + claims(held(bytes(data[:size]))):
                assert 1 <= claim.confidence <= 100 and claim.title.isprintable()
