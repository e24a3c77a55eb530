"""Firecracker's configuration: what `firecracker --config-file` starts. Written only.

    {"boot-source": {"kernel_image_path": ...}, "drives": [...], "machine-config": {...}, ...}

Firecracker boots a kernel, not a disk. The model names none, so a name is put in for the user to
fill, "vmlinux" beside the file; what firmware there was is listed as lost. Disks are raw files on
virtio. Source: src/firecracker/swagger/firecracker.yaml. Imports fitting.
"""

from __future__ import annotations

import json
from typing import Any, Final

from vmimg.machines.dialect import Written
from vmimg.machines.fitting import Fitting, Rule, tap_networks, virtio_disks
from vmimg.machines.model import Machine

__all__ = ["write"]

_MEBIBYTE: Final = 1 << 20
_NO: Final = "Firecracker has no"

_RULES: Final = (
    Rule("name", "a configuration has no name"),
    Rule("description", "a configuration has no description"),
    Rule("uuid", "a microVM has none"),
    Rule("architecture", "Firecracker runs on x86_64 and aarch64", ("x86_64", "aarch64")),
    Rule("chipset", f"{_NO} chipset"),
    Rule("firmware.kind", "Firecracker boots a kernel, without firmware"),
    Rule("firmware.secure_boot", "Firecracker boots a kernel, without firmware"),
    Rule("firmware.variables", "Firecracker boots a kernel, without firmware"),
    Rule("firmware.loader", "Firecracker boots a kernel, without firmware"),
    Rule("firmware.tpm", f"{_NO} TPM"),
    Rule("cpus.model", "the model of the processor is the host's, or a template's"),
    Rule("memory", "Firecracker counts MiB, and must be told",
         lambda size: size and size % _MEBIBYTE == 0,
         lambda machine: (machine.memory >> 20 << 20) or 1 << 30, needed=True),
    Rule("clock", "a microVM has no clock to set"),
    Rule("guest", "Firecracker does not ask what runs in it"),
    Rule("controllers[]", f"{_NO} controllers, only virtio"),
    Rule("drives[].format", "Firecracker reads raw images only", ("raw",), "raw", needed=True),
    Rule("drives[].size", "the image says how large it is"),
    Rule("drives[].serial", f"{_NO} serial numbers of disks"),
    Rule("networks[].model", "Firecracker has virtio only", ("virtio",), "virtio", needed=True),
    Rule("networks[].connected", f"{_NO} cable to pull"),
    Rule("serials[]", "Firecracker has one console, on its own output"),
    Rule("display", f"{_NO} display"),
    Rule("sound[]", f"{_NO} sound"),
    Rule("usb[]", f"{_NO} USB"),
    Rule("snapshots[]", "snapshots of Firecracker are taken through its API"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The JSON."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    root = _root(fitted)
    said: dict[str, Any] = {
        "boot-source": {
            "kernel_image_path": "vmlinux",
            "boot_args": "console=ttyS0 reboot=k panic=1 pci=off",
        },
        "drives": [
            {
                "drive_id": f"drive{at}",
                "path_on_host": drive.path,
                "is_root_device": at == root,
                "is_read_only": drive.readonly,
            }
            for at, drive in enumerate(fitted.drives)
        ],
        "machine-config": {
            "vcpu_count": fitted.cpus.count,
            "mem_size_mib": fitted.memory >> 20,
            "smt": fitted.cpus.threads == 2,
        },
        "network-interfaces": [
            {"iface_id": f"eth{at}", "host_dev_name": f"tap{at}"}
            | ({"guest_mac": network.mac} if network.mac else {})
            for at, network in enumerate(fitted.networks)
        ],
    }
    return Written((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode(), fitting.losses)


def _root(machine: Machine) -> int:
    """The number of the disk that the kernel is to mount."""
    booted = [(drive.boot, at) for at, drive in enumerate(machine.drives) if drive.boot]
    return min(booted)[1] if booted else 0


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "firecracker", _RULES)
    cpus = machine.cpus
    if not 1 <= cpus.count <= 32:
        fitting.lose(
            "cpus.count", "Firecracker has 1 to 32 processors", min(max(cpus.count, 1), 32)
        )
    if cpus.threads not in (0, 1, 2) or (cpus.threads == 2 and fitting.now("cpus.count") % 2):
        fitting.lose("cpus.threads", "Firecracker has one or two threads to a core")
    for key in ("sockets", "cores"):
        fitting.lose(f"cpus.{key}", "Firecracker is told the number only")
    virtio_disks(fitting, "Firecracker")
    booted = [(drive.boot, at) for at, drive in fitting.members("drives") if drive.boot]
    for _, at in sorted(booted)[1:]:
        fitting.lose(f"drives[{at}].boot", "one disk is the root of the kernel")
    if booted:
        fitting.lose(f"drives[{min(booted)[1]}].boot", "the kernel's root is the first", 1)
    tap_networks(fitting)
    for at, _ in fitting.members("networks"):
        fitting.lose(f"networks[{at}].boot", "Firecracker does not boot from the network")
    return fitting
