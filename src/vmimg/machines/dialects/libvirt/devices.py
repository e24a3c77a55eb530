"""The devices of a domain. Imports XML, words and the model.

What the model has no word for is set aside as a whole, and taken out of the element: the rest is
compared later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.machines.dialects.libvirt import words
from vmimg.machines.model import Controller, Display, Drive, Extra, Network, Serial
from vmimg.machines.xml import Element, child, children, encoded, find, local, number, text

__all__ = ["Devices"]

_MAX_DEVICES: Final = 2048
_REMOTES: Final = ("vnc", "spice", "rdp", "sdl")


class Devices:
    """The children of <devices>, of which there may be none. ``aside``: what was set aside."""

    def __init__(self, devices: Element | None, name: str) -> None:
        if devices is not None and len(devices) > _MAX_DEVICES:
            raise FormatError(f"{name}: {len(devices)} devices, more than {_MAX_DEVICES}")
        self._devices = devices
        self._name = name
        self.aside: list[Extra] = []

    def drives(self) -> list[Drive]:
        return self._each("disk", self._drive)

    def networks(self) -> list[Network]:
        return self._each("interface", self._network)

    def sound(self) -> tuple[str, ...]:
        return tuple(self._each("sound", self._sound))

    def tpm(self) -> Any:
        found = ""
        for tpm in list(children(self._devices, "tpm")) if self._devices is not None else ():
            backend = child(tpm, "backend")
            version = "" if backend is None else backend.get("version", "2.0")
            if (
                found
                or backend is None
                or backend.get("type") != "emulator"
                or version not in ("1.2", "2.0")
            ):
                self._set_aside(tpm)
            else:
                found = version
        return found

    def _drive(self, disk: Element) -> Drive | None:
        kind = disk.get("type", "file")
        device = disk.get("device", "disk")
        source = child(disk, "source")
        target = child(disk, "target")
        if kind not in ("file", "block", "network", "volume") or target is None:
            return None
        path = "" if source is None else _path(kind, source)
        if kind == "block" and source is None and device != "disk":
            kind = "file"  # an empty drive, whatever it would be filled with
        elif kind == "block" and not path:
            return None
        prefix, at = words.device_number(target.get("dev", ""))
        buses = {name: bus for bus, name in words.BUSES.items()}
        bus = (
            buses.get(target.get("bus", ""), "")
            if target.get("bus")
            else words.BY_NAME.get(prefix, "")
        )
        if (
            not bus
            or device not in ("disk", "lun", "cdrom", "floppy")
            or (kind != "file" and source is None)
        ):
            return None
        controller, slot = self._place(disk, bus, at)
        driver, boot = child(disk, "driver"), child(disk, "boot")
        format_ = "" if driver is None else driver.get("type", "")
        formats = {name: format_ for format_, name in words.FORMATS.items()} | {"vhd": "vhd"}
        readonly = child(disk, "readonly") is not None and device in ("disk", "lun")
        return Drive(
            device="disk" if device == "lun" else device,  # type: ignore[arg-type]
            bus=bus,  # type: ignore[arg-type]
            controller=controller,
            slot=slot,
            path=path,
            source=kind,  # type: ignore[arg-type]
            format=formats.get(format_, ""),
            boot=0 if boot is None else self._number(boot.get("order"), "a boot order"),
            readonly=readonly,
            serial=text(disk, "serial"),
        )

    def _place(self, disk: Element, bus: str, at: int) -> tuple[int, int]:
        address = child(disk, "address")
        kind = "" if address is None else address.get("type", "")
        if address is not None and kind == "drive" and bus in ("ide", "sata", "scsi", "floppy"):
            controller, channel, target, unit = (
                self._number(address.get(key), f"the {key} of a disk", 1 << 20)
                for key in ("controller", "bus", "target", "unit")
            )
            if bus == "ide":
                return controller * 2 + channel, unit
            return controller, unit or target
        if address is not None and kind == "usb" and bus == "usb":
            port = address.get("port", "")
            if port.isdigit() and 0 < int(port[:6]) < 1 << 16:
                return self._number(address.get("bus"), "the bus of a disk", 1 << 16), int(
                    port[:6]
                ) - 1
        per = {"ide": 2, "sata": 6, "scsi": 7, "floppy": 2}.get(bus)
        return divmod(at, per) if per else (0, at)

    def _network(self, interface: Element) -> Network | None:
        kind, source = interface.get("type", ""), child(interface, "source")
        attribute = {"bridge": "bridge", "network": "network"}.get(kind)
        network = "" if source is None or not attribute else source.get(attribute, "")
        said: Any = {"bridge": "bridge", "network": "network", "user": "user", "null": "none"}.get(
            kind, ""
        )
        model, mac = child(interface, "model"), child(interface, "mac")
        link, boot = child(interface, "link"), child(interface, "boot")
        name = "" if model is None else model.get("type", "")
        return Network(
            model=words.NETWORK_NAMES.get(name, ""),
            mac="" if mac is None else mac.get("address", "").lower(),
            kind=said,
            network=network,
            connected=link is None or link.get("state") != "down",
            boot=0 if boot is None else self._number(boot.get("order"), "a boot order"),
        )

    def controllers(self, drives: list[Drive]) -> tuple[Controller, ...]:
        names = {name: bus for bus, name in words.CONTROLLERS.items()}
        found: list[Controller] = []
        for element in children(self._devices, "controller") if self._devices is not None else ():
            bus: Any = names.get(element.get("type", ""), "")
            if not bus:
                continue
            index = self._number(element.get("index"), "the index of a controller", 1 << 16)
            models = {name: model for model, name in words.CONTROLLER_MODELS.get(bus, {}).items()}
            model = models.get(element.get("model", ""), "")
            places = [index]
            if bus == "ide":  # one controller, two channels
                used = {drive.controller for drive in drives if drive.bus == "ide"}
                places = sorted(used & {2 * index, 2 * index + 1}) or [2 * index]
            found.extend(
                Controller(bus, place, model)
                for place in places
                if not any((each.bus, each.index) == (bus, place) for each in found)
            )
        return tuple(found)

    def usb(self) -> tuple[str, ...]:
        found: list[str] = []
        for element in (
            list(children(self._devices, "controller")) if self._devices is not None else ()
        ):
            if element.get("type") != "usb":
                continue
            model = words.USB_NAMES.get(element.get("model", ""), "")
            index = self._number(element.get("index"), "the index of a controller", 1 << 16)
            # Companions of an EHCI controller share its number.
            if model and child(element, "master") is None and index == len(found):
                found.append(model)
            else:
                self._set_aside(element)
        return tuple(found)

    def serials(self) -> tuple[Serial, ...]:
        found = self._each("serial", self._serial)
        if found or self._devices is None:
            return tuple(found)
        # virt-install writes a console alone: it is the first serial port.
        for console in list(children(self._devices, "console")):
            target = child(console, "target")
            if target is None or target.get("type", "serial") == "serial":
                serial = self._serial(console)
                if serial is not None and not found:
                    found.append(serial)
                    console.tag = "serial"
        return tuple(found)

    def _serial(self, element: Element) -> Serial | None:
        kinds = {name: kind for kind, name in words.SERIALS.items()}
        kind: Any = kinds.get(element.get("type", ""), "")
        source = child(element, "source")
        if not kind:
            return None
        if kind in ("pty", "null"):
            return Serial(kind)
        if source is None:
            return None
        if kind == "tcp":
            host, service = source.get("host", ""), source.get("service", "")
            return Serial(kind, f"{host}:{service}") if service and ":" not in service else None
        return Serial(kind, source.get("path", ""))

    def _sound(self, element: Element) -> str | None:
        model = element.get("model", "")
        return model if model in words.SOUND else None

    def display(self) -> Display | None:
        devices = self._devices
        graphics = None if devices is None else child(devices, "graphics")
        remote = "" if graphics is None else graphics.get("type", "")
        remote = remote if remote in _REMOTES else ""
        model = None if devices is None else find(devices, "video", "model")
        if model is None:
            return Display(remote=remote) if remote else None
        name = words.VIDEO_NAMES.get(model.get("type", ""), "")
        if not name:
            return Display(remote=remote) if remote else None
        speed = child(model, "acceleration")
        told = "" if speed is None else speed.get("accel3d", "")
        return Display(
            model=name,
            memory=self._number(model.get("vram"), "the memory of the video card") << 10,
            heads=self._number(model.get("heads"), "the number of screens", 64),
            accelerated={"yes": True, "no": False}.get(told),
            remote=remote,
        )

    def _each(self, tag: str, take: Callable[[Element], Any]) -> list[Any]:
        """What ``take`` makes of each device of that name; the others are set aside."""
        found = []
        for element in list(children(self._devices, tag)) if self._devices is not None else ():
            taken = take(element)
            if taken is None:
                self._set_aside(element)
            else:
                found.append(taken)
        return found

    def _set_aside(self, element: Element) -> None:
        assert self._devices is not None
        self.aside.append((f"devices/{local(element)}", encoded(element)))
        self._devices.remove(element)

    def _number(self, value: str | None, what: str, high: int = (1 << 31) - 1) -> int:
        return number(value or "", what, self._name, high=high)


def _path(kind: str, source: Element) -> str:
    if kind == "file":
        return source.get("file", "")
    if kind == "block":
        return source.get("dev", "")
    if kind == "volume":
        return f"{source.get('pool', '')}/{source.get('volume', '')}"
    host = child(source, "host")
    place = ("", "") if host is None else (host.get("name", ""), host.get("port", ""))
    return words.join_url(source.get("protocol", ""), *place, source.get("name", ""))
