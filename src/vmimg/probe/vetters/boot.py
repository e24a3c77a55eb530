"""Vetting kernels and what else is booted: whether places and sizes in the headers fit the file.

Nothing is unpacked or run. The structures are in `vmimg.probe.kernels` and
`vmimg.probe.executables`, with their sources.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding
from vmimg.probe import kernels
from vmimg.probe.executables import Pe, read_elf, read_pe

__all__ = ["VETTERS"]

# syssize counts paragraphs of 16 bytes, and the last one need not be full.
_PARAGRAPH: Final = 16
_PIGGY: Final = 0x208
"""The protocol from which on the payload is told."""
# A kernel that is not loaded high ends below the BIOS's memory.
_LOW: Final = 512 << 10
_MAX_SUM: Final = 4 << 20
# Debuggers' symbols stand behind the sections of many EFI programs.
_SYMBOLS: Final = 64 << 10


def vet_bzimage(view: View) -> Iterator[Finding]:
    """The x86 kernel behind its setup code."""
    header = kernels.read_setup(view)
    if header is None:
        return
    start = kernels.setup_size(header)
    end = start + int(header.syssize) * 16
    if end >= view.size + _PARAGRAPH:
        yield _truncated(f"its setup code and kernel take {end} bytes", view)
    if header.version >= _PIGGY and header.payload_length:
        payload = start + int(header.payload_offset)
        if payload + header.payload_length > max(end, view.size):
            yield Finding.of(
                "table-outside",
                f"its payload has {header.payload_length} bytes at {payload}, and the kernel ends "
                f"at {end}",
                offset=0x248,
            )
    version = int(header.kernel_version)
    if version and version + 0x200 >= start:
        yield Finding.of(
            "odd-field",
            f"its version stands at {version + 0x200}, behind the setup code",
            offset=0x20E,
        )
    if not header.loadflags & 1 and header.syssize * 16 > _LOW:
        yield Finding.of(
            "odd-field", "it does not fit where its flags say it is loaded", offset=0x211
        )


def vet_pe(view: View) -> Iterator[Finding]:
    """Sections and signatures of EFI and other programs."""
    pe = read_pe(view)
    if pe is None:
        return
    places = sorted(
        (int(section.pointer_to_raw_data), int(section.size_of_raw_data), name)
        for section, name in zip(pe.sections, pe.names, strict=True)
        if section.size_of_raw_data and section.pointer_to_raw_data
    )
    for at, size, name in places:
        if at + size > view.size:
            yield _truncated(f"its section '{name}' has {size} bytes at {at}", view)
            break
    for (at, size, one), (start, _, other) in pairwise(places):
        if at + size > start:
            yield Finding.of(
                "tables-overlap", f"its sections '{one}' and '{other}' overlap", offset=start
            )
            break
    certificates, length = pe.certificates
    if length and certificates + length > view.size:
        yield _truncated(f"its signatures have {length} bytes at {certificates}", view)
    end = max(pe.end, certificates + length if length else 0)
    if view.size - end > _SYMBOLS and not _is_kernel(view, pe):
        yield Finding.of(
            "hidden-data",
            f"{view.size - end} bytes follow its sections and signatures",
            offset=end,
        )


def _is_kernel(view: View, pe: Pe) -> bool:
    """Whether the file is laid out by another header as well."""
    return kernels.read_setup(view) is not None or kernels.read_linux_image(view) is not None


def vet_elf(view: View) -> Iterator[Finding]:
    """Segments and sections."""
    elf = read_elf(view)
    if elf is not None and elf.end > view.size:
        yield _truncated(f"its segments and sections reach to {elf.end}", view)


def vet_arm_image(view: View) -> Iterator[Finding]:
    """A zImage for ARM."""
    header = kernels.read_arm_image(view)
    if header is not None and header.end - header.start > view.size:
        yield _truncated(f"it states {header.end - header.start} bytes", view)


def vet_zboot(view: View) -> Iterator[Finding]:
    """The payload of a kernel that unpacks itself."""
    header = kernels.read_zboot(view)
    if header is not None and header.payload_offset + header.payload_size > view.size:
        yield _truncated(
            f"its payload has {header.payload_size} bytes at {header.payload_offset}", view
        )


def vet_uimage(view: View) -> Iterator[Finding]:
    """Sizes and checksums of U-Boot's legacy images."""
    found = kernels.read_uimage(view)
    if found is None:
        return
    header, good = found
    if not good:
        yield Finding.of("checksum-wrong", "the checksum of its header is wrong", offset=4)
    size = int(header.ih_size)
    end = 64 + size
    if end > view.size:
        yield _truncated(f"it states {size} bytes of data behind its header", view)
        return
    if size <= _MAX_SUM and zlib.crc32(view.read(64, size)) != header.ih_dcrc:
        yield Finding.of("checksum-wrong", "the checksum of its data is wrong", offset=24)
    if view.read(end, 64 << 10).strip(b"\0\xff"):
        yield Finding.of("hidden-data", f"{view.size - end} bytes follow its data", offset=end)


def vet_device_tree(view: View) -> Iterator[Finding]:
    """The blocks of a device tree."""
    tree = kernels.read_device_tree(view)
    if tree is None:
        return
    header = tree.header
    total = int(header.totalsize)
    if total > view.size:
        yield _truncated(f"it states {total} bytes", view)
    blocks = [
        (int(header.off_dt_struct), int(header.size_dt_struct), "its structure"),
        (int(header.off_dt_strings), int(header.size_dt_strings), "its strings"),
    ]
    for at, size, name in blocks:
        if at + size > total or at < 40:
            yield Finding.of(
                "table-outside", f"{name} has {size} bytes at {at}, and the tree {total}"
            )
    (one, one_size, _), (other, other_size, _) = blocks
    if one < other + other_size and other < one + one_size and one_size and other_size:
        yield Finding.of("tables-overlap", "its structure and its strings overlap")
    # The images of a FIT may stand behind it.
    if not tree.is_fit and total < view.size and view.read(total, 64 << 10).strip(b"\0\xff"):
        yield Finding.of("hidden-data", f"{view.size - total} bytes follow the tree", offset=total)


def _truncated(what: str, view: View) -> Finding:
    return Finding.of("truncated", f"{what}, and the file ends at {view.size}", offset=view.size)


VETTERS: Final = {
    "bzimage": vet_bzimage,
    "efi": vet_pe,
    "pe": vet_pe,
    "elf": vet_elf,
    "zimage": vet_arm_image,
    "efi-zboot": vet_zboot,
    "uimage": vet_uimage,
    "dtb": vet_device_tree,
}
