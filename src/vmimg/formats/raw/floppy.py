"""Floppy disks: which one a raw image is, by its size and by what its boot sector says.

A size alone is a hint that holds: nothing else has 1474560 bytes. The BIOS parameter block (BPB) of
a FAT says more, and is believed only where it agrees; where it does not, that is a problem to tell.
Disks from before DOS 2 have no BPB at all: DOS told them apart by the first byte of the FAT.

Sources: Microsoft's FAT specification; the table of media bytes in its "Standard Floppy Disk
Formats". No numpy; reads a few KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from vmimg.formats.raw import structures as s
from vmimg.units import KIB

__all__ = ["KINDS", "Floppy", "by_size", "inspect_fat", "old_fat"]

Read = Callable[[int, int], bytes]
"""``read(offset, length)``: that many bytes of the disk, or fewer at its end."""


@dataclass(frozen=True, slots=True)
class Floppy:
    """A disk as it is formatted; ``size`` in bytes. ``media``: the byte by which FAT tells it.

    ``oem``: who formatted it, by the boot sector. ``system``: which system's files begin the root
    directory.
    """

    medium: str
    size: int
    tracks: int
    heads: int
    sectors: int
    media: str
    sector_size: int = 512
    oem: str = ""
    system: str = ""

    def title(self) -> str:
        """Like ``floppy 3.5-inch HD, 1440 KiB, 80 tracks x 2 heads x 18 sectors``."""
        heads = "1 head" if self.heads == 1 else f"{self.heads} heads"
        return (
            f"floppy {self.medium}, {self.size // KIB} KiB, {self.tracks} tracks x {heads} x "
            f"{self.sectors} sectors"
        )

    def facts(self) -> Iterator[str]:
        """What else is known of it, in a few words each."""
        if self.oem:
            yield f"OEM {self.oem}"
        if self.system:
            yield f"boots {self.system}"


def _kind(
    medium: str, tracks: int, heads: int, sectors: int, media: int, sector_size: int = 512
) -> Floppy:
    size = tracks * heads * sectors * sector_size
    return Floppy(medium, size, tracks, heads, sectors, f"0x{media:02x}", sector_size)


KINDS: Final = {
    kind.size: kind
    for kind in (
        _kind("5.25-inch DD", 40, 1, 8, 0xFE),
        _kind("5.25-inch DD", 40, 1, 9, 0xFC),
        _kind("5.25-inch DD", 40, 2, 8, 0xFF),
        _kind("5.25-inch DD", 40, 2, 9, 0xFD),
        _kind("3.5-inch DD", 80, 2, 8, 0xFB),
        _kind("3.5-inch DD", 80, 2, 9, 0xF9),
        _kind("5.25-inch HD", 80, 2, 15, 0xF9),
        _kind("5.25-inch HD of PC-98", 77, 2, 8, 0xFE, 1024),
        _kind("3.5-inch HD", 80, 2, 18, 0xF0),
        # Distribution Media Format: of Microsoft's products in the nineties.
        _kind("3.5-inch HD (DMF)", 80, 2, 21, 0xF0),
        _kind("3.5-inch ED", 80, 2, 36, 0xF0),
    )
}
"""All that are known, by their size in bytes."""

# What stands first in the root directory, where the boot sector looks for it.
_SYSTEM_FILES: Final = {
    b"IO      SYS": "MS-DOS",
    b"IBMBIO  COM": "PC DOS",
    b"DRBIOS  SYS": "DR-DOS",
    b"KERNEL  SYS": "FreeDOS",
    b"LDLINUX SYS": "SYSLINUX",
    b"NTLDR      ": "Windows NT",
}
# The root directory of a floppy has 512 entries at most.
_ENTRY: Final = 32
_MOST_ENTRIES: Final = 512
_VOLUME_LABEL: Final = 0x08
_LONG_NAME: Final = 0x0F


def by_size(size: int) -> Floppy | None:
    """The floppy that has exactly ``size`` bytes."""
    return KINDS.get(size)


def inspect_fat(read: Read, size: int) -> tuple[Floppy, str, list[str]] | None:
    """(floppy, label of the volume, what does not fit) of a FAT12 on a disk of ``size`` bytes.

    None where neither the disk nor its FAT has the size of a floppy.
    """
    head = read(0, 512)
    block = s.FatBootSector.from_buffer_copy(head)
    sectors = int(block.BPB_TotSec16) or int(block.BPB_TotSec32)
    stated = by_size(sectors * block.BPB_BytsPerSec)
    kind = by_size(size) or (stated if stated is not None and stated.size > size else None)
    if kind is None:
        return None
    problems = list(_disagreements(read, kind, block, sectors))
    label, system = _root_directory(read, block)
    oem = bytes(block.BS_OEMName).partition(b"\0")[0].decode("ascii", "replace").strip()
    oem = "".join(c if c.isprintable() else "?" for c in oem)
    return replace(kind, oem=oem, system=system), label, problems


def old_fat(read: Read, size: int) -> Floppy | None:
    """The floppy, where it has a FAT12 without a BPB, as DOS 1 made them."""
    kind = by_size(size)
    if kind is None or kind.tracks != 40:
        return None
    start = read(512, 3)
    if start != bytes((int(kind.media, 16), 0xFF, 0xFF)):
        return None
    # Two FATs, one sector each with 8 sectors to a track, two with 9.
    root = (1 + 2 * (1 if kind.sectors == 8 else 2)) * 512
    name = read(root, 11)
    return replace(kind, system=_SYSTEM_FILES.get(name, ""))


def _disagreements(read: Read, kind: Floppy, block: s.FatBootSector, sectors: int) -> Iterator[str]:
    media = f"0x{block.BPB_Media:02x}"
    if sectors * block.BPB_BytsPerSec != kind.size:
        yield (
            f"its boot sector is that of a disk of {sectors * block.BPB_BytsPerSec // KIB} KiB, "
            f"not of {kind.size // KIB} KiB"
        )
    elif media != kind.media:
        yield f"the boot sector has the media byte {media}; such floppies have {kind.media}"
    per_track, heads = int(block.BPB_SecPerTrk), int(block.BPB_NumHeads)
    if per_track and heads and (per_track, heads) != (kind.sectors, kind.heads):
        yield (
            f"the boot sector says {heads} heads x {per_track} sectors; such floppies have "
            f"{kind.heads} x {kind.sectors}"
        )
    first = read(block.BPB_RsvdSecCnt * block.BPB_BytsPerSec, 1)
    if first and first[0] != block.BPB_Media:
        yield f"the FAT begins with the media byte 0x{first[0]:02x}, the boot sector has {media}"


def _root_directory(read: Read, block: s.FatBootSector) -> tuple[str, str]:
    """(label, system) by the root directory."""
    start = block.BPB_RsvdSecCnt + block.BPB_NumFATs * block.BPB_FATSz16
    count = min(int(block.BPB_RootEntCnt), _MOST_ENTRIES)
    table = read(start * block.BPB_BytsPerSec, count * _ENTRY)
    label, system = "", ""
    for place in range(0, len(table) - _ENTRY + 1, _ENTRY):
        name, attributes = table[place : place + 11], table[place + 11]
        if not name[0]:
            break
        if name[0] == 0xE5 or attributes == _LONG_NAME:
            continue
        if attributes & _VOLUME_LABEL and not label:
            text = name.decode("cp437").rstrip()
            label = "".join(c if c.isprintable() else "?" for c in text)
        system = system or _SYSTEM_FILES.get(name, "")
    return label, system
