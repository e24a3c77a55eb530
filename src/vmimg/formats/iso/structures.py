"""The structures of optical discs, field by field.

Sources: ECMA-119 (ISO 9660) chapter 8 and 9, "El Torito" Bootable CD-ROM Format 1.0, Microsoft's
Joliet specification, IEEE P1281 (SUSP) and P1282 (Rock Ridge), ECMA-167 part 3 and OSTA's UDF
2.60. No logic, no numpy.

```
0        system area: empty, or an MBR and a GPT (hybrid images)
32768    volume descriptors of 2048 bytes: primary, boot record, supplementary (Joliet), terminator;
         then those that announce UDF: BEA01, NSR02 or NSR03, TEA01
524288   UDF's anchor (sector 256)
...      path tables, directories, boot catalogue, files
```
"""

from __future__ import annotations

import ctypes
from typing import Final

SECTOR: Final = 2048
FIRST_DESCRIPTOR: Final = 16
# Five are usual; the set ends with a terminator, behind which UDF announces itself.
MAX_DESCRIPTORS: Final = 32

STANDARD_IDENTIFIER: Final = b"CD001"
UDF_EXTENDED_AREA: Final = (b"BEA01", b"BOOT2", b"TEA01")
UDF_STANDARDS: Final = (b"NSR02", b"NSR03")

# Types of volume descriptors
BOOT_RECORD: Final = 0
PRIMARY: Final = 1
SUPPLEMENTARY: Final = 2
TERMINATOR: Final = 255


class BothShort(ctypes.LittleEndianStructure):
    """16 bits in both byte orders (ECMA-119 7.2.3)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("little", ctypes.c_uint16), ("big", ctypes.c_uint8 * 2))


class BothLong(ctypes.LittleEndianStructure):
    """32 bits in both byte orders (ECMA-119 7.3.3)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("little", ctypes.c_uint32), ("big", ctypes.c_uint8 * 4))


class DirectoryRecord(ctypes.LittleEndianStructure):
    """A directory record up to its identifier (ECMA-119 9.1)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("length", ctypes.c_uint8),
        ("extended_attribute_record_length", ctypes.c_uint8),
        ("location_of_extent", BothLong),
        ("data_length", BothLong),
        ("recording_date_and_time", ctypes.c_uint8 * 7),
        ("file_flags", ctypes.c_uint8),
        ("file_unit_size", ctypes.c_uint8),
        ("interleave_gap_size", ctypes.c_uint8),
        ("volume_sequence_number", BothShort),
        ("length_of_file_identifier", ctypes.c_uint8),
    )


class PathTableEntry(ctypes.LittleEndianStructure):
    """A directory in the path table of type L, up to its identifier (ECMA-119 9.4)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("length_of_directory_identifier", ctypes.c_uint8),
        ("extended_attribute_record_length", ctypes.c_uint8),
        ("location_of_extent", ctypes.c_uint32),
        ("parent_directory_number", ctypes.c_uint16),
    )


class PathTableEntryBig(ctypes.BigEndianStructure):
    """The same in the path table of type M."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("length_of_directory_identifier", ctypes.c_uint8),
        ("extended_attribute_record_length", ctypes.c_uint8),
        ("location_of_extent", ctypes.c_uint32),
        ("parent_directory_number", ctypes.c_uint16),
    )


class VolumeDescriptor(ctypes.LittleEndianStructure):
    """A primary or supplementary volume descriptor (ECMA-119 8.4 and 8.5)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("volume_descriptor_type", ctypes.c_uint8),
        ("standard_identifier", ctypes.c_char * 5),
        ("volume_descriptor_version", ctypes.c_uint8),
        ("volume_flags", ctypes.c_uint8),
        ("system_identifier", ctypes.c_uint8 * 32),
        ("volume_identifier", ctypes.c_uint8 * 32),
        ("unused_1", ctypes.c_uint8 * 8),
        ("volume_space_size", BothLong),
        ("escape_sequences", ctypes.c_uint8 * 32),
        ("volume_set_size", BothShort),
        ("volume_sequence_number", BothShort),
        ("logical_block_size", BothShort),
        ("path_table_size", BothLong),
        ("type_l_path_table", ctypes.c_uint32),
        ("optional_type_l_path_table", ctypes.c_uint32),
        ("type_m_path_table", ctypes.c_uint8 * 4),
        ("optional_type_m_path_table", ctypes.c_uint8 * 4),
        ("root_directory_record", DirectoryRecord),
        ("root_directory_identifier", ctypes.c_uint8),
        ("volume_set_identifier", ctypes.c_uint8 * 128),
        ("publisher_identifier", ctypes.c_uint8 * 128),
        ("data_preparer_identifier", ctypes.c_uint8 * 128),
        ("application_identifier", ctypes.c_uint8 * 128),
        ("copyright_file_identifier", ctypes.c_uint8 * 37),
        ("abstract_file_identifier", ctypes.c_uint8 * 37),
        ("bibliographic_file_identifier", ctypes.c_uint8 * 37),
        ("volume_creation", ctypes.c_uint8 * 17),
        ("volume_modification", ctypes.c_uint8 * 17),
        ("volume_expiration", ctypes.c_uint8 * 17),
        ("volume_effective", ctypes.c_uint8 * 17),
    )


# Escape sequences that make a supplementary descriptor one of Joliet, with the level.
JOLIET: Final = {b"%/@": 1, b"%/C": 2, b"%/E": 3}
# Version of a supplementary descriptor that is the enhanced one of ISO 9660:1999.
ENHANCED_VERSION: Final = 2

# Rock Ridge's system use entries: two letters, length, version.
SUSP_MAGIC: Final = b"SP\x07\x01\xbe\xef"
ROCK_RIDGE: Final = {
    b"RRIP_1991A": "1.10",
    b"IEEE_P1282": "1.12",
    b"IEEE_1282": "1.12",
}

# El Torito


class BootRecord(ctypes.LittleEndianStructure):
    """The boot record volume descriptor: where the catalogue is."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("boot_record_indicator", ctypes.c_uint8),
        ("standard_identifier", ctypes.c_char * 5),
        ("descriptor_version", ctypes.c_uint8),
        ("boot_system_identifier", ctypes.c_uint8 * 32),
        ("unused_1", ctypes.c_uint8 * 32),
        ("boot_catalog", ctypes.c_uint32),
    )


EL_TORITO: Final = b"EL TORITO SPECIFICATION"
BOOT_ENTRY: Final = 32
# A catalogue has a handful of entries.
MAX_BOOT_ENTRIES: Final = 64


class ValidationEntry(ctypes.LittleEndianStructure):
    """The catalogue's first entry; its words add up to zero."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("header_id", ctypes.c_uint8),
        ("platform_id", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
        ("id_string", ctypes.c_uint8 * 24),
        ("checksum", ctypes.c_uint16),
        ("key", ctypes.c_uint8 * 2),
    )


class SectionHeader(ctypes.LittleEndianStructure):
    """In front of the entries of another platform."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("header_indicator", ctypes.c_uint8),
        ("platform_id", ctypes.c_uint8),
        ("number_of_section_entries", ctypes.c_uint16),
        ("id_string", ctypes.c_uint8 * 28),
    )


class BootEntry(ctypes.LittleEndianStructure):
    """The initial entry, and those of sections."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("boot_indicator", ctypes.c_uint8),
        ("boot_media_type", ctypes.c_uint8),
        ("load_segment", ctypes.c_uint16),
        ("system_type", ctypes.c_uint8),
        ("unused_1", ctypes.c_uint8),
        ("sector_count", ctypes.c_uint16),
        ("load_rba", ctypes.c_uint32),
        ("selection_criteria", ctypes.c_uint8 * 20),
    )


VALIDATION_ID: Final = 1
VALIDATION_KEY: Final = b"\x55\xaa"
BOOTABLE: Final = 0x88
SECTION_MORE: Final = 0x90
SECTION_FINAL: Final = 0x91
EXTENSION: Final = 0x44
EXTENSION_FOLLOWS: Final = 0x20
PLATFORMS: Final = {0: "BIOS", 1: "PowerPC", 2: "Mac", 0xEF: "UEFI"}
# Boot media types, with the bytes that the emulated floppy has.
MEDIA: Final = {
    0: ("no emulation", 0),
    1: ("1.2M floppy", 1200 << 10),
    2: ("1.44M floppy", 1440 << 10),
    3: ("2.88M floppy", 2880 << 10),
    4: ("hard disk", 0),
}
VIRTUAL_SECTOR: Final = 512

# UDF


class UdfTag(ctypes.LittleEndianStructure):
    """The tag that every descriptor begins with (ECMA-167 3/7.2)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("tag_identifier", ctypes.c_uint16),
        ("descriptor_version", ctypes.c_uint16),
        ("tag_checksum", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("tag_serial_number", ctypes.c_uint16),
        ("descriptor_crc", ctypes.c_uint16),
        ("descriptor_crc_length", ctypes.c_uint16),
        ("tag_location", ctypes.c_uint32),
    )


class UdfExtent(ctypes.LittleEndianStructure):
    """Length in bytes and first sector (ECMA-167 3/7.1)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("extent_length", ctypes.c_uint32), ("extent_location", ctypes.c_uint32))


class UdfAnchor(ctypes.LittleEndianStructure):
    """Anchor volume descriptor pointer (ECMA-167 3/10.2)."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("tag", UdfTag), ("main", UdfExtent), ("reserve", UdfExtent))


class UdfPrimary(ctypes.LittleEndianStructure):
    """Primary volume descriptor (ECMA-167 3/10.1), up to the volume's name."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("tag", UdfTag),
        ("volume_descriptor_sequence_number", ctypes.c_uint32),
        ("primary_volume_descriptor_number", ctypes.c_uint32),
        ("volume_identifier", ctypes.c_uint8 * 32),
    )


class UdfPartition(ctypes.LittleEndianStructure):
    """Partition descriptor (ECMA-167 3/10.5), up to its length."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("tag", UdfTag),
        ("volume_descriptor_sequence_number", ctypes.c_uint32),
        ("partition_flags", ctypes.c_uint16),
        ("partition_number", ctypes.c_uint16),
        ("partition_contents", ctypes.c_uint8 * 32),
        ("partition_contents_use", ctypes.c_uint8 * 128),
        ("access_type", ctypes.c_uint32),
        ("partition_starting_location", ctypes.c_uint32),
        ("partition_length", ctypes.c_uint32),
    )


class UdfLogicalVolume(ctypes.LittleEndianStructure):
    """Logical volume descriptor (ECMA-167 3/10.6), up to its domain."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("tag", UdfTag),
        ("volume_descriptor_sequence_number", ctypes.c_uint32),
        ("descriptor_character_set", ctypes.c_uint8 * 64),
        ("logical_volume_identifier", ctypes.c_uint8 * 128),
        ("logical_block_size", ctypes.c_uint32),
        ("domain_flags", ctypes.c_uint8),
        ("domain_identifier", ctypes.c_uint8 * 23),
        ("domain_revision", ctypes.c_uint16),
    )


UDF_PRIMARY: Final = 1
UDF_ANCHOR: Final = 2
UDF_PARTITION: Final = 5
UDF_LOGICAL_VOLUME: Final = 6
UDF_TERMINATING: Final = 8
UDF_DOMAIN: Final = b"*OSTA UDF Compliant"
UDF_ANCHOR_SECTOR: Final = 256
UDF_SECTOR_SIZES: Final = (2048, 512, 4096)
# A sequence has six descriptors; its extent is 16 sectors or 32.
MAX_UDF_DESCRIPTORS: Final = 32
