"""cloud-hypervisor's VmConfig: the fields and types of its API's description."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings

from machine_samples import RICH, SMALL, machines
from vmimg.machines.dialects import cloud_hypervisor
from vmimg.machines.model import CPUs, Firmware, Machine, Serial

_MODES = {"Pty", "Null", "File", "Socket", "Off", "Tty"}


def _said(machine: Machine) -> dict[str, Any]:
    found = json.loads(cloud_hypervisor.write(machine).data)
    assert isinstance(found, dict)
    return found


@settings(derandomize=True, deadline=None, database=None, max_examples=30)
@given(machine=machines())
def test_every_machine_becomes_one_that_the_api_accepts(machine: Machine) -> None:
    said = _said(machine)
    cpus = said["cpus"]
    assert 1 <= cpus["boot_vcpus"] <= cpus["max_vcpus"] <= 255
    if "topology" in cpus:
        product = 1
        for value in cpus["topology"].values():
            product *= value
        assert product == cpus["max_vcpus"]
    assert said["memory"]["size"] > 0 and said["payload"]["firmware"]
    assert said["serial"]["mode"] in _MODES
    for disk in said["disks"]:
        assert disk["path"] and isinstance(disk["readonly"], bool)
        assert disk.get("image_type", "Raw") in ("Raw", "Qcow2", "FixedVhd", "Vhdx")


def test_a_server_keeps_what_there_is_and_the_rest_is_told() -> None:
    said = _said(RICH)
    assert said["cpus"]["topology"] == {
        "threads_per_core": 2, "cores_per_die": 2, "dies_per_package": 1, "packages": 2,
    }  # fmt: skip
    assert said["payload"] == {"firmware": "/firmware/OVMF_CODE.fd"}
    assert said["tpm"] == {"socket": "swtpm.sock"}
    assert said["platform"]["uuid"] == RICH.uuid
    assert said["net"][0] == {"tap": "tap0", "mac": "52:54:00:12:34:56"}
    losses = {loss.key: loss for loss in cloud_hypervisor.write(RICH).losses}
    assert losses["drives[0]"].reason == "cloud-hypervisor has no CD drives"
    assert losses["drives[4].bus"].instead == "virtio"
    assert losses["serials[1]"].reason == "cloud-hypervisor has one serial port"
    assert losses["firmware.variables"].reason == "its firmware keeps no variables"


def test_bios_becomes_the_hypervisors_own_firmware_and_says_so() -> None:
    machine = replace(SMALL, firmware=Firmware("bios"), cpus=CPUs(2),
                      serials=(Serial("file", "/tmp/log"),))  # fmt: skip
    written = cloud_hypervisor.write(machine)
    losses = {loss.key: loss.instead for loss in written.losses}
    assert losses["firmware.kind"] == "uefi" and losses["firmware.loader"] == "CLOUDHV.fd"
    assert json.loads(written.data)["serial"] == {"mode": "File", "file": "/tmp/log"}
