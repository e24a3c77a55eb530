"""What a qcow2 image says of itself: the same as qemu-img says, key by key."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import peers
from vmimg import storage as storages
from vmimg.errors import FormatError, LockedImage, UnsupportedFeature
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import pack_header, read_header
from vmimg.formats.qcow2.snapshots import read_snapshots

pytestmark = pytest.mark.peer("qemu-img")

# Said by vmimg alone.
OURS = {"file-size"}

OPTIONS = [
    {"compat": "0.10"},
    {"compat": "0.10", "cluster_size": "4k"},
    *(
        {"cluster_size": size, "refcount_bits": bits, "lazy_refcounts": lazy}
        for size, bits, lazy in itertools.product(
            ("512", "64k", "2M"), ("1", "2", "4", "8", "16", "32", "64"), ("on", "off")
        )
    ),
    *(
        {"cluster_size": size, "compression_type": kind, "extended_l2": extended}
        for size, kind, extended in itertools.product(
            ("16k", "64k", "2M"), ("zlib", "zstd"), ("on", "off")
        )
    ),
    *({"preallocation": mode} for mode in ("metadata", "falloc", "full")),
    {"data_file": "data"},
    {"data_file": "data", "data_file_raw": "on"},
    {"data_file": "data", "data_file_raw": "on", "extended_l2": "on"},
]


def create(path: Path, size: str = "1M", /, *extra: str, **options: str) -> Path:
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    arguments = ("create", "-q", "-f", "qcow2", *given, *extra, path.name, size)
    peers.run("qemu-img", *arguments, cwd=path.parent)
    return path


def qemu_info(path: Path, *options: str) -> Any:
    done = peers.run("qemu-img", "info", "--output", "json", *options, path.name, cwd=path.parent)
    return json.loads(done.stdout)


def our_info(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.chdir(path.parent)
    infos = [info.to_json() for info in image_info(path.name, **options)]
    for facts in infos:
        assert facts.keys() >= OURS
        for name in OURS:
            del facts[name]
    json.dumps(infos)
    return infos if options.get("chain") else infos[0]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(f"{k}={o[k]}" for k in o))
def test_info_is_that_of_qemu_img(
    tmp_path: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = create(tmp_path / "a.qcow2", "1M", **options)
    theirs, ours = qemu_info(image), our_info(image, monkeypatch)
    if "data_file" in options:  # qemu-img counts the data file, which info does not open
        assert ours.pop("actual-size") <= theirs.pop("actual-size")
    assert ours == theirs


def test_snapshots_are_listed_as_qemu_img_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = create(tmp_path / "a.qcow2")
    for name in ("one", "two words", "dreißig", "x" * 200):
        peers.run("qemu-img", "snapshot", "-c", name, image)
        peers.run("qemu-img", "resize", "-q", image, "+1M")
    assert our_info(image, monkeypatch) == qemu_info(image)
    with storages.open(image) as storage:
        records = read_snapshots(storage, read_header(storage))
    # qemu-img does not say what each snapshot's disk size is.
    assert [record.snapshot.disk_size >> 20 for record in records] == [1, 2, 3, 4]


def test_snapshots_of_version_2_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = create(tmp_path / "a.qcow2", compat="0.10")
    peers.run("qemu-img", "snapshot", "-c", "old", image)
    assert our_info(image, monkeypatch) == qemu_info(image)


def test_bitmaps_are_listed_with_their_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = create(tmp_path / "a.qcow2", "16M")
    for name, granularity in (("plain", "64k"), ("fine", "512"), ("coarse", "1M")):
        peers.run("qemu-img", "bitmap", "--add", "-g", granularity, image, name)
    peers.run("qemu-img", "bitmap", "--disable", image, "fine")
    theirs = qemu_info(image)
    assert len(theirs["format-specific"]["data"]["bitmaps"]) == 3
    assert our_info(image, monkeypatch) == theirs


def test_bitmaps_left_behind_by_a_writer_that_does_not_know_them_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = create(tmp_path / "a.qcow2", "16M")
    peers.run("qemu-img", "bitmap", "--add", image, "old")
    with storages.open(image, "rw") as storage:
        header = read_header(storage)
        header.autoclear_features = 0
        storage.write(0, pack_header(header))
    assert "bitmaps" not in our_info(image, monkeypatch)["format-specific"]["data"]


@pytest.mark.parametrize("method", ["luks", "aes"])
def test_encryption_is_described_without_the_key_and_reading_wants_it(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = ("--object", "secret,id=s,data=abc")
    options = {"encrypt.format": method, "encrypt.key-secret": "s"}
    if method == "luks":
        # Not the shortest: measuring a few milliseconds of CPU time, qemu-img at times sees none.
        options["encrypt.iter-time"] = "200"
    image = create(tmp_path / "a.qcow2", "1M", *secret, **options)
    assert our_info(image, monkeypatch) == qemu_info(image)
    with pytest.raises(LockedImage, match="no passphrase or key file was given"):
        open_disk(image)


def test_a_parent_is_named_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "base.qcow2")
    image = create(tmp_path / "top.qcow2", "2M", "-b", "base.qcow2", "-F", "qcow2")
    expected = qemu_info(image)
    assert our_info(image, monkeypatch) == expected
    (tmp_path / "base.qcow2").unlink()
    assert our_info(image, monkeypatch) == expected


def test_the_full_name_of_a_parent_is_seen_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    create(tmp_path / "sub/base.qcow2")
    create(tmp_path / "sub/top.qcow2", "1M", "-b", "base.qcow2", "-F", "qcow2")
    monkeypatch.chdir(tmp_path)
    done = peers.run("qemu-img", "info", "--output", "json", "sub/top.qcow2", cwd=tmp_path)
    ours = image_info("sub/top.qcow2")[0].to_json()
    assert ours["full-backing-filename"] == json.loads(done.stdout)["full-backing-filename"]


def test_a_chain_is_listed_top_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "base.qcow2", cluster_size="4k")
    create(tmp_path / "middle.qcow2", "2M", "-b", "base.qcow2", "-F", "qcow2")
    image = create(tmp_path / "top.qcow2", "3M", "-b", "middle.qcow2", "-F", "qcow2")
    theirs = qemu_info(image, "--backing-chain")
    ours = our_info(image, monkeypatch, chain=True)
    for facts in (*ours, *theirs):  # a parent goes by its real path here
        facts["filename"] = os.path.basename(facts["filename"])
        facts.pop("full-backing-filename", None)
    assert ours == theirs


def test_a_dirty_and_a_corrupt_image_are_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = create(tmp_path / "a.qcow2", lazy_refcounts="on")
    for bits, key in ((s.DIRTY, "dirty-flag"), (s.CORRUPT, "corrupt")):
        with storages.open(image, "rw") as storage:
            header = read_header(storage)
            header.incompatible_features = bits
            storage.write(0, pack_header(header))
        theirs, ours = qemu_info(image), our_info(image, monkeypatch)
        assert ours == theirs
        assert theirs.get(key) or theirs["format-specific"]["data"].get(key)
        assert "check --repair" in image_info(image)[0].image.notes[0]


def test_unknown_incompatible_features_are_refused_by_the_name_the_image_gives(
    tmp_path: Path,
) -> None:
    image = create(tmp_path / "a.qcow2")
    with storages.open(image, "rw") as storage:
        header = read_header(storage)
        header.incompatible_features = 1 << 5 | 1 << 40
        names = header.extension(s.EXT_FEATURE_NAMES)
        assert names is not None
        entry = bytes(s.FeatureName(type=0, bit=5, name=b"teleportation\x1b"))
        header.extensions = tuple(
            type(e)(e.type, e.data + entry) if e.type == s.EXT_FEATURE_NAMES else e
            for e in header.extensions
        )
        storage.write(0, pack_header(header))
    with pytest.raises(UnsupportedFeature, match=r"teleportation\?, bit 40"):
        open_disk(image)


def test_unknown_compatible_and_autoclear_features_and_extensions_do_not_matter(
    tmp_path: Path,
) -> None:
    image = create(tmp_path / "a.qcow2")
    with storages.open(image, "rw") as storage:
        header = read_header(storage)
        header.compatible_features |= 1 << 33
        header.autoclear_features |= 1 << 44
        header.extensions += (type(header.extensions[0])(0x12345678, b"hello"),)
        storage.write(0, pack_header(header))
    peers.run("qemu-img", "info", image)
    with open_disk(image) as disk:
        assert disk.read(0, 3) == bytes(3)


@pytest.mark.peer("oslo_utils")
def test_oslo_utils_parses_our_json(tmp_path: Path) -> None:
    from oslo_utils.imageutils import QemuImgInfo

    create(tmp_path / "base.qcow2")
    image = create(tmp_path / "a.qcow2", "3M", "-b", "base.qcow2", "-F", "qcow2")
    peers.run("qemu-img", "snapshot", "-c", "snap", image)
    info = QemuImgInfo(json.dumps(image_info(image)[0].to_json()), format="json")
    theirs = QemuImgInfo(peers.run("qemu-img", "info", "--output", "json", image).stdout)
    assert vars(info) == vars(theirs)
    assert info.virtual_size == 3 << 20


def test_info_imports_neither_numpy_nor_rich_nor_click(tmp_path: Path) -> None:
    create(tmp_path / "base.qcow2")
    image = create(tmp_path / "a.qcow2", "1M", "-b", "base.qcow2", "-F", "qcow2")
    peers.run("qemu-img", "snapshot", "-c", "snap", image)
    peers.run("qemu-img", "bitmap", "--add", image, "bits")
    (tmp_path / "raw").write_bytes(bytes(4096))
    program = f"""
import sys
from vmimg.formats.info import image_info
image_info({str(image)!r}, chain=True)[0].to_json()
image_info({str(tmp_path / "raw")!r})[0].to_json()
wrong = {{"numpy", "rich", "click", "importlib.metadata", "asyncio"}} & set(sys.modules)
sys.exit(str(wrong) if wrong else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("field", ["granularity_bits", "name_size", "extra_data_size"])
def test_a_damaged_bitmap_directory_is_an_error(tmp_path: Path, field: str) -> None:
    image = create(tmp_path / "a.qcow2", "16M")
    peers.run("qemu-img", "bitmap", "--add", image, "bits")
    with storages.open(image, "rw") as storage:
        data = read_header(storage).extension(s.EXT_BITMAPS)
        assert data is not None
        offset = s.BitmapsExtension.from_buffer_copy(data).bitmap_directory_offset
        entry = s.BitmapEntry.from_buffer_copy(storage.read(offset, 24))
        setattr(entry, field, 255)
        storage.write(offset, bytes(entry))
    with pytest.raises(FormatError, match="bitmap directory"):
        image_info(image)
    with open_disk(image) as disk:  # what is said of bitmaps does not touch the data
        assert disk.read(0, 1) == b"\0"
