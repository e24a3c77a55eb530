"""What is on a raw disk: partitions, a bare file system or volume, an ISO, nothing, or nothing
known.

Reads a bounded number of bytes (some hundred KiB at most) and believes none of them: a number that
does not fit the disk makes a problem to report, never a read. Structures are in `structures`; the
order in which things are tried is here and in `filesystems`. Imports storage and units; no numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vmimg.formats.iso.volume import read_volume
from vmimg.formats.raw import floppy
from vmimg.formats.raw import structures as s
from vmimg.formats.raw.filesystems import PROBES, read_fat
from vmimg.formats.raw.findings import Contents, Partition, View
from vmimg.formats.raw.partitions import read_apm, read_gpt, read_mbr
from vmimg.storage.base import Storage
from vmimg.units import format_size

__all__ = ["Contents", "Partition", "View", "examine", "partition_tables"]

# Partitions whose own contents are looked at.
_MAX_EXAMINED: Final = 16
# A disk with more data than this is not searched for a byte that is not zero. Floppies have less.
_MAX_BLANK_BYTES: Final = 3 << 20
_MAX_BLANK_EXTENTS: Final = 64


def examine(storage: Storage) -> Contents:
    """What is on the disk that ``storage`` holds byte by byte. Raises StorageError only."""
    view = View(storage, 0, storage.size)
    found = _disc(view) or _floppy(view) or _partitioned(view) or _bare(view) or _wrapper(view)
    if found is None:
        traits = ("with a boot sector",) if view.read(510, 2) == s.MBR_SIGNATURE else ()
        found = Contents("blank" if _is_blank(storage) else "unknown", traits=traits)
    if found.kind in ("filesystem", "blank", "unknown") and found.floppy is None:
        found = replace(found, floppy=floppy.by_size(storage.size))
    return found


def partition_tables(storage: Storage) -> tuple[Contents, ...]:
    """All partition tables of the disk, without looking into the partitions: a hybrid disc has up
    to three, so that each kind of firmware finds one it knows. An MBR that only protects a GPT is
    none.
    """
    view = View(storage, 0, storage.size)
    gpt, mbr, apm = read_gpt(view), read_mbr(view), read_apm(view)
    protective = f"0x{s.MBR_PROTECTIVE:02x}"
    if mbr is not None and gpt is not None and {p.type for p in mbr.partitions} == {protective}:
        mbr = None
    return tuple(table for table in (gpt, mbr, apm) if table is not None)


def _partitioned(view: View) -> Contents | None:
    found = read_gpt(view) or read_mbr(view) or read_apm(view)
    if found is None:
        return None
    examined = [
        replace(partition, contents=_inside(view, partition))
        if index < _MAX_EXAMINED
        else partition
        for index, partition in enumerate(found.partitions)
    ]
    return replace(found, partitions=tuple(examined))


def _inside(view: View, partition: Partition) -> Contents | None:
    if partition.start >= view.size or partition.size <= 0:
        return None
    inner = View(view.storage, view.start + partition.start, partition.size)
    return _disc(inner, hybrid=False) or _bare(inner)


def _disc(view: View, *, hybrid: bool = True) -> Contents | None:
    """ISO 9660 or UDF; ``hybrid``: with a partition table in front, if there is one."""
    volume = read_volume(view)
    if volume is None:
        return None
    traits = []
    if volume.el_torito:
        traits.append("El Torito boot")
    if volume.joliet is not None:
        traits.append("Joliet")
    if volume.udf is not None and volume.iso9660:
        traits.append("UDF")
    table = _partitioned(view) if hybrid else None
    if table is not None:
        traits.append(f"hybrid {table.kind.upper()}")
    return Contents(
        "iso9660",
        name=volume.name,
        label=volume.label,
        size=volume.size,
        traits=tuple(traits),
        partitions=table.partitions if table is not None else (),
        problems=volume.problems,
    )


def _floppy(view: View) -> Contents | None:
    """A floppy with a FAT, on which boot code may well look like a partition table."""
    fat = read_fat(view, signed=floppy.by_size(view.size) is None)
    if fat is None:
        old = floppy.old_fat(view.read, view.size)
        if old is None:
            return None
        traits = ("without a BPB",)
        return Contents("filesystem", name="FAT12", size=old.size, traits=traits, floppy=old)
    known = floppy.inspect_fat(view.read, view.size) if fat.name == "FAT12" else None
    if known is None:
        return None
    kind, label, problems = known
    problems += _too_long(view, fat.size)
    return replace(fat, label=fat.label or label, floppy=kind, problems=tuple(problems))


def _bare(view: View) -> Contents | None:
    """A file system or volume that begins where ``view`` begins."""
    for probe in PROBES:
        found = probe(view)
        if found is not None:
            return replace(found, problems=(*found.problems, *_too_long(view, found.size)))
    for offset, magic, name in s.VOLUME_MAGICS:
        if view.read(offset, len(magic)) == magic:
            return Contents("filesystem" if name[0].islower() else "volume", name=name)
    return None


def _wrapper(view: View) -> Contents | None:
    for offset, magic, name in s.WRAPPER_MAGICS:
        if view.read(offset, len(magic)) == magic:
            problem = (
                f"looks like {name}, which is not read as such: its bytes are taken as they are"
            )
            return Contents("wrapper", name=name, problems=(problem,))
    return None


def _too_long(view: View, size: int | None) -> Iterator[str]:
    # Sizes are rounded up by some makers; less than 64 KiB is not worth a word.
    if size is not None and size > view.size + (64 << 10):
        yield (
            f"it says that it takes {format_size(size)} ({size} bytes), more than the "
            f"{format_size(view.size)} there are: truncated"
        )


def _is_blank(storage: Storage) -> bool:
    """Whether all of it is holes, or little enough to be read and found to be zeros."""
    budget = _MAX_BLANK_BYTES
    for number, (start, end, hole) in enumerate(storage.extents(0, storage.size)):
        if hole:
            continue
        budget -= end - start
        if budget < 0 or number > _MAX_BLANK_EXTENTS or any(storage.read(start, end - start)):
            return False
    return True
