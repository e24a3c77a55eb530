"""Plain archives: one disk in a tar, zip or 7z, or compressed by itself, as people send them
around.

Nothing tells which file is the disk but that it is the only one that is called like one, or the
only one that there is. Nothing is said of a machine. Imports archives and imaging.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar, Final

from vmimg.bundles import uec
from vmimg.bundles.archives.gziptar import GzipTarWriter
from vmimg.bundles.archives.streamwriting import CompressedSink, GzipSink
from vmimg.bundles.archives.tarwriting import END, TarWriter, tar_header, tar_padding
from vmimg.bundles.archives.writing import ArchiveWriter
from vmimg.bundles.archives.zipwriting import ZipWriter
from vmimg.bundles.booting import kernels_in
from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.imaging import image_size, stream_image, write_image
from vmimg.bundles.package import How, Made, Package, PackedDisk
from vmimg.bundles.unsaid import unsaid
from vmimg.codecs.zstd import library
from vmimg.errors import FormatError, OptionError
from vmimg.formats.registry import find
from vmimg.probe.claims import Claim
from vmimg.probe.entries import Entry, is_disk
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.output import Output
from vmimg.transfer.streaming import ByteSink

__all__ = ["DiskArchive", "make", "open"]

_SUFFIXES: Final[dict[str, str]] = {".gz": "gzip", ".xz": "xz", ".zst": "zstd", ".bz2": "bzip2"}


class DiskArchive(Bundle):
    """One disk, and perhaps other files."""

    kind: ClassVar[str] = "disk-archive"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        names = folder.names()
        disks = [name for name in names if _is_disk(name, folder.size(name))]
        if not disks and len(names) == 1:
            disks = list(names)
        if len(disks) != 1:
            found = f"{len(disks)} disks" if disks else "no disk"
            raise FormatError(f"{self.name}: there is {found} in it, where one is expected")
        self.disks = (BundleDisk("disk", disks[0]),)
        others = [name for name in names if name != disks[0]]
        if others:
            self.facts = {"other-files": len(others)}


def open(folder: Folder, claim: Claim) -> Bundle:
    """The disk in ``folder``. Raises FormatError where it is not one."""
    # Of a compressed archive detecting sees the beginning only: a kernel may lie behind the disk.
    if kernels_in(folder):
        return uec.open(folder, claim)
    return DiskArchive(folder)


def make(package: Package, target: str, how: How) -> Made:
    """An archive of the kind that the extension of ``target`` says: .tar, .tar.gz, .tar.xz,
    .tar.zst, .tar.bz2, .zip, or the disk alone in .gz, .xz, .zst, .bz2. The disk is raw where
    nothing is said.
    """
    if len(package.disks) != 1:
        raise OptionError(f"a plain archive is of one disk, not {len(package.disks)}")
    packed = package.disks[0]
    lower = target.lower()
    with Output(target, replace=how.replace) as storage:
        if lower.endswith((".tar.gz", ".tgz")):
            with closing(GzipTarWriter(storage, level=how.level, threads=how.threads)) as writer:
                _sent(writer, package, packed, how)
        elif lower.endswith(".zip"):
            _sent(ZipWriter(storage, level=how.level, threads=how.threads), package, packed, how)
        elif lower.endswith(".tar"):
            _written(TarWriter(storage), package, packed, how)
        else:
            _alone(storage, lower, package, packed, how)
        size = storage.size
    return Made(target, size, unsaid(package.machine, "an archive", carried=[packed.drive]))


def _is_disk(name: str, size: int) -> bool:
    return is_disk(Entry(name, "file", size, size, 0))


def _format(how: How) -> str:
    return how.format or "raw"


def _member(packed: PackedDisk, how: How) -> str:
    extensions = find(_format(how)).extensions
    return packed.name + (".raw" if _format(how) == "raw" else extensions[0])


def _image(packed: PackedDisk, sink: ByteSink, how: How) -> int:
    return stream_image(
        packed.disk, _format(how), sink,
        name=_member(packed, how), options=how.disk_options, level=how.level,
        threads=how.threads, progress=how.progress,
    )  # fmt: skip


def _sent(writer: ArchiveWriter, package: Package, packed: PackedDisk, how: How) -> None:
    size = packed.disk.size if _format(how) == "raw" else None
    writer.add_stream(_member(packed, how), size, lambda sink: _image(packed, sink, how))
    for name, storage in package.files.items():
        writer.add_storage(name, storage)
    writer.finish()


def _written(writer: TarWriter, package: Package, packed: PackedDisk, how: How) -> None:
    def write(storage: Storage) -> int:
        return write_image(
            packed.disk, _format(how), storage,
            name=_member(packed, how), options=how.disk_options, level=how.level,
            threads=how.threads, keys=how.keys, progress=how.progress,
        )  # fmt: skip

    writer.add_image(_member(packed, how), write)
    for name, storage in package.files.items():
        writer.add_storage(name, storage)
    writer.finish()


def _alone(storage: Storage, lower: str, package: Package, packed: PackedDisk, how: How) -> None:
    """One stream: of the disk, or of a tar with nothing else in it."""
    kind = next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)
    if kind is None:
        raise OptionError(
            "what archive it shall be, its extension says: .tar, .zip, .gz, .xz, .zst, .bz2, or "
            ".tar with one of those behind it"
        )
    for name in package.files:
        raise OptionError(f"there is room for the disk only, not for '{name}': make a .tar or .zip")
    if kind == "gzip":
        with GzipSink(storage, level=how.level, threads=how.threads) as sink:
            _image(packed, sink, how)
            sink.finish()
        return
    packing = CompressedSink(storage, _compressor(kind, how))
    if lower.rpartition(".")[0].endswith(".tar"):
        name = _member(packed, how)
        size = image_size(
            packed.disk, _format(how), name=name, options=how.disk_options, threads=how.threads
        )
        packing.write(tar_header(name, size, "ustar"))
        _image(packed, packing, how)
        packing.write(tar_padding(size) + END)
    else:
        _image(packed, packing, how)
    packing.finish()


def _compressor(kind: str, how: How) -> Any:
    number = {"fast": 0, "default": 1, "best": 2}[how.level]
    makers: dict[str, Callable[[], Any]] = {
        "xz": lambda: lzma.LZMACompressor(preset=(0, 3, 9)[number]),
        "bzip2": lambda: bz2.BZ2Compressor((1, 9, 9)[number]),
        "zstd": lambda: library().ZstdCompressor(level=(1, 3, 12)[number]),
    }
    return makers[kind]()
