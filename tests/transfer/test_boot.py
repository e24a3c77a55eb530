"""The proof that matters to a user: a real Linux, converted, boots to its login prompt.

Emulated, that takes a minute of a core, so it waits for `make test-all`. Each run sees the
kernel mount the root file system, and /sbin/init of it run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from linux import INIT, LOGIN, PATIENCE, Alpine, boots
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert

TARGETS: list[tuple[str, dict[str, Any]]] = [
    ("qcow2", {}),
    ("raw", {}),
    ("vmdk", {}),
    ("vhdx", {}),
    ("vhd", {}),
    ("vdi", {}),
    ("dmg", {}),
    ("qed", {}),
    ("parallels", {}),
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


def convert_and_boot(
    alpine: Alpine, tmp_path: Path, format: str, how: dict[str, Any], until: bytes
) -> None:
    image = tmp_path / f"alpine.{format}"
    convert(alpine.qcow2, image, format=format, **how)
    assert compare(alpine.qcow2, image).identical
    log = tmp_path / "console.log"
    shown = boots(alpine, image, format, log, until=until)
    assert shown, log.read_text(errors="replace")[-2000:]


@pytest.mark.timeout(PATIENCE + 120)
def test_alpine_starts_its_init(alpine: Alpine, tmp_path: Path) -> None:
    convert_and_boot(alpine, tmp_path, "qcow2", {}, INIT)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 120)
@pytest.mark.parametrize(("format", "how"), TARGETS, ids=str)
def test_alpine_boots(alpine: Alpine, tmp_path: Path, format: str, how: dict[str, Any]) -> None:
    convert_and_boot(alpine, tmp_path, format, how, LOGIN)
