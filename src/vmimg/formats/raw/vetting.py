"""Vets a raw disk: its boot sector and partition tables, whether all of it is there, and data where
none should be.

A raw disk makes its reader do nothing; but who boots it, mounts it or asks a partition editor of it
believes these tables. The rules on the boot sector are at least as strict as those of OpenStack's
format inspector. GPTs are in `gptvetting`. Reads a few MiB at most; no numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Final

from vmimg.formats.raw import structures as s
from vmimg.formats.raw.contents import examine
from vmimg.formats.raw.filesystems import PROBES
from vmimg.formats.raw.findings import Contents, Partition, View
from vmimg.formats.raw.gptvetting import find_gpt, vet_gpt
from vmimg.formats.raw.partitions import read_mbr
from vmimg.formats.sampling import first_data, hidden_data, unfinished
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage
from vmimg.units import align_up

__all__ = ["vet_boot_sector", "vet_disk", "vet_tables"]

# Where a protective partition begins, as cylinder, head and sector are packed.
_PROTECTIVE_CHS: Final = b"\x00\x02\x00"
_RECORDS: Final = 446
_RECORD: Final = 16
# Sizes are rounded by some makers; less than this is not worth a word.
_SLACK: Final = 64 << 10
_MAX_LINKS: Final = 128
_SHOWN: Final = 4


def vet_disk(storage: Storage) -> Iterator[Finding]:
    """All of it."""
    view = View(storage, 0, storage.size)
    if storage.size < s.SECTOR:
        yield Finding.of("odd-field", f"a disk of {storage.size} bytes has not a single sector")
    elif storage.size % s.SECTOR:
        yield Finding.of(
            "odd-field",
            f"a disk of {storage.size} bytes does not end with a sector: readers cut it or fill it",
            severity=Severity.NOTE,
        )
    found = examine(storage)
    yield from vet_boot_sector(view, found)
    yield from vet_tables(view)
    yield from _vet_marks(view, found)
    yield from _vet_sizes(view, found)
    yield from _vet_hidden(storage, view, found)


def vet_tables(view: View) -> Iterator[Finding]:
    """GPT and MBR, as far as they are there."""
    yield from vet_gpt(view)
    yield from _vet_mbr(view)


# The boot sector, by the rules of OpenStack's inspector


def vet_boot_sector(view: View, found: Contents) -> Iterator[Finding]:
    """What is not as in the boot sector of a partitioned disk; ``found``: what is on the disk."""
    mbr = view.structure(s.Mbr, 0)
    if mbr is None or bytes(mbr.signature) != s.MBR_SIGNATURE or _is_fixed_fat(view):
        return
    records = list(mbr.partition_record)
    used = [number for number, record in enumerate(records) if record.os_type]
    if found.kind == "filesystem" and found.name.startswith(("FAT", "NTFS", "exFAT")):
        yield Finding.of(
            "partition-table",
            f"{found.name} begins in the first sector: there is no partition table",
            offset=510,
        )
        return
    for number, record in enumerate(records):
        if record.boot_indicator not in (0, 0x80):
            yield Finding.of(
                "partition-table",
                f"partition {number + 1} of the MBR has the boot indicator "
                f"{record.boot_indicator:#04x}, which is neither 0 nor 0x80",
                offset=_RECORDS + _RECORD * number,
            )
            break
    for number, record in enumerate(records):
        if record.os_type == s.MBR_PROTECTIVE:
            yield from _vet_protective(number, record)
    protective = any(record.os_type == s.MBR_PROTECTIVE for record in records)
    if protective and used != [0]:
        others = ", ".join(str(n + 1) for n in used if records[n].os_type != s.MBR_PROTECTIVE)
        yield Finding.of(
            "partition-table",
            "the MBR that protects a GPT has more than one entry, or not in the first place: "
            "readers differ in which table they take",
            offset=_RECORDS,
            evidence=f"others: {others}" if others else "",
        )
    if not used:
        yield Finding.of(
            "partition-table",
            "it has a boot sector, and no partition in it",
            offset=_RECORDS,
        )


def _is_fixed_fat(view: View) -> bool:
    """A FAT of a fixed disk by two bytes of its boot sector, as OpenStack knows it."""
    block = view.structure(s.FatBootSector, 0)
    return block is not None and block.BPB_NumFATs == 2 and block.BPB_Media == 0xF8


def _vet_protective(number: int, record: s.MbrEntry) -> Iterator[Finding]:
    place = _RECORDS + _RECORD * number
    start = bytes(record.starting_chs)
    if start != _PROTECTIVE_CHS:
        yield Finding.of(
            "partition-table",
            "the partition that protects a GPT does not begin at head 0, sector 2, cylinder 0",
            offset=place + 1,
            evidence=start.hex(" "),
        )
    if record.starting_lba != 1:
        yield Finding.of(
            "partition-table",
            f"the partition that protects a GPT begins in sector {record.starting_lba}, not in 1",
            offset=place + 8,
        )


# The MBR and its extended partitions


def _vet_mbr(view: View) -> Iterator[Finding]:
    table = read_mbr(view)
    if table is None:
        return
    protective = f"0x{s.MBR_PROTECTIVE:02x}"
    extended = {f"0x{kind:02x}" for kind in s.MBR_EXTENDED}
    if not any(p.type == protective for p in table.partitions):
        primary, _ = find_gpt(view)
        if primary is not None and primary.right:
            yield Finding.of(
                "partition-table",
                "there is a GPT that the MBR does not protect: readers differ in which they take",
                offset=primary.place,
            )
    real = [p for p in table.partitions if p.type != protective]
    yield from islice(_outside(view, real), _SHOWN)
    for rows in (
        [p for p in real if p.number <= 4],
        [p for p in real if p.type not in extended],
    ):
        over = list(islice(_overlaps(rows), _SHOWN))
        yield from over
        if over:
            break
    for partition in real:
        if partition.type in extended and partition.number <= 4:
            yield from _vet_links(view, partition)


def _outside(view: View, partitions: list[Partition]) -> Iterator[Finding]:
    for partition in partitions:
        end = partition.start + partition.size
        what = f"partition {partition.number}"
        if not partition.start:
            yield Finding.of(
                "partition-table", f"{what} begins in the first sector, where the table is"
            )
        if end > view.size + _SLACK:
            yield Finding.of(
                "truncated",
                f"{what} ends at {end}, behind the end of the disk, {view.size}",
                offset=partition.start,
            )
        elif end > view.size:
            yield Finding.of(
                "partition-table",
                f"{what} ends at {end}, a little behind the end of the disk, {view.size}",
                offset=partition.start,
            )


def _overlaps(partitions: list[Partition]) -> Iterator[Finding]:
    rows = sorted((p.start, p.start + p.size, p.number) for p in partitions if p.size)
    for (_, end, number), (start, _, other) in pairwise(rows):
        if start < end:
            yield Finding.of(
                "partition-table",
                f"partitions {number} and {other} of the MBR overlap",
                offset=start,
            )


def _vet_links(view: View, extended: Partition) -> Iterator[Finding]:
    """The chain of sectors in an extended partition."""
    place, seen = extended.start, set[int]()
    while len(seen) < _MAX_LINKS:
        if place in seen:
            yield Finding.of(
                "partition-table",
                f"the chain of logical partitions comes back to {place}: it does not end",
                offset=place,
            )
            return
        seen.add(place)
        record = view.structure(s.Mbr, place)
        if record is None or bytes(record.signature) != s.MBR_SIGNATURE:
            # A new extended partition may be empty; one that was cut off is said elsewhere.
            if place != extended.start and place < view.size:
                yield Finding.of(
                    "partition-table",
                    f"the chain of logical partitions leads to {place}, where there is no table",
                    offset=place,
                )
            return
        following = record.partition_record[1]
        if following.os_type not in s.MBR_EXTENDED:
            return
        target = extended.start + int(following.starting_lba) * s.SECTOR
        if target >= extended.start + extended.size:
            yield Finding.of(
                "partition-table",
                f"the chain of logical partitions leads out of the extended one, to {target}",
                offset=place,
            )
            return
        place = target
    yield unfinished(f"the chain of logical partitions has more than {_MAX_LINKS} links")


# What else it could be, sizes, and what lies behind


def _vet_marks(view: View, found: Contents) -> Iterator[Finding]:
    """The marks of file systems besides what the disk is taken for: mounting it is a guess."""
    names = dict.fromkeys(each.name for probe in PROBES if (each := probe(view)) is not None)
    names.pop(found.name, None)
    if names and found.kind != "iso9660" and found.floppy is None:
        yield Finding.of(
            "filesystem",
            f"it has the marks of {' and of '.join(names)} as well as {found.title()}: readers "
            "differ in which they take",
        )


def _vet_sizes(view: View, found: Contents) -> Iterator[Finding]:
    """File systems and volumes that say they are larger than where they are."""
    if found.kind in ("filesystem", "volume", "iso9660"):
        if found.size is not None and found.size > view.size + _SLACK:
            yield Finding.of(
                "truncated",
                f"{found.name} says that it takes {found.size} bytes, and the disk has {view.size}",
            )
        return
    for partition in found.partitions:
        inner = partition.contents
        if inner is None or inner.size is None or partition.start + partition.size > view.size:
            continue
        if inner.size > partition.size + _SLACK:
            yield Finding.of(
                "filesystem",
                f"{inner.name} in partition {partition.number} says that it takes {inner.size} "
                f"bytes, and the partition has {partition.size}",
                offset=partition.start,
            )


def _vet_hidden(storage: Storage, view: View, found: Contents) -> Iterator[Finding]:
    if found.kind in ("gpt", "mbr", "apm"):
        yield from _vet_around(storage, view, found)
    elif found.kind in ("filesystem", "volume") and found.size and found.floppy is None:
        # NTFS keeps a copy of its boot sector behind its last one.
        end = align_up(found.size + s.SECTOR, 4096)
        message = f"there is data behind the end of {found.name}"
        yield from hidden_data(storage, end, storage.size, message)


def _vet_around(storage: Storage, view: View, found: Contents) -> Iterator[Finding]:
    ends = [p.start + p.size for p in found.partitions if p.start + p.size <= view.size]
    last = max(ends, default=s.SECTOR)
    stop = storage.size
    primary, backup = find_gpt(view) if found.kind == "gpt" else (None, None)
    tables = [copy for copy in (primary, backup) if copy is not None and copy.right]
    if tables:
        last = max(last, int(tables[0].header.first_usable_lba) * tables[0].sector)
        stop = min(stop, (int(tables[0].header.last_usable_lba) + 1) * tables[0].sector)
    yield from hidden_data(storage, last, stop, "there is data behind the last partition")
    if tables and backup is not None:
        end = backup.place + backup.sector
        message = "there is data behind the backup of the GPT"
        yield from hidden_data(storage, end, storage.size, message)
    if found.kind == "mbr":
        starts = [p.start for p in found.partitions if p.start]
        place = first_data(storage, s.SECTOR, min(starts, default=s.SECTOR))
        if place is not None:
            yield Finding.of(
                "hidden-data",
                "there is data between the MBR and the first partition: a boot loader, maybe",
                offset=place,
                severity=Severity.NOTE,
            )
