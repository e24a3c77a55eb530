"""The text descriptor of a VMDK: parsed, believed in nothing. No numpy.

A descriptor is a text file of its own, or stands inside a sparse file, padded with zeros::

    # Disk DescriptorFile
    version=1
    CID=0a1b2c3d                          changes with the content of the image
    parentCID=ffffffff                    the parent's CID when this delta was made
    createType="twoGbMaxExtentSparse"
    parentFileNameHint="base.vmdk"
    RW 4192256 SPARSE "disk-s001.vmdk"    access, sectors, type, file, [sector in it]
    RW 2048 ZERO
    ddb.adapterType = "lsilogic"

Spec: VMware "Virtual Disk Format 5.0", section "Layout Basics".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vmimg.errors import FormatError
from vmimg.formats.vetting import printable
from vmimg.formats.vmdk import structures as s

__all__ = ["Descriptor", "ExtentLine", "looks_like_descriptor", "parse_descriptor"]

_EXTENT: Final = re.compile(
    r'(RW|RDONLY|NOACCESS)\s+(\d{1,19})\s+([A-Z]+)(?:\s+"([^"]*)"(?:\s+(\d{1,19}))?)?\s*(.*)',
    re.ASCII,
)
_SETTING: Final = re.compile(r"([A-Za-z][\w.:-]*)\s*=\s*(.*)", re.ASCII)
_CID: Final = re.compile(rb'(?mi)^[ \t]*CID[ \t]*=[ \t]*"?([0-9a-f]{1,8})(?![0-9a-z])')
# Not \s, which takes the ends of lines too: to look through 1 MiB of empty ones would take hours.
_NAMED_ENCODING: Final = re.compile(rb'(?mi)^[ \t]*encoding[ \t]*=[ \t]*"?([\w-]{1,20})')

FLAT_TYPES: Final = ("FLAT", "VMFS")
SPARSE_TYPES: Final = ("SPARSE", "VMFSSPARSE", "SESPARSE")
_TYPES: Final = (*FLAT_TYPES, *SPARSE_TYPES, "ZERO", "VMFSRDM", "VMFSRAW")

# What `encoding` may name. Python knows codecs that are no character sets.
_ENCODING: Final = re.compile(
    r"(utf-?8|windows-\d+|iso-8859-\d+|gbk|gb2312|gb18030|big5|shift_?jis|euc-?(jp|kr|tw))", re.I
)
# A disk larger than this cannot be addressed.
_MAX_SECTORS: Final = (1 << 62) // s.SECTOR


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """A line of the extent description; ``sectors`` and ``offset`` (in the file) of 512 bytes."""

    access: str
    sectors: int
    type: str
    filename: str | None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What the text says. ``cid`` and ``parent_cid`` are None where it does not say.

    ``settings``: all other settings by lower-case name. ``cid_place``: (offset in the text, number
    of hexadecimal digits) of the CID, so that it can be changed where it stands.
    """

    extents: tuple[ExtentLine, ...]
    settings: dict[str, str]
    cid: int | None
    parent_cid: int | None
    cid_place: tuple[int, int] | None

    @property
    def create_type(self) -> str | None:
        return self.settings.get("createtype")

    @property
    def parent_hint(self) -> str | None:
        """Name of the parent, None where there is none."""
        return self.settings.get("parentfilenamehint") or None

    @property
    def size(self) -> int:
        """Virtual bytes of all extents together."""
        return sum(extent.sectors for extent in self.extents) * s.SECTOR

    def ddb(self, name: str) -> str | None:
        """The entry ``ddb.name`` of the disk data base, None where there is none."""
        return self.settings.get(f"ddb.{name}".lower())


def looks_like_descriptor(head: bytes) -> bool:
    """Whether a text that begins with ``head`` is a descriptor.

    The first line says so, or is followed only by comments and blank lines up to the version.
    """
    for number, line in enumerate(head.removeprefix(b"\xef\xbb\xbf").split(b"\n")):
        line = line.strip()
        if number == 0 and line.lower().startswith(s.DESCRIPTOR_MAGIC.lower()):
            return True
        if line and not line.startswith(b"#"):
            return re.fullmatch(rb"version\s*=\s*[123]", line) is not None
    return False


def parse_descriptor(text: bytes, name: str) -> Descriptor:
    """The descriptor in ``text``, which may be padded with zeros; ``name`` is for messages.

    Raises FormatError for lines of extents that are none, and for more than QEMU reads, 1 MiB.
    """
    if len(text) > s.MAX_DESCRIPTOR:
        raise FormatError(
            f"{name}: the descriptor has {len(text)} bytes; at most {s.MAX_DESCRIPTOR} are read"
        )
    text = text.partition(b"\0")[0]
    extents: list[ExtentLine] = []
    settings: dict[str, str] = {}
    for line in _decode(text).splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        setting = _SETTING.match(line)
        if setting is not None:
            # The first counts where a name is there twice: QEMU searches from the start.
            settings.setdefault(setting[1].lower(), _unquote(setting[2]))
            continue
        if line.startswith(("RW", "RDONLY", "NOACCESS")):
            extents.append(_extent(line, name))
    if len(extents) > s.MAX_EXTENTS:
        raise FormatError(
            f"{name}: the descriptor names {len(extents)} extents; at most {s.MAX_EXTENTS} are read"
        )
    if sum(extent.sectors for extent in extents) > _MAX_SECTORS:
        raise FormatError(f"{name}: the extents of the descriptor have more than 4 EiB together")
    place = _CID.search(text)
    return Descriptor(
        extents=tuple(extents),
        settings=settings,
        cid=_hexadecimal(settings.get("cid"), "CID", name),
        parent_cid=_hexadecimal(settings.get("parentcid"), "parentCID", name),
        cid_place=(place.start(1), len(place[1])) if place is not None else None,
    )


def _decode(text: bytes) -> str:
    """QEMU says windows-1252 whatever it writes, and text in another encoding is hardly ever valid
    UTF-8: so that comes first.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        pass
    named = _NAMED_ENCODING.search(text)
    encoding = named[1].decode("ascii", "replace") if named is not None else ""
    if _ENCODING.fullmatch(encoding):
        try:
            return text.decode(encoding)
        except (LookupError, UnicodeDecodeError):
            pass
    return text.decode("utf-8", "surrogateescape")


def _unquote(value: str) -> str:
    value = value.strip()
    if value.startswith('"'):
        return value[1:].partition('"')[0]
    return value


def _extent(line: str, name: str) -> ExtentLine:
    match, shown = _EXTENT.fullmatch(line), printable(line[:100])
    if match is None:
        raise FormatError(f"{name}: the descriptor's extent line '{shown}' cannot be read")
    access, sectors, kind, filename, offset, _ = match.groups()
    if kind not in _TYPES:
        raise FormatError(f"{name}: the descriptor has an extent of the unknown type {kind[:20]}")
    if kind != "ZERO" and not filename:
        raise FormatError(f"{name}: the descriptor's extent line '{shown}' names no file")
    if kind == "FLAT" and offset is None:
        raise FormatError(
            f"{name}: the descriptor's extent line '{shown}' does not say where in its file "
            "the extent begins"
        )
    if int(offset or 0) > _MAX_SECTORS or int(sectors) > _MAX_SECTORS:
        raise FormatError(f"{name}: the descriptor's extent line '{shown}' is out of range")
    return ExtentLine(access, int(sectors), kind, filename or None, int(offset or 0))


def _hexadecimal(value: str | None, what: str, name: str) -> int | None:
    if value is None:
        return None
    if re.fullmatch(r"[0-9A-Fa-f]{1,8}", value) is None:
        shown = printable(value[:20])
        raise FormatError(f"{name}: the descriptor's {what} is '{shown}', not 8 hex digits")
    return int(value, 16)
