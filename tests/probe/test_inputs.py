"""What detect and vet look at: files, block devices, and streams in chunks of any size; and that a
stream is known early.

A loop device takes root and a kernel that has one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus import GOOD, made

import vmimg
from vmimg.probe.detecting import detect
from vmimg.probe.inspector import Inspector
from vmimg.probe.vetting import vet
from vmimg.transfer.create import create

MIB = 1 << 20

# One of each family, of which the marks lie at the beginning, all over it, and at its end.
NAMES = [
    "qemu-vhd-fixed", "qemu-vhd-dynamic", "ova", "docker-save", "containerdisk-oci", "deb",
    "iso-xorriso", "one-disk-zip",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_may_come_byte_by_byte(name: str, tmp_path: Path) -> None:
    (sample,) = [sample for sample in GOOD if sample.name == name]
    data = made(sample, tmp_path).read_bytes()
    data = data if len(data) < 200_000 else data[:70_000]
    whole, single = Inspector("upload"), Inspector("upload")
    whole.feed(data)
    for number in range(len(data)):
        single.feed(data[number : number + 1])
    assert single.size == whole.size == len(data)
    assert single.finish().to_json() == whole.finish().to_json()


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vhdx", "vdi", "vhd", "qed", "parallels"])
def test_a_disk_is_known_after_its_first_sectors(format: str, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    create(path, MIB, format=format)
    inspector = Inspector()
    with open(path, "rb") as file:
        inspector.feed(file.read(4096))
    assert inspector.answer is not None and inspector.answer.name == format


def test_a_polyglot_is_known_while_it_is_uploaded(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    create(path, MIB, format="qcow2")
    image = bytearray(path.read_bytes())
    image[510:512] = b"\x55\xaa"
    inspector = Inspector()
    inspector.feed(bytes(image[: 80 << 10]))
    assert inspector.polyglot


def test_a_large_chunk_is_not_kept() -> None:
    inspector = Inspector()
    inspector.feed(bytes(4096))
    chunk = bytes(range(256)) * (64 * MIB // 256)
    tracemalloc.start()
    try:
        inspector.feed(chunk)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= 4 * MIB


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """A loop device on a qcow2, read-only."""
    if shutil.which("losetup") is None:
        pytest.skip("there is no losetup")
    path = tmp_path / "on-a-device.qcow2"
    create(path, MIB, format="qcow2")
    os.truncate(path, MIB)
    done = subprocess.run(
        ["losetup", "--read-only", "--find", "--show", path], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no loop device to be had: {done.stderr.strip()}")
    name = done.stdout.strip()
    yield name
    subprocess.run(["losetup", "--detach", name], check=True)


def test_a_block_device_is_detected_and_vetted(device: str) -> None:
    found = detect(device)
    assert (found.best.name, found.size) == ("qcow2", MIB)
    report = vet(device)
    assert report.clean and report.virtual_size == MIB


def test_a_block_device_is_handed_to_the_sandbox(device: str) -> None:
    from vmimg import sandbox

    report, _ = sandbox.vet(device)
    assert report.clean and report.detection.best.name == "qcow2"


def test_the_public_face_answers_as_the_parts_do(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    create(path, MIB, format="qcow2")
    assert vmimg.detect(path).to_json() == detect(path).to_json()
    assert vmimg.vet(path).to_json() == vet(path).to_json()
    assert vmimg.Inspector is Inspector
