"""Vets an image of an optical disc: numbers that readers would read differently, trees that show
different files, and what lies outside or behind.

A disc has most things twice: numbers in two byte orders, path tables in two, trees for ISO 9660 and
Joliet and UDF. Readers take one or the other, so that a disc on which they differ is two discs.
Directories are walked with a budget (`walk`). Imports volume, and the raw disk's partition tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from stat import S_ISBLK, S_ISCHR
from typing import Final

from vmimg.formats.iso import structures as s
from vmimg.formats.iso.volume import Volume, descriptors, read_volume
from vmimg.formats.iso.walk import Record, Walk, walk
from vmimg.formats.raw.contents import partition_tables
from vmimg.formats.raw.findings import Contents, View
from vmimg.formats.raw.gptvetting import find_gpt
from vmimg.formats.raw.vetting import vet_tables
from vmimg.formats.sampling import hidden_data, unfinished
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage

__all__ = ["vet_disc"]

# Sizes are rounded up by some makers; less than this is not worth an error.
_SLACK: Final = 64 << 10
_SHOWN: Final = 3
_MAX_PATH_TABLE: Final = 64 << 10
# What is before the name in an entry of a path table.
_PATH_ENTRY: Final = 8


def vet_disc(storage: Storage) -> Iterator[Finding]:
    """Nothing for what is no disc: reading it says so."""
    view = View(storage, 0, storage.size)
    volume = read_volume(view)
    if volume is None:
        return
    yield from _vet_size(view, volume)
    trees: dict[str, Walk] = {}
    for name, place, descriptor in _described(view):
        yield from _vet_descriptor(view, name, place, descriptor)
        block = int(descriptor.logical_block_size.little)
        if name not in trees and block:
            root = descriptor.root_directory_record
            trees[name] = walk(view, root, block, joliet=name == "Joliet")
            yield from _vet_tree(view, name, trees[name])
    yield from _vet_primaries(view)
    if "Joliet" in trees and "ISO 9660" in trees:
        yield from _compare(trees["ISO 9660"], trees["Joliet"])
    yield from _vet_boot(view, volume)
    tables = partition_tables(storage)
    yield from _vet_partitions(view, volume, tables)
    yield from _vet_hidden(storage, view, volume, tables)


# Volume descriptors


def _described(view: View) -> Iterator[tuple[str, int, s.VolumeDescriptor]]:
    """(tree that it describes, place, descriptor) of those that have a tree."""
    for number, head in enumerate(descriptors(view)):
        if head[1:6] != s.STANDARD_IDENTIFIER or head[0] not in (s.PRIMARY, s.SUPPLEMENTARY):
            continue
        found = s.VolumeDescriptor.from_buffer_copy(head)
        name = "ISO 9660"
        if head[0] == s.SUPPLEMENTARY:
            joliet = bytes(found.escape_sequences)[:3] in s.JOLIET
            name = "Joliet" if joliet else "ISO 9660:1999"
        yield name, (s.FIRST_DESCRIPTOR + number) * s.SECTOR, found


def _vet_size(view: View, volume: Volume) -> Iterator[Finding]:
    if volume.size is not None and volume.size > view.size:
        more = volume.size > view.size + _SLACK
        yield Finding.of(
            "truncated",
            f"the volume says that it has {volume.size} bytes, and the file has {view.size}",
            severity=None if more else Severity.NOTE,
        )
    udf = volume.udf
    if udf is not None and udf.block_size is None:
        yield Finding.of("filesystem", "it announces UDF, whose descriptors are missing or damaged")
    elif udf is not None and volume.iso9660 and udf.size and udf.size > view.size + _SLACK:
        yield Finding.of(
            "truncated", f"UDF says that it has {udf.size} bytes, and the file has {view.size}"
        )
    if volume.iso9660 and any("terminator" in problem for problem in volume.problems):
        yield Finding.of("odd-field", "the set of volume descriptors has no terminator")


def _vet_descriptor(
    view: View, name: str, place: int, descriptor: s.VolumeDescriptor
) -> Iterator[Finding]:
    root = descriptor.root_directory_record
    both = (
        ("volume_space_size", "the size of the volume", descriptor.volume_space_size),
        ("volume_set_size", "the number of discs in the set", descriptor.volume_set_size),
        ("volume_sequence_number", "the number of the disc", descriptor.volume_sequence_number),
        ("logical_block_size", "the size of a logical block", descriptor.logical_block_size),
        ("path_table_size", "the size of the path table", descriptor.path_table_size),
        ("root_directory_record", "the place of the root directory", root.location_of_extent),
        ("root_directory_record", "the size of the root directory", root.data_length),
    )
    for field, what, number in both:
        little, big = int(number.little), int.from_bytes(bytes(number.big), "big")
        if little != big:
            yield Finding.of(
                "copies-disagree",
                f"{name}: {what} is {little} in one byte order and {big} in the other",
                offset=place + getattr(s.VolumeDescriptor, field).offset,
            )
    block = int(descriptor.logical_block_size.little)
    if block not in (512, 1024, 2048):
        yield Finding.of(
            "impossible-size",
            f"{name} has logical blocks of {block} bytes",
            offset=place + s.VolumeDescriptor.logical_block_size.offset,
        )
    if int(descriptor.volume_set_size.little) > 1:
        yield Finding.of(
            "odd-field",
            f"{name}: it is one disc of {int(descriptor.volume_set_size.little)}",
            offset=place + s.VolumeDescriptor.volume_set_size.offset,
        )
    yield from _vet_path_tables(view, name, place, descriptor, block)


def _vet_path_tables(
    view: View, name: str, place: int, descriptor: s.VolumeDescriptor, block: int
) -> Iterator[Finding]:
    size = int(descriptor.path_table_size.little)
    little = int(descriptor.type_l_path_table) * block
    big = int.from_bytes(bytes(descriptor.type_m_path_table), "big") * block
    for start, field in ((little, "type_l_path_table"), (big, "type_m_path_table")):
        if start + size > view.size:
            yield Finding.of(
                "table-outside",
                f"{name}: a path table of {size} bytes is said to be at {start}, and the file "
                f"ends at {view.size}",
                offset=place + getattr(s.VolumeDescriptor, field).offset,
            )
            return
    if not little or not big:
        return
    length = min(size, _MAX_PATH_TABLE)
    pairs = zip(
        _paths(view.read(little, length), "little"),
        _paths(view.read(big, length), "big"),
        strict=False,
    )
    differs = next((number for number, (one, other) in enumerate(pairs, 1) if one != other), None)
    if differs is not None:
        yield Finding.of(
            "copies-disagree",
            f"{name}: the path tables of the two byte orders differ in directory {differs}",
            offset=big,
        )


def _paths(data: bytes, order: str) -> Iterator[tuple[int, int, bytes]]:
    """(block, parent, name) of the directories in a path table."""
    place = 0
    while place + _PATH_ENTRY <= len(data) and data[place]:
        head = s.PathTableEntry if order == "little" else s.PathTableEntryBig
        entry = head.from_buffer_copy(data, place)
        length = int(entry.length_of_directory_identifier)
        start = place + _PATH_ENTRY
        yield (
            int(entry.location_of_extent),
            int(entry.parent_directory_number),
            data[start : start + length],
        )
        place = start + length + length % 2


def _vet_primaries(view: View) -> Iterator[Finding]:
    """Copies of the primary descriptor are allowed; they must say the same."""
    copies = [found for name, _, found in _described(view) if name == "ISO 9660"]
    for other in copies[1:]:
        if bytes(other) != bytes(copies[0]):
            yield Finding.of(
                "copies-disagree", "there are two primary volume descriptors, and they differ"
            )
            return


# Directories


def _vet_tree(view: View, name: str, tree: Walk) -> Iterator[Finding]:
    for directory in islice(tree.unread, _SHOWN):
        yield Finding.of(
            "table-outside",
            f"{name}: the directory '{directory.name or '/'}' of {directory.size} bytes is said to "
            f"be at {directory.start}, and the file ends at {view.size}",
            offset=directory.place or None,
        )
    for directory in islice(tree.twice, 1):
        yield Finding.of(
            "malformed",
            f"{name}: the directory '{directory.name}' is in the tree a second time: who walks it "
            "may never come to an end",
            offset=directory.place,
        )
    for record in islice(tree.misnamed, 1):
        yield Finding.of(
            "odd-field",
            f"{name}: the first record of a directory says that it is at {record.start}",
            offset=record.place,
        )
    bad = (record for record in tree.records if not record.agrees)
    for record in islice(bad, _SHOWN):
        yield Finding.of(
            "copies-disagree",
            f"{name}: '{record.name}' has different places or sizes in the two byte orders",
            offset=record.place,
        )
    cut = (r for r in tree.records if not r.directory and r.size and r.start + r.size > view.size)
    for record in islice(cut, 1):
        yield Finding.of(
            "truncated",
            f"{name}: the file '{record.name}' ends at {record.start + record.size}, behind the "
            f"end, {view.size}",
            offset=record.place,
        )
    yield from _vet_names(name, tree)
    if not tree.finished:
        yield unfinished(f"{name}: not all of its directories were looked at")


def _vet_names(name: str, tree: Walk) -> Iterator[Finding]:
    bad = (record for record in tree.records if _escapes(record.name))
    for record in islice(bad, _SHOWN):
        yield Finding.of(
            "member-escapes",
            f"{name}: a file is called '{record.name}'",
            offset=record.place,
            evidence=record.name,
        )
    leading = [record for record in tree.records if _leads_out(record)]
    if leading:
        first = leading[0]
        yield Finding.of(
            "member-link",
            f"{name}: {len(leading)} symbolic links lead out of the disc, '{first.name}' to "
            f"'{first.target}'",
            offset=first.place,
            severity=Severity.NOTE,
        )
    devices = [r for r in tree.records if S_ISCHR(r.mode & 0xFFFF) or S_ISBLK(r.mode & 0xFFFF)]
    if devices:
        yield Finding.of(
            "member-device",
            f"{name}: {len(devices)} files are devices, '{devices[0].name}' among them",
            offset=devices[0].place,
            severity=Severity.WARNING,
        )


def _escapes(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return "/" in name or "\0" in name or ".." in parts or name == "."


def _leads_out(record: Record) -> bool:
    """Whether a link is absolute, or goes further up than the disc has directories."""
    if record.target is None:
        return False
    if record.target.startswith("/"):
        return True
    depth = record.depth - 1
    for part in record.target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return True
    return False


def _compare(plain: Walk, joliet: Walk) -> Iterator[Finding]:
    """The files of the two root directories must be the same; names may differ."""
    if not (plain.finished and joliet.finished):
        return
    one, other = (
        {(r.start, r.size): r.name for r in tree.root() if not r.directory and r.size}
        for tree in (plain, joliet)
    )
    for extent in sorted(one.keys() ^ other.keys())[:1]:
        yield Finding.of(
            "copies-disagree",
            "ISO 9660 and Joliet show different files in their root directories: "
            f"'{one.get(extent) or other.get(extent, '')}' is in one of them only",
            offset=extent[0],
            severity=Severity.WARNING,
        )


# What it is booted by, and what lies behind


def _vet_boot(view: View, volume: Volume) -> Iterator[Finding]:
    for head in descriptors(view):
        if head[0] != s.BOOT_RECORD or not head[7:].startswith(s.EL_TORITO):
            continue
        record = s.BootRecord.from_buffer_copy(head)
        place = int(record.boot_catalog) * s.SECTOR
        table = view.read(place, s.BOOT_ENTRY)
        if len(table) < s.BOOT_ENTRY:
            yield Finding.of(
                "table-outside",
                f"the boot catalogue is said to be at {place}, and the file ends at {view.size}",
            )
        elif sum(memoryview(table).cast("H")) & 0xFFFF or table[0] != s.VALIDATION_ID:
            yield Finding.of(
                "checksum-wrong", "the first entry of the boot catalogue is wrong", offset=place
            )
    for entry in volume.boot:
        if entry.offset >= view.size:
            yield Finding.of(
                "table-outside",
                f"a boot image ({entry.platform}) is said to be at {entry.offset}, and the file "
                f"ends at {view.size}",
            )


def _vet_partitions(view: View, volume: Volume, tables: tuple[Contents, ...]) -> Iterator[Finding]:
    """A hybrid's tables describe the disc in terms of a disk; others describe another disk."""
    if not tables:
        return
    for finding in vet_tables(view):
        # Makers of hybrids bend the rules: partitions from the first sector on, and over others.
        if finding.code != "partition-table":
            yield replace(finding, severity=min(finding.severity, Severity.WARNING))
    images = {entry.offset for entry in volume.boot}
    for table in tables:
        parts = table.partitions
        if parts and not any(p.start < (volume.size or 0) or p.start in images for p in parts):
            yield Finding.of(
                "partition-table",
                f"the {table.kind.upper()} has nothing to do with the disc: as a disk it is "
                "another one",
                offset=parts[0].start,
            )


def _vet_hidden(
    storage: Storage, view: View, volume: Volume, tables: tuple[Contents, ...]
) -> Iterator[Finding]:
    # UDF has no size of its own: only what must be there.
    if not volume.iso9660 or volume.size is None:
        return
    ends = [p.start + p.size for table in tables for p in table.partitions]
    end = max([volume.size, *(e for e in ends if e <= view.size)])
    if volume.udf is not None:
        end = max(end, volume.udf.size or 0)
    stop = view.size
    _, backup = find_gpt(view)
    if backup is not None and backup.right:
        stop = min(stop, int(backup.header.partition_entry_lba) * backup.sector)
    yield from hidden_data(
        storage, end, stop, f"there is data behind the volume, which ends at {end}"
    )
