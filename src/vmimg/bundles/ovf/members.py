"""The members of an OVF package: which is the descriptor, and which files it means.

Names in a descriptor are references of URIs relative to it; makers differ in whether they encode
them, and those on Windows in capitals. Imports the dialect and storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vmimg.errors import FormatError, OptionError, StorageError, UnsupportedFeature
from vmimg.formats.vetting import printable
from vmimg.machines.dialects.ovf import File
from vmimg.storage.folder import Folder, joined

__all__ = ["Members"]

_MAX_CHUNKS: Final = 10_000


class Members:
    """The names of a package. ``descriptor``, ``manifest``, ``certificate``: "" for what is not
    there. ``descriptors``: all there are.

    Raises FormatError without a descriptor, OptionError where a directory has several and none was
    named.
    """

    def __init__(self, folder: Folder, *, one: bool) -> None:
        self._folder = folder
        self._lower: dict[str, list[str]] | None = None
        # What lies beside a descriptor that was named may be a directory of downloads.
        self._named = bool(folder.index)
        self._names = () if self._named else folder.names()
        self._there = frozenset(self._names)
        self.descriptors = (folder.index,) if self._named else self._described()
        if not self.descriptors:
            raise FormatError(f"{folder.name}: there is no OVF descriptor in it")
        if one and len(self.descriptors) > 1:
            names = ", ".join(self.descriptors[:8])
            raise OptionError(
                f"{folder.name}: holds {len(self.descriptors)} OVF descriptors: name one of them ("
                f"{names})"
            )
        self.descriptor = self.descriptors[0]
        self.manifest = self._beside(".mf")
        self.certificate = self._beside(".cert")

    def _described(self) -> tuple[str, ...]:
        return tuple(
            name for name in self._names if name.lower().endswith(".ovf") and name.count("/") <= 1
        )

    @property
    def stem(self) -> str:
        """The descriptor's name without its extension."""
        return self.descriptor[:-4]

    @property
    def all(self) -> tuple[str, ...]:
        """All names, in the order in which they lie there."""
        return self._names

    def find(self, named: str) -> str | None:
        """The member that the descriptor means by ``named``; None where it is not there. Raises
        UnsafeImage for a name that leads out, UnsupportedFeature for a URL.
        """
        if "://" in named:
            raise UnsupportedFeature(
                f"{self._folder.name}: a file is at '{printable(named[:200])}', which is not "
                "fetched: put it beside the descriptor"
            )
        name = joined(self.descriptor, named)
        if self._is_there(name):
            return name
        if self._lower is None:
            self._lower = {}
            for each in self._names or self._listed():
                self._lower.setdefault(each.lower(), []).append(each)
        same = self._lower.get(name.lower(), ())
        return same[0] if len(same) == 1 else None

    def _listed(self) -> tuple[str, ...]:
        try:
            return self._folder.names()
        except StorageError:
            return ()

    def _is_there(self, name: str) -> bool:
        return self._folder.exists(name) if self._named else name in self._there

    def pieces(self, file: File) -> tuple[str, ...]:
        """The members that hold ``file``, in order; () where it is not there, or not all of it."""
        if not file.chunk_size:
            # As it stands first: some do not encode, and a name may hold a per cent.
            found = self.find(file.href) or self._decoded(file)
            return (found,) if found is not None else ()
        for base in dict.fromkeys((file.href, file.name)):
            pieces = self._chunks(base)
            if pieces:
                return self._checked(file, pieces)
        return ()

    def _decoded(self, file: File) -> str | None:
        return self.find(file.name) if file.name != file.href else None

    def _chunks(self, base: str) -> tuple[str, ...]:
        pieces = list[str]()
        while len(pieces) < _MAX_CHUNKS:
            found = self.find(f"{base}.{len(pieces):09d}")
            if found is None:
                break
            pieces.append(found)
        return tuple(pieces)

    def _checked(self, file: File, pieces: Sequence[str]) -> tuple[str, ...]:
        """``pieces``, if they are as long as the descriptor says that they are."""
        what = f"{self._folder.name}: '{printable(file.href[:200])}'"
        sizes = [self._folder.size(piece) for piece in pieces]
        if any(size != file.chunk_size for size in sizes[:-1]) or sizes[-1] > file.chunk_size:
            raise FormatError(f"{what}: its chunks are not of {file.chunk_size} bytes each")
        if file.size is not None and sum(sizes) != file.size:
            raise FormatError(
                f"{what}: its {len(pieces)} chunks have {sum(sizes)} bytes, and it has "
                f"{file.size}: one is missing"
            )
        return tuple(pieces)

    def _beside(self, extension: str) -> str:
        """The file of the descriptor's name with ``extension``; another, if that is not there."""
        if self._named:
            names = [self.stem + extension, self.stem + extension.upper()]
            return next((name for name in names if self._folder.exists(name)), "")
        wanted = (self.stem + extension).lower()
        folder = self.descriptor.rpartition("/")[0]
        others = ""
        for name in self._names:
            if name.lower() == wanted:
                return name
            if name.lower().endswith(extension) and name.rpartition("/")[0] == folder:
                others = others or name
        # A package that was renamed has kept the other names.
        return others if len(self.descriptors) == 1 else ""
