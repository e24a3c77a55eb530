"""A machine as the leaves of a document: what Windows Server 2012 R2 writes of a new machine, and
what this one has instead. Imports leaves and hyperv_devices.

What depends on the host (NUMA, the owner, counters) is left to Hyper-V. Identifiers are made of
what the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid5

from vmimg.machines.dialects.hyperv_devices import (
    BIOS,
    COMPONENTS,
    FLOPPY,
    IDE,
    NETWORK,
    SCSI,
    SERIAL,
    VIDEO,
)
from vmimg.machines.dialects.hyperv_settings import Value, boot_words, guid
from vmimg.machines.dialects.hyperv_xml.leaves import Leaf, leaf
from vmimg.machines.model import Drive, Machine, Network

__all__ = ["Rendered", "boot_order", "guest_id", "machine_id", "rendered", "vdev"]

_MIB: Final = 1 << 20
_SPACE: Final = UUID("0d3f5c1e-7a52-5b0e-9c39-2f6f5d3b8a44")
"""For identifiers that are made of what they are of."""
_VERSION: Final = 0x500
"""5.0"""
_CREATED: Final = (130_265_280_000_000_000).to_bytes(8, "little")
"""2013-10-18, a FILETIME: Windows Server 2012 R2 came out, and no clock was asked."""
_BOOTS: Final = ("disk", "cdrom", "network", "floppy")
_NO_MAC: Final = "00-00-00-00-00-00"
_KINDS: Final = {
    ("disk", "file"): "VHD", ("disk", "block"): "Physical", ("cdrom", "file"): "ISO",
    ("cdrom", "block"): "ATAPI", ("floppy", "file"): "VFD",
}  # fmt: skip
_VERSIONS: Final = {
    "2497f4de-e9fa-4204-80e4-4b75c46419c0": 256, "2a34b1c2-fd73-4043-8a5b-dd2159bc743f": 256,
    "58f75a6d-d949-4320-99e1-a2a2576d581c": 512, "5ced1297-4598-4915-a5fc-ad21bb4d02a4": 256,
    "6c09bb55-d683-4da0-8931-c9bf705f6480": 256, "6c5addb9-a11a-4e8e-84cb-e6208201db63": 512,
    "84eaae65-2f2e-45f5-9bb5-0e857dc8eb47": 256, "9f8233ac-be49-4c79-8ee3-e7e1985b2077": 256,
    "de6cdc86-e1fb-4940-801b-c3c1a26c4da4": 256, "e51b7ef6-4a7f-4780-aaae-d4b291aacd2e": 256,
    VIDEO: 256, SERIAL: 512, BIOS: 512,
}  # fmt: skip
"""VDEVVersion of devices of which there is one."""
_GUEST_INTERFACE: Final = "6c09bb55-d683-4da0-8931-c9bf705f6480"
_I8042: Final = "655bc5c5-a784-46b7-81bc-e26328f7eb0e"
_EMULATED_VIDEO: Final = "7d80d3db-61ee-4879-8879-5609f1100ad0"


@dataclass(frozen=True, slots=True)
class Rendered:
    """``leaves`` by their paths; ``networks`` and ``scsi``: the instances of cards and of SCSI
    controllers, in the machine's order.
    """

    leaves: dict[str, Leaf]
    networks: tuple[str, ...]
    scsi: tuple[str, ...]


def guest_id(machine: Machine) -> str:
    """The identifier that the guest sees: the machine's own, or one made of what it is."""
    if found := guid(machine.uuid):
        return found
    sizes = [drive.size for drive in machine.drives]
    return str(uuid5(_SPACE, repr((machine.name, sizes, machine.networks))))


def machine_id(machine: Machine) -> str:
    """What Hyper-V calls the machine, and its file: not what the guest sees."""
    return str(uuid5(_SPACE, guest_id(machine))).upper()


def boot_order(machine: Machine) -> tuple[str, ...]:
    """The kinds of devices in the order in which they boot."""
    told = sorted(
        [(each.boot, each.device) for each in machine.drives if each.boot > 0]
        + [(each.boot, "network") for each in machine.networks if each.boot > 0]
    )
    order: dict[str, None] = dict.fromkeys([kind for _, kind in told])
    order |= dict.fromkeys(_BOOTS)
    if machine.firmware.kind == "uefi":
        order.pop("floppy")
    return tuple(order)


def rendered(machine: Machine) -> Rendered:
    """``machine``, as far as Hyper-V has words for it."""
    scsi = max((each.index + 1 for each in machine.controllers if each.bus == "scsi"), default=0)
    result = Rendered(
        {},
        tuple(_made(machine, f"card {at}").lower() for at in range(len(machine.networks))),
        tuple(_made(machine, f"scsi {at}").lower() for at in range(scsi)),
    )
    said: dict[str, Value] = {}
    for device, version in _VERSIONS.items():
        said[f"_{device}_/VDEVVersion"] = version
    said[f"_{_GUEST_INTERFACE}_/Enabled"] = False
    said |= _firmware(machine) | _ports(machine) | _general(machine)
    if machine.firmware.kind != "uefi":
        said |= _emulated(machine)
    for at, instance in enumerate(result.scsi):
        drives = [each for each in machine.drives if (each.bus, each.controller) == ("scsi", at)]
        said |= _scsi(machine, instance, drives)
    for instance, network in zip(result.networks, machine.networks, strict=True):
        said |= _card(machine, instance, network)
    devices = [(device, device, name) for device, name in COMPONENTS.items()]
    devices += [(NETWORK, each, "Synthetic Ethernet Port") for each in result.networks]
    devices += [(SCSI, each, "Synthetic SCSI Controller") for each in result.scsi]
    for number, (device, instance, name) in enumerate(devices, 1):
        said |= vdev(number, device, instance, name)
    said |= {"manifest/size": len(devices), "manifest/version": 260}
    result.leaves.update((path, leaf(value)) for path, value in said.items())
    return result


def vdev(number: int, device: str, instance: str, name: str) -> dict[str, Value]:
    """A device in the manifest."""
    head = f"manifest/vdev{number:03}"
    return {
        f"{head}/device": device,
        f"{head}/flags": 1,
        f"{head}/instance": instance.upper(),
        f"{head}/name": name,
    }


def _made(machine: Machine, what: str) -> str:
    """A GUID for a part of the machine."""
    return str(uuid5(_SPACE, f"{machine.uuid} {what}")).upper()


def _general(machine: Machine) -> dict[str, Value]:
    own = machine_id(machine)
    size = machine.memory // _MIB
    return {
        "global_settings/devices/allow_reduced_fc_redundancy": False,
        "global_settings/devices/generation_id": _made(machine, "generation").replace("-", ""),
        "global_settings/devices/storage_allow_full_scsi_command_set": False,
        "global_settings/disk_merge_pending": False,
        "global_settings/power/host_shutdown/action": 1,
        "global_settings/power/host_startup/action": 1,
        "global_settings/snapshots/list/size": 0,
        "global_settings/unexpected_termination/action": 1,
        "properties/creation_time": _CREATED,
        "properties/global_id": own,
        "properties/highly_available": False,
        "properties/name": machine.name,
        "properties/notes": machine.description,
        "properties/subtype": int(machine.firmware.kind == "uefi"),
        "properties/type_id": "Virtual Machines",
        "properties/version": _VERSION,
        "settings/global/logical_id": own,
        "settings/memory/bank/dynamic_memory_enabled": False,
        "settings/memory/bank/limit": 1 << 20,
        "settings/memory/bank/priority": 5000,
        "settings/memory/bank/reservation": min(size, 512),
        "settings/memory/bank/size": size,
        "settings/memory/bank/target_memory_buffer": 20,
        "settings/processors/count": machine.cpus.count,
        "settings/processors/features/limit": False,
        "settings/processors/limit": 100_000,
        "settings/processors/limit_cpuid": False,
        "settings/processors/reservation": 0,
        "settings/processors/weight": 100,
        "settings/stopped_at_host_shutdown": False,
        "settings/topology/low_mmio_gap_mb": 128,
        "settings/vnuma/enabled": True,
    }


def _firmware(machine: Machine) -> dict[str, Value]:
    head = f"_{BIOS}_"
    digits = str(int(sha256(machine.uuid.encode()).hexdigest(), 16))[-26:]
    serial = "-".join(digits[at : at + 4] for at in range(0, 26, 4))
    boots = boot_words(boot_order(machine))
    return {
        f"{head}/base_board/serial_number": serial,
        f"{head}/bios_guid": f"{{{machine.uuid.upper()}}}",
        f"{head}/bios_serial_number": serial,
        **{f"{head}/boot/device{at}": word for at, word in enumerate(boots)},
        f"{head}/chassis/asset_tag": serial,
        f"{head}/chassis/serial_number": serial,
        f"{head}/num_lock": False,
        f"{head}/pause_after_boot_failure": False,
        f"{head}/pxe_preferred_protocol": 4,
        f"{head}/secure_boot_enabled": bool(machine.firmware.secure_boot),
    }


def _ports(machine: Machine) -> dict[str, Value]:
    paths = [each.path for each in machine.serials]
    return {
        f"_{SERIAL}_/port{at}/connection": paths[at] if at < len(paths) else "" for at in range(2)
    }


def _emulated(machine: Machine) -> dict[str, Value]:
    """What machines of generation 1 have besides."""
    said: dict[str, Value] = {
        f"_{_I8042}_/VDEVVersion": 512,
        f"_{_EMULATED_VIDEO}_/VDEVVersion": 512,
        f"_{_EMULATED_VIDEO}_/address": "5353,00000000,00",
        f"_{IDE}_/VDEVVersion": 1280,
        f"_{FLOPPY}_/VDEVVersion": 256,
    }
    for place in (f"controller{at}/drive{slot}" for at in (0, 1) for slot in (0, 1)):
        said |= {f"_{IDE}_/{place}/pathname": "", f"_{IDE}_/{place}/type": "NONE"}
    for drive in machine.drives:
        if drive.bus == "ide":
            head = f"_{IDE}_/controller{drive.controller}/drive{drive.slot}"
            said |= dict(_drive(head, drive))
        elif drive.bus == "floppy":
            said |= dict(_drive(f"_{FLOPPY}_/controller0/drive{drive.slot}", drive))
    return said


def _scsi(machine: Machine, instance: str, drives: list[Drive]) -> dict[str, Value]:
    said: dict[str, Value] = {
        # By this Vagrant tells SCSI from IDE.
        f"_{instance}_/ChannelInstanceGuid": f"{{{_made(machine, f'channel {instance}').lower()}}}",
        f"_{instance}_/VDEVVersion": 256,
    }
    for drive in drives:
        said |= dict(_drive(f"_{instance}_/controller0/drive{drive.slot}", drive))
    return said


def _drive(head: str, drive: Drive) -> Iterator[tuple[str, Value]]:
    yield f"{head}/pathname", drive.path
    yield f"{head}/type", _KINDS[drive.device, "file" if drive.source == "file" else "block"]
    if drive.device == "disk":
        yield f"{head}/iops_limit", 0
        yield f"{head}/iops_reservation", 0
        yield f"{head}/persistent_reservations_supported", False
        yield f"{head}/weight", 100


def _card(machine: Machine, instance: str, network: Network) -> dict[str, Value]:
    head = f"_{instance}_"
    port = "Dynamic Ethernet Switch Port" if network.network else ""
    channel = _made(machine, f"channel {instance}").lower()
    return {
        f"{head}/ChannelInstanceGuid": f"{{{channel}}}",
        f"{head}/ClusterMonitored": True,
        f"{head}/Connection/AltPortName": port,
        f"{head}/Connection/AltSwitchName": network.network,
        f"{head}/Connection/AuthorizationScope": "",
        f"{head}/Connection/ChimneyOffloadWeight": 0,
        f"{head}/Connection/PoolId": "",
        f"{head}/Connection/PreventIPSpoofing": False,
        f"{head}/Connection/TestReplicaPoolId": "",
        f"{head}/Connection/TestReplicaSwitchName": "",
        f"{head}/FriendlyName": "Network Adapter",
        f"{head}/IsConnected": network.connected,
        f"{head}/MacAddress": network.mac.replace(":", "-").upper() or _NO_MAC,
        f"{head}/MacAddressIsStatic": bool(network.mac),
        f"{head}/PortName": "",
        f"{head}/SwitchName": "",
        f"{head}/VDEVVersion": 256,
        f"{head}/VpciInstanceGuid": f"{{{_made(machine, f'vpci {instance}')}}}",
    }
