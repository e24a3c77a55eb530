"""On-disk structures of DMG (UDIF), field by field.

::

    data fork        the chunks, one behind the other
    property list    XML: a block table for each partition, in base64; or
    resource fork    the same in the form of a classic Mac OS resource file
    Koly             the trailer, 512 bytes, which says where the others are; the last of the file,
                     or the first of it

A block table is a BlockTable with entries of 40 bytes behind it. All numbers are big-endian. An
encrypted image is an EncryptedHeader, KeyPointers, what they point to, and the image itself,
encrypted in blocks. Names and order: Levin, "Demystifying the DMG File Format"; libmodi, "Mac OS
disk image types"; of encryption: vfdecrypt (Weinmann, Appelbaum, Fromme). No logic, no numpy.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmimg.units import KIB, MIB

SECTOR: Final = 512


class Checksum(ctypes.BigEndianStructure):
    """UDIFChecksum. ``size`` in bits."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("data", ctypes.c_uint8 * 128),
    )


class Koly(ctypes.BigEndianStructure):
    """UDIFResourceFile. Offsets and lengths in bytes of the file."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("Signature", ctypes.c_char * 4),
        ("Version", ctypes.c_uint32),
        ("HeaderSize", ctypes.c_uint32),
        ("Flags", ctypes.c_uint32),
        ("RunningDataForkOffset", ctypes.c_uint64),
        ("DataForkOffset", ctypes.c_uint64),
        ("DataForkLength", ctypes.c_uint64),
        ("RsrcForkOffset", ctypes.c_uint64),
        ("RsrcForkLength", ctypes.c_uint64),
        ("SegmentNumber", ctypes.c_uint32),
        ("SegmentCount", ctypes.c_uint32),
        ("SegmentID", ctypes.c_uint8 * 16),
        ("DataChecksum", Checksum),
        ("XMLOffset", ctypes.c_uint64),
        ("XMLLength", ctypes.c_uint64),
        ("Reserved1", ctypes.c_uint8 * 64),
        ("CodeSignatureOffset", ctypes.c_uint64),
        ("CodeSignatureLength", ctypes.c_uint64),
        ("Reserved2", ctypes.c_uint8 * 40),
        ("MasterChecksum", Checksum),
        ("ImageVariant", ctypes.c_uint32),
        ("SectorCount", ctypes.c_uint64),
        ("Reserved3", ctypes.c_uint32 * 3),
    )


class BlockTable(ctypes.BigEndianStructure):
    """BLKXTable: what is stored of one partition. Sectors count from the start of the disk, those
    of its entries from SectorNumber.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("Signature", ctypes.c_char * 4),
        ("Version", ctypes.c_uint32),
        ("SectorNumber", ctypes.c_uint64),
        ("SectorCount", ctypes.c_uint64),
        ("DataOffset", ctypes.c_uint64),
        ("BuffersNeeded", ctypes.c_uint32),
        ("BlockDescriptors", ctypes.c_uint32),
        ("Reserved", ctypes.c_uint32 * 6),
        ("checksum", Checksum),
        ("NumberOfBlockChunks", ctypes.c_uint32),
    )


class ChunkEntry(ctypes.BigEndianStructure):
    """BLKXChunkEntry; see ENTRY_FIELDS."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("comment", ctypes.c_uint32),
        ("sector", ctypes.c_uint64),
        ("sectors", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    )


ENTRY_FIELDS: Final = [
    ("type", ">u4"),
    ("comment", ">u4"),
    ("sector", ">u8"),
    ("sectors", ">u8"),
    ("offset", ">u8"),
    ("length", ">u8"),
]
"""BLKXChunkEntry, as numpy says it: sectors from the table's first, bytes from its data."""
ENTRY_SIZE: Final = 40


class ResourceHeader(ctypes.BigEndianStructure):
    """What a resource fork begins with. Offsets from its start, in bytes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("dataOffset", ctypes.c_uint32),
        ("mapOffset", ctypes.c_uint32),
        ("dataLength", ctypes.c_uint32),
        ("mapLength", ctypes.c_uint32),
    )


class ResourceMap(ctypes.BigEndianStructure):
    """The beginning of a resource map; ``types`` is one less than their number."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("reserved", ctypes.c_uint8 * 22),
        ("attributes", ctypes.c_uint16),
        ("typeListOffset", ctypes.c_uint16),
        ("nameListOffset", ctypes.c_uint16),
        ("types", ctypes.c_uint16),
    )


class ResourceType(ctypes.BigEndianStructure):
    """All resources of one type; ``count`` is one less than their number, the list's offset counts
    from the type list.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_char * 4),
        ("count", ctypes.c_uint16),
        ("referenceOffset", ctypes.c_uint16),
    )


class ResourceReference(ctypes.BigEndianStructure):
    """One resource: the upper eight bits of ``place`` are attributes, the rest is its offset in the
    data.
    """

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("id", ctypes.c_int16),
        ("nameOffset", ctypes.c_uint16),
        ("place", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
    )


NO_NAME: Final = 0xFFFF


class EncryptedHeader(ctypes.BigEndianStructure):
    """The header of version 2 of encrypted images. KeyPointers follow."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_char * 8),
        ("version", ctypes.c_uint32),
        ("enc_iv_size", ctypes.c_uint32),
        ("enc_mode", ctypes.c_uint32),
        ("enc_algorithm", ctypes.c_uint32),
        ("key_bits", ctypes.c_uint32),
        ("prng_algorithm", ctypes.c_uint32),
        ("prng_key_bits", ctypes.c_uint32),
        ("uuid", ctypes.c_uint8 * 16),
        ("blocksize", ctypes.c_uint32),
        ("datasize", ctypes.c_uint64),
        ("dataoffset", ctypes.c_uint64),
        ("keys", ctypes.c_uint32),
    )


class KeyPointer(ctypes.BigEndianStructure):
    """Where one wrapped copy of the keys is."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    )


class PassphraseKey(ctypes.BigEndianStructure):
    """The keys wrapped by a passphrase; the blob of ``encrypted_keyblob_size`` bytes follows."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("kdf_algorithm", ctypes.c_uint32),
        ("kdf_prng_algorithm", ctypes.c_uint32),
        ("kdf_iteration_count", ctypes.c_uint32),
        ("kdf_salt_len", ctypes.c_uint32),
        ("kdf_salt", ctypes.c_uint8 * 32),
        ("blob_enc_iv_size", ctypes.c_uint32),
        ("blob_enc_iv", ctypes.c_uint8 * 32),
        ("blob_enc_key_bits", ctypes.c_uint32),
        ("blob_enc_algorithm", ctypes.c_uint32),
        ("blob_enc_padding", ctypes.c_uint32),
        ("blob_enc_mode", ctypes.c_uint32),
        ("encrypted_keyblob_size", ctypes.c_uint32),
    )


KOLY: Final = b"koly"
KOLY_SIZE: Final = ctypes.sizeof(Koly)  # 512
KOLY_VERSION: Final = 4
MISH: Final = b"mish"
TABLE_SIZE: Final = ctypes.sizeof(BlockTable)  # 204
BLKX: Final = b"blkx"

FLAG_FLATTENED: Final = 1
VARIANT_DEVICE: Final = 1
"""ImageVariant: the image of a whole device, not of a partition."""

CHECKSUM_NONE: Final = 0
CHECKSUM_CRC32: Final = 2

# Types of entries
ZERO: Final = 0
RAW: Final = 1
IGNORE: Final = 2
"""Reads as zeros; what was there did not matter, and no checksum counts it."""
COMMENT: Final = 0x7FFF_FFFE
ADC: Final = 0x8000_0004
ZLIB: Final = 0x8000_0005
BZIP2: Final = 0x8000_0006
LZFSE: Final = 0x8000_0007
LZMA: Final = 0x8000_0008
TERMINATOR: Final = 0xFFFF_FFFF

CODERS: Final = {ADC: "adc", ZLIB: "zlib", BZIP2: "bzip2", LZFSE: "lzfse", LZMA: "lzma"}
"""Name in `vmimg.codecs` of the coder of each type that has one."""
KINDS: Final = {ADC: "UDCO", ZLIB: "UDZO", BZIP2: "UDBZ", LZFSE: "ULFO", LZMA: "ULMO", RAW: "UDRO"}
"""What hdiutil calls an image whose chunks are of this type."""

ENCRYPTED: Final = b"encrcdsa"
ENCRYPTED_1: Final = b"cdsaencr"
"""The last eight bytes of an encrypted image of version 1."""
ENCRYPTED_SIZE: Final = ctypes.sizeof(EncryptedHeader)  # 76
POINTER_SIZE: Final = ctypes.sizeof(KeyPointer)  # 20
PASSPHRASE_KEY_SIZE: Final = ctypes.sizeof(PassphraseKey)  # 104
KEY_PASSPHRASE: Final = 1
SPARSE_IMAGE: Final = b"sprs"

# What is believed of a file
MAX_CHUNK: Final = 64 * MIB
"""QEMU's limit (block/dmg.c), for a chunk as it is stored and as it is decoded. hdiutil makes
chunks of 256 KiB and 1 MiB."""
MAX_SECTORS: Final = 1 << 52
"""2 EiB. Start, offset and length of a chunk then have a sum that fits into 64 bits."""
MAX_LIST: Final = 32 * MIB
"""Of the property list, and of the resource fork: 600 000 chunks. QEMU stops at 16 MiB."""
MAX_PARTITIONS: Final = 4096

# What new images look like
DEFAULT_CHUNK: Final = 1 * MIB
"""hdiutil's since macOS 10.13; 256 KiB before."""
MIN_NEW_CHUNK: Final = 64 * KIB
MAX_NEW_CHUNK: Final = 16 * MIB
