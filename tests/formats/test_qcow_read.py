"""qcow images of version 1 that qemu-img and qemu-io make, and those made by hand, are read byte
for byte as QEMU reads them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import peers
from qcow_by_hand import SIZE as SIZE_FIELD
from qcow_by_hand import Image
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, LockedImage
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")

MIB = 1 << 20
SIZE = 6 * MIB + 1536

GUESSED = ParentPolicy(parent_format="raw")


def content_of(path: Path, parent: str | None = None) -> bytes:
    """What vmimg reads; ``parent``: the format of what the image stands above."""
    with open_disk(path, policy=ParentPolicy(parent_format=parent)) as disk:
        return disk.read(0, disk.size)


def by_qemu(path: Path, format: str = "qcow") -> bytes:
    out = path.with_suffix(".truth")
    peers.run("qemu-img", "convert", "-f", format, "-O", "raw", path, out)
    return out.read_bytes()


def scribble(path: Path, seed: int = 1, *, count: int = 40, compress: bool = True) -> None:
    """Let qemu-io write into an image: noise, patterns, compressed clusters."""
    dice = random.Random(seed)
    noise = path.with_suffix(".noise")
    noise.write_bytes(dice.randbytes(300_000))
    commands = []
    for number in range(count):
        start = dice.randrange(0, SIZE, 512)
        length = min(SIZE - start, 512 * dice.choice((1, 3, 8, 100, 500)))
        kind = dice.choice("pnc" if compress else "pn")
        if kind == "n":
            commands.append(f"write -s {noise} {start} {length}")
        elif kind == "p":
            commands.append(f"write -P {number + 1} {start} {length}")
        else:
            commands.append(f"write -c -P {number + 1} {start // 4096 * 4096} 4096")
    given = [word for command in commands for word in ("-c", command)]
    # 1: the last cluster may not be compressed, nor one that is there already.
    peers.run("qemu-io", "-f", "qcow", *given, path, ok=(0, 1))


def test_what_qemu_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow"
    peers.run("qemu-img", "create", "-q", "-f", "qcow", path, str(SIZE))
    scribble(path)
    assert content_of(path) == by_qemu(path)
    with open_disk(path) as disk:
        kinds = [extent for extent in disk.map() if extent.kind == Kind.DATA]
        assert any(extent.compressed for extent in kinds)
        wanted = by_qemu(path)
        for extent in kinds:
            if extent.offset is not None:
                stored = path.read_bytes()[extent.offset : extent.offset + extent.length]
                assert stored == wanted[extent.start : extent.end]


def test_what_qemu_compressed(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "a.qcow"
    dice = random.Random(1)
    content = b"".join(dice.randbytes(100) + b"text " * 800 for _ in range(400))
    raw.write_bytes(content.ljust(2 * MIB, b"\0"))
    # qemu-img 7.2 wrote all of it when it fails: the empty write with which it ends.
    peers.run("qemu-img", "convert", "-c", "-O", "qcow", raw, path, ok=(0, 1))
    assert content_of(path) == raw.read_bytes()


@pytest.mark.parametrize("l2_bits", [6, 13])
@pytest.mark.parametrize("cluster_bits", [9, 12, 16])
def test_clusters_and_tables_of_all_sizes_in_any_order(
    tmp_path: Path, cluster_bits: int, l2_bits: int
) -> None:
    letters = "".join(random.Random(2).choices("p.cc", k=40)) + "p" + "." * 300 + "cp"
    size = (len(letters) << cluster_bits) - 512
    image = Image(size, letters, cluster_bits=cluster_bits, l2_bits=l2_bits)
    path = tmp_path / "a.qcow"
    path.write_bytes(image.build()[0])
    wanted = image.flat()
    assert content_of(path) == wanted == by_qemu(path)
    with open_disk(path) as disk:
        for start in random.Random(3).sample(range(size), 30):
            length = min(3000, size - start)
            assert disk.read(start, length) == wanted[start : start + length]


def test_what_info_says(tmp_path: Path) -> None:
    base, path = tmp_path / "base.raw", tmp_path / "a.qcow"
    base.write_bytes(bytes(MIB))
    command = ("create", "-q", "-f", "qcow", "-b", "base.raw", "-F", "raw", path)
    peers.run("qemu-img", *command)
    (info,) = image_info(path)
    theirs = peers.run_json("qemu-img", "info", "--output=json", path)
    ours = info.to_json()
    for key in ("virtual-size", "format", "cluster-size", "backing-filename", "dirty-flag"):
        assert ours[key] == theirs[key]
    assert "backing-filename-format" not in ours
    assert any("--backing-format" in note for note in info.image.notes)
    file = Image(MIB, "p", backing=b"base.raw", mtime=1_000_000_000).build()[0]
    path.write_bytes(file)
    assert image_info(path)[0].image.details["backing-file-mtime"] == 1_000_000_000


def test_a_size_that_is_no_multiple_of_512_is_rounded_down_as_qemu_does(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow"
    file = bytearray(Image(8192, "pp").build()[0])
    file[SIZE_FIELD : SIZE_FIELD + 8] = (8191).to_bytes(8, "big")
    path.write_bytes(file)
    theirs = peers.run_json("qemu-img", "info", "--output=json", path)["virtual-size"]
    assert image_info(path)[0].image.virtual_size == theirs == 8192 - 512
    assert content_of(path) == by_qemu(path)


# Chains


def test_the_format_of_a_parent_is_never_guessed(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"QFI\xfb\0\0\0\3".ljust(MIB, b"\0"))
    command = ("create", "-q", "-f", "qcow", "-b", "base", "-F", "raw", tmp_path / "a.qcow")
    peers.run("qemu-img", *command)
    with pytest.raises(ChainError, match="--backing-format"):
        open_disk(tmp_path / "a.qcow")
    assert content_of(tmp_path / "a.qcow", "raw") == (tmp_path / "base").read_bytes()


@pytest.mark.parametrize("format", ["raw", "qcow2", "qcow"])
def test_above_a_parent_of_any_format(tmp_path: Path, format: str) -> None:
    raw, base, path = tmp_path / "raw", tmp_path / "base", tmp_path / "a.qcow"
    raw.write_bytes(random.Random(1).randbytes(SIZE - MIB))
    peers.run("qemu-img", "convert", "-O", format, raw, base)
    command = ("create", "-q", "-f", "qcow", "-b", base, "-F", format, path, str(SIZE))
    peers.run("qemu-img", *command)
    # Each cluster of 512 bytes takes QEMU two flushes.
    scribble(path, count=8, compress=False)
    below = {"driver": format, "file": {"driver": "file", "filename": str(base)}}
    top = {"driver": "file", "filename": str(path)}
    spec = "json:" + json.dumps({"driver": "qcow", "file": top, "backing": below})
    out = tmp_path / "out"
    peers.run("qemu-img", "convert", "-O", "raw", spec, out)
    found = content_of(path, format)
    assert found == out.read_bytes() != bytes(SIZE)
    assert found[-1000:] != raw.read_bytes()[-1000:]


def test_below_a_child_of_another_format(tmp_path: Path) -> None:
    base, path = tmp_path / "base.qcow", tmp_path / "a.qcow2"
    peers.run("qemu-img", "create", "-q", "-f", "qcow", base, str(SIZE))
    scribble(base)
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow", "-F", "qcow", path)
    assert content_of(path) == by_qemu(base)


# The legacy AES encryption


def make_encrypted(folder: Path, passphrase: bytes) -> tuple[Path, bytes]:
    """An encrypted image that qemu-img filled, and what it reads as."""
    content = random.Random(1).randbytes(MIB) + bytes(MIB) + random.Random(2).randbytes(1536)
    raw, key, path = folder / "raw", folder / "key", folder / "a.qcow"
    raw.write_bytes(content)
    key.write_bytes(passphrase)
    secret = ("--object", f"secret,id=s,file={key}")
    given = "encryption=on,encrypt.key-secret=s"
    peers.run(
        "qemu-img", "create", "-q", "-f", "qcow", *secret, "-o", given, path, str(len(content))
    )
    target = f"driver=qcow,file.filename={path},encrypt.key-secret=s"
    command = ("convert", *secret, "-n", "--image-opts", "--target-image-opts")
    peers.run("qemu-img", *command, f"driver=raw,file.filename={raw}", target)
    return path, content


def decrypted(folder: Path, path: Path) -> bytes:
    """What QEMU reads of an encrypted image with the key of `make_encrypted`."""
    out = folder / "out"
    secret = ("--object", f"secret,id=s,file={folder / 'key'}")
    source = f"driver=qcow,file.filename={path},encrypt.key-secret=s"
    peers.run("qemu-img", "convert", *secret, "--image-opts", "-O", "raw", source, out)
    return out.read_bytes()


@pytest.mark.parametrize(
    "passphrase", [b"short", b"sixteen bytes it", b"more than sixteen bytes\n"]
)
def test_encrypted_images_are_read_with_their_passphrase(tmp_path: Path, passphrase: bytes) -> None:
    path, content = make_encrypted(tmp_path, passphrase)
    with open_disk(path, keys=passphrase) as disk:
        assert disk.read(0, disk.size) == content
        for start in random.Random(3).sample(range(len(content)), 20):
            length = min(3000, len(content) - start)
            assert disk.read(start, length) == content[start : start + length]


def test_without_a_passphrase_an_encrypted_image_can_be_mapped_only(tmp_path: Path) -> None:
    path, content = make_encrypted(tmp_path, b"secret")
    with pytest.raises(LockedImage):
        open_disk(path)
    with open_disk(path, sealed=True) as disk:
        assert all(extent.offset is None for extent in disk.map())
        with pytest.raises(LockedImage):
            disk.read(0, 512)
    # Nothing tells that a passphrase is wrong; info says so.
    with open_disk(path, keys=b"wrong") as disk:
        assert disk.read(0, MIB) != content[:MIB]
    (info,) = image_info(path)
    assert info.image.encrypted and info.image.details["encrypt"] == {"format": "aes"}
    assert any("is not noticed" in note for note in info.image.notes)


def test_encrypted_images_are_written_in_place(tmp_path: Path) -> None:
    path, content = make_encrypted(tmp_path, b"secret")
    model = bytearray(content)
    dice = random.Random(5)
    with open_disk(path, writable=True, keys=b"secret") as disk:
        for _ in range(40):
            start = dice.randrange(len(model))
            length = min(len(model) - start, dice.choice((1, 512, 5000, 100_000)))
            if dice.random() < 0.3:
                disk.zero(start, length)
                model[start : start + length] = bytes(length)
            else:
                data = dice.randbytes(length)
                disk.write(start, data)
                model[start : start + length] = data
        assert disk.read(0, disk.size) == model
    assert decrypted(tmp_path, path) == model
