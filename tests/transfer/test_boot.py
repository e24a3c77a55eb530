"""The proof that matters to a user: a real Linux, converted, boots to its login prompt."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import peers
from kinds import qemu_name
from linux import Alpine
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert

# Software emulation on a busy machine with two processors: a minute is usual.
PATIENCE = 300

TARGETS: list[tuple[str, dict[str, Any]]] = [
    ("raw", {}),
    ("qcow2", {}),
    ("vmdk", {}),
    ("vhd", {}),
    ("vhdx", {}),
    ("vdi", {}),
    ("qed", {}),
    ("parallels", {}),
    ("dmg", {}),
]
MORE_TARGETS: list[tuple[str, dict[str, Any]]] = [
    ("qcow2", {"compress": True}),
    ("qcow2", {"compress": True, "options": {"compression_type": "zstd"}}),
    ("qcow2", {"options": {"extended_l2": True, "cluster_size": 1 << 20}}),
    ("qcow2", {"options": {"compat": "0.10"}}),
    ("vmdk", {"options": {"subformat": "streamOptimized"}}),
    ("vmdk", {"options": {"subformat": "twoGbMaxExtentSparse"}}),
    ("vhd", {"options": {"subformat": "fixed"}}),
    ("vhdx", {"options": {"subformat": "fixed"}}),
    ("vdi", {"options": {"subformat": "fixed"}}),
    ("qcow", {}),
    ("qcow", {"compress": True}),
    ("cloop", {}),
    # Debian's QEMU has no coders for the others.
    ("dmg", {"options": {"subformat": "UDRO"}}),
]


def boots(alpine: Alpine, image: Path, format: str, log: Path) -> bool:
    """Start it, without writing to it, and wait for a getty on the serial console."""
    peers.require("qemu-system-x86_64")
    command = [
        *("qemu-system-x86_64", "-M", "pc", "-cpu", "max", "-m", "256", "-display", "none"),
        *("-monitor", "none", "-serial", f"file:{log}", "-no-reboot", "-nic", "none"),
        *("-kernel", alpine.kernel, "-initrd", alpine.initrd, "-append", alpine.append),
        *("-drive", f"file={image},format={qemu_name(format)},if=virtio,snapshot=on"),
    ]
    machine = subprocess.Popen(list(map(os.fspath, command)), stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and machine.poll() is None:
            if log.exists() and b"getty" in log.read_bytes():
                return True
            time.sleep(0.5)
    finally:
        machine.kill()
        machine.communicate()
    return False


def convert_and_boot(alpine: Alpine, tmp_path: Path, format: str, how: dict[str, Any]) -> None:
    image = tmp_path / f"alpine.{format}"
    convert(alpine.qcow2, image, format=format, **how)
    assert compare(alpine.qcow2, image).identical
    log = tmp_path / "console.log"
    assert boots(alpine, image, format, log), log.read_text(errors="replace")[-2000:]


@pytest.mark.timeout(PATIENCE + 120)
@pytest.mark.parametrize(("format", "how"), TARGETS, ids=str)
def test_alpine_boots(alpine: Alpine, tmp_path: Path, format: str, how: dict[str, Any]) -> None:
    convert_and_boot(alpine, tmp_path, format, how)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 120)
@pytest.mark.parametrize(("format", "how"), MORE_TARGETS, ids=str)
def test_alpine_boots_from_other_kinds(
    alpine: Alpine, tmp_path: Path, format: str, how: dict[str, Any]
) -> None:
    convert_and_boot(alpine, tmp_path, format, how)
