"""The version of the settings that a machine asks for: the oldest that has what it uses.

Source: VirtualBox, Settings.cpp (bumpSettingsVersionIfNeeded): NVMe came with 1.16 (5.1),
virtio-scsi with 1.17 (6.1), TPM and NVRAM with 1.19 (7.0), ARM with 1.20 (7.1). Imports the model.
"""

from __future__ import annotations

from vmimg.machines.model import Machine

__all__ = ["settings_number", "settings_version"]


def settings_number(machine: Machine) -> int:
    """What stands behind the "1."."""
    if machine.architecture == "aarch64":
        return 20
    if machine.firmware.tpm or machine.firmware.variables:
        return 19
    models = {each.model for each in machine.controllers}
    return 17 if "virtio-scsi" in models else 16


def settings_version(machine: Machine) -> str:
    """As VirtualBox writes it, on Linux: "1.16-linux"."""
    return f"1.{settings_number(machine)}-linux"
