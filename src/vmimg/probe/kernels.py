"""What a boot loader loads: Linux kernels for x86, ARM and RISC-V, images of U-Boot, device trees.

Sources: Linux's Documentation/arch/x86/boot.rst (bzImage), arch/arm64/booting.rst,
arch/riscv/boot-image-header.rst, arch/arm/boot/compressed/head.S (zImage),
drivers/firmware/efi/libstub/zboot-header.S; U-Boot's include/image.h and doc/usage/fit; the
Devicetree specification 0.4 chapter 5; the Multiboot specification 0.6.96. Imports storage.
"""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass
from typing import Final

from vmimg.formats.raw.findings import View, as_plain

__all__ = [
    "ArmImageHeader",
    "DeviceTree",
    "LinuxImageHeader",
    "SetupHeader",
    "UImageHeader",
    "ZbootHeader",
    "find_multiboot",
    "kernel_version",
    "read_arm_image",
    "read_device_tree",
    "read_linux_image",
    "read_setup",
    "read_uimage",
    "read_zboot",
    "setup_size",
]

SETUP_OFFSET: Final = 0x1F1
_MULTIBOOT: Final = 0x1BADB002
_MULTIBOOT2: Final = 0xE85250D6


class SetupHeader(ctypes.LittleEndianStructure):
    """Of the x86 boot protocol, at 0x1f1."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("setup_sects", ctypes.c_uint8),
        ("root_flags", ctypes.c_uint16),
        ("syssize", ctypes.c_uint32),
        ("ram_size", ctypes.c_uint16),
        ("vid_mode", ctypes.c_uint16),
        ("root_dev", ctypes.c_uint16),
        ("boot_flag", ctypes.c_uint16),
        ("jump", ctypes.c_uint16),
        ("header", ctypes.c_char * 4),
        ("version", ctypes.c_uint16),
        ("realmode_swtch", ctypes.c_uint32),
        ("start_sys_seg", ctypes.c_uint16),
        ("kernel_version", ctypes.c_uint16),
        ("type_of_loader", ctypes.c_uint8),
        ("loadflags", ctypes.c_uint8),
        ("setup_move_size", ctypes.c_uint16),
        ("code32_start", ctypes.c_uint32),
        ("ramdisk_image", ctypes.c_uint32),
        ("ramdisk_size", ctypes.c_uint32),
        ("bootsect_kludge", ctypes.c_uint32),
        ("heap_end_ptr", ctypes.c_uint16),
        ("ext_loader_ver", ctypes.c_uint8),
        ("ext_loader_type", ctypes.c_uint8),
        ("cmd_line_ptr", ctypes.c_uint32),
        ("initrd_addr_max", ctypes.c_uint32),
        ("kernel_alignment", ctypes.c_uint32),
        ("relocatable_kernel", ctypes.c_uint8),
        ("min_alignment", ctypes.c_uint8),
        ("xloadflags", ctypes.c_uint16),
        ("cmdline_size", ctypes.c_uint32),
        ("hardware_subarch", ctypes.c_uint32),
        ("hardware_subarch_data", ctypes.c_uint64),
        ("payload_offset", ctypes.c_uint32),
        ("payload_length", ctypes.c_uint32),
        ("setup_data", ctypes.c_uint64),
        ("pref_address", ctypes.c_uint64),
        ("init_size", ctypes.c_uint32),
        ("handover_offset", ctypes.c_uint32),
    )


def read_setup(view: View) -> SetupHeader | None:
    """The setup header of a bzImage (or zImage) for x86."""
    if view.read(0x202, 4) != b"HdrS":
        return None
    header = view.structure(SetupHeader, SETUP_OFFSET)
    if header is None or header.boot_flag != 0xAA55 or not 0x200 <= header.version < 0x300:
        return None
    return header


def setup_size(header: SetupHeader) -> int:
    """Bytes of the boot sector and the setup code: where the protected-mode kernel begins."""
    # 0 stands for 4, for the sake of very old ones.
    return (int(header.setup_sects or 4) + 1) * 512


def kernel_version(view: View, header: SetupHeader) -> str:
    """The text that `uname -a` begins with; "" where there is none."""
    at = int(header.kernel_version)
    if not at or at + 0x200 >= setup_size(header):
        return ""
    return as_plain(view.read(at + 0x200, 256))


class LinuxImageHeader(ctypes.LittleEndianStructure):
    """Of an Image for arm64 or RISC-V, at offset 0; where the two differ, arm64's names."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("code0", ctypes.c_uint32),
        ("code1", ctypes.c_uint32),
        ("text_offset", ctypes.c_uint64),
        ("image_size", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("res2", ctypes.c_uint64),
        ("res3", ctypes.c_uint64),
        ("res4", ctypes.c_uint64),
        ("magic", ctypes.c_char * 4),
        ("res5", ctypes.c_uint32),
    )


def read_linux_image(view: View) -> tuple[str, LinuxImageHeader] | None:
    """("arm64" or "riscv", the header) of an uncompressed kernel."""
    header = view.structure(LinuxImageHeader, 0)
    if header is None:
        return None
    machine = {b"ARM\x64": "arm64", b"RSC\x05": "riscv"}.get(header.magic)
    return (machine, header) if machine is not None else None


class ArmImageHeader(ctypes.LittleEndianStructure):
    """Of a zImage for ARM, at 0x24: the magic, and where it begins and ends."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("start", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
        ("endianness", ctypes.c_uint32),
    )


def read_arm_image(view: View) -> ArmImageHeader | None:
    """Of a zImage for ARM."""
    header = view.structure(ArmImageHeader, 0x24)
    if header is None or header.magic != 0x016F2818 or header.end <= header.start:
        return None
    return header


class ZbootHeader(ctypes.LittleEndianStructure):
    """Of a kernel that unpacks itself as an EFI program (vmlinuz.efi), at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("mz", ctypes.c_char * 4),
        ("magic", ctypes.c_char * 4),
        ("payload_offset", ctypes.c_uint32),
        ("payload_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 2),
        ("compression", ctypes.c_char * 32),
    )


def read_zboot(view: View) -> ZbootHeader | None:
    """Of such a kernel."""
    header = view.structure(ZbootHeader, 0)
    if header is None or header.mz[:2] != b"MZ" or header.magic != b"zimg":
        return None
    return header


class UImageHeader(ctypes.BigEndianStructure):
    """U-Boot's legacy image, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("ih_magic", ctypes.c_uint32),
        ("ih_hcrc", ctypes.c_uint32),
        ("ih_time", ctypes.c_uint32),
        ("ih_size", ctypes.c_uint32),
        ("ih_load", ctypes.c_uint32),
        ("ih_ep", ctypes.c_uint32),
        ("ih_dcrc", ctypes.c_uint32),
        ("ih_os", ctypes.c_uint8),
        ("ih_arch", ctypes.c_uint8),
        ("ih_type", ctypes.c_uint8),
        ("ih_comp", ctypes.c_uint8),
        ("ih_name", ctypes.c_uint8 * 32),
    )


def read_uimage(view: View) -> tuple[UImageHeader, bool] | None:
    """The header, and whether its checksum is right."""
    header = view.structure(UImageHeader, 0)
    if header is None or header.ih_magic != 0x27051956:
        return None
    data = bytearray(view.read(0, 64))
    data[4:8] = bytes(4)
    return header, zlib.crc32(data) == header.ih_hcrc


class FdtHeader(ctypes.BigEndianStructure):
    """Of a flattened device tree, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("totalsize", ctypes.c_uint32),
        ("off_dt_struct", ctypes.c_uint32),
        ("off_dt_strings", ctypes.c_uint32),
        ("off_mem_rsvmap", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("last_comp_version", ctypes.c_uint32),
        ("boot_cpuid_phys", ctypes.c_uint32),
        ("size_dt_strings", ctypes.c_uint32),
        ("size_dt_struct", ctypes.c_uint32),
    )


@dataclass(slots=True)
class DeviceTree:
    """``nodes``: the names of the nodes below the root that were within reach."""

    header: FdtHeader
    nodes: tuple[str, ...] = ()

    @property
    def is_fit(self) -> bool:
        """Whether it is a Flattened Image Tree: kernels and what they need, in a device tree."""
        return "images" in self.nodes and "configurations" in self.nodes


_MAX_TOKENS: Final = 5000


def read_device_tree(view: View) -> DeviceTree | None:
    """The header of a device tree, with the nodes below its root."""
    header = view.structure(FdtHeader, 0)
    if (
        header is None
        or header.magic != 0xD00DFEED
        or not 16 <= header.version < 0x100
        or header.last_comp_version > header.version
    ):
        return None
    return DeviceTree(header, tuple(_top_nodes(view, header)))


def _top_nodes(view: View, header: FdtHeader) -> list[str]:
    at, depth = int(header.off_dt_struct), 0
    nodes: list[str] = []
    for _ in range(_MAX_TOKENS):
        token = int.from_bytes(view.read(at, 4), "big")
        at += 4
        if token == 1:  # FDT_BEGIN_NODE
            name = view.read(at, 64).split(b"\0")[0]
            at += (len(name) // 4 + 1) * 4
            if depth == 1:
                nodes.append(as_plain(name))
            depth += 1
        elif token == 2:  # FDT_END_NODE
            depth -= 1
        elif token == 3:  # FDT_PROP
            at += 8 + -(-int.from_bytes(view.read(at, 4), "big") // 4) * 4
        elif token != 4:  # FDT_NOP
            break
    return nodes


def find_multiboot(view: View) -> tuple[int, int] | None:
    """(version, offset) of a multiboot header whose checksum is right."""
    head = view.read(0, min(8192, view.size))
    at = head.find(_MULTIBOOT.to_bytes(4, "little"))
    while at >= 0:
        words = [int.from_bytes(head[at + i : at + i + 4], "little") for i in (0, 4, 8)]
        if at % 4 == 0 and at + 12 <= len(head) and not sum(words) & 0xFFFFFFFF:
            return 1, at
        at = head.find(_MULTIBOOT.to_bytes(4, "little"), at + 1)
    head = view.read(0, min(32768, view.size))
    at = head.find(_MULTIBOOT2.to_bytes(4, "little"))
    while at >= 0:
        words = [int.from_bytes(head[at + i : at + i + 4], "little") for i in (0, 4, 8, 12)]
        if at % 8 == 0 and at + 16 <= len(head) and not sum(words) & 0xFFFFFFFF:
            return 2, at
        at = head.find(_MULTIBOOT2.to_bytes(4, "little"), at + 1)
    return None
