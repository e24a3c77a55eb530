"""Reads the tables of machine states, for those that recognise them and those that vet them.

Every count is bounded, and no number from the file is believed beyond the file. Imports the
structures.
"""

from __future__ import annotations

import ctypes
import zlib

from vmimg.formats.raw.findings import View
from vmimg.probe import state_structures as s
from vmimg.probe.elf import ELF_HEADERS, ELF_MAGIC

__all__ = [
    "active_hyperv_header",
    "elf_core",
    "hyperv_headers",
    "hyperv_kind",
    "hyperv_objects",
    "libvirt_header",
    "valid_vmgs_header",
    "vmgs_checksum",
    "vmgs_headers",
    "vmss_groups",
]

# The names of the nodes that a configuration and a saved state have at their roots.
_HYPERV_KINDS = ((b"savedstate\0", "saved state"), (b"configuration\0", "configuration"))
_KEY_TABLE_BYTES = 64 << 10
_MAX_KEY_TABLES = 8


def vmss_groups(view: View, limit: int) -> tuple[list[s.VmssGroup], int]:
    """The first ``limit`` groups of a .vmss or .vmsn that the file has room for, and how many it
    says there are.
    """
    header = view.structure(s.VmssHeader, 0)
    if header is None:
        return [], 0
    step = ctypes.sizeof(s.VmssGroup)
    data = view.read(ctypes.sizeof(s.VmssHeader), min(header.group_count, limit) * step)
    count = len(data) // step
    groups = [s.VmssGroup.from_buffer_copy(data, number * step) for number in range(count)]
    return groups, header.group_count


def hyperv_headers(view: View) -> list[s.HyperVStorageHeader | None]:
    """Both headers of a .vmcx or .vmrs, None for one without the signature."""
    found = []
    for offset in s.HYPERV_HEADERS:
        header = view.structure(s.HyperVStorageHeader, offset)
        good = header is not None and header.signature == s.HYPERV_SIGNATURE
        found.append(header if good else None)
    return found


def active_hyperv_header(view: View) -> s.HyperVStorageHeader | None:
    """The header that counts; None where the file is none of Hyper-V's."""
    start = view.structure(s.HyperVStorageHeader, 0)
    if start is None or start.signature != s.HYPERV_SIGNATURE:
        return None
    first, second = hyperv_headers(view)
    if first is None or second is None:
        return first or second
    return first if first.sequence_number > second.sequence_number else second


def hyperv_objects(view: View) -> tuple[list[s.HyperVObject], int] | None:
    """The objects of the first table and how many it says it has; None where there is no table."""
    table = view.structure(s.HyperVObjectTable, s.HYPERV_OBJECT_TABLE)
    if table is None or table.signature != s.HYPERV_TABLE_SIGNATURE:
        return None
    start = s.HYPERV_OBJECT_TABLE + ctypes.sizeof(s.HyperVObjectTable)
    step = ctypes.sizeof(s.HyperVObject)
    data = view.read(start, min(table.num_entries, s.MAX_HYPERV_OBJECTS) * step)
    count = len(data) // step
    objects = [s.HyperVObject.from_buffer_copy(data, number * step) for number in range(count)]
    return objects, table.num_entries


def hyperv_kind(view: View) -> str:
    """What the keys are of: "configuration", "saved state", "" where none says it."""
    found = hyperv_objects(view)
    tables = [each for each in found[0] if each.type == s.HYPERV_KEY_TABLE] if found else []
    names = set()
    for table in tables[:_MAX_KEY_TABLES]:
        data = view.read(table.offset, min(table.size, _KEY_TABLE_BYTES))
        names |= {kind for mark, kind in _HYPERV_KINDS if mark in data}
    return next((kind for _, kind in _HYPERV_KINDS if kind in names), "")


def vmgs_headers(view: View) -> list[tuple[int, s.VmgsHeader]]:
    """The headers of a .vmgs that have the signature, with their offsets."""
    found = []
    for offset in s.VMGS_HEADERS:
        if view.read(offset, 8) == s.VMGS_SIGNATURE:
            header = view.structure(s.VmgsHeader, offset)
            if header is not None:
                found.append((offset, header))
    return found


def vmgs_checksum(header: s.VmgsHeader) -> int:
    """What the checksum of a header should be."""
    bare = type(header).from_buffer_copy(bytes(header))
    bare.checksum = 0
    return zlib.crc32(bytes(bare))


def valid_vmgs_header(view: View) -> tuple[int, s.VmgsHeader, bool] | None:
    """The header that counts, where it is, and whether its checksum is right; None where there is
    no header.
    """
    if s.VMGS_SIGNATURE not in (view.read(offset, 8) for offset in s.VMGS_HEADERS):
        return None
    found = vmgs_headers(view)
    good = [each for each in found if vmgs_checksum(each[1]) == each[1].checksum]
    if good:
        offset, header = max(good, key=lambda each: each[1].sequence)
        return offset, header, True
    # Anything may have the eight letters at 512 or 4096: without a checksum only the start counts.
    return next(((offset, header, False) for offset, header in found if offset == 0), None)


def libvirt_header(view: View) -> s.LibvirtSaveHeader | s.LibvirtSaveHeaderBig | None:
    """The header of a domain that libvirt saved, in the byte order in which it makes sense."""
    if view.read(0, 16) not in (s.LIBVIRT_SAVE_MAGIC, s.LIBVIRT_SAVE_PARTIAL):
        return None
    little = view.structure(s.LibvirtSaveHeader, 0)
    big = view.structure(s.LibvirtSaveHeaderBig, 0)
    if little is None or big is None:
        return None
    return big if big.version < little.version else little


def elf_core(view: View) -> tuple[ctypes.Structure, int, int] | None:
    """The header of a little-endian ELF core, its bits, its number of segments; else None."""
    ident = view.read(0, 16)
    if ident[:4] != ELF_MAGIC or ident[5:6] != b"\1":
        return None
    bits = 64 if ident[4:5] == b"\2" else 32
    header = view.structure(ELF_HEADERS[bits, "little"], 0)
    if header is None or header.e_type != s.ELF_CORE:
        return None
    return header, bits, int(header.e_phnum)
