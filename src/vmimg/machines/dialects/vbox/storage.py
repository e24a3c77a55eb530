"""Storage controllers and what is attached to them. Imports media, words, xml and the model.

VirtualBox has one IDE controller with two ports of two devices; the model calls its ports
controllers 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.machines import xml
from vmimg.machines.dialects.vbox import words
from vmimg.machines.dialects.vbox.media import Image, Registry
from vmimg.machines.model import Bus, Controller, Drive, Extra

__all__ = ["Storage", "read_storage", "write_storage"]

_MAX: Final = 1024
_TYPES: Final[dict[str, Any]] = {"HardDisk": "disk", "DVD": "cdrom", "Floppy": "floppy"}
_DEVICE_TYPES: Final = {"disk": "HardDisk", "cdrom": "DVD", "floppy": "Floppy"}
_KNOWN: Final = ("name", "type", "PortCount", "useHostIOCache", "Bootable")
_DEVICE_KNOWN: Final = ("type", "port", "device")


@dataclass(frozen=True, slots=True)
class Storage:
    """Controllers, drives, and what has no word in the model."""

    controllers: tuple[Controller, ...] = ()
    drives: tuple[Drive, ...] = ()
    extras: tuple[Extra, ...] = ()


def read_storage(parent: xml.Element | None, images: Mapping[str, Image], name: str) -> Storage:
    """What <StorageControllers> says. ``images`` by uuid."""
    controllers: list[Controller] = []
    drives: list[Drive] = []
    extras: list[Extra] = []
    counts: dict[str, int] = {}
    for element in xml.children(parent, "StorageController") if parent is not None else ():
        kind = xml.attribute(element, "type")
        bus, model = words.CONTROLLERS.get(kind, ("", kind))
        if not bus:
            extras.append(("StorageControllers/StorageController", xml.encoded(element)))
            continue
        index = counts.get(bus, 0)
        counts[bus] = index + 1
        found: list[Drive] = []
        for each in xml.children(element, "AttachedDevice"):
            if len(drives) + len(found) >= _MAX:
                raise FormatError(f"{name}: more than {_MAX} drives")
            at = len(drives) + len(found)
            found.append(_drive(each, bus, index, images, extras, f"drives[{at}]", name))
        indices = [index]
        if bus == "ide":
            indices = sorted({each.controller for each in found}) or [0]
        if bus != "floppy":
            controllers += [Controller(bus, each, model) for each in indices]
        else:
            controllers.append(Controller(bus, index))
        drives += found
        extras += _controller_extras(element, f"{bus}{index}", bus, index, model, found)
    return Storage(tuple(controllers), tuple(drives), tuple(extras))


def _controller_extras(
    element: xml.Element, place: str, bus: str, index: int, model: str, drives: Sequence[Drive]
) -> list[Extra]:
    usual = _attributes(bus, index, model, _slots(bus, drives))
    told = {str(key): str(value) for key, value in element.attrib.items()}
    return [
        (f"StorageController/{place}@{key}", value)
        for key, value in told.items()
        if key not in ("type",) and usual.get(key) != value
    ]


def _slots(bus: str, drives: Sequence[Drive]) -> int:
    return max((each.slot for each in drives), default=-1) + 1


def _drive(
    element: xml.Element,
    bus: Bus,
    index: int,
    images: Mapping[str, Image],
    extras: list[Extra],
    place: str,
    name: str,
) -> Drive:
    port = xml.number(xml.attribute(element, "port"), "the port of a drive", name, high=1 << 16)
    device = xml.number(
        xml.attribute(element, "device"), "the device of a drive", name, high=1 << 16
    )
    controller, slot = (port, device) if bus == "ide" else (index, port)
    if bus == "floppy":
        slot = device
    for key, value in element.attrib.items():
        if key not in _DEVICE_KNOWN:
            extras.append((f"{place}@{key}", str(value)))
    kind = _TYPES.get(xml.attribute(element, "type"), "floppy" if bus == "floppy" else "disk")
    uuid = words.plain_uuid(_image_uuid(element))
    image = images.get(uuid)
    host = xml.child(element, "HostDrive")
    path, source, format, readonly = "", "file", "", False
    if host is not None:
        path, source = host.get("src") or "", "block"
    elif image is not None:
        path = image.path
        if kind == "disk":
            format = words.FORMATS.get(image.format.upper(), image.format.lower())
            readonly = image.type == "Readonly"
    elif uuid:
        # Its registry is another file: VirtualBox.xml, before 4.0 and for shared images.
        extras.append((f"{place}/Image@uuid", uuid))
    return Drive(
        device=kind,
        bus=bus,
        controller=controller,
        slot=slot,
        path=path,
        source=source,  # type: ignore[arg-type]
        format=format,
        readonly=readonly,
    )


def _image_uuid(element: xml.Element) -> str:
    image = xml.child(element, "Image")
    return "" if image is None else image.get("uuid") or ""


def write_storage(
    parent: xml.Element,
    controllers: Sequence[tuple[Bus, int, str]],
    drives: Sequence[Drive],
    registry: Registry,
    extras: Sequence[Extra],
    namespace: str,
) -> None:
    """Put <StorageControllers> into ``parent``. ``controllers``: (bus, index, model); ``drives``
    are at places that VirtualBox has.
    """
    section = xml.make(f"{namespace}StorageControllers", parent=parent)
    told = dict(extras)
    attributes_of = _by_place(extras)
    for bus, index, model in controllers:
        hung = [
            (at, drive)
            for at, drive in enumerate(drives)
            if drive.bus == bus and (bus == "ide" or drive.controller == index)
        ]
        attributes = _attributes(bus, index, model, _slots(bus, [drive for _, drive in hung]))
        attributes |= attributes_of.get(f"StorageController/{bus}{index}", {})
        element = xml.make(f"{namespace}StorageController", attributes, parent=section)
        for at, drive in hung:
            uuid = words.plain_uuid(told.get(f"drives[{at}]/Image@uuid", ""))
            own = attributes_of.get(f"drives[{at}]", {})
            _device(element, drive, registry, own, uuid, namespace)
    for key, value in extras:
        if key == "StorageControllers/StorageController":
            section.append(xml.snippet(value))


def _by_place(extras: Sequence[Extra]) -> dict[str, dict[str, str]]:
    """Attributes that the reader kept, by the places that they were at."""
    found: dict[str, dict[str, str]] = {}
    for key, value in extras:
        place, at, name = key.rpartition("@")
        if at and _is_name(name):
            found.setdefault(place, {})[name] = value
    return found


def _device(
    parent: xml.Element,
    drive: Drive,
    registry: Registry,
    own: Mapping[str, str],
    uuid: str,
    namespace: str,
) -> None:
    port, device = drive.slot, 0
    if drive.bus == "ide":
        port, device = drive.controller, drive.slot
    elif drive.bus == "floppy":
        port, device = 0, drive.slot
    attributes = {
        "type": _DEVICE_TYPES[drive.device],
        "port": str(port),
        "device": str(device),
    }
    attributes |= own
    element = xml.make(f"{namespace}AttachedDevice", attributes, parent=parent)
    if drive.source == "block" and drive.device != "disk" and drive.path:
        xml.make(f"{namespace}HostDrive", {"src": drive.path}, parent=element)
        return
    image = registry.get(drive.path)
    uuid = image.uuid if image else uuid
    if uuid:
        xml.make(f"{namespace}Image", {"uuid": words.braced(uuid)}, parent=element)


def _attributes(bus: str, index: int, model: str, slots: int) -> dict[str, str]:
    name = words.NAMES[bus] + ("" if index == 0 else f" {index}")
    return {
        "name": name,
        "type": words.CONTROLLER_TYPES[bus, model],  # type: ignore[index]
        "PortCount": str(words.port_count(bus, model, slots)),
        "useHostIOCache": str(bus in ("ide", "floppy")).lower(),
        "Bootable": "true",
    }


def _is_name(text: str) -> bool:
    return text.isascii() and text.replace("_", "a").isalnum() and not text[:1].isdigit()
