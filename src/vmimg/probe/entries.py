"""Entry: a member of an archive, whatever the kind of archive; and which names tell something.

Readers of archives (`tar`, `zip`, `sevenzip`) make entries; recognisers see bundles in them, and
vetters what is wrong with them. Nothing here reads. Imports the registry of formats.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from vmimg.formats.registry import all_formats, by_extension

__all__ = [
    "TELLING_BYTES",
    "Archive",
    "Entry",
    "Kind",
    "base_of",
    "disk_kind",
    "is_archive",
    "is_disk",
    "is_telling",
    "kind_by_magic",
    "path_of",
    "special_kind",
]

Kind = Literal["file", "directory", "symlink", "hardlink", "device", "fifo", "socket", "other"]

TELLING_BYTES: Final = 32 << 10
"""How much of a telling member is kept or read to say what a bundle is."""

_TELLING: Final = (
    "metadata.json",
    "manifest.json",
    "index.json",
    "oci-layout",
    "ova.xml",
    "metadata.yaml",
    "repositories",
)
_SPECIAL: Final[dict[int, Kind]] = {
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
# Disks of virtual machines that no format of ours is named after.
_DISK_SUFFIXES: Final = (".img", ".raw", ".squashfs", ".vmdk", ".qcow2c", ".hds", ".root")
_ARCHIVE_SUFFIXES: Final = (
    *(".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".zip", ".7z", ".rar", ".ova", ".box", ".xva"),
    *(".gz", ".xz", ".zst", ".bz2", ".lz4", ".lzo", ".cpio", ".deb", ".rpm", ".cab", ".jar"),
)
# (offset, magic) at the beginning of archives and compressed streams.
_ARCHIVE_MAGICS: Final = (
    (0, b"\x1f\x8b\x08"),
    (0, b"\xfd7zXZ\0"),
    (0, b"\x28\xb5\x2f\xfd"),
    (0, b"BZh"),
    (0, b"7z\xbc\xaf\x27\x1c"),
    (0, b"PK\x03\x04"),
    (0, b"Rar!\x1a\x07"),
    (0, b"\x04\x22\x4d\x18"),
    (257, b"ustar"),
)


# Parts that neither are empty nor begin with a dot: a path already.
_IS_PATH: Final = re.compile(r"[^/.][^/]*(?:/[^/.][^/]*)*\Z").match


@dataclass(slots=True)
class Entry:
    """A member. ``name``: as a reader that knows all extensions takes it, bytes that are no UTF-8
    as surrogates. ``size``: bytes of its content when unpacked; ``stored``: what it takes in the
    archive. ``offset``: of its header; ``data``: of its content where that lies there in one
    piece and unpacked, or None. ``link``: where a link leads. ``real_size``: what it says that it
    has with its holes. ``plain_name``: the name that a reader without extensions sees, where that
    is another one. ``method``: how it is packed, by the archive's own number.
    """

    name: str
    kind: Kind
    size: int
    stored: int
    offset: int
    data: int | None = None
    link: str = ""
    real_size: int = 0
    plain_name: str = ""
    method: int = 0
    encrypted: bool = False


class Archive(Protocol):
    """What the readers have in common. ``complete``: all members were seen."""

    entries: list[Entry]
    complete: bool

    def content(self, entry: Entry, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a member; None where they are not to be had."""


def path_of(entry: Entry) -> str:
    """Its name without what changes nothing: ``./`` in front, slashes doubled or at the end."""
    name = entry.name
    if name and _IS_PATH(name):
        return name
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def base_of(entry: Entry) -> str:
    """The last part of its name."""
    return entry.name.rstrip("/").rpartition("/")[2]


def special_kind(mode: int) -> Kind | None:
    """What a member is by its mode of Unix; None for a file, a directory, or no mode at all."""
    return _SPECIAL.get(stat.S_IFMT(mode))


def is_telling(name: str) -> bool:
    """Whether the content of a member of that name says what the bundle is."""
    last = name.rpartition("/")[2].lower()
    return last.endswith(".ovf") or last in _TELLING


def is_disk(entry: Entry) -> bool:
    """Whether it is called like a disk and could be one."""
    if entry.kind != "file" or entry.size < 512:
        return False
    name = base_of(entry).lower()
    return name.endswith(_DISK_SUFFIXES) or by_extension(name) is not None


def disk_kind(entry: Entry, head: bytes | None) -> str:
    """The name of the format that ``head``, its first bytes, or else its name speaks for."""
    kind = kind_by_magic(head or b"")
    if kind:
        return kind
    found = by_extension(base_of(entry))
    return found.name if found is not None else "raw"


def kind_by_magic(head: bytes) -> str:
    """The name of the disk format whose magic is in ``head``, the first bytes; "" for none."""
    for format in all_formats():
        for magic in format.magic:
            end = magic.offset + len(magic.data)
            # Any XML may begin as the descriptor of a Parallels disk does.
            telling = magic.offset >= 0 and len(magic.data) > 3 and magic.data != b"<?xml"
            if telling and head[magic.offset : end] == magic.data:
                return format.name
    # What most descriptors of VMDK begin with; others are told by name.
    return "vmdk" if head.lower().startswith(b"# disk descriptorfile") else ""


def is_archive(entry: Entry, head: bytes | None) -> bool:
    """Whether the member is an archive or a compressed stream, by its name or first bytes."""
    if entry.kind != "file":
        return False
    if base_of(entry).lower().endswith(_ARCHIVE_SUFFIXES):
        return True
    return head is not None and any(
        head[offset : offset + len(magic)] == magic for offset, magic in _ARCHIVE_MAGICS
    )
