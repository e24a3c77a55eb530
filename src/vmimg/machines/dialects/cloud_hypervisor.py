"""cloud-hypervisor's VmConfig: what its API takes at PUT /api/v1/vm.create. Written only.

    {"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "memory": {"size": 536870912},
     "payload": {"firmware": ...}, "disks": [{"path": ...}], "net": [...], ...}

Disks are on virtio, raw or QCOW2 (VHDX, fixed VHD). It boots firmware that is named (the
hypervisor's own build of OVMF, or rust-hypervisor-firmware). Source: vmm/src/api/openapi/
cloud-hypervisor.yaml. Imports fitting.
"""

from __future__ import annotations

import json
from typing import Any, Final

from vmimg.machines.dialect import Written
from vmimg.machines.fitting import Fitting, Rule, no_boot_order, tap_networks, virtio_disks
from vmimg.machines.model import Machine, Serial

__all__ = ["write"]

_NO: Final = "cloud-hypervisor has no"
_FIRMWARE: Final = "CLOUDHV.fd"
_SERIALS: Final = {"pty": "Pty", "null": "Null", "file": "File", "unix": "Socket"}

_RULES: Final = (
    Rule("name", "a VmConfig has no name"),
    Rule("description", "a VmConfig has no description"),
    Rule("architecture", "cloud-hypervisor runs on x86_64, aarch64 and riscv64",
         ("x86_64", "aarch64", "riscv64")),
    Rule("chipset", f"{_NO} chipset of a PC"),
    Rule("firmware.kind", "cloud-hypervisor boots UEFI", ("uefi",), "uefi", needed=True),
    Rule("firmware.secure_boot", f"{_NO} secure boot"),
    Rule("firmware.variables", "its firmware keeps no variables"),
    Rule("firmware.loader", "cloud-hypervisor is told a file; this is the name of its own build",
         lambda path: path, _FIRMWARE, needed=True),
    Rule("firmware.tpm", "cloud-hypervisor has TPM 2.0, by swtpm", ("2.0",), "2.0"),
    Rule("cpus.model", "the model of the processor is the host's", ("host",)),
    Rule("cpus.count", "a machine has processors", lambda count: 1 <= count <= 255,
         lambda machine: 255 if machine.cpus.count else 1, needed=True),
    Rule("memory", "a machine has memory", lambda size: size > 0, 1 << 30, needed=True),
    Rule("clock", "the clock is that of the host"),
    Rule("guest", "cloud-hypervisor does not ask what runs in it"),
    Rule("controllers[]", f"{_NO} controllers, only virtio"),
    Rule("drives[].format", "cloud-hypervisor reads raw, qcow2, VHD and VHDX",
         ("raw", "qcow2", "vhd", "vhdx"), "raw"),
    Rule("drives[].size", "the image says how large it is"),
    Rule("networks[].model", "cloud-hypervisor has virtio only", ("virtio",), "virtio",
         needed=True),
    Rule("networks[].connected", f"{_NO} cable to pull"),
    Rule("display", f"{_NO} display"),
    Rule("sound[]", f"{_NO} sound"),
    Rule("usb[]", f"{_NO} USB"),
    Rule("snapshots[]", "snapshots of cloud-hypervisor are taken through its API"),
)  # fmt: skip


def write(machine: Machine) -> Written:
    """The JSON."""
    fitting = _fitting(machine)
    fitted = fitting.fitted
    cpus: dict[str, Any] = {"boot_vcpus": fitted.cpus.count, "max_vcpus": fitted.cpus.count}
    if fitted.cpus.sockets:
        cpus["topology"] = {
            "threads_per_core": fitted.cpus.threads,
            "cores_per_die": fitted.cpus.cores,
            "dies_per_package": 1,
            "packages": fitted.cpus.sockets,
        }
    said: dict[str, Any] = {
        "cpus": cpus,
        "memory": {"size": fitted.memory},
        "payload": {"firmware": fitted.firmware.loader},
        "disks": [],
        "net": [],
        "rng": {"src": "/dev/urandom"},
        "serial": _serial(fitted.serials[0] if fitted.serials else Serial("null")),
        "console": {"mode": "Off"},
    }
    for drive in fitted.drives:
        disk: dict[str, Any] = {"path": drive.path, "readonly": drive.readonly}
        if drive.format:
            disk["image_type"] = {
                "raw": "Raw",
                "qcow2": "Qcow2",
                "vhd": "FixedVhd",
                "vhdx": "Vhdx",
            }[drive.format]
        if drive.serial:
            disk["serial"] = drive.serial
        said["disks"].append(disk)
    for at, network in enumerate(fitted.networks):
        said["net"].append({"tap": f"tap{at}"} | ({"mac": network.mac} if network.mac else {}))
    if fitted.uuid:
        said["platform"] = {"uuid": fitted.uuid}
    if fitted.firmware.tpm:
        said["tpm"] = {"socket": "swtpm.sock"}
    return Written((json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode(), fitting.losses)


def _serial(serial: Serial) -> dict[str, Any]:
    key = {"file": "file", "unix": "socket"}.get(serial.kind)
    return {"mode": _SERIALS[serial.kind]} | ({key: serial.path} if key else {})


def _fitting(machine: Machine) -> Fitting:
    fitting = Fitting(machine, "cloud-hypervisor", _RULES)
    cpus = machine.cpus
    if cpus.sockets and cpus.sockets * cpus.cores * cpus.threads != fitting.now("cpus.count"):
        for key in ("sockets", "cores", "threads"):
            fitting.lose(f"cpus.{key}", "the processors do not fill the sockets")
    virtio_disks(fitting, "cloud-hypervisor")
    tap_networks(fitting)
    no_boot_order(fitting, "its firmware looks for what boots")
    for at, serial in fitting.members("serials"):
        if at:
            fitting.lose(f"serials[{at}]", "cloud-hypervisor has one serial port")
        elif serial.kind not in _SERIALS:
            fitting.lose("serials[0].kind", "cloud-hypervisor has no such port", "pty")
            fitting.lose("serials[0].path", "cloud-hypervisor has no such port")
    return fitting
