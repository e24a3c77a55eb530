"""Kernels, boot images, firmware and cpio archives put together from their specifications, so that
any field can be made to lie. Nothing of them runs.

Sources: Linux's Documentation/arch/x86/boot.rst, arch/arm64/booting.rst; Microsoft's "PE Format";
the System V ABI; U-Boot's include/image.h; the Devicetree specification; the UEFI Platform
Initialization specification, EDK II's VariableFormat.h; the PCI Firmware specification; cpio(5).
"""

from __future__ import annotations

import struct
import uuid
import zlib

__all__ = [
    "FFS2",
    "PK",
    "TRAILER",
    "arm64_of",
    "bzimage_of",
    "capsule_of",
    "cpio_of",
    "dtb_of",
    "elf_of",
    "newc",
    "pe_of",
    "rom_of",
    "store_of",
    "uimage_of",
    "variable",
    "volume_of",
    "zboot_of",
    "zimage_of",
]

FFS2 = "8c8ce578-8a3d-4f1c-9935-896185c32dd3"
VARIABLES = "fff12b8d-7696-4c8b-a985-2747075b4f50"
AUTHENTICATED = "aaf32c78-947b-439a-a180-2e144ec37792"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
CAPSULE = "6dcbd5ed-e82d-4c44-bda1-7194199ad92a"
PK = "PK"


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


def bzimage_of(
    *,
    syssize: int | None = None,
    payload: tuple[int, int] = (0, 64),
    version_at: int = 0x280,
    high: bool = True,
) -> bytes:
    """A boot sector, one sector of setup code, 8 KiB of kernel. ``version_at``: in the file."""
    kernel = bytes(8192)
    head = bytearray(1024)
    size = len(kernel) // 16 if syssize is None else syssize
    struct.pack_into("<BHIHHHH", head, 0x1F1, 1, 1, size, 0, 0xFFFF, 0, 0xAA55)
    struct.pack_into("<H4sHIHHBB", head, 0x200, 0x66EB, b"HdrS", 0x20F, 0, 0, version_at - 0x200,
                     0, int(high))  # fmt: skip
    struct.pack_into("<II", head, 0x248, *payload)
    head[0x280 : 0x280 + 18] = b"6.1.0-hand (a@b) 1"
    return bytes(head) + kernel


def pe_of(
    *,
    sections: tuple[tuple[bytes, int, int], ...] = ((b".text", 512, 512), (b".data", 1024, 512)),
    subsystem: int = 10,
    certificates: tuple[int, int] = (0, 0),
    size: int = 1536,
) -> bytes:
    """A program of ``size`` bytes; ``sections``: name, place and size in the file."""
    data = bytearray(size)
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 60, 64)
    struct.pack_into("<4sHHIIIHH", data, 64, b"PE\0\0", 0x8664, len(sections), 0, 0, 0, 240, 0x206)
    struct.pack_into("<H", data, 88, 0x20B)
    struct.pack_into("<H", data, 88 + 68, subsystem)
    struct.pack_into("<I", data, 88 + 108, 16)
    struct.pack_into("<II", data, 88 + 112 + 32, *certificates)
    for number, (name, at, length) in enumerate(sections):
        struct.pack_into("<8sIIII", data, 328 + 40 * number, name, length, 0x1000, length, at)
    return bytes(data)


def elf_of(*, file_size: int = 256, kernel: bool = True) -> bytes:
    """An executable for x86-64 with one segment; ``kernel``: in the upper half, with PVH's note."""
    address = 0xFFFFFFFF81000000 if kernel else 0x400000
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000850)
    body = 64 + 2 * 56
    head += struct.pack("<IIQQQQQQ", 1, 5, body, address, 0x1000000, file_size, file_size, 4096)
    head += struct.pack("<IIQQQQQQ", 4, 4, body, 0, 0, len(note), len(note), 4)
    return head + note.ljust(256, b"\0") if kernel else head + bytes(256)


def arm64_of() -> bytes:
    """The header of an Image for arm64, with 4 KiB behind it."""
    head = struct.pack("<IIQQQQQQ4sI", 0, 0x14000000, 0, 1 << 20, 0xA, 0, 0, 0, b"ARM\x64", 0)
    return head + bytes(4096)


def zimage_of(*, end: int = 4096) -> bytes:
    """A zImage for ARM of 4096 bytes."""
    return (bytes(36) + struct.pack("<IIII", 0x016F2818, 0, end, 0x04030201)).ljust(4096, b"\0")


def zboot_of(*, size: int = 1000) -> bytes:
    """A kernel that unpacks itself under EFI; it is a PE file as well."""
    data = bytearray(pe_of())
    data[:60] = struct.pack("<4s4sIIII32s", b"MZ\0\0", b"zimg", 512, size, 0, 0, b"gzip").ljust(
        60, b"\0"
    )
    return bytes(data)


def uimage_of(
    data: bytes, *, size: int | None = None, header_sum: int = 0, data_sum: int = 0
) -> bytes:
    """A kernel for U-Boot. ``header_sum``, ``data_sum``: what the checksums are off by."""
    stated = len(data) if size is None else size
    fields = (
        1_700_000_000,
        stated,
        0,
        0,
        zlib.crc32(data) ^ data_sum,
        5,
        22,
        2,
        0,
        b"made by hand",
    )
    body = struct.pack(">IIIIIBBBB32s", *fields)
    head = struct.pack(">II", 0x27051956, 0) + body
    crc = zlib.crc32(head) ^ header_sum
    return struct.pack(">II", 0x27051956, crc) + body + data


def dtb_of(*, fit: bool = False, total: int = 0, strings: int = 0, overlap: bool = False) -> bytes:
    """A device tree with two nodes. ``total``, ``strings``: what its header adds to the truth."""
    names = (b"images\0\0", b"configurations\0\0") if fit else (b"memory\0\0", b"chosen\0\0")
    tree = struct.pack(">I4x", 1)
    tree += b"".join(struct.pack(">I", 1) + name + struct.pack(">I", 2) for name in names)
    tree += struct.pack(">II", 2, 9)
    at = 40 + 16
    strings_at = at if overlap else at + len(tree)
    fields = (0xD00DFEED, at + len(tree) + 8 + total, at, strings_at + strings, 40, 17, 16, 0, 8)
    return struct.pack(">10I", *fields, len(tree)) + bytes(16) + tree + b"name\0\0\0\0"


def volume_of(
    body: bytes = b"",
    *,
    guid: str = FFS2,
    size: int = 0x10000,
    stated: int | None = None,
    off: int = 0,
    revision: int = 2,
    further: int = 0,
    blocks: tuple[tuple[int, int], ...] | None = None,
    ended: bool = True,
) -> bytes:
    """A firmware volume of ``size`` bytes. ``off``: what its checksum is off by; ``ended``: whether
    its map of blocks is.
    """
    map_of = blocks if blocks is not None else ((size // 4096, 4096),)
    rows = b"".join(struct.pack("<II", *row) for row in map_of) + (bytes(8) if ended else b"")
    length = 56 + len(rows)

    def head(checksum: int) -> bytes:
        return (
            bytes(16) + _guid(guid) + struct.pack("<Q4sI", size if stated is None else stated,
            b"_FVH", 0x4FEFF) + struct.pack("<HHHBB", length, checksum, further, 0, revision) + rows
        )  # fmt: skip

    total = sum(struct.unpack(f"<{length // 2}H", head(0)))
    return (head((-total + off) & 0xFFFF) + body).ljust(size, b"\xff")


def variable(name: str, data: bytes, *, state: int = 0x3F, data_size: int | None = None) -> bytes:
    """A variable of an authenticated store, padded to four bytes."""
    text = (name + "\0").encode("utf-16-le")
    size = len(data) if data_size is None else data_size
    head = struct.pack("<HBBIQ16sIII", 0x55AA, state, 0, 7, 0, bytes(16), 0, len(text), size)
    whole = head + _guid(GLOBAL) + text + data
    return whole + b"\xff" * (-len(whole) % 4)


def store_of(*variables: bytes, size: int = 0x8000, state: int = 0xFE) -> bytes:
    """A volume of 64 KiB with an authenticated store in it."""
    body = _guid(AUTHENTICATED) + struct.pack("<IBBHI", size, 0x5A, state, 0, 0)
    return volume_of(body + b"".join(variables), guid=VARIABLES)


def capsule_of(*, header: int = 28, stated: int | None = None) -> bytes:
    """A capsule of 1 KiB."""
    size = 1024 if stated is None else stated
    return (_guid(CAPSULE) + struct.pack("<III", header, 0x50000, size)).ljust(1024, b"\x11")


def rom_of(*, blocks: int = 2, off: int = 0) -> bytes:
    """An option ROM of 1 KiB with PCI data."""
    data = bytearray(1024)
    data[:3] = b"\x55\xaa" + bytes([blocks])
    struct.pack_into("<H", data, 0x18, 0x40)
    struct.pack_into("<4sHHHHBBBBHHBB", data, 0x40, b"PCIR", 0x1AF4, 0x1000, 0, 24, 3, 0, 0, 2, 2,
                     1, 0, 0x80)  # fmt: skip
    data[-1] = (-sum(data) + off) & 0xFF
    return bytes(data)


def bios_of(*, size: int = 0x10000) -> bytes:
    """Where a processor begins: a far jump to F000:E05B, and a date behind it."""
    return bytes(size - 16) + b"\xea\x5b\xe0\x00\xf0" + b"06/23/99" + b"\0\xfc\0"


def multiboot_of() -> bytes:
    """What GRUB's command multiboot loads, and is no ELF file: a header, and where it goes."""
    magic, flags = 0x1BADB002, 1 << 16
    header = struct.pack("<III", magic, flags, -(magic + flags) & 0xFFFFFFFF)
    return header + struct.pack("<IIIII", 0x100000, 0x100000, 0, 0, 0x100020) + b"\xf4" * 64


def newc(
    name: bytes,
    data: bytes = b"",
    mode: int = 0o100644,
    *,
    size: int | None = None,
    inode: int = 1,
) -> bytes:
    """A member of a cpio archive, as Linux reads it."""
    stated = len(data) if size is None else size
    fields = (inode, mode, 0, 0, 1, 0, stated, 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


TRAILER = newc(b"TRAILER!!!", mode=0)


def cpio_of(*members: bytes, trailer: bytes = TRAILER) -> bytes:
    """An archive, padded as cpio pads it."""
    whole = b"".join(members) + trailer
    return whole + bytes(-len(whole) % 512) if trailer else whole
