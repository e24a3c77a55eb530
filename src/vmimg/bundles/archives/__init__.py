"""Archives: files in one file, and directories: read as a Folder, written by an ArchiveWriter.

`open_folder` reads members where they lie; `TarWriter`, `GzipTarWriter` and `ZipWriter` write from
the front to the end, once. `DirectoryFolder` is a directory of the file system. Knows nothing of
bundles. Imports probe, storage and below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmimg.bundles.archives.directory import DirectoryFolder
    from vmimg.bundles.archives.gziptar import GzipTarWriter
    from vmimg.bundles.archives.hashing import digests
    from vmimg.bundles.archives.opening import open_folder
    from vmimg.bundles.archives.tarwriting import TarWriter
    from vmimg.bundles.archives.writing import ArchiveWriter, Reserved, WrittenMember
    from vmimg.bundles.archives.zipwriting import ZipWriter

__all__ = [
    "ArchiveWriter",
    "DirectoryFolder",
    "GzipTarWriter",
    "Reserved",
    "TarWriter",
    "WrittenMember",
    "ZipWriter",
    "digests",
    "open_folder",
]

_LAZY = {
    "ArchiveWriter": "writing",
    "DirectoryFolder": "directory",
    "GzipTarWriter": "gziptar",
    "Reserved": "writing",
    "TarWriter": "tarwriting",
    "WrittenMember": "writing",
    "ZipWriter": "zipwriting",
    "digests": "hashing",
    "open_folder": "opening",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        module = importlib.import_module(f"vmimg.bundles.archives.{_LAZY[name]}")
        value = getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
