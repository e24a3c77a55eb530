"""The syntax of Proxmox's configurations: sections, lines, properties, texts, sizes, drives.

Imports the model and errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from vmimg.errors import FormatError
from vmimg.machines.model import Drive

__all__ = [
    "Section",
    "decoded",
    "drive_line",
    "drive_of",
    "encoded",
    "joined",
    "place_of",
    "properties",
    "sections",
]

_MAX_BYTES: Final = 1 << 20
_LINE: Final = re.compile(r"([a-z][a-z_0-9]*[a-z0-9]?):\s*(.*?)\s*")
_HEADING: Final = re.compile(r"\[([a-zA-Z][a-zA-Z0-9:_-]{0,60})\]\s*")
_SIZE: Final = re.compile(r"([0-9]{1,18})(?:\.0+)?([KMGT]?)")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_VOLUME: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):([^\s].*)")
_DEVICE: Final = re.compile(r"(ide|sata|scsi|virtio)([0-9]{1,3})")
_FORMATS: Final = ("raw", "qcow", "qcow2", "qed", "vmdk", "cloop", "cow")
_PLAIN: Final = "".join(map(chr, (*range(0x20, 0x25), *range(0x26, 0x3A), *range(0x3B, 0x7F))))


@dataclass(slots=True)
class Section:
    """A heading ("" for the first part), its description, and its lines in order."""

    name: str
    description: list[str] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)


def sections(data: bytes, name: str) -> list[Section]:
    """The parts of a file. Raises FormatError for what is no line of it."""
    if len(data) > _MAX_BYTES:
        raise FormatError(f"{name}: {len(data)} bytes are too many for a configuration")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{name}: the configuration is not UTF-8") from None
    found = [Section("")]
    for at, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.startswith("#"):
            found[-1].description.append(decoded(line[1:]))
        elif heading := _HEADING.fullmatch(line):
            found.append(Section(heading[1]))
        elif setting := _LINE.fullmatch(line):
            found[-1].lines[setting[1]] = setting[2]
        elif line.strip():
            raise FormatError(f"{name}: line {at} is not 'key: value'")
    if not found[0].lines:
        raise FormatError(f"{name}: there are no settings in it")
    return found


def encoded(text: str) -> str:
    """A line of text with control characters, colons and what is not ASCII as %XX."""
    return quote(text, safe=_PLAIN)


def decoded(text: str) -> str:
    """What `encoded` made the text of."""
    return unquote_to_bytes(text).decode("utf-8", "replace")


def properties(value: str, first: str) -> dict[str, str]:
    """The parts of "a,b=c": {first: "a", "b": "c"}, for one value may go without its key."""
    found: dict[str, str] = {}
    for part in value.split(","):
        key, sign, said = part.partition("=")
        if sign:
            found.setdefault(key.strip(), said)
        elif part:
            found.setdefault(first, part)
    return found


def joined(pairs: Mapping[str, str], first: str) -> str:
    """What `properties` takes apart."""
    said = []
    for key, value in pairs.items():
        said.append(value if key == first and "=" not in value else f"{key}={value}")
    return ",".join(said)


def place_of(key: str) -> tuple[str, int, int] | None:
    """Bus, controller and slot of a drive's key: there are two to each IDE channel."""
    found = _DEVICE.fullmatch(key)
    if found is None:
        return None
    number = int(found[2])
    return (found[1], *divmod(number, 2)) if found[1] == "ide" else (found[1], 0, number)


def drive_of(key: str, value: str, name: str) -> tuple[Drive, dict[str, str]]:
    """The drive of a line, and the properties that the model has no word for."""
    place = place_of(key)
    assert place is not None
    said = properties(value, "file")
    file = said.pop("file", "none")
    cdrom = said.get("media") == "cdrom" or file == "cdrom"
    if said.get("media") in ("cdrom", "disk"):
        del said["media"]
    size = _size(said.pop("size", ""), key, name)
    format_ = ""
    if said.get("format") in _FORMATS:
        format_ = said.pop("format")
    path, source = ("" if file == "none" else file), "file"
    if path.startswith("/dev/") or path == "cdrom":
        source = "block"
    elif volume := _VOLUME.fullmatch(path):
        path, source = f"{volume[1]}/{volume[2]}", "volume"
    readonly = said.get("ro") == "1"
    said.pop("ro", None)
    return Drive(
        device="cdrom" if cdrom else "disk",
        bus=place[0],  # type: ignore[arg-type]
        controller=place[1],
        slot=place[2],
        path=path,
        source=source,  # type: ignore[arg-type]
        format=format_,
        size=size,
        readonly=readonly,
        serial=decoded(said.pop("serial", "")),
    ), said


def drive_line(drive: Drive) -> tuple[str, dict[str, str]]:
    """The key and the properties of a drive that Proxmox can say."""
    number = drive.controller * 2 + drive.slot if drive.bus == "ide" else drive.slot
    file = drive.path or "none"
    if drive.source == "volume":
        file = file.replace("/", ":", 1)
    said = {"file": file}
    if drive.device == "cdrom":
        said["media"] = "cdrom"
    if drive.format:
        said["format"] = drive.format
    if drive.readonly:
        said["ro"] = "1"
    if drive.serial:
        said["serial"] = quote(drive.serial, safe="")
    if drive.size:
        unit = max(
            (each for each in _UNITS if drive.size % _UNITS[each] == 0), key=_UNITS.__getitem__
        )
        said["size"] = f"{drive.size // _UNITS[unit]}{unit}"
    return f"{drive.bus}{number}", said


def _size(text: str, key: str, name: str) -> int:
    if not text:
        return 0
    found = _SIZE.fullmatch(text)
    if found is None:
        raise FormatError(f"{name}: the size of {key} is no number: '{text[:40]}'")
    size = int(found[1]) * _UNITS[found[2]]
    if size >= 1 << 63:
        raise FormatError(f"{name}: the size of {key} is {text[:40]}")
    return size
