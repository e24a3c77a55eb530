"""OVAs that nobody wrote: byte for byte what pack makes, and read by those who read OVAs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import peers
import vmimg
from bundles.test_signing import pair
from samples import awkward_disk, border_disk, write_sparse
from vmimg.bundles.opening import open_bundle
from vmimg.bundles.packing import pack
from vmimg.bundles.virtual import VirtualOva, streamed_ova, virtual_ova
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError, StorageError
from vmimg.formats.opening import open_disk
from vmimg.machines.model import CPUs, Firmware, Machine
from vmimg.storage.base import Buffer
from vmimg.storage.memory import MemoryStorage
from vmimg.transfer.compare import compare

ROOT = awkward_disk(3 << 20, seed=5)
DATA = border_disk((2 << 20) + 512)
VARIABLES = random.Random(8).randbytes(10_001)
FORMATS = ["vmdk", "vhd", "raw", "qcow2", "vdi", "vhdx"]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two disks."""
    return [
        write_sparse(tmp_path / "root.raw", ROOT),
        write_sparse(tmp_path / "data.raw", DATA),
    ]


@pytest.fixture
def disks(paths: Sequence[Path]) -> Any:
    with ExitStack() as stack:
        yield [stack.enter_context(open_disk(path)) for path in paths]


MACHINE = Machine(
    name="web",
    architecture="x86_64",
    cpus=CPUs(count=2),
    memory=2 << 30,
    firmware=Firmware(kind="uefi", variables="vars.fd"),
)


def plain(format: str) -> dict[str, Any]:
    return {"subformat": "monolithicSparse"} if format == "vmdk" else {}


@pytest.mark.parametrize("manifest", ["off", "sha256", "sha512"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_virtual_ova_is_what_pack_writes(
    tmp_path: Path, paths: list[Path], disks: list[Disk], format: str, manifest: str
) -> None:
    target = tmp_path / "web.ova"
    (tmp_path / "vars.fd").write_bytes(VARIABLES)
    pack(
        paths,
        target,
        machine=MACHINE,
        files={"vars.fd": tmp_path / "vars.fd"},
        format=format,
        options={"manifest": manifest, "compress": False},
        disk_options=plain(format),
    )
    virtual = virtual_ova(
        disks,
        name="web.ova",
        machine=MACHINE,
        files={"vars.fd": MemoryStorage(VARIABLES)},
        format=format,
        options={"manifest": manifest},
        zeros="data",
    )
    file = target.read_bytes()
    assert virtual.size == len(file)
    assert virtual.read(0, virtual.size) == file
    chance = random.Random(3)
    for _ in range(60):
        start = chance.randrange(virtual.size)
        length = min(virtual.size - start, chance.choice([0, 1, 513, 70_000, 2 << 20]))
        assert virtual.read(start, length) == file[start : start + length]


@pytest.mark.peer("qemu-img", "tar")
@pytest.mark.parametrize("zeros", ["map", "data"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_virtual_ova_is_read_by_everyone(
    tmp_path: Path, paths: list[Path], disks: list[Disk], format: str, zeros: Any
) -> None:
    ova, out = tmp_path / "web.ova", tmp_path / "out"
    virtual = virtual_ova(disks, name=ova.name, format=format, zeros=zeros)
    ova.write_bytes(virtual.read(0, virtual.size))
    out.mkdir()
    peers.run("tar", "-xf", ova, "-C", out)
    names = peers.run("tar", "-tf", ova).stdout.decode().split()
    assert names[0] == "web.ovf" and len(names) == 3
    for image, path in zip(names[1:], paths, strict=True):
        name = "vpc" if format == "vhd" else format
        peers.run("qemu-img", "compare", "-f", name, "-F", "raw", out / image, path)
    with open_bundle(ova) as bundle:
        assert [disk.format for disk in bundle.disks] == [format, format]
        assert "problems" not in bundle.facts
    for number, path in enumerate(paths, 1):
        with vmimg.open(f"{ova}:{number}") as disk:
            assert compare(disk, path).identical


def test_a_virtual_ova_has_its_length_without_reading_any_disk() -> None:
    disk = Disk([EmptyLayer((1 << 40) + 512)])
    virtual = virtual_ova([disk, disk], name="large.ova")
    assert 4 * (64 << 20) < virtual.size < 5 * (64 << 20)  # two disks with two tables each
    assert virtual.held < 1 << 20
    extents = list(virtual.extents(0, virtual.size))
    assert (extents[0][0], extents[-1][1]) == (0, virtual.size)
    assert all(before[1] == after[0] for before, after in pairwise(extents))
    assert sum(high - low for low, high, hole in extents if not hole) < 2 << 20


def test_the_layout_of_a_virtual_ova_tells_two_apart(disks: list[Disk]) -> None:
    made = [
        virtual_ova(disks),
        virtual_ova(disks),
        virtual_ova(disks, name="other.ova"),
        virtual_ova(disks, format="vdi"),
        virtual_ova(disks[:1]),
    ]
    assert made[0].layout == made[1].layout
    assert len({ova.layout for ova in made}) == 4


def test_a_virtual_ova_refuses_what_it_cannot_be(disks: list[Disk]) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"disk_options": {"subformat": "streamOptimized"}}, "can be streamed"),
        ({"disk_options": {"subformat": "monolithicFlat"}}, "several files"),
        ({"format": "qcow2", "options": {"compress": True}}, "compress=off"),
        ({"format": "dmg"}, "carries disks as"),
        ({"options": {"nonsense": 1}}, "no option"),
    ]
    for given, words in cases:
        with pytest.raises(OptionError, match=words):
            virtual_ova(disks, **given)
    with pytest.raises(OptionError, match="no disk"):
        virtual_ova([])
    virtual = virtual_ova(disks)
    for start, length in ((-1, 2), (virtual.size, 1)):
        with pytest.raises(StorageError, match="cannot read"):
            virtual.read_into(start, memoryview(bytearray(length)))
    with pytest.raises(StorageError, match="open for reading only"):
        virtual.write(0, b"x")


@pytest.mark.parametrize(
    ("format", "disk_options", "options"),
    [
        ("vmdk", {}, {}),
        ("vmdk", {}, {"manifest": "off"}),
        ("vmdk", {"subformat": "monolithicSparse"}, {"manifest": "sha1"}),
        ("qcow2", {}, {}),
        ("qcow2", {}, {"compress": False}),
        ("raw", {}, {}),
    ],
    ids=str,
)
def test_a_streamed_ova_is_what_pack_writes(
    tmp_path: Path,
    paths: list[Path],
    disks: list[Disk],
    format: str,
    disk_options: dict[str, Any],
    options: dict[str, Any],
) -> None:
    target, sent, told = tmp_path / "web.ova", bytearray(), list[tuple[int, int]]()
    (tmp_path / "vars.fd").write_bytes(VARIABLES)
    pack(
        paths,
        target,
        machine=MACHINE,
        files={"vars.fd": tmp_path / "vars.fd"},
        format=format,
        options=options,
        disk_options=disk_options,
    )

    def send(data: Buffer) -> None:
        assert len(data)  # an empty piece ends a chunked reply
        sent.extend(data)

    size = streamed_ova(
        disks,
        send,
        name="web.ova",
        machine=MACHINE,
        files={"vars.fd": MemoryStorage(VARIABLES)},
        format=format,
        options=options,
        disk_options=disk_options,
        begin=lambda size: told.append((size, len(sent))),
    )
    assert sent == target.read_bytes()
    assert size == len(sent) and told == [(size, 0)]


@pytest.mark.peer("openssl")
def test_a_streamed_ova_can_be_signed(tmp_path: Path, paths: list[Path], disks: list[Disk]) -> None:
    key, certificate, signer = tmp_path / "key.pem", tmp_path / "cert.pem", pair()
    key.write_bytes(signer.key)
    certificate.write_bytes(signer.certificate)
    sent = bytearray()
    options = {"key": str(key), "certificate": str(certificate)}
    streamed_ova(disks, sent.extend, name="web.ova", options=options)
    ova = tmp_path / "web.ova"
    pack(paths, ova, options=options)
    assert sent == ova.read_bytes()
    with open_bundle(ova) as bundle:
        states = {verdict.subject: verdict.state for verdict in bundle.verify()}
    assert states["signature"] == "good" and "bad" not in states.values()


class Gone(Exception):
    """The receiver hung up."""


def test_a_receiver_that_goes_away_stops_a_streamed_ova(disks: list[Disk]) -> None:
    sent = bytearray()

    def send(data: Buffer) -> None:
        if len(sent) > 20_000:
            raise Gone
        sent.extend(data)

    with pytest.raises(Gone):
        streamed_ova(disks, send)

    def begin(size: int) -> None:
        raise Gone

    del sent[:]
    with pytest.raises(Gone):
        streamed_ova(disks, send, begin=begin)
    with pytest.raises(Gone):
        streamed_ova(disks, send, progress=lambda done, total: begin(done))
    assert not sent


def test_a_source_that_changes_between_the_rounds_is_an_error(paths: list[Path]) -> None:
    def change(size: int) -> None:
        with open(paths[0], "r+b") as file:
            file.seek(1 << 20)
            file.write(random.Random(1).randbytes(300_000))

    sent = bytearray()
    with open_disk(paths[0]) as disk, pytest.raises(StorageError, match="changed while"):
        streamed_ova([disk], sent.extend, begin=change)


def test_the_library_offers_both(disks: list[Disk]) -> None:
    assert isinstance(vmimg.virtual_ova(disks), VirtualOva)
    sent = bytearray()
    assert vmimg.streamed_ova(disks, sent.extend) == len(sent)
