"""The virtual hardware that a machine asks of VMware: the oldest version that has what it uses.

Older hosts refuse newer versions, so it is as low as it can be. Source: VMware, "Hardware features
available with virtual machine compatibility settings" (NVMe and UEFI secure boot from 13, TPM from
14, SATA and xHCI from 10). Imports the model.
"""

from __future__ import annotations

from typing import Final

from vmimg.machines.model import Machine

__all__ = ["hardware_number", "hardware_version"]

_BASE: Final = 10


def hardware_number(machine: Machine) -> int:
    """The number of VMware's virtual hardware."""
    if machine.firmware.tpm:
        return 14
    buses = {each.bus for each in machine.drives}
    buses |= {each.bus for each in machine.controllers}
    return 13 if machine.firmware.secure_boot or "nvme" in buses else _BASE


def hardware_version(machine: Machine) -> str:
    """The same as OVF calls it: "vmx-10"."""
    return f"vmx-{hardware_number(machine):02}"
