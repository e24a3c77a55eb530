"""Writing a config.pvs. Imports XML, words, fitting, keeping and snapshots.

Elements stand in the order in which Parallels writes them. What it would fill in with its own
defaults is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vmimg.machines.dialect import Written
from vmimg.machines.dialects.parallels import words
from vmimg.machines.dialects.parallels.fitting import fitted
from vmimg.machines.dialects.parallels.keeping import put_back
from vmimg.machines.dialects.parallels.snapshots import write_snapshots
from vmimg.machines.guests import parallels
from vmimg.machines.losses import Loss
from vmimg.machines.model import Display, Drive, Machine, Network
from vmimg.machines.xml import Element, make, serialise

__all__ = ["fitted", "rendered", "write"]

_MIB: Final = 1 << 20
# Of the oldest Parallels that knows all that is written here.
_VERSION: Final = "17.0.0-51461"


def write(machine: Machine) -> Written:
    """The config.pvs, and a Snapshots.xml where there are snapshots."""
    fitting = fitted(machine)
    extras = tuple(machine.extras.get("parallels", ()))
    root, lost = put_back(rendered(fitting.fitted), extras, fitting.fitted)
    losses = fitting.losses
    kept = tuple(sorted(each for each in extras if each not in lost))
    if kept != extras:
        left = [
            Loss(f"extras.parallels[{at}]", f"{key} = {value}", "it says another machine")
            for at, (key, value) in enumerate(extras)
            if (key, value) in lost
        ]
        if tuple(each for each in extras if each not in lost) != kept:
            told = ", ".join(key for key, _ in extras)
            left = [Loss("extras.parallels", told, "they are sorted", kept)]
        losses += tuple(left)
    snapshots = fitting.fitted.snapshots
    files = {"Snapshots.xml": write_snapshots(snapshots)} if snapshots else {}
    return Written(serialise(root, indent="   "), losses, files)


def rendered(machine: Machine) -> Element:
    """The document of a machine that Parallels can say."""
    attributes = {"schemaVersion": "1.0", "dyn_lists": "VirtualAppliance 0"}
    root = make(words.ROOT, attributes)
    make("AppVersion", content=_VERSION, parent=root)
    identification = make("Identification", parent=root)
    make("VmUuid", content=f"{{{machine.uuid}}}", parent=identification)
    make("SourceVmUuid", content=f"{{{machine.uuid}}}", parent=identification)
    make("VmName", content=machine.name, parent=identification)
    settings = make("Settings", parent=root)
    _settings(settings, machine)
    _hardware(root, machine)
    return root


def _settings(settings: Element, machine: Machine) -> None:
    family, version = parallels(machine.guest)
    _leaves(make("General", parent=settings), {
        "OsType": family, "OsNumber": version, "VmDescription": machine.description,
    })  # fmt: skip
    startup = make("Startup", parent=settings)
    _boots(startup, machine)
    if machine.firmware.kind:
        _bios(make("Bios", parent=startup), machine)
    if machine.display is not None and machine.display.remote:
        _leaves(make("RemoteDisplay", parent=settings), {"Mode": 1})
    usb = make("UsbController", parent=settings)
    _leaves(usb, {tag: int(model in machine.usb) for model, tag in words.USB.items()})


def _bios(bios: Element, machine: Machine) -> None:
    efi = 0
    if machine.firmware.kind == "uefi":
        efi = words.EFI_ARM if machine.architecture == "aarch64" else words.EFI_X86
    _leaves(bios, {"EfiEnabled": efi})
    if machine.firmware.secure_boot is not None:
        _leaves(bios, {"EfiSecureBoot": int(machine.firmware.secure_boot)})


def _boots(startup: Element, machine: Machine) -> None:
    numbers = {element: number for number, element in words.BOOT_TYPES.items()}
    found = [
        (each.boot, numbers[words.ELEMENTS[each.device]], index)
        for device in words.ELEMENTS
        for index, each in enumerate(_of(machine, device))
        if each.boot
    ]
    found += [
        (each.boot, numbers["NetworkAdapter"], index)
        for index, each in enumerate(machine.networks)
        if each.boot
    ]
    order = make("BootingOrder", {"dyn_lists": f"BootDevice {len(found)}"}, parent=startup)
    for at, (boot, kind, index) in enumerate(sorted(found)):
        device = make("BootDevice", {"id": str(at)}, parent=order)
        _leaves(device, {"Index": index, "Type": kind, "BootingNumber": boot, "InUse": 1})


def _hardware(root: Element, machine: Machine) -> None:
    counts = {element: len(_of(machine, device)) for device, element in words.ELEMENTS.items()}
    counts |= {
        "Serial": len(machine.serials),
        "NetworkAdapter": len(machine.networks),
        "Sound": len(machine.sound),
    }
    lists = " ".join(f"{element} {count}" for element, count in counts.items())
    hardware = make("Hardware", {"dyn_lists": lists}, parent=root)
    arm = machine.architecture == "aarch64"
    _leaves(make("Cpu", parent=hardware), {"Number": machine.cpus.count, "Type": int(arm)})
    _leaves(make("Memory", parent=hardware), {"RAM": machine.memory // _MIB})
    _video(hardware, machine)
    for device, element in words.ELEMENTS.items():
        for index, drive in enumerate(_of(machine, device)):
            _drive(hardware, element, index, drive, machine)
    for index, serial in enumerate(machine.serials):
        kinds = {kind: number for number, kind in words.SERIALS.items()}
        port = _device(hardware, "Serial", index, kinds[serial.kind], serial.path)
        if serial.kind in ("unix", "tcp"):
            _leaves(port, {"SocketMode": 0})
    for index, network in enumerate(machine.networks):
        _network(hardware, index, network)
    cards = {model: number for number, model in words.SOUNDS.items()}
    for index, model in enumerate(machine.sound):
        sound = _device(hardware, "Sound", index, words.IMAGE, "")
        _leaves(sound, {"AdvancedType": cards[model]})
    if machine.firmware.tpm:
        _leaves(make("TpmChip", parent=hardware), {"Type": words.TPM})


def _video(hardware: Element, machine: Machine) -> None:
    display = machine.display
    if display is None or display == Display(remote=display.remote or "none"):
        return  # nothing is said, or the remote display says all
    video = make("Video", parent=hardware)
    _leaves(video, {
        "Enabled": int(display.model != "none"), "VideoMemorySize": display.memory // _MIB,
    })  # fmt: skip
    if display.accelerated is not None:
        _leaves(video, {"Enable3DAcceleration": int(display.accelerated)})
    _leaves(video, {"MaxDisplays": display.heads})


def _drive(hardware: Element, tag: str, index: int, drive: Drive, machine: Machine) -> None:
    kind = words.REAL if drive.source == "block" else words.IMAGE
    element = _device(hardware, tag, index, kind, drive.path)
    if drive.device == "floppy":
        return
    interfaces = {bus: number for number, bus in words.INTERFACES.items()}
    stack = drive.controller * 2 + drive.slot if drive.bus == "ide" else drive.slot
    _leaves(element, {"InterfaceType": interfaces[drive.bus], "StackIndex": stack})
    model = next((each.model for each in machine.controllers if each.bus == "scsi"), "")
    if drive.bus == "scsi" and model:
        models = {name: number for number, name in words.SCSI.items()}
        _leaves(element, {"SubType": models[model]})
    if drive.device == "disk" and drive.size:
        _leaves(element, {"Size": drive.size // _MIB})
    if drive.serial:
        _leaves(element, {"SerialNumber": drive.serial})


def _network(hardware: Element, index: int, network: Network) -> None:
    kinds = {"nat": words.SHARED, "hostonly": words.HOST_ONLY}
    kind = kinds.get(network.kind, words.BRIDGED)
    element = _device(hardware, "NetworkAdapter", index, kind, f"eth{index}", network.connected)
    if network.kind == "bridge":
        _leaves(element, {"AdapterName": network.network or words.DEFAULT_ADAPTER})
    elif network.network:
        _leaves(element, {"VirtualNetworkID": network.network})
    cards = {model: number for number, model in words.CARDS.items()}
    mac = network.mac.replace(":", "").upper()
    _leaves(element, {"MAC": mac, "AdapterType": cards[network.model]})


def _device(
    hardware: Element, tag: str, index: int, kind: int, path: str, connected: bool = True
) -> Element:
    element = make(tag, {"id": str(index)}, parent=hardware)
    _leaves(element, {
        "Index": index, "Enabled": 1, "Connected": int(connected), "EmulatedType": kind,
        "SystemName": path, "UserFriendlyName": path, "Remote": 0,
    })  # fmt: skip
    return element


def _of(machine: Machine, device: str) -> list[Drive]:
    return [each for each in machine.drives if each.device == device]


def _leaves(parent: Element, values: Mapping[str, Any]) -> None:
    for tag, value in values.items():
        make(tag, content=str(value), parent=parent)
