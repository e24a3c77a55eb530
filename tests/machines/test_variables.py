"""The variables of UEFI firmware: what we list is what virt-firmware lists.

virt-firmware (PyPI, GPL) is a program that is run beside ours, as a peer; nothing of it is used.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmimg.errors import FormatError
from vmimg.machines.variables import variable_store

OVMF = Path("/usr/share/OVMF")
STORES = ("OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd", "OVMF_VARS_4M.snakeoil.fd", "OVMF_VARS.ms.fd")


def virt_fw_vars(*arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "virt.firmware.vars", *arguments], check=True, capture_output=True
    )


def by_virt_firmware(path: Path, place: Path) -> list[tuple[str, str, int, int]]:
    """(name, GUID, bytes, attributes) of all variables."""
    made = place / "variables.json"
    virt_fw_vars("--input", path, "--output-json", made)
    return sorted(
        (each["name"], each["guid"], len(each["data"]) // 2, each["attr"])
        for each in json.loads(made.read_text())["variables"]
    )


def by_us(path: Path) -> list[tuple[str, str, int, int]]:
    store = variable_store(path)
    assert store.all_seen
    return sorted(
        (each.name, each.guid, each.data_size, each.attributes)
        for each in store.variables
        if each.live
    )


@pytest.mark.peer("virt.firmware", "ovmf")
@pytest.mark.parametrize("name", STORES)
def test_the_variables_of_ovmf_are_those_that_virt_firmware_lists(
    tmp_path: Path, name: str
) -> None:
    listed = by_us(OVMF / name)
    assert listed == by_virt_firmware(OVMF / name, tmp_path)
    assert bool(listed) == (name != "OVMF_VARS_4M.fd")


@pytest.mark.peer("virt.firmware", "ovmf")
def test_what_virt_firmware_changed_is_listed_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "changed.fd"
    virt_fw_vars(
        "--input", OVMF / "OVMF_VARS_4M.ms.fd", "--output", path,
        "--delete", "Boot0001", "--set-true", "CustomMode",
    )  # fmt: skip
    listed = by_us(path)
    assert listed == by_virt_firmware(path, tmp_path)
    assert "Boot0001" not in {name for name, *_ in listed}
    assert "Boot0001" in {name for name, *_ in by_us(OVMF / "OVMF_VARS_4M.ms.fd")}


@pytest.mark.peer("ovmf")
def test_a_store_that_was_cut_off_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut.fd"
    shutil.copy(OVMF / "OVMF_VARS_4M.ms.fd", path)
    with path.open("r+b") as file:
        file.truncate(0x1000)
    store = variable_store(path)
    assert store.problem
    assert {each.name for each in store.variables} < {n for n, *_ in by_us(OVMF / STORES[1])}


def test_what_is_no_store_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.nvram"
    path.write_bytes(b"MRVN" + bytes(8680))
    with pytest.raises(FormatError, match="no UEFI variable store in it; it is VMware firmware"):
        variable_store(path)
