"""The headers of ELF, field by field, in both widths and both orders of bytes.

Source: the System V ABI's chapter on object files. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from operator import methodcaller
from types import new_class
from typing import Any, Final

__all__ = ["ELF_HEADERS", "ELF_MACHINES", "ELF_MAGIC", "ELF_SEGMENTS"]

ELF_MAGIC: Final = b"\x7fELF"
ELF_MACHINES: Final = {
    2: "SPARC",
    3: "i386",
    8: "MIPS",
    15: "PA-RISC",
    20: "PowerPC",
    21: "PowerPC 64",
    22: "s390",
    40: "ARM",
    43: "SPARC 64",
    50: "Itanium",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
_ORDERS: Final = {"little": ctypes.LittleEndianStructure, "big": ctypes.BigEndianStructure}


def _header(word: type) -> list[tuple[str, Any]]:
    return [
        ("e_ident", ctypes.c_uint8 * 16),
        ("e_type", ctypes.c_uint16),
        ("e_machine", ctypes.c_uint16),
        ("e_version", ctypes.c_uint32),
        ("e_entry", word),
        ("e_phoff", word),
        ("e_shoff", word),
        ("e_flags", ctypes.c_uint32),
        ("e_ehsize", ctypes.c_uint16),
        ("e_phentsize", ctypes.c_uint16),
        ("e_phnum", ctypes.c_uint16),
        ("e_shentsize", ctypes.c_uint16),
        ("e_shnum", ctypes.c_uint16),
        ("e_shstrndx", ctypes.c_uint16),
    ]


def _segment(word: type) -> list[tuple[str, Any]]:
    """Its flags stand elsewhere in 32 bits."""
    flags = [("p_flags", ctypes.c_uint32)]
    places = [(name, word) for name in ("p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz")]
    wide = word is ctypes.c_uint64
    return [
        ("p_type", ctypes.c_uint32),
        *(flags if wide else ()),
        *places,
        *(() if wide else flags),
        ("p_align", word),
    ]


def _structures(
    name: str, fields: Callable[[type], list[tuple[str, Any]]]
) -> dict[tuple[int, str], type[ctypes.Structure]]:
    """By (bits, order of bytes)."""
    made: dict[tuple[int, str], type[ctypes.Structure]] = {}
    for bits, word in ((32, ctypes.c_uint32), (64, ctypes.c_uint64)):
        members = {"_pack_": 1, "_layout_": "ms", "_fields_": fields(word), "__module__": __name__}
        for order, base in _ORDERS.items():
            full_name = f"{name}{bits}{order.title()}"
            made[bits, order] = new_class(full_name, (base,), None, methodcaller("update", members))
    return made


ELF_HEADERS: Final = _structures("ElfHeader", _header)
ELF_SEGMENTS: Final = _structures("ElfSegment", _segment)
