"""DMG images made by hand, for what no program at hand makes: ADC chunks, comments, several
partitions, tables in a resource fork, the trailer in front, segments, encryption.

Written by offset from Levin's "Demystifying the DMG File Format", libmodi's description of disk
images and, for encryption, vfdecrypt's; with nothing of vmimg's own:

    chunks         as their tables say
    table          mish, version, start sector (8), sectors (8), data offset (8), buffers,
                   descriptor, 6 words, checksum (136), number of entries; 40 bytes for each:
                   type, comment, sector (8), sectors (8), offset (8), length (8)
    list or fork   the tables
    koly           512 bytes: see `koly`
"""

from __future__ import annotations

import bz2
import hashlib
import hmac
import importlib
import lzma
import plistlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adc_by_hand import adc

ZERO, RAW, IGNORE, COMMENT, END = 0, 1, 2, 0x7FFFFFFE, 0xFFFFFFFF
ADC, ZLIB, BZIP2, LZFSE, LZMA = range(0x80000004, 0x80000009)


def lzfse(data: bytes) -> bytes:
    packed: bytes = importlib.import_module("lzfse").compress(data)
    return packed


CODERS: dict[int, Callable[[bytes], bytes]] = {
    ADC: adc, ZLIB: zlib.compress, BZIP2: bz2.compress, LZFSE: lzfse, LZMA: lzma.compress,
    RAW: bytes,
}  # fmt: skip


@dataclass
class Chunk:
    """``data``: what it reads as. ``stored`` and ``sectors`` in place of what follows from it."""

    type: int
    data: bytes = b""
    stored: bytes | None = None
    sectors: int | None = None
    comment: bytes = b""


@dataclass
class Partition:
    name: str
    chunks: list[Chunk]
    start: int | None = None
    """In sectors; behind the one before, where None."""
    data_offset: int = 0
    shuffle: bool = False
    """Its entries stand in the reverse order."""


@dataclass
class Image:
    """What an image shall be. ``form``: "list" or "fork"; ``front``: the trailer comes first."""

    partitions: Sequence[Partition]
    form: str = "list"
    front: bool = False
    sectors: int | None = None
    segments: int = 1
    version: int = 4
    fork_offset: int = 0
    """Bytes in front of the data fork."""
    places: dict[str, int] = field(default_factory=dict)
    """After `build`: where things are in the file."""

    def build(self) -> tuple[bytes, bytes]:
        """The file, and what the disk reads as."""
        base = 512 if self.front else 0
        file = bytearray(base + self.fork_offset)
        content = bytearray()
        tables: list[tuple[str, bytes]] = []
        sums = b""
        start = 0
        for partition in self.partitions:
            if partition.start is not None:
                start = partition.start
            entries: list[bytes] = []
            sector = crc = 0
            for chunk in partition.chunks:
                stored = chunk.stored
                if stored is None:
                    stored = CODERS[chunk.type](chunk.data) if chunk.type in CODERS else b""
                offset = len(file) - base - self.fork_offset - partition.data_offset
                length = len(stored)
                sectors = len(chunk.data) // 512 if chunk.sectors is None else chunk.sectors
                entries.append(
                    struct.pack(
                        ">I4sQQQQ", chunk.type, chunk.comment, sector, sectors, offset, length
                    )
                )
                file += stored
                if chunk.type == COMMENT:
                    continue
                if chunk.type != IGNORE:
                    crc = zlib.crc32(chunk.data, crc)
                place = (start + sector) * 512
                content.extend(bytes(max(0, place + len(chunk.data) - len(content))))
                content[place : place + len(chunk.data)] = chunk.data
                sector += sectors
            if partition.shuffle:
                entries.reverse()
            entries.append(struct.pack(">I4sQQQQ", END, b"", sector, 0, 0, 0))
            head = struct.pack(
                ">4sIQQQII24sII128sI", b"mish", 1, start, sector, partition.data_offset, 520, 0,
                bytes(24), 2, 32, crc.to_bytes(4, "big"), len(entries),
            )  # fmt: skip
            tables.append((partition.name, head + b"".join(entries)))
            sums += crc.to_bytes(4, "big")
            start += sector
        fork = bytes(file[base + self.fork_offset :])
        self.places["tables"] = len(file)
        listed = _list(tables) if self.form == "list" else _fork(tables)
        file += listed
        where = (self.places["tables"], len(listed))
        trailer = koly(
            self,
            fork=(base + self.fork_offset, len(fork), zlib.crc32(fork)),
            rsrc=where if self.form == "fork" else (0, 0),
            xml=where if self.form == "list" else (0, 0),
            master=zlib.crc32(sums),
            sectors=len(content) // 512 if self.sectors is None else self.sectors,
        )
        self.places["koly"] = 0 if self.front else len(file)
        if self.front:
            file[:512] = trailer
        else:
            file += trailer
        return bytes(file), bytes(content)


def koly(
    image: Image,
    *,
    fork: tuple[int, int, int],
    rsrc: tuple[int, int],
    xml: tuple[int, int],
    master: int,
    sectors: int,
) -> bytes:
    head = struct.pack(">4sIIIQQQQQII16s", b"koly", image.version, 512, 1, 0, fork[0], fork[1],
                       *rsrc, 1, image.segments, bytes(range(16)))  # fmt: skip
    head += struct.pack(">II128s", 2, 32, fork[2].to_bytes(4, "big"))
    head += struct.pack(">QQ120s", *xml, b"")
    head += struct.pack(">II128s", 2, 32, master.to_bytes(4, "big"))
    return head + struct.pack(">IQ12s", 1, sectors, b"")


def _list(tables: Sequence[tuple[str, bytes]]) -> bytes:
    blkx = [
        {"Attributes": "0x0050", "CFName": name, "Data": table, "ID": str(n), "Name": name}
        for n, (name, table) in enumerate(tables)
    ]
    return plistlib.dumps({"resource-fork": {"blkx": blkx}})


def _fork(tables: Sequence[tuple[str, bytes]]) -> bytes:
    """A resource fork: header, 240 bytes for the system, data, map. Inside Macintosh, 1-121."""
    data, references, names = b"", b"", b""
    for number, (name, table) in enumerate(tables):
        text = name.encode("mac_roman")
        references += struct.pack(">hHII", number, len(names), 0x50 << 24 | len(data), 0)
        names += bytes([len(text)]) + text
        data += struct.pack(">I", len(table)) + table
    # The list of types begins with their number less one.
    types = struct.pack(">H4sHH4sHH", 1, b"plst", 0, 18, b"blkx", len(tables) - 1, 18 + 12)
    plst = struct.pack(">hHII", 0, 0xFFFF, len(data), 0)
    data += struct.pack(">I", 4) + b"none"
    lists = types + plst + references
    head = struct.pack(">IIII", 256, 256 + len(data), len(data), 28 + len(lists) + len(names))
    map_head = head + bytes(6) + struct.pack(">HHH", 0, 28, 28 + len(lists))
    return head + bytes(240) + data + map_head + lists + names


def encrypted(
    inner: bytes,
    passphrase: bytes,
    *,
    bits: int = 128,
    block: int = 512,
    iterations: int = 1000,
    offset: int = 122880,
    others: Sequence[int] = (),
) -> bytes:
    """``inner`` in an encrypted image of version 2. ``others``: types of further keys, in front."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    aes_key = hashlib.sha256(b"aes").digest()[: bits // 8]
    hmac_key = hashlib.sha256(b"hmac").digest()[:20]
    salt, iv = hashlib.sha1(b"salt").digest(), hashlib.sha1(b"iv").digest()[:8]
    keys = aes_key + hmac_key + b"CKIE\0"
    padding = 8 - len(keys) % 8
    keys += bytes([padding]) * padding
    wrapping = hashlib.pbkdf2_hmac("sha1", passphrase, salt, iterations, 24)
    wrap = Cipher(TripleDES(wrapping), modes.CBC(iv)).encryptor()
    blob = wrap.update(keys) + wrap.finalize()
    wrapped = struct.pack(">IIII32sI32s", 103, 0, iterations, len(salt), salt, len(iv), iv)
    wrapped += struct.pack(">IIIII", 192, 17, 7, 6, len(blob)) + blob.ljust(512, b"\0")
    head = struct.pack(">8sIIIIIII", b"encrcdsa", 2, 16, 5, 0x80000001, bits, 91, 160)
    head += bytes(range(16)) + struct.pack(">IQQI", block, len(inner), offset, 1 + len(others))
    place = 4096
    for kind in others:
        head += struct.pack(">IQQ", kind, 8192, len(wrapped))
    head += struct.pack(">IQQ", 1, place, len(wrapped))
    file = bytearray(head.ljust(place, b"\0") + wrapped)
    file += bytes(offset - len(file))
    for number in range(-(-len(inner) // block)):
        vector = hmac.digest(hmac_key, number.to_bytes(4, "big"), "sha1")[:16]
        encrypt = Cipher(algorithms.AES(aes_key), modes.CBC(vector)).encryptor()
        file += encrypt.update(inner[number * block : (number + 1) * block].ljust(block, b"\0"))
    return bytes(file)
