"""What machines leave behind when they are suspended, saved or crash, field by field.

Sources: VMware's vmss2core and LibVMI's vmware_vmss.h (.vmss, .vmsn); VirtualBox's SSM.cpp (.sav);
dissect.hypervisor's c_hyperv.py (.vmcx, .vmrs); OpenVMM's vmgs_format (.vmgs); libvirt's
qemu_saveimage.h; QEMU's migration/savevm.c; Xen's xl.h and libxl_sr_stream_format.h; Microsoft's
wdbgexts.h and Volatility's crash dump types; LiME's lime.h. Headers of ELF are in `elf`. No logic,
no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

# VMware: suspended machines and snapshots


class VmssHeader(ctypes.LittleEndianStructure):
    """The beginning of a .vmss or .vmsn file; the groups follow."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("unknown", ctypes.c_uint32),
        ("group_count", ctypes.c_uint32),
    )


class VmssGroup(ctypes.LittleEndianStructure):
    """One device or part of the machine; its tags are elsewhere in the file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("name", ctypes.c_char * 64),
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    )


VMSS_MAGICS: Final = {
    0xBED0BED0: "old",
    0xBED2BED0: "32-bit",
    0xBED2BED2: "64-bit",
    0xBED3BED3: "64-bit, partial",
    0xBAD1BAD1: "64-bit, restored",
    0xBAD2BAD2: "64-bit, not to be restored",
}
# ESXi writes about a hundred.
MAX_VMSS_GROUPS: Final = 4096
VMWARE_NVRAM_MAGIC: Final = b"MRVN"

# VirtualBox: saved states


class SsmHeader(ctypes.LittleEndianStructure):
    """The beginning of a .sav file since VirtualBox 3.1."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint8 * 32),
        ("ver_major", ctypes.c_uint16),
        ("ver_minor", ctypes.c_uint16),
        ("ver_build", ctypes.c_uint32),
        ("svn_rev", ctypes.c_uint32),
        ("host_bits", ctypes.c_uint8),
        ("gc_phys_bytes", ctypes.c_uint8),
        ("gc_ptr_bytes", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("units", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("max_decompressed", ctypes.c_uint32),
        ("crc", ctypes.c_uint32),
    )


class SsmFooter(ctypes.LittleEndianStructure):
    """The end of a .sav file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint8 * 8),
        ("stream_offset", ctypes.c_uint64),
        ("stream_crc", ctypes.c_uint32),
        ("dir_entries", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("crc", ctypes.c_uint32),
    )


SSM_MAGIC: Final = b"\x7fVirtualBox SavedState V"
SSM_MAGIC_2: Final = b"\x7fVirtualBox SavedState V2.0\n\0\0\0\0"
SSM_VERSIONS: Final = (b"1.1", b"1.2", b"2.0")
SSM_FOOTER_MAGIC: Final = b"\nFooter\0"
SSM_LIVE_SAVE: Final = 2

# Hyper-V


class HyperVStorageHeader(ctypes.LittleEndianStructure):
    """A header of a .vmcx or .vmrs file; there are two, and the higher sequence number counts."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint32),
        ("checksum", ctypes.c_uint32),
        ("sequence_number", ctypes.c_uint16),
        ("version", ctypes.c_uint32),
        ("unknown", ctypes.c_uint64),
        ("alignment", ctypes.c_uint32),
        ("replay_log_offset", ctypes.c_uint64),
        ("replay_log_size", ctypes.c_uint64),
        ("header_size", ctypes.c_uint32),
    )


class HyperVReplayLog(ctypes.LittleEndianStructure):
    """The log of changes that are not yet in their place."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint32),
        ("checksum", ctypes.c_uint32),
        ("num_entries", ctypes.c_uint32),
    )


class HyperVObjectTable(ctypes.LittleEndianStructure):
    """The beginning of the table of objects."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint32),
        ("num_entries", ctypes.c_uint32),
    )


class HyperVObject(ctypes.LittleEndianStructure):
    """An object: a table of keys, a value too large for one, free space."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_uint8),
        ("checksum", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("allocated", ctypes.c_uint8),
    )


class HyperVKeyTable(ctypes.LittleEndianStructure):
    """The beginning of a table of keys."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint16),
        ("index", ctypes.c_uint16),
        ("sequence_number", ctypes.c_uint16),
        ("checksum", ctypes.c_uint32),
    )


class HyperVKey(ctypes.LittleEndianStructure):
    """A key; its name follows, and its value ``data_offset`` bytes behind this."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_uint16),
        ("size", ctypes.c_uint32),
        ("parent_table", ctypes.c_uint16),
        ("parent_offset", ctypes.c_uint32),
        ("checksum", ctypes.c_uint32),
        ("insertion_sequence", ctypes.c_uint32),
        ("data_offset", ctypes.c_uint8),
    )


HYPERV_HEADERS: Final = (0, 0x1000)
HYPERV_OBJECT_TABLE: Final = 0x2000
HYPERV_SIGNATURE: Final = 0x01282014
HYPERV_LOG_SIGNATURE: Final = 0x01110003
HYPERV_TABLE_SIGNATURE: Final = 0x01110001
HYPERV_KEYS_SIGNATURE: Final = 2
HYPERV_VERSION: Final = 0x400
HYPERV_OBJECTS: Final = 1
HYPERV_KEY_TABLE: Final = 2
HYPERV_FILE: Final = 3
MAX_HYPERV_OBJECTS: Final = 4096


class VmgsKey(ctypes.LittleEndianStructure):
    """The key to a .vmgs file, encrypted by another."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("nonce", ctypes.c_uint8 * 12),
        ("reserved", ctypes.c_uint32),
        ("authentication_tag", ctypes.c_uint8 * 16),
        ("encryption_key", ctypes.c_uint8 * 32),
    )


class VmgsHeader(ctypes.LittleEndianStructure):
    """A header of a guest state file; offsets and sizes in blocks of 4096 bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint8 * 8),
        ("version", ctypes.c_uint32),
        ("checksum", ctypes.c_uint32),
        ("sequence", ctypes.c_uint32),
        ("header_size", ctypes.c_uint32),
        ("file_table_offset", ctypes.c_uint32),
        ("file_table_size", ctypes.c_uint32),
        ("encryption_algorithm", ctypes.c_uint16),
        ("markers", ctypes.c_uint16),
        ("metadata_keys", VmgsKey * 2),
        ("reserved_1", ctypes.c_uint32),
    )


class VmgsFile(ctypes.LittleEndianStructure):
    """A file of a guest state file; ``offset`` and ``allocation_size`` in blocks."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("offset", ctypes.c_uint32),
        ("allocation_size", ctypes.c_uint32),
        ("valid_data_size", ctypes.c_uint64),
        ("nonce", ctypes.c_uint8 * 12),
        ("authentication_tag", ctypes.c_uint8 * 16),
        ("reserved", ctypes.c_uint8 * 20),
    )


VMGS_SIGNATURE: Final = b"GUESTRTS"
# The second header is one sector behind the first, and sectors have 512 or 4096 bytes.
VMGS_HEADERS: Final = (0, 512, 4096)
VMGS_BLOCK: Final = 4096
VMGS_FILES: Final = 64
VMGS_VERSIONS: Final = {0x10000: "1.0", 0x20000: "2.0", 0x30000: "3.0"}

# QEMU, libvirt, Xen


class LibvirtSaveHeader(ctypes.LittleEndianStructure):
    """The beginning of what `virsh save` writes; the domain's XML follows. In the byte order of the
    host that wrote it.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint8 * 16),
        ("version", ctypes.c_uint32),
        ("data_len", ctypes.c_uint32),
        ("was_running", ctypes.c_uint32),
        ("compressed", ctypes.c_uint32),
        ("cookie_offset", ctypes.c_uint32),
        ("unused", ctypes.c_uint32 * 14),
    )


class LibvirtSaveHeaderBig(ctypes.BigEndianStructure):
    """The same, written on a big-endian host."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = LibvirtSaveHeader._fields_


LIBVIRT_SAVE_MAGIC: Final = b"LibvirtQemudSave"
LIBVIRT_SAVE_PARTIAL: Final = b"LibvirtQemudPart"
LIBVIRT_SAVE_VERSIONS: Final = (1, 2, 3)
LIBVIRT_COMPRESSIONS: Final = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")

QEMU_VM_MAGIC: Final = b"QEVM"
QEMU_VM_VERSIONS: Final = (2, 3)
QEMU_VM_CONFIGURATION: Final = 7

XEN_SAVE_MAGIC: Final = b"Xen saved domain, xl format\n \0 \r"
XEN_LIBXL_MAGIC: Final = b"LibxlFmt"

# Memory of machines


ELF_CORE: Final = 4
# With more the number stands elsewhere (PN_XNUM).
ELF_MANY: Final = 0xFFFF


class LimeHeader(ctypes.LittleEndianStructure):
    """In front of each range of a LiME file; ``e_addr`` is its last byte."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint8 * 4),
        ("version", ctypes.c_uint32),
        ("s_addr", ctypes.c_uint64),
        ("e_addr", ctypes.c_uint64),
        ("reserved", ctypes.c_uint8 * 8),
    )


LIME_MAGIC: Final = b"EMiL"
MAX_LIME_RANGES: Final = 1024


class DumpHeader64(ctypes.LittleEndianStructure):
    """The fields of a Windows crash dump of 64 bits that are used, with what lies between."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint8 * 4),
        ("valid_dump", ctypes.c_uint8 * 4),
        ("major_version", ctypes.c_uint32),
        ("minor_version", ctypes.c_uint32),
        ("directory_table_base", ctypes.c_uint64),
        ("pfn_database", ctypes.c_uint64),
        ("ps_loaded_module_list", ctypes.c_uint64),
        ("ps_active_process_head", ctypes.c_uint64),
        ("machine_image_type", ctypes.c_uint32),
        ("number_processors", ctypes.c_uint32),
        ("between", ctypes.c_uint8 * (0xF98 - 0x38)),
        ("dump_type", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("required_dump_space", ctypes.c_uint64),
    )


class DumpHeader32(ctypes.LittleEndianStructure):
    """The same of 32 bits."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint8 * 4),
        ("valid_dump", ctypes.c_uint8 * 4),
        ("major_version", ctypes.c_uint32),
        ("minor_version", ctypes.c_uint32),
        ("directory_table_base", ctypes.c_uint32),
        ("pfn_database", ctypes.c_uint32),
        ("ps_loaded_module_list", ctypes.c_uint32),
        ("ps_active_process_head", ctypes.c_uint32),
        ("machine_image_type", ctypes.c_uint32),
        ("number_processors", ctypes.c_uint32),
        ("between", ctypes.c_uint8 * (0xF88 - 0x28)),
        ("dump_type", ctypes.c_uint32),
        ("between_2", ctypes.c_uint8 * (0xFA0 - 0xF8C)),
        ("required_dump_space", ctypes.c_uint64),
    )


DUMP_MAGICS: Final = (b"PAGEDUMP", b"PAGEDU64")
DUMP_TYPES: Final = {
    1: "full",
    2: "kernel",
    3: "header",
    4: "triage",
    5: "full, by bitmap",
    6: "kernel, by bitmap",
    7: "automatic",
}


class HibernationHeader(ctypes.LittleEndianStructure):
    """The beginning of Windows' hiberfil.sys."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint8 * 4),
        ("image_type", ctypes.c_uint32),
        ("check_sum", ctypes.c_uint32),
        ("length_self", ctypes.c_uint32),
    )


HIBERNATION_MAGICS: Final = (b"hibr", b"HIBR", b"wake", b"WAKE", b"RSTR", b"rstr", b"HORM")
KDUMP_MAGICS: Final = {
    b"KDUMP   ": "kdump",
    b"DISKDUMP": "diskdump",
    b"makedumpfile\0\0\0\0": "makedumpfile, flattened",
}
