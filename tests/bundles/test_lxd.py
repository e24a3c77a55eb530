"""LXD and Incus images: their disk and properties told, made as distrobuilder makes them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from boxes_by_hand import MACHINE, SIZE, content, disk_file, opened, pack, tar_file, tree

import peers
from samples import awkward_disk
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.lxd import LxdImage
from vmimg.bundles.lxd import open as open_image
from vmimg.errors import FormatError, OptionError, StorageError, UnsupportedFeature
from vmimg.machines.losses import without
from vmimg.probe.claims import Claim
from vmimg.transfer.convert import convert

DISK = awkward_disk(SIZE, seed=5)
# After the image format's documentation of Incus, with what its image server adds.
METADATA = b"""architecture: "aarch64"
creation_date: 1424284563
expiry_date: 1426876563
properties:
  architecture: arm64
  description: Debian bookworm arm64 (20240501_05:24)
  os: Debian
  release: bookworm
  requirements.secureboot: "false"
templates:
  /etc/hostname:
    when:
      - create
      - copy
    template: hostname.tpl
"""


@contextmanager
def unpacked(folder: Path, files: dict[str, bytes]) -> Iterator[LxdImage]:
    """An image as a directory."""
    with open_image(DirectoryFolder(tree(folder, files)), Claim("lxd", "bundle", "", 90)) as image:
        yield image


def qcow2(tmp_path: Path) -> bytes:
    path = tmp_path / "image.qcow2"
    convert(disk_file(tmp_path), path, format="qcow2")
    return path.read_bytes()


def test_a_unified_image_is_read_in_place(tmp_path: Path) -> None:
    files = {"metadata.yaml": METADATA, "templates/hostname.tpl": b"x", "rootfs.img": b""}
    files["rootfs.img"] = qcow2(tmp_path)
    with opened(tar_file(tmp_path / "image.tar", files)) as image:
        assert content(image) == DISK
        facts = image.facts
        (machine,) = image.machines
    assert machine.architecture == "aarch64"
    assert (machine.firmware.kind, machine.firmware.secure_boot) == ("uefi", False)
    assert facts["architecture"] == "aarch64"
    assert facts["image-type"] == "virtual-machine"
    assert facts["creation-date"] == "2015-02-18T18:36:03Z"
    assert (facts["os"], facts["release"]) == ("Debian", "bookworm")
    assert facts["requirements"] == {"requirements.secureboot": "false"}
    assert facts["templates"] == ["/etc/hostname"]


@pytest.mark.parametrize("packing", ["gz", "xz"])
def test_a_packed_unified_image_is_read(tmp_path: Path, packing: str) -> None:
    files = {"metadata.yaml": METADATA, "rootfs.img": qcow2(tmp_path)}
    path = tar_file(tmp_path / f"image.tar.{packing}", files, f"w:{packing}")
    with opened(path) as image:
        assert content(image) == DISK


def test_an_image_in_two_files_is_read_from_its_directory(tmp_path: Path) -> None:
    folder = tree(tmp_path / "image", {"disk.qcow2": qcow2(tmp_path)})
    tar_file(folder / "incus.tar.xz", {"metadata.yaml": METADATA}, "w:xz")
    with opened(folder) as image:
        assert image.facts["os"] == "Debian"
        assert content(image) == DISK


def test_the_files_of_a_container_are_said_to_be_no_disk(tmp_path: Path) -> None:
    files = {"metadata.yaml": METADATA, "rootfs/etc/hostname": b"x"}
    with opened(tar_file(tmp_path / "container.tar", files)) as image:
        assert image.facts["image-type"] == "container"
        with pytest.raises(UnsupportedFeature, match="files, no disk"):
            image.open_disk()


def test_metadata_alone_says_where_the_disk_is(tmp_path: Path) -> None:
    path = tar_file(tmp_path / "incus.tar", {"metadata.yaml": METADATA})
    with opened(path) as image, pytest.raises(UnsupportedFeature, match="in the other"):
        image.open_disk()


@pytest.mark.peer("qemu-img", "tar")
def test_the_disk_of_what_we_make_is_the_one_that_went_in(tmp_path: Path) -> None:
    made = pack("lxd", tmp_path / "x.tar", [disk_file(tmp_path)], os="Debian", release="12",
                creation_date="1700000000")  # fmt: skip

    peers.run("tar", "-xf", tmp_path / "x.tar", "-C", tmp_path)
    peers.run("qemu-img", "compare", tmp_path / "disk.raw", tmp_path / "rootfs.img")
    text = (tmp_path / "metadata.yaml").read_text()
    assert "architecture: x86_64\ncreation_date: 1700000000\n" in text
    with opened(tmp_path / "x.tar") as image:
        assert image.facts["creation-date"] == "2023-11-14T22:13:20Z"
        assert image.facts["release"] == "12"
    left = without(MACHINE, made.losses)
    assert (left.name, left.architecture, left.memory) == ("server", "x86_64", 0)


def test_an_image_is_made_in_two_files_on_request(tmp_path: Path) -> None:
    made = pack("incus", tmp_path / "image", [disk_file(tmp_path)], split="on")

    sizes = {path.name: path.stat().st_size for path in (tmp_path / "image").iterdir()}
    assert set(sizes) == {"incus.tar.xz", "disk.qcow2"} and made.size == sum(sizes.values())
    with tarfile.open(tmp_path / "image/incus.tar.xz") as archive:
        assert archive.getnames() == ["metadata.yaml"]
    with opened(tmp_path / "image") as image:
        assert content(image) == DISK


def test_the_image_is_the_same_whoever_packs_it_when(tmp_path: Path) -> None:
    for number in (1, 2):
        pack("lxd", tmp_path / f"{number}.tar", [disk_file(tmp_path)], threads=number)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_an_image_has_one_disk_and_templates_and_nothing_else(tmp_path: Path) -> None:
    disk = disk_file(tmp_path)
    with pytest.raises(OptionError, match="one disk"):
        pack("lxd", tmp_path / "x.tar", [disk, disk])
    with pytest.raises(OptionError, match="no place for 'kernel'"):
        pack("lxd", tmp_path / "x.tar", [disk], files={"kernel": disk})
    assert not (tmp_path / "x.tar").exists()


BOMB = b"a: &a [x, x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c]\n" % (n, n, n - 1, n - 1, n - 1) for n in range(98, 122)
)
HOSTILE = {
    "aliases that nest to all memory": BOMB,
    "a merge of aliases": b"a: &a {b: c}\nd:\n  <<: *a\n",
    "a tag that makes an object": b"a: !!python/object/apply:os.system [true]\n: :\n- x",
    "a hundred thousand levels": b"a: " + b"[" * 100_000,
    "a hundred thousand keys": b"".join(b"k%d: v\n" % n for n in range(100_000)),
    "a list": b"- a\n- b\n",
    "no YAML": b"architecture: 'x86_64\n",
    "no text": b"\xff\xfe\x00\xd8" * 9,
    "nothing": b"",
    "two megabytes": b"architecture: x86_64 #" + b"x" * (2 << 20),
    "a key that is a list": b"? [a, b]\n: c\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_metadata_that_was_made_to_do_harm_is_an_error_of_one_line(
    tmp_path: Path, name: str
) -> None:
    files = {"metadata.yaml": HOSTILE[name], "rootfs.img": b"x"}
    with pytest.raises(FormatError) as caught, unpacked(tmp_path / "image", files):
        pass
    assert "\n" not in str(caught.value)


def test_values_are_texts_whatever_they_look_like(tmp_path: Path) -> None:
    said = b"architecture: !!binary eA==\ncreation_date: 99999999999999999999\n"
    said += b"properties: {os: !!python/name:os.system '', release: 012, variant: [a]}\n"
    with unpacked(tmp_path / "image", {"metadata.yaml": said, "rootfs.img": b"x"}) as image:
        assert image.facts["release"] == "012"
        assert image.facts["creation-date"] == "99999999999999999999"
        assert "variant" not in image.facts


def test_a_raw_disk_that_a_guest_wrote_is_not_taken_for_another_format(tmp_path: Path) -> None:
    files = {"metadata.yaml": METADATA, "rootfs.img": DISK}
    with unpacked(tmp_path / "x", files) as image, pytest.raises(FormatError):
        content(image)


def test_an_image_without_metadata_is_none(tmp_path: Path) -> None:
    files = {"rootfs.img": b"x"}
    with pytest.raises((FormatError, StorageError)), unpacked(tmp_path / "image", files):
        pass
