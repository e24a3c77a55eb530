"""States of machines, put together by hand from the documents and from no code of vmimg's.

Sources: VMware's vmware_vmss.h in LibVMI; VirtualBox's SSM.cpp; dissect.hypervisor's description of
Hyper-V's storage; OpenVMM's vmgs_format; libvirt's qemu_saveimage.h; LiME's lime.h; wdbgexts.h.
"""

from __future__ import annotations

import struct
import zlib

__all__ = [
    "hyperv_storage", "libvirt_save", "lime", "vbox_state", "vmgs", "vmss", "windows_dump",
]  # fmt: skip


def vmss(
    magic: int = 0xBED2BED2, groups: tuple[str, ...] = ("Checkpoint", "cpu", "memory")
) -> bytes:
    """A suspended machine of VMware's: each group has one tag of four bytes, and a terminator."""
    start = 12 + 80 * len(groups)
    table, tags = b"", b""
    for name in groups:
        # Flags: four bytes of data, no indices; then the length of the name.
        tag = bytes((4, 4)) + b"size" + struct.pack("<I", 7) + b"\0\0"
        table += struct.pack("<64sQQ", name.encode(), start + len(tags), len(tag))
        tags += tag
    return struct.pack("<III", magic, 8, len(groups)) + table + tags


def vbox_state(*, units: int = 2, crc: int = 0) -> bytes:
    """A state that VirtualBox saved: a header, an end marker, a directory, a footer."""
    magic = b"\x7fVirtualBox SavedState V2.0\n\0\0\0\0"
    bare = magic + struct.pack("<HHIIBBBBIII", 7, 0, 14, 161095, 64, 8, 8, 0, units, 0, 4096)
    header = bare + struct.pack("<I", zlib.crc32(bare + bytes(4)) ^ crc)
    body = b"\nTheEnd\0" + struct.pack("<QIIIIIII", 64, 0, 0, 0, 0, 0, 0, 0)
    entries = b"".join(struct.pack("<QII", 64, number, 0) for number in range(units))
    body += b"\nDir\n\0\0\0" + struct.pack("<II", 0, units) + entries
    tail = b"\nFooter\0" + struct.pack("<QIII", 64 + len(body), 0, units, 0)
    return header + body + tail + struct.pack("<I", zlib.crc32(tail + bytes(4)))


def _key(kind: int, name: str, value: bytes, parent: tuple[int, int] = (0, 0)) -> bytes:
    text = name.encode() + b"\0"
    size = 21 + len(text) + len(value)
    return struct.pack("<HIHIIIB", kind, size, *parent, 0, 0, len(text)) + text + value


def hyperv_storage(root: str = "configuration", *, entries: int = 0) -> bytes:
    """A .vmcx of one node with a number in it: two headers, a log, a table of objects, one of keys.
    How checksums are made nobody says: they are zero.
    """
    log, keys, end = 0x3000, 0x4000, 0x5000

    def header(sequence: int) -> bytes:
        fields = (0x01282014, 0, sequence, 0x400, 0, 0x1000, log, 0x1000, 0x1000)
        return struct.pack("<IIHIQIQQI", *fields)

    node = _key(9, root, bytes(12))
    table = struct.pack("<HHHI", 2, 1, 1, 0) + node
    table += _key(4, "generation", struct.pack("<Q", 2), (1, 10))
    objects = struct.pack("<II", 0x01110001, 2)
    objects += struct.pack("<BIQIB", 6, 0, log, 0x1000, 1)
    objects += struct.pack("<BIQIB", 2, 0, keys, 0x1000, 1)
    out = bytearray(end)
    for offset, data in (
        (0, header(6)),
        (0x1000, header(7)),
        (0x2000, objects),
        (log, struct.pack("<IIIBIIIIIB", 0x01110003, 0, entries, 0, 8, 0, 0, 0, 0, 0)),
        (keys, table),
    ):
        out[offset : offset + len(data)] = data
    return bytes(out)


def vmgs(
    *, sequence: int = 1, encrypted: int = 0, crc: int = 0, files: tuple[int, ...] = (3,)
) -> bytes:
    """A guest state file as vmgstool makes it: a header, a table, files of a block each."""

    def header() -> bytes:
        rest = struct.pack("<IIIIHH", sequence, 168, 2, 1, encrypted, 0) + bytes(132)
        bare = b"GUESTRTS" + struct.pack("<II", 0x30000, 0) + rest
        right = zlib.crc32(bare) ^ crc
        return b"GUESTRTS" + struct.pack("<II", 0x30000, right) + rest

    table = b""
    for number in range(64):
        block = files[number] if number < len(files) else 0
        table += struct.pack("<IIQ", block, 1 if block else 0, 100 if block else 0) + bytes(48)
    return header() + bytes(8192 - 168) + table + bytes(4096 * 4)


def libvirt_save(
    xml: str, *, magic: bytes = b"LibvirtQemudSave", length: int | None = None
) -> bytes:
    """What virsh save writes: a header, the description of the domain, QEMU's state."""
    text = xml.encode() + b"\0"
    said = len(text) if length is None else length
    return magic + struct.pack("<5I56x", 2, said, 1, 0, 0) + text + b"QEVM" + struct.pack(">I", 3)


def lime(*ranges: tuple[int, int], cut: int = 0) -> bytes:
    """LiME's ranges of memory; all of it ones."""
    out = b""
    for start, size in ranges:
        out += b"EMiL" + struct.pack("<IQQ8x", 1, start, start + size - 1) + b"\1" * size
    return out[: len(out) - cut]


def windows_dump(*, size: int = 0x2000, needed: int | None = None) -> bytes:
    """The header of a full crash dump of 64 bits, and nothing behind it."""
    out = bytearray(size)
    out[:56] = b"PAGEDU64" + struct.pack("<IIQQQQII", 15, 19041, 0x1AD000, 0, 0, 0, 0x8664, 2)
    out[0xF98:0xF9C] = struct.pack("<I", 1)
    out[0xFA0:0xFA8] = struct.pack("<Q", size if needed is None else needed)
    return bytes(out)


def hibernation() -> bytes:
    """A hiberfil.sys as Windows 8 begins it, of a machine that is not hibernated any more."""
    return b"HIBR" + struct.pack("<III", 0, 0, 0x3E0) + bytes(8192)


def xen_save() -> bytes:
    """What ``xl save`` begins with; the stream of libxl that follows is left out."""
    return b"Xen saved domain, xl format\n \0 \r" + bytes(100)
