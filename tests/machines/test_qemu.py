"""The command line of QEMU: QEMU itself starts every machine that is written."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import peers
from machine_samples import RICH, SMALL, machines
from vmimg.machines.dialects import qemu
from vmimg.machines.model import CPUs, Drive, Firmware, Machine, Network, Serial

_NAMES = {"vhd": "vpc", "": "raw"}


def _on_this_host(machine: Machine, folder: Path) -> Machine:
    """With images that are there, and without what this host does not let a test have: bridges,
    servers, TPMs, and screens.
    """
    drives = []
    for at, drive in enumerate(machine.drives):
        if drive.source != "file":
            continue
        if drive.path:
            name = drive.path.rpartition("/")[2]
            path = folder / f"{at} {name}"
            format_ = drive.format if drive.device == "disk" else ""
            peers.run("qemu-img", "create", "-q", "-f", _NAMES.get(format_, format_), path, "2880k")
            drive = replace(drive, path=str(path), format=drive.format or "raw")
        drives.append(drive)
    networks = tuple(
        replace(network, kind="user", network="") if network.kind == "bridge" else network
        for network in machine.networks
    )
    serials = tuple(each for each in machine.serials if each.kind in ("pty", "null"))
    display = machine.display and replace(machine.display, remote="")
    return replace(
        machine, drives=tuple(drives), networks=networks, serials=serials, display=display,
        firmware=replace(machine.firmware, tpm="", loader="", variables=""),
    )  # fmt: skip


def _starts(machine: Machine, folder: Path) -> list[dict[str, object]]:
    """Run the script with the processors stopped; what QEMU answers."""
    script = folder / "run.sh"
    # Software emulation: KVM here may be another machine's, and is slow to say so.
    script.write_bytes(qemu.write(machine).data.replace(b"accel=kvm:tcg", b"accel=tcg"))
    asked = [
        {"execute": "qmp_capabilities"}, {"execute": "query-status"}, {"execute": "query-block"},
        {"execute": "query-name"}, {"execute": "quit"},
    ]  # fmt: skip
    done = subprocess.run(
        ["sh", str(script), "-S", "-display", "none", "-qmp", "stdio"],
        input="".join(json.dumps(each) for each in asked).encode(),
        capture_output=True,
        timeout=60,
        cwd=folder,
    )
    assert done.returncode == 0, f"{done.stderr.decode()}\n{script.read_text()}"
    answers = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == b"{"]
    assert not [each for each in answers if "error" in each]
    return [each["return"] for each in answers if each.get("return")]


@pytest.mark.peer("qemu-system-x86_64", "qemu-img", "ovmf")
@pytest.mark.parametrize(
    "machine",
    [SMALL, RICH, replace(RICH, chipset="i440fx", firmware=Firmware("bios"))],
    ids=["small", "rich", "old"],
)
def test_qemu_takes_every_option_of_the_machine(machine: Machine, tmp_path: Path) -> None:
    machine = _on_this_host(machine, tmp_path)
    status, blocks, name = _starts(machine, tmp_path)
    assert status["status"] == "prelaunch"
    assert name["name"] == machine.name
    paths = {drive.path for drive in machine.drives if drive.path and not drive.readonly}
    assert paths <= {each["inserted"]["file"] for each in blocks if "inserted" in each}  # type: ignore[index, misc]


@pytest.mark.slow
@pytest.mark.peer("qemu-system-x86_64", "qemu-img", "ovmf")
@settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(machine=machines())
def test_qemu_takes_any_machine(machine: Machine, tmp_path: Path) -> None:
    cpus = replace(machine.cpus, model="max" if machine.cpus.model else "")
    pc = replace(machine, architecture="x86_64", cpus=cpus, memory=256 << 20,
                 chipset=machine.chipset if machine.chipset != "virt" else "q35")  # fmt: skip
    _starts(_on_this_host(pc, tmp_path), tmp_path)


def test_nothing_in_a_name_reaches_the_shell_or_the_next_option(tmp_path: Path) -> None:
    evil = "a'; touch owned; $(touch owned) `touch owned`,if=none\\"
    machine = Machine(name=evil, memory=1 << 30, drives=(Drive(path=evil, bus="virtio"),))
    script = tmp_path / "run.sh"
    text = qemu.write(machine).data.decode()
    script.write_text(text.replace("exec qemu-system-x86_64", "exec printf '%s\\n'"))
    said = subprocess.run(["sh", script], capture_output=True, cwd=tmp_path, check=True).stdout
    assert not (tmp_path / "owned").exists()
    assert f"guest={evil.replace(',', ',,')}" in said.decode().splitlines()


def test_each_architecture_has_its_program_and_board() -> None:
    boards = {
        "x86_64": ("x86_64", "q35"), "i686": ("i386", "q35"), "aarch64": ("aarch64", "virt"),
        "armv7l": ("arm", "virt"), "riscv64": ("riscv64", "virt"), "ppc64le": ("ppc64", "pseries"),
        "s390x": ("s390x", "s390-ccw-virtio"),
    }  # fmt: skip
    for architecture, (program, board) in boards.items():
        chipset = "q35" if board == "q35" else ""
        written = qemu.write(replace(SMALL, architecture=architecture, chipset=chipset))
        assert f"exec qemu-system-{program} " in written.data.decode()
        assert f"-machine {board},accel=kvm:tcg" in written.data.decode()


def test_what_the_variables_and_the_tpm_need_is_made_before() -> None:
    machine = replace(SMALL, name="x y", firmware=Firmware("uefi", True, "2.0", "my vars.fd"),
                      architecture="x86_64", chipset="q35")  # fmt: skip
    text = qemu.write(machine).data.decode()
    assert "[ -e 'my vars.fd' ] || cp /usr/share/OVMF/OVMF_VARS_4M.ms.fd 'my vars.fd'" in text
    assert 'swtpm socket --daemon --terminate --tpm2 --tpmstate dir="$PWD"/x_y-tpm.state' in text
    assert "-device tpm-crb,tpmdev=tpm0" in text and "smm=on" in text


@pytest.mark.peer("qemu-system-x86_64", "ovmf", "swtpm")
@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_the_script_starts_the_tpm_and_qemu_reaches_it(version: Any, tmp_path: Path) -> None:
    machine = replace(SMALL, drives=(), architecture="x86_64", chipset="q35",
                      firmware=Firmware("uefi", None, version, "vars.fd"))  # fmt: skip
    _starts(machine, tmp_path)
    assert (tmp_path / "vars.fd").stat().st_size > 0
    assert (tmp_path / "small-tpm.state").is_dir()


def test_what_qemu_cannot_say_is_listed_with_its_reason() -> None:
    machine = replace(
        SMALL,
        cpus=CPUs(2),
        clock="Europe/Berlin",
        drives=(Drive(path="pool/v", source="volume", bus="virtio"), Drive(path="a", bus="xen")),
        networks=(Network("netvsc", kind="internal", network="lab", connected=False),),
        serials=(Serial("tcp", "localhost:4000"),),
    )
    losses = {loss.key: loss for loss in qemu.write(machine).losses}
    assert losses["drives[0]"].reason == "QEMU knows no pools of volumes"
    assert losses["drives[1].bus"].instead == "virtio"
    assert losses["networks[0].model"].instead == "virtio"
    assert losses["networks[0].kind"].instead == "user"
    assert losses["clock"].instead == "utc"
    assert {"networks[0].connected", "networks[0].network", "chipset", "architecture"} <= set(
        losses
    )
