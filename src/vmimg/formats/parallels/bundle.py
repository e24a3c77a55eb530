"""DiskDescriptor.xml: what a bundle is made of: parsed, checked, and made. No numpy.

::

    Parallels_disk_image
      Disk_Parameters    Disk_size in sectors, geometry, Padding, Encryption, ...
      StorageData
        Storage          Start and End in sectors: a disk may be split
          Image          GUID, Type (Compressed, Plain), File; one for each state of the disk
      Snapshots
        TopGUID          the present state; a GUID of its own, or the well-known one
        Shot             GUID, ParentGUID: the tree of states

A state is made of the image of its GUID in each storage, above those of its parent. ploop writes
the same file with fewer elements. Comes from strangers: entities and document types are refused,
sizes are bounded. Spec: QEMU docs/interop/prl-xml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID
from xml.parsers import expat

from vmimg.errors import ChainError, FormatError, OptionError, UnsupportedFeature
from vmimg.formats.parallels import structures as s
from vmimg.formats.vetting import printable
from vmimg.storage.base import Storage

__all__ = [
    "DEFAULT_TOP", "NO_GUID", "Descriptor", "Element", "Image", "StorageRange", "braced",
    "looks_like_bundle", "read_descriptor",
]  # fmt: skip

NO_GUID: Final = UUID(int=0)
DEFAULT_TOP: Final = UUID("5fbaabe3-6958-40ff-92a7-860e329aab41")
"""The GUID of the present state where no TopGUID names another."""

_ROOT: Final = "Parallels_disk_image"
_MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 32
_MAX_TEXT: Final = 4096
# Split disks have pieces of 2 GiB.
_MAX_IMAGES: Final = 16384
# Each is a file that is open, and a layer of the stack.
_MAX_CHAIN: Final = 512
_TYPES: Final = ("Compressed", "Plain")


@dataclass(slots=True)
class Element:
    """An element of the file: its text without the space around, and what is in it."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, name: str) -> Element | None:
        return next((child for child in self.children if child.name == name), None)

    def all(self, name: str) -> Iterator[Element]:
        return (child for child in self.children if child.name == name)

    def value(self, name: str) -> str:
        """The text of the element called ``name`` in this one; "" where there is none."""
        found = self.find(name)
        return found.text if found is not None else ""


@dataclass(frozen=True, slots=True)
class Image:
    """The file that holds one state of a storage."""

    guid: UUID
    plain: bool
    file: str


@dataclass(frozen=True, slots=True)
class StorageRange:
    """[start, end) of the disk, in bytes; ``block_size`` of its expanding images, 0 if not said."""

    start: int
    end: int
    block_size: int
    images: dict[UUID, Image]


@dataclass(slots=True)
class Descriptor:
    """What the file says, checked. ``size`` in bytes. ``parents``: of each state, NO_GUID of the
    first. ``refusal``: why the disk cannot be read, "" where it can. ``parent_volume``: the ploop
    volume that it lies above, "" for none.
    """

    name: str
    size: int
    storages: list[StorageRange]
    parents: dict[UUID, UUID]
    top: UUID
    encrypted: bool = False
    refusal: str = ""
    parent_volume: str = ""
    parameters: Element = field(default_factory=lambda: Element("Disk_Parameters"))

    def state(self, wanted: str) -> UUID:
        """The GUID that ``wanted`` means. Raises OptionError where there is no such state."""
        try:
            guid = UUID(wanted.strip())
        except ValueError:
            guid = NO_GUID
        if guid not in self.parents:
            raise OptionError(
                f"{self.name}: there is no snapshot '{wanted}'; vmimg info lists their GUIDs"
            )
        return guid

    def chain(self, guid: UUID) -> list[UUID]:
        """``guid`` and the states below it. Raises ChainError for a loop or one that is missing."""
        chain = list[UUID]()
        seen = set[UUID]()
        while guid != NO_GUID:
            if guid in seen:
                raise ChainError(
                    f"{self.name}: the tree of snapshots loops: {braced(guid)} is its own ancestor"
                )
            if guid not in self.parents:
                raise ChainError(
                    f"{self.name}: the snapshot {braced(guid)} is named as a parent, and missing"
                )
            if len(chain) >= _MAX_CHAIN:
                raise ChainError(f"{self.name}: more than {_MAX_CHAIN} snapshots above each other")
            chain.append(guid)
            seen.add(guid)
            guid = self.parents[guid]
        return chain

    def broken(self) -> list[str]:
        """What keeps states from being read, a line for each that cannot be."""
        lines = list[str]()
        whole, wrong = {NO_GUID}, dict[UUID, str]()
        for guid in self.parents:
            path = dict[UUID, None]()
            at = guid
            while at not in whole and at not in wrong and at in self.parents and at not in path:
                path[at] = None
                at = self.parents[at]
            if at in whole:
                whole.update(path)
                continue
            why = wrong.get(at) or (
                f"the tree loops at {braced(at)}" if at in path else f"{braced(at)} is missing"
            )
            wrong.update(dict.fromkeys(path, why))
        lines += [
            f"the snapshot {braced(guid)} cannot be read: {why}" for guid, why in wrong.items()
        ]
        return lines

    def image(self, storage: StorageRange, guid: UUID) -> Image:
        """The image of a state in ``storage``. Raises ChainError where there is none."""
        found = storage.images.get(guid)
        if found is None:
            raise ChainError(f"{self.name}: no image is named for the snapshot {braced(guid)}")
        return found


def braced(guid: UUID) -> str:
    """As the file has it."""
    return f"{{{guid}}}"


def looks_like_bundle(head: bytes) -> bool:
    """Whether a file that begins so is a DiskDescriptor.xml."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    # What may stand in front: a declaration, comments, a document type (which is refused later).
    text = re.sub(
        rb"\A(?:\s|<\?.*?\?>|<!--.*?-->|<![A-Z][^\[>]*(?:\[.*?\]\s*)?>)*",
        b"",
        text,
        flags=re.DOTALL,
    )
    return re.match(rb"<Parallels_disk_image[\s>/]", text) is not None


def read_descriptor(storage: Storage) -> Descriptor:
    """The descriptor that ``storage`` is. Raises FormatError for what breaks the format."""
    name = storage.name
    if storage.size > _MAX_BYTES:
        raise FormatError(
            f"{name}: a descriptor of {storage.size} bytes; at most {_MAX_BYTES} are read"
        )
    root = _parse(storage.read(0, storage.size), name)
    parameters = root.find("Disk_Parameters")
    data = root.find("StorageData")
    if root.name != _ROOT or parameters is None or data is None:
        raise FormatError(
            f"{name}: not a Parallels descriptor: it has no {_ROOT} with Disk_Parameters and "
            "StorageData"
        )
    found = Descriptor(name, 0, [], {}, NO_GUID, parameters=parameters)
    found.size = _sectors(name, parameters, "Disk_size")
    _read_storages(found, data)
    _read_snapshots(found, root.find("Snapshots"))
    _read_refusals(found, data)
    return found


def _parse(data: bytes, name: str) -> Element:
    """The root element. Raises FormatError for what is not XML, or more than plain elements."""
    parser = expat.ParserCreate()
    holder = Element("")
    stack = [holder]

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if len(stack) > _MAX_DEPTH:
            raise FormatError(f"{name}: elements are nested deeper than {_MAX_DEPTH}")
        element = Element(tag)
        stack[-1].children.append(element)
        stack.append(element)

    def end(tag: str) -> None:
        element = stack.pop()
        element.text = element.text.strip()

    def text(characters: str) -> None:
        element = stack[-1]
        # What is longer is nothing that is looked at.
        if len(element.text) <= _MAX_TEXT:
            element.text += characters

    def refuse(*_: object) -> None:
        raise FormatError(
            f"{name}: has a document type or entities, which no DiskDescriptor.xml needs: refused"
        )

    parser.StartElementHandler = begin
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise FormatError(f"{name}: is not well-formed XML: {error}") from None
    return holder.children[0]


def _read_storages(found: Descriptor, data: Element) -> None:
    name = found.name
    count = 0
    for element in data.all("Storage"):
        images: dict[UUID, Image] = {}
        for described in element.all("Image"):
            image = _read_image(name, described)
            count += 1
            if image.guid in images:
                raise FormatError(f"{name}: two images are called {braced(image.guid)}")
            if count > _MAX_IMAGES:
                raise FormatError(f"{name}: names more than {_MAX_IMAGES} images")
            images[image.guid] = image
        start, end = _sectors(name, element, "Start"), _sectors(name, element, "End")
        block_size = _sectors(name, element, "Blocksize") if element.value("Blocksize") else 0
        found.storages.append(StorageRange(start, end, block_size, images))
    found.storages.sort(key=lambda storage: storage.start)
    position = 0
    for storage in found.storages:
        if storage.start != position or storage.end < storage.start:
            raise FormatError(
                f"{name}: a storage from {storage.start} to {storage.end} does not follow what "
                f"ends at {position}"
            )
        position = storage.end
    if not found.storages or position != found.size:
        raise FormatError(f"{name}: its storages have {position} bytes, and the disk {found.size}")


def _read_image(name: str, element: Element) -> Image:
    kind, file = element.value("Type"), element.value("File")
    if kind not in _TYPES:
        shown = printable(kind[:40])
        raise UnsupportedFeature(f"{name}: an image of the type '{shown}'; known are {_TYPES}")
    if not file or len(file) > _MAX_TEXT:
        raise FormatError(f"{name}: an image with no file, or one whose name is too long")
    return Image(_guid(name, element.value("GUID")), kind == "Plain", file)


def _read_snapshots(found: Descriptor, element: Element | None) -> None:
    name = found.name
    for shot in element.all("Shot") if element is not None else ():
        guid = _guid(name, shot.value("GUID"))
        if guid == NO_GUID or guid in found.parents:
            raise FormatError(f"{name}: a snapshot is called {braced(guid)}, which it cannot be")
        found.parents[guid] = _guid(name, shot.value("ParentGUID") or braced(NO_GUID))
    if not found.parents:
        # Nothing was ever snapshotted, and not every program says so.
        found.parents = dict.fromkeys(found.storages[0].images, NO_GUID)
    named = element.value("TopGUID") if element is not None else ""
    if named:
        found.top = _guid(name, named)
    elif DEFAULT_TOP in found.parents or len(found.parents) != 1:
        found.top = DEFAULT_TOP
    else:
        found.top = next(iter(found.parents))
    if found.top not in found.parents:
        raise ChainError(
            f"{name}: the present state is the snapshot {braced(found.top)}, and it is missing"
        )


def _read_refusals(found: Descriptor, data: Element) -> None:
    parameters = found.parameters
    encryption = parameters.find("Encryption")
    if encryption is not None:
        engine = encryption.value("Engine")
        found.encrypted = bool(engine and _guid(found.name, engine) != NO_GUID)
    volume = data.find("Volume")
    found.parent_volume = volume.value("Parent") if volume is not None else ""
    if parameters.value("Padding") not in ("", "0"):
        found.refusal = "it is padded (Padding is not 0), which the specification does not describe"
    elif found.encrypted:
        found.refusal = "it is encrypted by a plug-in of Parallels, and can be read there only"
    elif found.parent_volume:
        found.refusal = (
            f"it is a ploop volume above another, '{printable(found.parent_volume)}'; vmimg "
            "follows no volumes: flatten it where it can be mounted"
        )


def _sectors(name: str, element: Element, what: str) -> int:
    """A number of sectors, in bytes."""
    text = element.value(what)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        shown = printable(text[:40])
        raise FormatError(f"{name}: {what} is '{shown}', and should be a number of sectors")
    number = int(text) * s.SECTOR
    if number >= 1 << 63:
        raise FormatError(f"{name}: {what} is {text} sectors, more than a disk can have")
    return number


def _guid(name: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise FormatError(f"{name}: '{printable(text[:80])}' is not a GUID") from None
