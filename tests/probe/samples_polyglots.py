"""Files that are made to be two things, or to look like nothing, and what is too short for a disk.

Each is a good image with the mark of something else added to it, in a place that its format leaves
free or does not look at.
"""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from random import Random

from formats import vhd_by_hand
from probe.archive_making import member, ova, overlay, ovf, qcow2, tar, tar_of, zip_of
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]

BOOT = (510, b"\x55\xaa")
DESCRIPTOR = b"""# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 16384 FLAT "secret" 0
"""


@cache
def disc() -> bytes:
    """An ISO 9660 volume without files: its descriptors, behind a system area that is free."""
    volume = bytearray(64 << 10)
    volume[32768 : 32768 + 6] = b"\1CD001"
    volume[32774] = 1
    for place, number in ((80, 32), (120, 1), (124, 1), (128, 2048)):
        length = 4 if place == 80 else 2
        volume[32768 + place : 32768 + place + length] = number.to_bytes(length, "little")
        volume[32768 + place + length : 32768 + place + 2 * length] = number.to_bytes(length, "big")
    volume[34816 : 34816 + 7] = b"\xffCD001\1"
    return bytes(volume)


def with_marks(base: bytes, *marks: tuple[int, bytes]) -> bytes:
    data = bytearray(base)
    for offset, mark in marks:
        data[offset : offset + len(mark)] = mark
    return bytes(data)


def with_footer(size: int | None = None) -> bytes:
    """A qcow2 with the footer of a fixed VHD behind it, which is as large as that, or ``size``."""
    image = qcow2().ljust(-(-len(qcow2()) // 512) * 512, b"\0")
    footer = bytearray(vhd_by_hand.fixed(bytes(len(image)))[-512:])
    if size is not None:
        struct.pack_into(">Q", footer, 48, size)
        footer = bytearray(vhd_by_hand.checked(bytes(footer), 64))
    return image + footer


def with_zip(*, moved: bool) -> bytes:
    """A zip behind a qcow2; ``moved``: its offsets count from the beginning of the file."""
    file = io.BytesIO(qcow2() if moved else b"")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), b"a" * 100)
    return file.getvalue() if moved else qcow2() + file.getvalue()


def tar_called_qcow2() -> bytes:
    """The name of the first member is a header of qcow2."""
    archive = bytearray(tar(member("x", b"data"), format=tarfile.GNU_FORMAT))
    archive[:72] = qcow2()[:72]
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


def tar_that_boots() -> bytes:
    """A boot signature in the padding of the first header."""
    archive = bytearray(tar(member("x", b"data")))
    archive[510:512] = BOOT[1]
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


def ar(name: bytes, size: int) -> bytes:
    return b"!<arch>\n%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", size) + b"data"


def within(each: int, depth: int) -> bytes:
    """Archives of ``each`` archives, and so on."""
    data = bytes(512)
    for _ in range(depth):
        data = tar_of({f"{number}.raw": data for number in range(each)})
    return data


@cache
def slow() -> bytes:
    """What takes as long to unpack as vetting allows for one stream."""
    words = Random(1).choices(b"abcdefgh", k=1 << 19)
    return lzma.compress(bytes(words) * 8, preset=0)


def _two(name: str, build: Callable[[], bytes], claim: str) -> Sample:
    return of_bytes(f"polyglot-{name}", "upload", build, claim, "several-formats")


GOOD: tuple[Sample, ...] = (of_bytes("ar-one-member", "a.a", lambda: ar(b"a.o/", 4), "ar"),)

BAD: tuple[Sample, ...] = (
    _two("qcow2-in-disc", lambda: with_marks(disc(), (0, qcow2()[:512])), "qcow2"),
    _two("vmdk-in-disc", lambda: with_marks(disc(), (0, DESCRIPTOR)), "vmdk"),
    _two("disc-in-qcow2", lambda: with_marks(qcow2(), (32768, disc()[32768:36864])), "qcow2"),
    _two("vhd-behind-qcow2", with_footer, "qcow2"),
    _two("vhd-of-another-size-behind-qcow2", lambda: with_footer(1 << 20), "qcow2"),
    _two("zip-behind-qcow2", lambda: with_zip(moved=False), "qcow2"),
    _two("zip-that-knows-of-the-qcow2", lambda: with_zip(moved=True), "qcow2"),
    _two("tar-called-qcow2", tar_called_qcow2, "qcow2"),
    _two("tar-that-boots", tar_that_boots, "tar"),
    # In the table of feature names, where the rest of a partition table is text.
    _two("qcow2-that-boots", lambda: with_marks(qcow2(), BOOT), "qcow2"),
    _two("descriptor-behind-a-comment", lambda: b"# " + b"a" * 70_000 + b"\n" + DESCRIPTOR, "raw"),
    of_bytes("descriptor-of-two-words", "upload", lambda: b"hello\n" * 100 + DESCRIPTOR, "raw",
             "several-formats"),
    of_bytes("raw-behind-a-vhd", "upload", lambda: vhd_by_hand.fixed(bytes(65536)) + bytes(4096),
             "raw", "hidden-data"),
    # Disks in archives, where a look by name, or at the first of them, does not find them
    of_bytes("hidden-in-zip", "a.zip", lambda: zip_of({"disk.qcow2": overlay()}), "disk-archive",
             "backing-file-outside"),
    of_bytes("hidden-by-its-name", "a.ova",
             lambda: tar_of(ova(ovf=ovf("disk.dat")) | {"disk.dat": overlay()}), "ova",
             "backing-file-outside"),
    of_bytes("hidden-without-a-name", "a.tar", lambda: tar_of({"disk": overlay()}), "tar",
             "backing-file-outside"),
    of_bytes("hidden-behind-many", "a.ova", lambda: tar_of(
        ova() | {f"{number:02}.qcow2": qcow2() for number in range(17)} | {"z": overlay()}),
        "ova", "unfinished"),
    of_bytes("archives-in-archives", "a.tar", lambda: within(2, 9), "tar", "unfinished"),
    of_bytes("streams-in-a-bundle", "a.ova", lambda: tar_of(
        ova() | {f"{number:02}.raw": slow() for number in range(16)}), "ova", "unfinished"),
    # Nothing but a magic
    of_bytes("squashfs-by-magic-only", "upload", lambda: b"hsqs" + bytes(65536), "squashfs",
             "filesystem"),
    of_bytes("ar-by-magic-only", "upload", lambda: b"!<arch>\n" + bytes(65536), "ar", "malformed"),
    of_bytes("ar-goes-up", "a.a", lambda: ar(b"../../x/", 4), "ar", "member-escapes"),
    of_bytes("ar-cut", "a.a", lambda: ar(b"a.o/", 400), "ar", "truncated"),
    # Too short for a disk
    of_bytes("empty", "upload", lambda: b"", "raw", "odd-field"),
    of_bytes("less-than-a-sector", "upload", lambda: b"KDMV", "raw", "odd-field"),
)  # fmt: skip
