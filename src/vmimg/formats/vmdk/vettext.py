"""What vetting finds in the descriptor of a VMDK: the text, line by line.

Readers of this text differ: VMware's and ours go by lines, QEMU searches for ``createType=`` and
``parentFileNameHint=`` anywhere, comments and values included, OpenStack's inspector takes the
first ``createType="`` in lower case. So whatever could be read in two ways is told: keys that are
there twice or elsewhere than in front, characters that end a line for some, lines that are nothing.

Spec: VMware "Virtual Disk Format 5.0", "The Descriptor File". No numpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from vmimg.formats.regions import Area, collisions
from vmimg.formats.telling import some
from vmimg.formats.vetting import Finding, Severity, is_outside, of_name
from vmimg.formats.vmdk import structures as s

__all__ = ["Text", "vet_text"]

# Extents, and some hundred lines around them.
_MOST_LINES: Final = s.MAX_EXTENTS + 4096
_ACCESS: Final = ("RW", "RDONLY", "NOACCESS")
_EXTENT: Final = re.compile(
    r'(RW|RDONLY|NOACCESS)\s+(\d{1,19})\s+([A-Z]+)(?:\s+"([^"]*)"(?:\s+(\d{1,19}))?)?(?:\s.*)?',
    re.ASCII,
)
_SETTING: Final = re.compile(r"([A-Za-z][\w.:-]*)(\s*)=(.*)", re.ASCII)
# What a reader that searches the text takes for a setting, wherever it stands.
_SEARCHED: Final = re.compile(r"(createtype|parentfilenamehint|parentcid|(?<!parent)cid)=", re.I)
_VERSIONS: Final = ("1", "2", "3", "4")
# Keys that are there twice and are told, besides those that decide what is read.
_MOST_TWICE: Final = 4
_COUNTING: Final = ("createtype", "cid", "parentcid", "parentfilenamehint")
_CID_DIGITS: Final = 8
_HEX: Final = re.compile(r"[0-9A-Fa-f]{1,8}")
_NO_PARENT: Final = "ffffffff"

_TYPES: Final = (
    "FLAT", "VMFS", "ZERO", "SPARSE", "VMFSSPARSE", "SESPARSE", "VMFSRDM", "VMFSRAW",
)  # fmt: skip
_RAW_TYPES: Final = ("VMFSRDM", "VMFSRAW")
# In lower case: QEMU goes by the letters as they are, others do not.
_CREATE_TYPES: Final = frozenset(
    (
        "monolithicsparse", "monolithicflat", "twogbmaxextentsparse", "twogbmaxextentflat",
        "streamoptimized", "vmfs", "vmfssparse", "vmfsthin", "vmfseagerzeroedthick",
        "vmfspreallocated", "sesparse", "vsansparse", "custom",
        "2gbmaxextentsparse", "2gbmaxextentflat",
    )
)  # fmt: skip
_DEVICE_TYPES: Final = frozenset(
    (
        "fulldevice", "partitioneddevice", "vmfsraw", "vmfsrdm", "vmfsrdmp", "vmfsrawdevicemap",
        "vmfspassthroughrawdevicemap",
    )
)  # fmt: skip
_DEVICES: Final = ("//./", "//?/", "/dev/", "/proc/", "/sys/", "/vmfs/devices/")
_OTHER_FILES: Final = {
    "changetrackpath": "the file of its change tracking",
    "digestfilename": "the file of its digests",
    "ddb.nativeparenthint": "the parent that the storage knows",
}


@dataclass(slots=True)
class Text:
    """A descriptor as it stands: its lines by what they are, each with where it begins.

    ``start``: where the text is in the file. ``embedded``: it stands inside a sparse extent, whose
    data is not looked for by name. Settings by their keys in lower case.
    """

    raw: bytes
    start: int
    embedded: bool
    settings: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    extents: list[tuple[int, str]] = field(default_factory=list)
    odd: list[tuple[int, str]] = field(default_factory=list)
    searched: list[tuple[int, str]] = field(default_factory=list)
    too_long: bool = False
    rest: bytes = b""
    """What stands behind the text, from the first zero byte on."""

    def __post_init__(self) -> None:
        end = self.raw.find(b"\0")
        self.raw, self.rest = (self.raw, b"") if end < 0 else (self.raw[:end], self.raw[end:])
        place = 0
        for number, line in enumerate(self.raw.split(b"\n", _MOST_LINES)):
            if number == _MOST_LINES:
                self.too_long = True
                break
            self._sort(self.start + place, line.decode("latin-1").strip(" \t\r"))
            place += len(line) + 1

    def first(self, key: str) -> tuple[int, str] | None:
        """Where the value of ``key`` that counts is set, and what it is."""
        found = self.settings.get(key)
        return found[0] if found else None

    @property
    def sectors(self) -> int:
        """Of all extents that can be read."""
        found = (_EXTENT.fullmatch(line) for _, line in self.extents)
        return sum(int(match[2]) for match in found if match is not None)

    def _sort(self, place: int, line: str) -> None:
        if place == 0:
            line = line.removeprefix("\xef\xbb\xbf")
        setting = _SETTING.fullmatch(line)
        if line and not line.startswith("#"):
            if setting is not None and (not setting[2] or line.lower().startswith("ddb")):
                key = setting[1].lower()
                self.settings.setdefault(key, []).append((place, setting[3].strip()))
            elif line.startswith(_ACCESS):
                self.extents.append((place, line))
            elif not line.startswith("ddb"):
                self.odd.append((place, line))
        found = _SEARCHED.search(line, 1)
        if found is not None:
            self.searched.append((place + found.start(), found[1]))


def vet_text(text: Text) -> Iterator[Finding]:
    """Findings on the text, and on all that it names."""
    yield from _vet_shape(text)
    yield from _vet_settings(text)
    yield from _vet_names(text)
    yield from _vet_extents(text)


def _vet_shape(text: Text) -> Iterator[Finding]:
    if text.too_long:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor has more than {_MOST_LINES} lines",
            offset=text.start,
        )
    for (place, line), more in some(text.odd):
        yield Finding.of(
            "odd-descriptor",
            f"a line of the descriptor is neither a setting nor an extent{more}",
            offset=place,
            evidence=line,
        )
    for (place, key), more in some(text.searched):
        yield Finding.of(
            "odd-descriptor",
            f"'{key}' stands where no setting can be: QEMU finds it there{more}",
            offset=place,
        )
    control = re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|$)", text.raw)
    if control is not None:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor has the control character {control[0][0]:#04x}, which ends a line for "
            "some readers",
            offset=text.start + control.start(),
        )
    other = re.search(rb"\xc2\x85|\xe2\x80[\xa8\xa9]", text.raw)
    if other is not None:
        yield Finding.of(
            "odd-descriptor",
            "the descriptor has a character that ends a line for some readers",
            offset=text.start + other.start(),
        )
    letter = re.search(rb"[\x80-\xff]", text.raw.removeprefix(b"\xef\xbb\xbf"))
    if letter is not None:
        # Names in other letters are good; OpenStack's inspector refuses them all the same.
        yield Finding.of(
            "odd-descriptor",
            "the descriptor is not plain ASCII: readers differ in how they take other letters",
            offset=text.start + letter.start(),
            severity=Severity.WARNING,
        )
    rest = text.rest.lstrip(b"\0")
    if rest and not _is_left_over(text, rest.rstrip(b"\0")):
        yield Finding.of(
            "hidden-data",
            "there is data behind the zeros that end the descriptor",
            offset=text.start + len(text.raw) + len(text.rest) - len(rest),
        )


def _is_left_over(text: Text, rest: bytes) -> bool:
    """QEMU writes the text anew with another CID; where that has fewer digits, the end of the old
    text stays behind the zero that ends the new one.
    """
    return len(rest) < _CID_DIGITS and text.raw.endswith(rest)


def _vet_settings(text: Text) -> Iterator[Finding]:
    twice = [(key, found) for key, found in text.settings.items() if len(found) > 1]
    for number, (key, found) in enumerate(twice):
        if number < _MOST_TWICE or key in _COUNTING:
            plain = key.startswith("ddb.")
            yield Finding.of(
                "odd-descriptor",
                f"'{key}' is set {len(found)} times: readers differ in which they take",
                offset=found[1][0],
                severity=Severity.WARNING if plain else None,
            )
    for key, found in text.settings.items():
        if "encryption" in key or "keysafe" in key:
            yield Finding.of(
                "encrypted", "the descriptor has keys of an encrypted disk", offset=found[0][0]
            )
            break
    version = text.first("version")
    if version is None or _unquoted(version[1]) not in _VERSIONS:
        said = "does not say its version" if version is None else f"is of version '{version[1]}'"
        yield Finding.of(
            "odd-descriptor" if version is None else "unknown-version",
            f"the descriptor {said}; there are 1 to {_VERSIONS[-1]}",
            offset=text.start if version is None else version[0],
        )
    yield from _vet_create_type(text)
    for key in ("cid", "parentcid"):
        value = text.first(key)
        if value is None or _HEX.fullmatch(_unquoted(value[1])) is None:
            yield Finding.of(
                "odd-descriptor",
                f"the descriptor has no {key} of 8 hexadecimal digits",
                offset=text.start if value is None else value[0],
            )


def _vet_create_type(text: Text) -> Iterator[Finding]:
    kind = text.first("createtype")
    if kind is None:
        yield Finding.of("odd-descriptor", "the descriptor has no createType", offset=text.start)
        return
    name = _unquoted(kind[1]).lower()
    if name in _DEVICE_TYPES:
        yield Finding.of(
            "device-extent",
            f"it is of type '{_unquoted(kind[1])}': a device of the machine that reads it",
            offset=kind[0],
        )
    elif name not in _CREATE_TYPES or not re.fullmatch(r'"[^"]*"', kind[1]):
        yield Finding.of(
            "odd-descriptor",
            f"the createType of the descriptor is '{kind[1]}', which nobody knows",
            offset=kind[0],
        )


def _vet_names(text: Text) -> Iterator[Finding]:
    """What is named besides extents. The parent's name itself is told for all formats alike."""
    hint, cid = text.first("parentfilenamehint"), text.first("parentcid")
    named = hint is not None and _unquoted(hint[1]) != ""
    if cid is not None and _HEX.fullmatch(_unquoted(cid[1])):
        lone = _unquoted(cid[1]).lower().zfill(8) == _NO_PARENT
        if lone and named and hint is not None:
            yield Finding.of(
                "odd-descriptor",
                "it names a parent, but its parentCID says that it has none: readers differ",
                offset=hint[0],
            )
        elif not lone and not named:
            yield Finding.of(
                "odd-descriptor",
                "its parentCID says that it has a parent, but it names none",
                offset=cid[0],
            )
    for key, what in _OTHER_FILES.items():
        value = text.first(key)
        if value is not None and _unquoted(value[1]):
            finding = of_name("external-extent", "extent-outside", _unquoted(value[1]), what)
            yield Finding.of(finding.code, finding.message, offset=value[0], evidence=value[1])


# Extents


def _vet_extents(text: Text) -> Iterator[Finding]:
    if not text.extents:
        yield Finding.of("malformed", "the descriptor names no extents", offset=text.start)
        return
    if len(text.extents) > s.MAX_EXTENTS:
        yield Finding.of(
            "odd-descriptor",
            f"the descriptor names {len(text.extents)} extents; the largest disk in pieces of "
            f"2 GiB has {s.MAX_EXTENTS}",
            offset=text.extents[0][0],
        )
    beside: list[tuple[int, str]] = []
    odd: list[tuple[int, str]] = []
    outside: list[tuple[int, str, str]] = []
    devices: list[tuple[int, str, str]] = []
    for place, line in text.extents:
        match = _EXTENT.fullmatch(line)
        if match is None or match[3] not in _TYPES:
            odd.append((place, line))
        name = match[4] if match is not None and match[4] else ""
        if _is_device(name, match[3] if match is not None else ""):
            devices.append((place, line, name))
        elif _is_outside(line, name):
            outside.append((place, line, name))
        elif name:
            beside.append((place, name))
    for (place, line), more in some(odd):
        yield Finding.of(
            "odd-descriptor", f"an extent cannot be read{more}", offset=place, evidence=line
        )
    for (place, line, name), more in some(devices):
        yield Finding.of(
            "device-extent",
            f"an extent is a device of the machine that reads it, '{name}'{more}",
            offset=place,
            evidence=line,
        )
    for (place, line, name), more in some(outside):
        yield Finding.of(
            "extent-outside",
            f"an extent is '{name or line}', and only bare names are safe{more}",
            offset=place,
            evidence=line,
        )
    if not text.embedded or len(text.extents) > 1:
        for (place, name), more in some(beside, 1):
            yield Finding.of(
                "external-extent",
                f"it names the extent '{name}', beside it{more}",
                offset=place,
                evidence=name,
            )
    yield from _vet_overlaps(text)


def _is_device(name: str, kind: str) -> bool:
    path = name.replace("\\", "/").lower()
    drive = re.fullmatch(r"[a-z]:/*", path) is not None
    return kind in _RAW_TYPES or path.startswith(_DEVICES) or drive


def _is_outside(line: str, name: str) -> bool:
    """As strict as OpenStack: nothing but a bare name, on the whole of the line."""
    if "/" in line or "\\" in line:
        return True
    return bool(name) and (is_outside(name) or name in (".", ".."))


def _vet_overlaps(text: Text) -> Iterator[Finding]:
    """Extents that are the same stretch of the same file."""
    files: dict[str, list[Area]] = {}
    for place, line in text.extents:
        match = _EXTENT.fullmatch(line)
        if match is None or not match[4] or match[3] == "ZERO":
            continue
        start = int(match[5] or 0)
        files.setdefault(match[4], []).append(Area(match[4], start, start + int(match[2]), place))
    found = (other for areas in files.values() for _, other in islice(collisions(areas), 1))
    for other in islice(found, 4):
        yield Finding.of(
            "tables-overlap",
            f"two extents are the same sectors of '{other.what}'",
            offset=other.said,
        )


def _unquoted(value: str) -> str:
    return value[1:].partition('"')[0] if value.startswith('"') else value.strip()
