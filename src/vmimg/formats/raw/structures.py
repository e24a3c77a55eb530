"""What lies at the beginning of disks: partition tables and superblocks, field by field.

Sources: UEFI specification 2.10 chapter 5 (MBR, GPT), Apple's Inside Macintosh: Devices (APM),
Linux's ext4.h, xfs_format.h, btrfs_tree.h, f2fs_fs.h, squashfs_fs.h, swap.h; Microsoft's FAT and
exFAT specifications; LVM2's label.h; Apple's TN1150 (HFS+) and APFS reference. Discs are in
`vmimg.formats.iso`. Superblocks end behind the last field that is used. No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

SECTOR: Final = 512

# Partition tables


class MbrEntry(ctypes.LittleEndianStructure):
    """A partition of an MBR; in sectors."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("boot_indicator", ctypes.c_uint8),
        ("starting_chs", ctypes.c_uint8 * 3),
        ("os_type", ctypes.c_uint8),
        ("ending_chs", ctypes.c_uint8 * 3),
        ("starting_lba", ctypes.c_uint32),
        ("size_in_lba", ctypes.c_uint32),
    )


class Mbr(ctypes.LittleEndianStructure):
    """The first sector of a disk, and of each extended partition."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("boot_code", ctypes.c_uint8 * 440),
        ("unique_mbr_signature", ctypes.c_uint32),
        ("unknown", ctypes.c_uint16),
        ("partition_record", MbrEntry * 4),
        ("signature", ctypes.c_uint8 * 2),
    )


MBR_SIGNATURE: Final = b"\x55\xaa"
MBR_PROTECTIVE: Final = 0xEE
MBR_EXTENDED: Final = (0x05, 0x0F, 0x85)
MBR_TYPES: Final = {
    0x01: "FAT12",
    0x04: "FAT16",
    0x05: "Extended",
    0x06: "FAT16",
    0x07: "NTFS or exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32 LBA",
    0x0E: "FAT16 LBA",
    0x0F: "Extended LBA",
    0x17: "Hidden NTFS or ISO 9660",
    0x27: "Windows recovery",
    0x39: "Plan 9",
    0x41: "PowerPC PReP boot",
    0x82: "Linux swap or Solaris",
    0x83: "Linux",
    0x85: "Linux extended",
    0x8E: "Linux LVM",
    0xA5: "FreeBSD",
    0xA6: "OpenBSD",
    0xA8: "Darwin UFS",
    0xA9: "NetBSD",
    0xAF: "HFS or HFS+",
    0xBE: "Solaris boot",
    0xBF: "Solaris",
    0xCD: "ISO 9660 hybrid",
    0xEE: "GPT protective",
    0xEF: "EFI system",
    0xFB: "VMware VMFS",
    0xFC: "VMware swap",
    0xFD: "Linux RAID",
}


class GptHeader(ctypes.LittleEndianStructure):
    """The header of a GPT, in LBA 1 and in the last LBA of the disk."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 8),
        ("revision", ctypes.c_uint32),
        ("header_size", ctypes.c_uint32),
        ("header_crc32", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("my_lba", ctypes.c_uint64),
        ("alternate_lba", ctypes.c_uint64),
        ("first_usable_lba", ctypes.c_uint64),
        ("last_usable_lba", ctypes.c_uint64),
        ("disk_guid", ctypes.c_uint8 * 16),
        ("partition_entry_lba", ctypes.c_uint64),
        ("number_of_partition_entries", ctypes.c_uint32),
        ("size_of_partition_entry", ctypes.c_uint32),
        ("partition_entry_array_crc32", ctypes.c_uint32),
    )


class GptEntry(ctypes.LittleEndianStructure):
    """A partition of a GPT; the name is UTF-16LE."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("partition_type_guid", ctypes.c_uint8 * 16),
        ("unique_partition_guid", ctypes.c_uint8 * 16),
        ("starting_lba", ctypes.c_uint64),
        ("ending_lba", ctypes.c_uint64),
        ("attributes", ctypes.c_uint64),
        ("partition_name", ctypes.c_uint8 * 72),
    )


GPT_SIGNATURE: Final = b"EFI PART"
GPT_SECTOR_SIZES: Final = (512, 4096)
# Tables have 128 entries of 128 bytes; some tools make more. Beyond this nobody is honest.
MAX_GPT_TABLE_BYTES: Final = 1 << 20
GPT_TYPES: Final = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "024dee41-33e7-11d3-9d69-0008c781f39f": "MBR partition scheme",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Windows LDM metadata",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "Windows LDM data",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux file system",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "Linux LUKS",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux server data",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "Linux variable data",
    "44479540-f297-41b2-9af7-d131d5f0458a": "Linux root (x86)",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM64)",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3": "Linux root (ARM)",
    "8484680c-9521-48c6-9c11-b0720656f69e": "Linux /usr (x86-64)",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PowerPC PReP boot",
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": "ChromeOS kernel",
    "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": "ChromeOS root",
    "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6": "CoreOS /usr",
    "83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
    "516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
    "516e7cb5-6ecf-11d6-8ff8-00022d09712b": "FreeBSD swap",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "Solaris /usr or ZFS",
    "48465300-0000-11aa-aa11-00306543ecac": "Apple HFS+",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "Apple APFS",
    "aa31e02a-400f-11db-9590-000c2911d1b8": "VMware VMFS",
}


class ApmEntry(ctypes.BigEndianStructure):
    """A partition of an Apple partition map."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("pmSig", ctypes.c_uint16),
        ("pmSigPad", ctypes.c_uint16),
        ("pmMapBlkCnt", ctypes.c_uint32),
        ("pmPyPartStart", ctypes.c_uint32),
        ("pmPartBlkCnt", ctypes.c_uint32),
        ("pmPartName", ctypes.c_uint8 * 32),
        ("pmParType", ctypes.c_uint8 * 32),
    )


APM_SIGNATURE: Final = 0x504D
APM_SECTOR_SIZES: Final = (512, 2048)
MAX_APM_ENTRIES: Final = 64

# File systems and volumes


class ExtSuperblock(ctypes.LittleEndianStructure):
    """ext2, ext3 and ext4, at offset 1024."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("s_inodes_count", ctypes.c_uint32),
        ("s_blocks_count_lo", ctypes.c_uint32),
        ("s_r_blocks_count_lo", ctypes.c_uint32),
        ("s_free_blocks_count_lo", ctypes.c_uint32),
        ("s_free_inodes_count", ctypes.c_uint32),
        ("s_first_data_block", ctypes.c_uint32),
        ("s_log_block_size", ctypes.c_uint32),
        ("unused_1", ctypes.c_uint8 * 28),
        ("s_magic", ctypes.c_uint16),
        ("s_state", ctypes.c_uint16),
        ("s_errors", ctypes.c_uint16),
        ("unused_2", ctypes.c_uint8 * 14),
        ("s_rev_level", ctypes.c_uint32),
        ("unused_3", ctypes.c_uint8 * 12),
        ("s_feature_compat", ctypes.c_uint32),
        ("s_feature_incompat", ctypes.c_uint32),
        ("s_feature_ro_compat", ctypes.c_uint32),
        ("s_uuid", ctypes.c_uint8 * 16),
        ("s_volume_name", ctypes.c_uint8 * 16),
        ("unused_4", ctypes.c_uint8 * 200),
        ("s_blocks_count_hi", ctypes.c_uint32),
    )


EXT_HAS_JOURNAL: Final = 0x4
EXT_JOURNAL_DEVICE: Final = 0x8
EXT_64BIT: Final = 0x80
# Features that ext3 does not have: extents, 64bit, MMP, flex_bg, ea_inode, csum_seed, large_dir,
# ...
EXT4_INCOMPAT: Final = ~0x1F & 0xFFFF_FFFF
# huge_file, gdt_csum, dir_nlink, extra_isize, and everything later
EXT4_RO_COMPAT: Final = ~0x7 & 0xFFFF_FFFF


class XfsSuperblock(ctypes.BigEndianStructure):
    """XFS, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("sb_magicnum", ctypes.c_char * 4),
        ("sb_blocksize", ctypes.c_uint32),
        ("sb_dblocks", ctypes.c_uint64),
        ("unused_1", ctypes.c_uint8 * 16),
        ("sb_uuid", ctypes.c_uint8 * 16),
        ("unused_2", ctypes.c_uint8 * 60),
        ("sb_fname", ctypes.c_uint8 * 12),
    )


class BtrfsSuperblock(ctypes.LittleEndianStructure):
    """btrfs, at offset 65536."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("csum", ctypes.c_uint8 * 32),
        ("fsid", ctypes.c_uint8 * 16),
        ("bytenr", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("magic", ctypes.c_char * 8),
        ("unused_1", ctypes.c_uint8 * 40),
        ("total_bytes", ctypes.c_uint64),
        ("bytes_used", ctypes.c_uint64),
        ("root_dir_objectid", ctypes.c_uint64),
        ("num_devices", ctypes.c_uint64),
        ("unused_2", ctypes.c_uint8 * 155),
        ("label", ctypes.c_uint8 * 256),
    )


class FatBootSector(ctypes.LittleEndianStructure):
    """FAT12, FAT16 and FAT32 share the first 36 bytes; the rest is that of FAT32."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("BS_jmpBoot", ctypes.c_uint8 * 3),
        ("BS_OEMName", ctypes.c_uint8 * 8),
        ("BPB_BytsPerSec", ctypes.c_uint16),
        ("BPB_SecPerClus", ctypes.c_uint8),
        ("BPB_RsvdSecCnt", ctypes.c_uint16),
        ("BPB_NumFATs", ctypes.c_uint8),
        ("BPB_RootEntCnt", ctypes.c_uint16),
        ("BPB_TotSec16", ctypes.c_uint16),
        ("BPB_Media", ctypes.c_uint8),
        ("BPB_FATSz16", ctypes.c_uint16),
        ("BPB_SecPerTrk", ctypes.c_uint16),
        ("BPB_NumHeads", ctypes.c_uint16),
        ("BPB_HiddSec", ctypes.c_uint32),
        ("BPB_TotSec32", ctypes.c_uint32),
        ("BPB_FATSz32", ctypes.c_uint32),
        ("unused_1", ctypes.c_uint8 * 24),
    )


class FatExtension(ctypes.LittleEndianStructure):
    """Serial number and label: at offset 36 for FAT12 and FAT16, at 64 for FAT32."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("BS_DrvNum", ctypes.c_uint8),
        ("BS_Reserved1", ctypes.c_uint8),
        ("BS_BootSig", ctypes.c_uint8),
        ("BS_VolID", ctypes.c_uint32),
        ("BS_VolLab", ctypes.c_uint8 * 11),
        ("BS_FilSysType", ctypes.c_uint8 * 8),
    )


class NtfsBootSector(ctypes.LittleEndianStructure):
    """NTFS, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("jump", ctypes.c_uint8 * 3),
        ("oem_id", ctypes.c_char * 8),
        ("bytes_per_sector", ctypes.c_uint16),
        ("unused_1", ctypes.c_uint8 * 27),
        ("total_sectors", ctypes.c_uint64),
        ("unused_2", ctypes.c_uint8 * 24),
        ("volume_serial", ctypes.c_uint64),
    )


class ExfatBootSector(ctypes.LittleEndianStructure):
    """exFAT, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("jump_boot", ctypes.c_uint8 * 3),
        ("file_system_name", ctypes.c_char * 8),
        ("must_be_zero", ctypes.c_uint8 * 53),
        ("partition_offset", ctypes.c_uint64),
        ("volume_length", ctypes.c_uint64),
        ("unused_1", ctypes.c_uint8 * 20),
        ("volume_serial_number", ctypes.c_uint32),
        ("unused_2", ctypes.c_uint8 * 4),
        ("bytes_per_sector_shift", ctypes.c_uint8),
    )


class SwapHeader(ctypes.LittleEndianStructure):
    """Linux swap, at offset 1024; the signature is at the end of the first page."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("version", ctypes.c_uint32),
        ("last_page", ctypes.c_uint32),
        ("nr_badpages", ctypes.c_uint32),
        ("sws_uuid", ctypes.c_uint8 * 16),
        ("sws_volume", ctypes.c_uint8 * 16),
    )


SWAP_PAGE_SIZES: Final = (4096, 8192, 16384, 65536)


class LvmLabel(ctypes.LittleEndianStructure):
    """LVM2's label, in one of the first four sectors."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("id", ctypes.c_char * 8),
        ("sector", ctypes.c_uint64),
        ("crc", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
        ("type", ctypes.c_char * 8),
    )


class LvmPvHeader(ctypes.LittleEndianStructure):
    """LVM2's physical volume, at ``offset`` of the label."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("pv_uuid", ctypes.c_uint8 * 32), ("device_size", ctypes.c_uint64))


class SquashfsSuperblock(ctypes.LittleEndianStructure):
    """squashfs 4, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("s_magic", ctypes.c_char * 4),
        ("inodes", ctypes.c_uint32),
        ("mkfs_time", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("fragments", ctypes.c_uint32),
        ("compression", ctypes.c_uint16),
        ("block_log", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("no_ids", ctypes.c_uint16),
        ("s_major", ctypes.c_uint16),
        ("s_minor", ctypes.c_uint16),
        ("root_inode", ctypes.c_uint64),
        ("bytes_used", ctypes.c_uint64),
    )


class F2fsSuperblock(ctypes.LittleEndianStructure):
    """F2FS, at offset 1024; the name is UTF-16LE."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("major_ver", ctypes.c_uint16),
        ("minor_ver", ctypes.c_uint16),
        ("log_sectorsize", ctypes.c_uint32),
        ("log_sectors_per_block", ctypes.c_uint32),
        ("log_blocksize", ctypes.c_uint32),
        ("unused_1", ctypes.c_uint8 * 16),
        ("block_count", ctypes.c_uint64),
        ("unused_2", ctypes.c_uint8 * 64),
        ("uuid", ctypes.c_uint8 * 16),
        ("volume_name", ctypes.c_uint8 * 128),
    )


class HfsPlusHeader(ctypes.BigEndianStructure):
    """HFS+ and HFSX, at offset 1024."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 2),
        ("version", ctypes.c_uint16),
        ("unused_1", ctypes.c_uint8 * 36),
        ("blockSize", ctypes.c_uint32),
        ("totalBlocks", ctypes.c_uint32),
    )


class ApfsSuperblock(ctypes.LittleEndianStructure):
    """An APFS container, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("nx_o", ctypes.c_uint8 * 32),
        ("nx_magic", ctypes.c_char * 4),
        ("nx_block_size", ctypes.c_uint32),
        ("nx_block_count", ctypes.c_uint64),
        ("unused_1", ctypes.c_uint8 * 24),
        ("nx_uuid", ctypes.c_uint8 * 16),
    )


# (offset, magic, name) of what is recognised by its magic alone
VOLUME_MAGICS: Final = (
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"ReFS\0\0\0\0", "ReFS"),
    (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (0, b"\x45\x3d\xcd\x28", "cramfs"),
    (0, b"\xfc\x4e\x2b\xa9", "Linux RAID member"),
    (4096, b"\xfc\x4e\x2b\xa9", "Linux RAID member"),
    (0x100000, b"\x0d\xd0\x01\xc0", "VMFS volume"),
    (4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "bcachefs"),
    (4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), "bcachefs"),
    (65536 + 52, b"ReIsEr2Fs", "reiserfs"),
    (65536 + 52, b"ReIsErFs", "reiserfs"),
    (32768, b"JFS1", "JFS"),
    (0, b"-rom1fs-", "romfs"),
    (0, b"dmvdo001", "VDO"),
    (8192, b"OCFSV2", "ocfs2"),
    (65536, b"\x01\x16\x19\x70\0\0\0\1", "gfs2"),
    (65536 + 1372, b"\x19\x01\x54\x19", "ufs2"),
    (8192 + 1372, b"\x54\x19\x01\x00", "ufs1"),
)

# (offset, from the end where negative; magic; name) of files that are no disks themselves. Whoever
# writes a reader for one of them takes its row out: the format then claims the file before raw
# does.
WRAPPER_MAGICS: Final = (
    (-512, b"conectix", "a VHD image whose footer is damaged"),
    (0, b"MSWIM\0\0\0", "a WIM archive"),
    (0, b"\x1f\x8b\x08", "gzip data"),
    (0, b"\xfd7zXZ\0", "xz data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data"),
    (0, b"BZh", "bzip2 data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar archive"),
)
