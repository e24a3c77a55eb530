"""New DiskDescriptor.xml files: as Parallels Desktop writes them, and as ploop does. No numpy.

The specification wants Cylinders x Heads x Sectors to be the size, whatever that is: the usual 16
heads and 32 sectors are halved until they divide it. Nothing here comes from a clock or from
chance: the disk's UID is made from its name, size and layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID
from xml.sax.saxutils import escape

from vmimg.errors import OptionError
from vmimg.formats.parallels import structures as s
from vmimg.formats.parallels.bundle import DEFAULT_TOP, NO_GUID, braced

__all__ = ["Piece", "render_descriptor"]


@dataclass(frozen=True, slots=True)
class Piece:
    """The image file of one storage: [start, end) of the disk, in sectors."""

    start: int
    end: int
    file: str


def render_descriptor(
    name: str, sectors: int, pieces: Sequence[Piece], *, cluster: int, plain: bool, ploop: bool
) -> bytes:
    """The file for a disk in ``pieces``; ``cluster`` in sectors. Raises OptionError for a name that
    XML cannot hold.
    """
    if any(ord(letter) < 32 or "\ud800" <= letter <= "\udfff" for letter in name):
        raise OptionError(f"{name!r}: a {s.INDEX} cannot hold this name")
    lines = list(_parameters(name, sectors, ploop=ploop, cluster=cluster, plain=plain))
    lines.append("    <StorageData>")
    for piece in pieces:
        lines += [
            "        <Storage>",
            f"            <Start>{piece.start}</Start>",
            f"            <End>{piece.end}</End>",
            f"            <Blocksize>{cluster}</Blocksize>",
            "            <Image>",
            f"                <GUID>{braced(DEFAULT_TOP)}</GUID>",
            f"                <Type>{'Plain' if plain else 'Compressed'}</Type>",
            f"                <File>{escape(piece.file)}</File>",
            "            </Image>",
            "        </Storage>",
        ]
    lines += ["    </StorageData>", "    <Snapshots>"]
    if ploop:
        lines.append(f"        <TopGUID>{braced(DEFAULT_TOP)}</TopGUID>")
    lines += [
        "        <Shot>",
        f"            <GUID>{braced(DEFAULT_TOP)}</GUID>",
        f"            <ParentGUID>{braced(NO_GUID)}</ParentGUID>",
        "        </Shot>",
        "    </Snapshots>",
        "</Parallels_disk_image>",
        "",
    ]
    return "\n".join(lines).encode()


def _parameters(
    name: str, sectors: int, *, ploop: bool, cluster: int, plain: bool
) -> Iterator[str]:
    cylinders, heads, per_track = _geometry(sectors)
    if ploop:
        yield '<?xml version="1.0"?>'
        yield "<Parallels_disk_image>"
    else:
        yield "<?xml version='1.0' encoding='UTF-8'?>"
        yield '<Parallels_disk_image Version="1.0">'
    yield "    <Disk_Parameters>"
    yield f"        <Disk_size>{sectors}</Disk_size>"
    yield f"        <Cylinders>{cylinders}</Cylinders>"
    if not ploop:
        yield "        <PhysicalSectorSize>4096</PhysicalSectorSize>"
        yield "        <LogicSectorSize>512</LogicSectorSize>"
    yield f"        <Heads>{heads}</Heads>"
    yield f"        <Sectors>{per_track}</Sectors>"
    yield "        <Padding>0</Padding>"
    if not ploop:
        seed = f"{name}/{sectors}/{cluster}/{plain}"
        uid = UUID(bytes=hashlib.sha256(seed.encode()).digest()[:16], version=4)
        yield "        <Encryption>"
        yield f"            <Engine>{braced(NO_GUID)}</Engine>"
        yield "            <Data></Data>"
        yield "        </Encryption>"
        yield f"        <UID>{braced(uid)}</UID>"
        yield f"        <Name>{escape(name)}</Name>"
        yield "        <Miscellaneous>"
        yield "            <CompatLevel>level2</CompatLevel>"
        yield "            <Bootable>1</Bootable>"
        yield "            <SuspendState>0</SuspendState>"
        yield "        </Miscellaneous>"
    yield "    </Disk_Parameters>"


def _geometry(sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors whose product is ``sectors``."""
    heads, per_track = s.HEADS, s.SECTORS_PER_TRACK
    while sectors % per_track:
        per_track //= 2
    while sectors // per_track % heads:
        heads //= 2
    return sectors // per_track // heads, heads, per_track
