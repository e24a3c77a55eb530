"""ELF and PE: what a kernel, a boot loader or an EFI program comes as. Headers only.

Sources: the System V ABI's chapter on object files, Microsoft's "PE Format", the UEFI
specification 2.10 section 2.1.1 (subsystems), the UAPI group's "Unified Kernel Image" for the names
of sections. Imports storage.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.probe.elf import ELF_HEADERS, ELF_MACHINES, ELF_MAGIC, ELF_SEGMENTS

__all__ = ["Elf", "Pe", "Section", "read_elf", "read_pe"]

_ELF_TYPES: Final = {1: "relocatable", 2: "executable", 3: "shared object", 4: "core dump"}
_PE_MACHINES: Final = {
    0x014C: "i386",
    0x01C2: "ARM",
    0x01C4: "ARM",
    0x0200: "Itanium",
    0x0EBC: "EFI byte code",
    0x5032: "RISC-V",
    0x5064: "RISC-V",
    0x6232: "LoongArch",
    0x6264: "LoongArch",
    0x8664: "x86-64",
    0xAA64: "AArch64",
}
_SUBSYSTEMS: Final = {
    10: "EFI application",
    11: "EFI boot service driver",
    12: "EFI runtime driver",
    13: "EFI ROM image",
}
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_MAX_HEADERS: Final = 64
_MAX_NOTES: Final = 64 << 10


@dataclass(slots=True)
class Elf:
    """``bits``: 32 or 64. ``loaded``: file offset, virtual address, bytes in the file for each
    segment that is loaded. ``notes``: (name, type, description). ``end``: where the last segment or
    table ends in the file.
    """

    bits: int
    order: str
    type: str
    machine: str
    entry: int
    loaded: tuple[tuple[int, int, int], ...] = ()
    notes: tuple[tuple[str, int, bytes], ...] = ()
    end: int = 0
    segments: int = 0
    sections: int = 0


def read_elf(view: View) -> Elf | None:
    """The headers of an ELF file; None where they do not fit together."""
    ident = view.read(0, 16)
    if len(ident) < 16 or ident[:4] != ELF_MAGIC:
        return None
    if ident[4] not in (1, 2) or ident[5] not in (1, 2) or ident[6] != 1:
        return None
    wide = ident[4] == 2
    kind = (64 if wide else 32, "little" if ident[5] == 1 else "big")
    segment_type = ELF_SEGMENTS[kind]
    header = view.structure(ELF_HEADERS[kind], 0)
    if header is None or header.e_version != 1 or header.e_ehsize != (64 if wide else 52):
        return None
    size = ctypes.sizeof(segment_type)
    count = int(header.e_phnum)
    if count and header.e_phentsize != size:
        return None
    elf = Elf(
        kind[0],
        f"{kind[1]}-endian",
        _ELF_TYPES.get(int(header.e_type), f"type {header.e_type}"),
        ELF_MACHINES.get(int(header.e_machine), f"machine {header.e_machine}"),
        int(header.e_entry),
        segments=count,
        sections=int(header.e_shnum),
    )
    elf.end = int(header.e_phoff) + count * size
    if header.e_shnum:
        elf.end = max(elf.end, int(header.e_shoff) + header.e_shnum * header.e_shentsize)
    loaded, notes = [], []
    for number in range(min(count, _MAX_HEADERS)):
        segment = view.structure(segment_type, int(header.e_phoff) + number * size)
        if segment is None:
            break
        place = (int(segment.p_offset), int(segment.p_vaddr), int(segment.p_filesz))
        elf.end = max(elf.end, place[0] + place[2])
        if segment.p_type == _PT_LOAD:
            loaded.append(place)
        elif segment.p_type == _PT_NOTE and 0 < place[2] <= _MAX_NOTES:
            notes += _notes(view.read(place[0], place[2]), kind[1])
    elf.loaded, elf.notes = tuple(loaded), tuple(notes[:_MAX_HEADERS])
    return elf


def _notes(data: bytes, order: str) -> list[tuple[str, int, bytes]]:
    notes: list[tuple[str, int, bytes]] = []
    at = 0
    while at + 12 <= len(data) and len(notes) < _MAX_HEADERS:
        name, size, kind = (
            int.from_bytes(data[at + i : at + i + 4], order)  # type: ignore[arg-type]
            for i in (0, 4, 8)
        )
        start = at + 12
        middle = start + -(-name // 4) * 4
        text = data[start : start + name].rstrip(b"\0").decode("ascii", "replace")
        notes.append((text, kind, data[middle : middle + size]))
        at = middle + -(-size // 4) * 4
    return notes


class _CoffHeader(ctypes.LittleEndianStructure):
    """Behind the signature PE, with the first fields of the optional header."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("machine", ctypes.c_uint16),
        ("number_of_sections", ctypes.c_uint16),
        ("time_date_stamp", ctypes.c_uint32),
        ("pointer_to_symbol_table", ctypes.c_uint32),
        ("number_of_symbols", ctypes.c_uint32),
        ("size_of_optional_header", ctypes.c_uint16),
        ("characteristics", ctypes.c_uint16),
        ("magic", ctypes.c_uint16),
    )


class Section(ctypes.LittleEndianStructure):
    """A row of the section table."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("name", ctypes.c_char * 8),
        ("virtual_size", ctypes.c_uint32),
        ("virtual_address", ctypes.c_uint32),
        ("size_of_raw_data", ctypes.c_uint32),
        ("pointer_to_raw_data", ctypes.c_uint32),
        ("pointer_to_relocations", ctypes.c_uint32),
        ("pointer_to_line_numbers", ctypes.c_uint32),
        ("number_of_relocations", ctypes.c_uint16),
        ("number_of_line_numbers", ctypes.c_uint16),
        ("characteristics", ctypes.c_uint32),
    )


@dataclass(slots=True)
class Pe:
    """``subsystem``: in words for those of EFI, "" for the rest. ``certificates``: place and size
    of the signatures. ``offset``: of the signature PE.
    """

    machine: str
    subsystem: str
    bits: int
    offset: int
    sections: tuple[Section, ...] = ()
    certificates: tuple[int, int] = (0, 0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sections."""
        return tuple(_plain(section.name) for section in self.sections)

    @property
    def end(self) -> int:
        """Where the last section ends in the file."""
        ends = [s.pointer_to_raw_data + s.size_of_raw_data for s in self.sections]
        return int(max(ends, default=0))


def read_pe(view: View) -> Pe | None:
    """The headers of a PE file; None where they do not fit together."""
    if view.read(0, 2) != b"MZ":
        return None
    at = int.from_bytes(view.read(60, 4), "little")
    if not 4 <= at <= 4096 or view.read(at, 4) != b"PE\0\0":
        return None
    header = view.structure(_CoffHeader, at + 4)
    if header is None or header.magic not in (0x10B, 0x20B) or header.number_of_sections > 96:
        return None
    machine = _PE_MACHINES.get(int(header.machine))
    if machine is None:
        return None
    optional = at + 24
    subsystem = int.from_bytes(view.read(optional + 68, 2), "little")
    wide = header.magic == 0x20B
    # The fifth data directory, if there are so many: the only one that is a place in the file.
    count = int.from_bytes(view.read(optional + (108 if wide else 92), 4), "little")
    place = view.read(optional + (112 if wide else 96) + 4 * 8, 8) if count > 4 else bytes(8)
    sections = []
    table = optional + int(header.size_of_optional_header)
    for number in range(header.number_of_sections):
        section = view.structure(Section, table + number * ctypes.sizeof(Section))
        if section is None:
            break
        sections.append(section)
    return Pe(
        machine,
        _SUBSYSTEMS.get(subsystem, ""),
        64 if wide else 32,
        at,
        tuple(sections),
        (int.from_bytes(place[:4], "little"), int.from_bytes(place[4:], "little")),
    )


def _plain(name: bytes) -> str:
    text = name.decode("ascii", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)
