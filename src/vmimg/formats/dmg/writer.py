"""DmgWriter: lays out a new DMG: chunk behind chunk, then the block table, then the trailer.

::

    chunks | property list | Koly

There is one block table, "whole disk (unknown partition : 0)", as hdiutil makes for a disk without
a partition map (create -layout NONE). With a map it makes one for each partition, which is for
people who list them: every reader puts the same disk together from either, and a writer that never
looks at the guest's data knows of no map. Everything is written once, in order, and the trailer
stands at the end: a file and a stream through a pipe are the same bytes.

A chunk that does not shrink is stored as it is, and zeros are one chunk however long, of type 0:
those of type 2 are left out of hdiutil's checksum. The last chunk ends where the disk does; QEMU
refuses a stream that holds more than the chunk's sectors. Checksums are put together from those of
the chunks, in their order, those of zeros by their length.

Spec: Levin, "Demystifying the DMG File Format".
"""

from __future__ import annotations

import base64
import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vmimg.codecs import LEVELS, Buffer, Codec, Level, codec
from vmimg.codecs.crc32 import crc32, crc32_join, crc32_zeros
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.dmg import structures as s
from vmimg.formats.driver import Frame, Writer

__all__ = ["DmgWriter"]

_NAME: Final = "whole disk (unknown partition : 0)"
_TYPES: Final = {"UDZO": s.ZLIB, "UDBZ": s.BZIP2, "ULFO": s.LZFSE, "ULMO": s.LZMA, "UDRO": s.RAW}
# What hdiutil adds to a chunk's sectors for BuffersNeeded.
_MORE_BUFFERS: Final = 8
# A resource of hdiutil's that says what the image was made from: nothing, here.
_PLST: Final = bytes(1032)
_HEAD: Final = b"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
\t<key>resource-fork</key>
\t<dict>
"""
_TAIL: Final = b"\t</dict>\n</dict>\n</plist>\n"


@dataclass(frozen=True, slots=True)
class _Note:
    """Of one chunk: its type, and the checksums of what is stored and of what that holds."""

    type: int
    stored: int
    plain: int


class _Stored(Codec):
    """Leaves everything as it is: the coder of UDRO."""

    name = "stored"
    compresses = False

    def compress(self, data: Buffer, level: Level = "default") -> bytes:
        if level not in LEVELS:
            raise OptionError(f"there is no compression level '{level}'; use fast, default or best")
        return b""

    def decompress(self, data: Buffer, size: int) -> bytes:
        raise NotImplementedError


class DmgWriter(Writer):
    """See Writer. Memory: 25 bytes for each chunk that has data."""

    compressed_only = True
    late_metadata = False
    hides_parent = False

    def __init__(self, size: int, options: Mapping[str, OptionValue]) -> None:
        chunk = int(options["cluster_size"])
        if chunk & (chunk - 1) or not s.MIN_NEW_CHUNK <= chunk <= s.MAX_NEW_CHUNK:
            raise OptionError(
                f"cluster_size of a DMG is a power of two from 64k to 16M, not {chunk}"
            )
        self.block_size = chunk
        self._subformat = str(options["subformat"])
        self._type = _TYPES[self._subformat]
        self.codec = codec(s.CODERS[self._type]) if self._type != s.RAW else _Stored()
        self._size = size
        self._next = 0
        """End of the data fork."""
        self._end = 0
        """Virtual end of the last chunk."""
        self._fork_crc = 0
        self._disk_crc = 0
        self._starts = array("q")
        self._lengths = array("q")
        self._offsets = array("q")
        self._stored = array("q")
        self._types = array("I")
        self._file_size = 0

    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """For estimates only: as if no chunk got smaller."""
        places = np.empty(len(blocks), np.int64)
        for row, block in enumerate(blocks.tolist()):
            places[row] = self._append(block, self._length(block), s.RAW)
        return places

    def place_compressed(self, block: int, length: int, note: Any) -> int:
        assert isinstance(note, _Note)
        start, plain = block * self.block_size, self._length(block)
        self._count_zeros(start)
        self._disk_crc = crc32_join(self._disk_crc, note.plain, plain)
        self._fork_crc = crc32_join(self._fork_crc, note.stored, length)
        return self._append(block, length, note.type)

    def frame(self, block: int, data: Buffer, plain: memoryview) -> Frame:
        length = self._length(block)
        if length < len(plain):
            plain = plain[:length]
            if self._type != s.RAW:
                # The level is not known here, and matters little for one chunk.
                assert self.codec is not None
                data = self.codec.compress(plain)
        checksum = crc32(plain)
        if self._type == s.RAW or len(data) >= length:
            return Frame(plain, _Note(s.RAW, checksum, checksum))
        return Frame(data, _Note(self._type, crc32(data), checksum))

    @property
    def settled(self) -> int:
        return self._next

    def finish(self) -> Iterator[tuple[int, bytes]]:
        self._count_zeros(self._size)
        if not self._next:
            # Readers take a list at offset 0 for none.
            self._next = s.SECTOR
            self._fork_crc = crc32_zeros(s.SECTOR)
        listed = _property_list(self._table())
        if len(listed) > s.MAX_LIST:
            raise OptionError(
                f"the disk takes {len(self._starts)} chunks, more than a DMG can list in "
                f"{s.MAX_LIST >> 20} MiB; -o cluster_size=16M makes fewer"
            )
        yield self._next, listed
        end = self._next + len(listed)
        yield end, bytes(self._trailer(len(listed)))
        self._file_size = end + s.KOLY_SIZE

    def full_size(self) -> int:
        chunks = -(-self._size // self.block_size)
        table = s.TABLE_SIZE + (chunks + 1) * s.ENTRY_SIZE
        listed = len(_property_list(b"")) + _base64_length(table)
        return max(self._size, s.SECTOR) + listed + s.KOLY_SIZE

    @property
    def file_size(self) -> int:
        return self._file_size

    def _length(self, block: int) -> int:
        """Virtual bytes of a block: the last one ends with the disk."""
        return min(self.block_size, self._size - block * self.block_size)

    def _append(self, block: int, length: int, kind: int) -> int:
        place = self._next
        start = block * self.block_size
        self._starts.append(start)
        self._lengths.append(self._length(block))
        self._offsets.append(place)
        self._stored.append(length)
        self._types.append(kind)
        self._end = start + self._length(block)
        self._next += length
        return place

    def _count_zeros(self, until: int) -> None:
        """Take the zeros between the last chunk and ``until`` into the disk's checksum."""
        count = until - self._end
        if count:
            self._disk_crc = crc32_join(self._disk_crc, crc32_zeros(count), count)

    def _table(self) -> bytes:
        """The block table with all chunks, zeros between them, and its end."""
        starts = np.frombuffer(self._starts, np.int64)
        ends = starts + np.frombuffer(self._lengths, np.int64)
        places = np.frombuffer(self._offsets, np.int64)
        ends, begins = np.append(0, ends), np.append(starts, self._size)
        gaps = np.flatnonzero(begins > ends)
        # Where the data of a chunk of zeros would be: hdiutil counts on.
        next_places = np.append(places, self._next)
        count = len(starts) + len(gaps)
        entries = np.zeros(count + 1, np.dtype(s.ENTRY_FIELDS))
        own = np.arange(len(starts)) + np.searchsorted(gaps, np.arange(len(starts)), "right")
        zeros = gaps + np.arange(len(gaps))
        entries["type"][own] = np.frombuffer(self._types, np.uint32)
        entries["sector"][own] = starts // s.SECTOR
        entries["sectors"][own] = np.frombuffer(self._lengths, np.int64) // s.SECTOR
        entries["offset"][own] = places
        entries["length"][own] = np.frombuffer(self._stored, np.int64)
        entries["type"][zeros] = s.ZERO
        entries["sector"][zeros] = ends[gaps] // s.SECTOR
        entries["sectors"][zeros] = (begins - ends)[gaps] // s.SECTOR
        entries["offset"][zeros] = next_places[gaps]
        entries["type"][-1] = s.TERMINATOR
        entries["sector"][-1] = self._size // s.SECTOR
        entries["offset"][-1] = self._next
        head = s.BlockTable(
            Signature=s.MISH,
            Version=1,
            SectorCount=self._size // s.SECTOR,
            BuffersNeeded=self.block_size // s.SECTOR + _MORE_BUFFERS,
            checksum=_checksum(self._disk_crc),
            NumberOfBlockChunks=count + 1,
        )
        return bytes(head) + entries.tobytes()

    def _trailer(self, listed: int) -> s.Koly:
        # The checksum of the checksums of all tables: of one, here.
        master = crc32(self._disk_crc.to_bytes(4, "big"))
        identity = f"{self._subformat} {self._size} {master} {self._next} {self._fork_crc}"
        return s.Koly(
            Signature=s.KOLY,
            Version=s.KOLY_VERSION,
            HeaderSize=s.KOLY_SIZE,
            Flags=s.FLAG_FLATTENED,
            DataForkLength=self._next,
            SegmentNumber=1,
            SegmentCount=1,
            SegmentID=tuple(hashlib.sha256(identity.encode()).digest()[:16]),
            DataChecksum=_checksum(self._fork_crc),
            XMLOffset=self._next,
            XMLLength=listed,
            MasterChecksum=_checksum(master),
            ImageVariant=s.VARIANT_DEVICE,
            SectorCount=self._size // s.SECTOR,
        )


def _checksum(crc: int) -> s.Checksum:
    checksum = s.Checksum(type=s.CHECKSUM_CRC32, size=32)
    checksum.data[:4] = crc.to_bytes(4, "big")
    return checksum


def _property_list(table: bytes) -> bytes:
    """Written out here, for what plistlib makes may differ between versions of Python."""
    return b"".join(
        (
            _HEAD,
            *_resource("blkx", _NAME, 0, table),
            *_resource("plst", "", 0, _PLST),
            _TAIL,
        )
    )


def _resource(kind: str, name: str, number: int, data: bytes) -> tuple[bytes, ...]:
    """The array of all resources of a kind: of one."""
    return (
        f"\t\t<key>{kind}</key>\n\t\t<array>\n\t\t\t<dict>\n".encode(),
        b"\t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n",
        b"\t\t\t\t<key>CFName</key>\n\t\t\t\t<string>%b</string>\n" % name.encode()
        if name
        else b"",
        b"\t\t\t\t<key>Data</key>\n\t\t\t\t<data>\n",
        base64.encodebytes(data),
        b"\t\t\t\t</data>\n",
        f"\t\t\t\t<key>ID</key>\n\t\t\t\t<string>{number}</string>\n".encode(),
        f"\t\t\t\t<key>Name</key>\n\t\t\t\t<string>{name}</string>\n".encode(),
        b"\t\t\t</dict>\n\t\t</array>\n",
    )


def _base64_length(count: int) -> int:
    """Of so many bytes in lines of 76 characters."""
    characters = -(-count // 3) * 4
    return characters + -(-characters // 76)
