"""Reading DMG images that were made by hand (dmg_by_hand.py), and by other programs' rules."""

from __future__ import annotations

import gzip
import random
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import peers
from dmg_by_hand import (
    ADC,
    BZIP2,
    COMMENT,
    IGNORE,
    LZFSE,
    LZMA,
    RAW,
    ZERO,
    ZLIB,
    Chunk,
    Image,
    Partition,
    encrypted,
)  # fmt: skip
from vmimg.disk.extent import Kind
from vmimg.errors import LockedImage, UnsupportedFeature, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.detect import identify
from vmimg.formats.dmg.layer import DmgLayer
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.convert import convert

KIB = 1 << 10
CODED = (ADC, ZLIB, BZIP2, LZFSE, LZMA)
FORMS = [("list", False), ("fork", False), ("list", True), ("fork", True)]


def guest(size: int, seed: int = 1) -> bytes:
    """Something to repeat at every distance that ADC has runs for, and something that is new."""
    dice = random.Random(seed)
    line = dice.randbytes(400) + b"\0" * 300 + b"abc" * 100 + dice.randbytes(200)
    page = (line * 3)[:3000] + dice.randbytes(1096)
    return (page * (size // len(page) + 1))[:size]


def chunks(kind: int, sizes: tuple[int, ...] = (32 * KIB, 37 * KIB)) -> list[Chunk]:
    return [Chunk(kind, guest(size, seed)) for seed, size in enumerate(sizes)]


def zeros(kind: int, size: int) -> Chunk:
    return Chunk(kind, bytes(size))


def every_kind(**options: Any) -> Image:
    """Three partitions with all kinds of chunks; none begins where a window does."""
    return Image(
        [
            Partition("Driver Descriptor Map (DDM : 0)", [Chunk(RAW, guest(512))]),
            Partition("Apple (Apple_partition_map : 1)", [zeros(ZERO, 63 * 512)]),
            Partition(
                "disk image (Apple_HFS : 2)",
                [
                    Chunk(COMMENT, comment=b"+beg", sectors=7),
                    *(chunk for kind in CODED for chunk in chunks(kind)),
                    zeros(IGNORE, 3 << 20),
                    zeros(ZERO, 100 * KIB),
                    *chunks(RAW),
                    *chunks(ZLIB, (9 << 20, 1024)),  # longer than a window of the engine
                    Chunk(COMMENT, comment=b"+end"),
                ],
            ),
        ],
        **options,
    )


def write(path: Path, image: Image) -> bytes:
    file, content = image.build()
    path.write_bytes(file)
    return content


@pytest.mark.parametrize(("form", "front"), FORMS)
def test_every_kind_of_chunk_is_read_wherever_its_table_is(
    tmp_path: Path, form: str, front: bool
) -> None:
    path = tmp_path / "a.dmg"
    content = write(path, every_kind(form=form, front=front))
    with open_disk(path) as disk:
        assert disk.format == "dmg" and disk.size == len(content)
        assert disk.read(0, disk.size) == content
        for at in range(0, disk.size, 33_333):
            assert disk.read(at, min(5000, disk.size - at)) == content[at : at + 5000]
    assert check(path).exit_code == 0


@pytest.mark.peer("dmg2img")
@pytest.mark.parametrize(("form", "front"), FORMS)
def test_the_images_made_by_hand_are_images_to_dmg2img(
    tmp_path: Path, form: str, front: bool
) -> None:
    image = every_kind(form=form, front=front)
    image.partitions[2].chunks[:] = [
        *(chunk for kind in (ADC, ZLIB, BZIP2, RAW) for chunk in chunks(kind)),
        zeros(IGNORE, 3 << 20),
    ]
    content = write(tmp_path / "a.dmg", image)
    peers.run("dmg2img", "-s", "-i", tmp_path / "a.dmg", "-o", tmp_path / "a.raw")
    assert (tmp_path / "a.raw").read_bytes() == content
    with open_disk(tmp_path / "a.dmg") as disk:
        assert disk.read(0, disk.size) == content


@pytest.mark.peer("7z")
@pytest.mark.parametrize("kind", CODED, ids=hex)
def test_7zip_reads_the_coders_like_us(tmp_path: Path, kind: int) -> None:
    content = write(tmp_path / "a.dmg", Image([Partition("whole disk", chunks(kind))]))
    assert peers.run("7z", "e", "-so", tmp_path / "a.dmg").stdout == content
    with open_disk(tmp_path / "a.dmg") as disk:
        assert disk.read(0, disk.size) == content


def test_info_lists_the_partitions_by_name(tmp_path: Path) -> None:
    content = write(tmp_path / "a.dmg", every_kind())
    image = image_info(tmp_path / "a.dmg")[0].image
    assert (image.virtual_size, image.compressed, image.encrypted) == (len(content), True, False)
    parts = image.details["partitions"]
    assert [part["name"] for part in parts] == [
        "Driver Descriptor Map (DDM : 0)",
        "Apple (Apple_partition_map : 1)",
        "disk image (Apple_HFS : 2)",
    ]
    assert [part["start"] for part in parts] == [0, 512, 64 * 512]
    assert [part["chunks"] for part in parts] == [1, 1, 2 * len(CODED) + 6]
    assert sum(part["size"] for part in parts) == len(content)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(ADC, "UDCO"), (ZLIB, "UDZO"), (BZIP2, "UDBZ"), (LZFSE, "ULFO"), (LZMA, "ULMO"),
     (RAW, "UDRO")],
)  # fmt: skip
def test_info_says_what_hdiutil_calls_it(tmp_path: Path, kind: int, name: str) -> None:
    write(tmp_path / "a.dmg", Image([Partition("p", [*chunks(kind), zeros(IGNORE, 512)])]))
    assert image_info(tmp_path / "a.dmg")[0].image.details["subformat"] == name


def test_the_map_says_what_is_zeros_what_is_plain_and_what_is_compressed(tmp_path: Path) -> None:
    image = Image(
        [
            Partition("one", [Chunk(RAW, guest(1024)), Chunk(RAW, guest(512))]),
            Partition("two", [zeros(ZERO, 512), zeros(IGNORE, 512), *chunks(ZLIB, (512, 512))]),
            Partition("three", [Chunk(RAW, guest(512))], start=20),
        ]
    )
    write(tmp_path / "a.dmg", image)
    with open_disk(tmp_path / "a.dmg") as disk:
        found = [(e.start, e.length, e.kind, e.offset, e.compressed) for e in disk.map()]
        place = image.places["tables"] - 512
        assert found == [
            (0, 1536, Kind.DATA, 0, False),
            (1536, 1024, Kind.ZERO, None, False),
            (2560, 1024, Kind.DATA, None, True),
            (3584, 20 * 512 - 3584, Kind.ABSENT, None, False),
            (20 * 512, 512, Kind.DATA, place, False),
        ]
        assert next(disk.map(600, 700)).offset == 600
        assert [kind for _, _, kind in disk.spans()] == [
            Kind.DATA, Kind.ZERO, Kind.DATA, Kind.ABSENT, Kind.DATA,
        ]  # fmt: skip
    report = check(tmp_path / "a.dmg")
    assert report.exit_code == 0 and "in no chunk" in report.problems[0]


def test_tables_need_not_be_in_order(tmp_path: Path) -> None:
    image = every_kind()
    image.partitions[2].shuffle = True
    content = write(tmp_path / "a.dmg", Image(image.partitions))
    with open_disk(tmp_path / "a.dmg") as disk:
        assert disk.read(0, disk.size) == content


def test_offsets_count_from_the_data_of_the_fork_and_the_table(tmp_path: Path) -> None:
    parts = [Partition("a", chunks(ZLIB), data_offset=0), Partition("b", chunks(ADC))]
    content = write(tmp_path / "a.dmg", Image(parts, fork_offset=1000))
    with open_disk(tmp_path / "a.dmg") as disk:
        assert disk.read(0, disk.size) == content
    parts[1].data_offset = 7
    content = write(tmp_path / "b.dmg", Image(parts))
    with open_disk(tmp_path / "b.dmg") as disk:
        assert disk.read(0, disk.size) == content


def test_a_disk_whose_trailer_says_no_size_ends_with_its_last_partition(tmp_path: Path) -> None:
    content = write(tmp_path / "a.dmg", Image([Partition("a", chunks(ZLIB))], sectors=0))
    assert image_info(tmp_path / "a.dmg")[0].image.virtual_size == len(content)
    with open_disk(tmp_path / "a.dmg") as disk:
        assert disk.read(0, disk.size) == content


@pytest.mark.parametrize("kind", [BZIP2, LZMA], ids=hex)
def test_an_image_that_begins_with_a_stream_is_not_taken_for_one(tmp_path: Path, kind: int) -> None:
    # Its first bytes are those of a .bz2 or .xz file, which convert unpacks.
    content = write(tmp_path / "a.dmg", Image([Partition("a", chunks(kind))]))
    convert(tmp_path / "a.dmg", tmp_path / "a.raw", format="raw")
    assert (tmp_path / "a.raw").read_bytes() == content
    (tmp_path / "b.dmg.gz").write_bytes(gzip.compress((tmp_path / "a.dmg").read_bytes()))
    convert(tmp_path / "b.dmg.gz", tmp_path / "b.raw", format="raw", source_format="dmg")
    assert (tmp_path / "b.raw").read_bytes() == content


@pytest.mark.parametrize("threads", [1, 4])
def test_a_conversion_decodes_each_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    sizes = (700 * KIB,) * 40  # windows of the engine begin and end inside of them
    content = write(tmp_path / "a.dmg", Image([Partition("a", chunks(ZLIB, sizes))]))
    decoded: Counter[bytes] = Counter()
    decode = DmgLayer.decode

    def counted(self: DmgLayer, coder: int, data: memoryview, length: int) -> Any:
        decoded[bytes(data)] += 1
        return decode(self, coder, data, length)

    monkeypatch.setattr(DmgLayer, "decode", counted)
    convert(tmp_path / "a.dmg", tmp_path / "a.raw", format="raw", threads=threads)
    assert (tmp_path / "a.raw").read_bytes() == content
    assert set(decoded.values()) == {1} and len(decoded) == len(sizes)


def test_a_dmg_is_only_read(tmp_path: Path) -> None:
    write(tmp_path / "a.dmg", Image([Partition("a", chunks(ZLIB))]))
    with pytest.raises(UnsupportedFeature, match="convert"):
        open_disk(tmp_path / "a.dmg", writable=True)
    with pytest.raises(UnsupportedFeature, match="repaired"):
        check(tmp_path / "a.dmg", repair="all")


def test_a_segment_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "a.dmg", Image([Partition("a", chunks(ZLIB))], segments=3))
    for act in (image_info, open_disk, check):
        with pytest.raises(UnsupportedFeature, match=r"a\.dmg: is part 1 of a DMG in 3 segments"):
            act(tmp_path / "a.dmg")


def test_what_lzfse_needs_is_named_only_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmimg.codecs import codec

    content = write(tmp_path / "a.dmg", Image([Partition("a", chunks(ZLIB))]))
    write(tmp_path / "b.dmg", Image([Partition("a", chunks(LZFSE))]))
    monkeypatch.setitem(sys.modules, "lzfse", None)
    codec.cache_clear()
    try:
        assert image_info(tmp_path / "b.dmg")[0].image.details["subformat"] == "ULFO"
        with open_disk(tmp_path / "a.dmg") as disk:
            assert disk.read(0, disk.size) == content
        with (
            open_disk(tmp_path / "b.dmg") as disk,
            pytest.raises(UnsupportedFeature, match=r"pip install 'vmimg\[dmg\]'"),
        ):
            disk.read(0, 512)
    finally:
        codec.cache_clear()


def test_info_needs_no_numpy(tmp_path: Path) -> None:
    for name, image in (("list", every_kind()), ("fork", every_kind(form="fork"))):
        write(tmp_path / name, image)
    (tmp_path / "encrypted").write_bytes(encrypted(guest(4096), PASSPHRASE))
    code = (
        "import sys; from vmimg.formats.info import image_info\n"
        "for path in sys.argv[1:]: assert image_info(path)[0].image.format == 'dmg'\n"
        "assert 'numpy' not in sys.modules and 'cryptography' not in sys.modules"
    )
    paths = [str(tmp_path / name) for name in ("list", "fork", "encrypted")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)


def test_no_name_in_a_list_gets_to_a_terminal_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.dmg", Image([Partition("a\nb\x7f", chunks(ZLIB))]))
    parts = image_info(tmp_path / "a.dmg")[0].image.details["partitions"]
    assert parts[0]["name"] == "a?b?"


# Encrypted images

PASSPHRASE = b"correct horse"


@pytest.mark.parametrize("inner", ["dmg", "raw"])
@pytest.mark.parametrize(("bits", "block"), [(128, 512), (256, 4096), (256, 512)])
def test_an_encrypted_image_is_read_with_its_passphrase(
    tmp_path: Path, bits: int, block: int, inner: str
) -> None:
    file, content = Image([Partition("a", [*chunks(ZLIB), *chunks(RAW)])]).build()
    if inner == "raw":
        file = content = guest(300 * KIB)
    path = tmp_path / "a.dmg"
    path.write_bytes(encrypted(file, PASSPHRASE, bits=bits, block=block, others=(2,)))
    image = image_info(path)[0].image
    assert image.encrypted and image.virtual_size == len(file)
    assert image.details["encryption"] == f"aes-{bits}-cbc"
    for key in (PASSPHRASE, PASSPHRASE + b"\n"):
        with open_disk(path, keys=key) as disk:
            assert disk.size == len(content) and disk.format == "dmg"
            assert disk.read(0, disk.size) == content
            assert disk.read(70_001, 5000) == content[70_001:75_001]
    convert(path, tmp_path / "a.raw", format="raw", keys=PASSPHRASE)
    assert (tmp_path / "a.raw").read_bytes() == content


def test_an_image_whose_length_is_no_multiple_of_its_blocks_is_read(tmp_path: Path) -> None:
    for size in (9 * 512, 9 * 512 + 100):
        inner = guest(size)
        (tmp_path / "a.dmg").write_bytes(encrypted(inner, PASSPHRASE, block=4096))
        with open_disk(tmp_path / "a.dmg", keys=PASSPHRASE) as disk:
            assert disk.read(0, disk.size) == inner + bytes(-size % 512)


def test_without_its_passphrase_an_image_stays_shut(tmp_path: Path) -> None:
    path = tmp_path / "a.dmg"
    path.write_bytes(encrypted(guest(4096), PASSPHRASE))
    with pytest.raises(LockedImage, match=r"a\.dmg: the passphrase or key is wrong"):
        open_disk(path, keys=b"wrong")
    for options in ({"sealed": True}, {}):
        with pytest.raises(LockedImage, match=r"a\.dmg"):
            open_disk(path, **options)  # type: ignore[arg-type]
    with pytest.raises(LockedImage, match=r"a\.dmg"):
        check(path)


def test_an_encrypted_image_is_verified_with_its_passphrase(tmp_path: Path) -> None:
    path, content = tmp_path / "a.dmg", guest(1 << 20)
    (tmp_path / "inner.raw").write_bytes(content)
    convert(tmp_path / "inner.raw", tmp_path / "inner.dmg")
    path.write_bytes(encrypted((tmp_path / "inner.dmg").read_bytes(), PASSPHRASE))
    assert check(path, keys=PASSPHRASE).exit_code == 0
    damaged = bytearray((tmp_path / "inner.dmg").read_bytes())
    damaged[200] ^= 1  # in the first chunk
    path.write_bytes(encrypted(bytes(damaged), PASSPHRASE))
    assert check(path, keys=PASSPHRASE).exit_code == 2
    path.write_bytes(encrypted(content, PASSPHRASE))
    with pytest.raises(UnsupportedFeature, match="no checksums"):
        check(path, keys=PASSPHRASE)


def test_what_encryption_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dmg"
    path.write_bytes(bytes(8192) + b"cdsaencr")
    with pytest.raises(UnsupportedFeature, match=r"version 1 \(cdsaencr\)"):
        image_info(path)
    with pytest.raises(UnsupportedFeature, match=r"version 1 \(cdsaencr\)"):
        open_disk(path, keys=PASSPHRASE)
    file = bytearray(encrypted(guest(4096), PASSPHRASE))
    struct.pack_into(">I", file, 76, 2)
    path.write_bytes(file)
    with pytest.raises(UnsupportedFeature, match="certificates"):
        open_disk(path, keys=PASSPHRASE)
    path.write_bytes(encrypted(b"sprs".ljust(8192, b"\0"), PASSPHRASE))
    with pytest.raises(UnsupportedFeature, match="sparse image"):
        open_disk(path, keys=PASSPHRASE)
    path.write_bytes(encrypted(guest(4096), PASSPHRASE))
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UnsupportedFeature, match=r"cryptography; pip install 'vmimg\[dmg\]'"):
        open_disk(path, keys=PASSPHRASE)


def test_the_marks_of_a_dmg_are_known(tmp_path: Path) -> None:
    parts = [Partition("a", chunks(ZLIB))]
    file, _ = Image(parts).build()
    front, _ = Image(parts, front=True).build()
    for data in (file, front, encrypted(guest(4096), PASSPHRASE), bytes(8192) + b"cdsaencr"):
        assert identify(MemoryStorage(data)).name == "dmg"
    for data in (bytes(8192), bytes(8192) + b"koly".ljust(512, b"\0"), b"koly", b"encrcdsa"):
        assert identify(MemoryStorage(data)).name == "raw"


def test_damage_is_said_with_the_chunk_it_is_in(tmp_path: Path) -> None:
    path = tmp_path / "a.dmg"
    write(path, Image([Partition("a", chunks(BZIP2))]))
    file = bytearray(path.read_bytes())
    file[600:610] = b"x" * 10
    path.write_bytes(file)
    with (
        open_disk(path) as disk,
        pytest.raises(VmimgError, match=r"a\.dmg: the chunk of virtual offset 0, at 0 of the file"),
    ):
        disk.read(0, 512)
