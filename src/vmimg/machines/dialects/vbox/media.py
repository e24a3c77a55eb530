"""The media registry: images by uuid, and which one stands above which.

A tree is not in the model, but follows from it: where a snapshot has another image at a place than
its parent, that image is the child of the parent's. What does not follow goes to the extras.
Imports words, xml and the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vmimg.errors import FormatError
from vmimg.machines import xml
from vmimg.machines.dialects.vbox.words import FORMATS, derived_uuid, plain_uuid
from vmimg.machines.model import Drive, Extra, Snapshot

__all__ = [
    "Image",
    "Registry",
    "disk_uuid",
    "extras_of",
    "image_key",
    "is_image_key",
    "planned",
    "read_registry",
    "with_extras",
]

_MAX_IMAGES: Final = 5000
_KINDS: Final = (("HardDisks", "HardDisk"), ("DVDImages", "Image"), ("FloppyImages", "Image"))
_DEVICES: Final = {"HardDisks": "disk", "DVDImages": "cdrom", "FloppyImages": "floppy"}


@dataclass(frozen=True, slots=True)
class Image:
    """``path`` as the registry says; ``format``: VirtualBox's name of it ("VDI"); ``parent``: the
    path of the image below; ``type``: "Normal", "Immutable", "Readonly"...
    """

    path: str
    uuid: str
    device: str = "disk"
    format: str = ""
    parent: str = ""
    type: str = "Normal"


Registry = dict[str, Image]
"""Images by path."""


def image_key(path: str, what: str = "uuid") -> str:
    """The key in extras["vbox"] for the uuid, format, parent or type of the disk image ``path``."""
    return f"HardDisk:{path}@{what}"


def is_image_key(key: str) -> bool:
    """Whether `image_key` made it."""
    return key.startswith("HardDisk:")


def disk_uuid(*of: str) -> str:
    """A uuid for the disk that these names tell from all others."""
    return derived_uuid("disk", *of)


def read_registry(registry: xml.Element | None, name: str) -> dict[str, Image]:
    """Images by uuid. Raises FormatError for what is no registry."""
    found: dict[str, Image] = {}
    for group, kind in _KINDS if registry is not None else ():
        assert registry is not None
        for section in xml.children(registry, group):
            stack = [(each, "") for each in reversed(list(xml.children(section, kind)))]
            while stack:
                element, parent = stack.pop()
                image = _image(element, parent, _DEVICES[group], name)
                if len(found) >= _MAX_IMAGES:
                    raise FormatError(f"{name}: more than {_MAX_IMAGES} images")
                found[image.uuid] = image
                nested = list(xml.children(element, "HardDisk"))
                stack += [(each, image.path) for each in reversed(nested)]
    return found


def _image(element: xml.Element, parent: str, device: str, name: str) -> Image:
    told = element.get("uuid") or ""
    uuid = plain_uuid(told)
    if not uuid:
        raise FormatError(f"{name}: an image has no uuid: '{xml.printable(told[:60])}'")
    default = "Normal" if device == "disk" else ""
    return Image(
        path=element.get("location") or element.get("src") or "",
        uuid=uuid,
        device=device,
        format=element.get("format") or "",
        parent=parent,
        type=element.get("type") or default,
    )


def planned(drives: Sequence[Drive], snapshots: Sequence[Snapshot]) -> Registry:
    """The registry that follows from a machine: roots before their children."""
    found: Registry = {}
    places: dict[str, Mapping[tuple[str, int, int], str]] = {"": {}}
    current = ""
    for snapshot in snapshots:
        below = places.get(snapshot.parent, {})
        places[snapshot.id] = _add(found, snapshot.drives, below)
        if snapshot.current:
            current = snapshot.id
    _add(found, drives, places.get(current, {}))
    return found


def _add(
    found: Registry, drives: Sequence[Drive], below: Mapping[tuple[str, int, int], str]
) -> dict[tuple[str, int, int], str]:
    here = dict(below)
    for drive in drives:
        if not drive.path or (drive.source == "block" and drive.device != "disk"):
            continue
        place = (drive.bus, drive.controller, drive.slot)
        parent = below.get(place, "") if drive.device == "disk" else ""
        if drive.path not in found:
            found[drive.path] = Image(
                drive.path,
                derived_uuid(drive.device, drive.path),
                drive.device,
                _format(drive) if drive.device == "disk" else "",
                parent,
                ("Readonly" if drive.readonly else "Normal") if drive.device == "disk" else "",
            )
        here[place] = drive.path
    return here


def _format(drive: Drive) -> str:
    name = drive.format or drive.path.rpartition(".")[2].lower()
    return next((told for told, known in FORMATS.items() if known == name), "VDI")


def extras_of(actual: Registry, expected: Registry) -> Iterator[Extra]:
    """What the registry of a file says that does not follow from the machine."""
    for path, image in actual.items():
        if image.device != "disk":
            continue
        known = expected.get(path) or Image(path, derived_uuid("disk", path), format="VDI")
        if image.uuid != known.uuid or path not in expected:
            yield image_key(path), image.uuid
        if image.format != known.format:
            yield image_key(path, "format"), image.format
        if image.parent != known.parent:
            yield image_key(path, "parent"), image.parent
        if image.type != known.type:
            yield image_key(path, "type"), image.type


def with_extras(registry: Registry, extras: Sequence[Extra]) -> Registry:
    """``registry`` with what the extras say of images."""
    found = dict(registry)
    for key, value in extras:
        if not key.startswith("HardDisk:") or "@" not in key:
            continue
        path, _, what = key.removeprefix("HardDisk:").rpartition("@")
        if not path:
            continue
        image = found.get(path) or Image(path, derived_uuid("disk", path), format="VDI")
        if image.device != "disk":
            continue
        if what == "uuid" and plain_uuid(value):
            image = replace(image, uuid=plain_uuid(value))
        elif what == "format" and value:
            image = replace(image, format=value)
        elif what == "parent":
            image = replace(image, parent=value)
        elif what == "type" and value:
            image = replace(image, type=value)
        found[path] = image
    return found
