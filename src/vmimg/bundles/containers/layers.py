"""Layers: tars, packed or not, that lie over one another; and the disks of KubeVirt in them.

A layer hides files of those below it by empty files: `.wh.name` hides `name`, `.wh..wh..opq` all of
the directory. Sources: OCI image specification, layer.md ("Whiteouts"); KubeVirt's containerDisk.
Imports archives.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from vmimg.bundles.archives import digests, open_folder
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.stream import outer_compression

__all__ = ["DISK_FOLDER", "Layers", "digest_of", "unpacked_digest"]

DISK_FOLDER: Final = "disk/"
_PIECE: Final = 1 << 20
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_MAX_DISKS: Final = 64


class Layers:
    """The layers of ``folder``, opened when they are asked for, once each."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._open: dict[str, Folder] = {}

    def folder(self, layer: str) -> Folder:
        """What is in a layer."""
        if layer not in self._open:
            self._open[layer] = open_folder(self._folder.open(layer))
        return self._open[layer]

    def disks(self, layers: list[str]) -> list[tuple[str, str]]:
        """(layer, name in it) of the files in /disk, which the topmost layer with any brings.

        ``layers``: members, from the lowest on.
        """
        hidden: set[str] = set()
        for layer in reversed(layers):
            names = self.folder(layer).names()
            plain = {name.removeprefix("./").removeprefix("/"): name for name in names}
            found = [
                (layer, name)
                for path, name in plain.items()
                if _is_disk(path) and path not in hidden and DISK_FOLDER not in hidden
            ]
            if found:
                if len(found) > _MAX_DISKS:
                    raise FormatError(f"{layer}: has {len(found)} files in /disk")
                return found
            hidden |= set(_hidden(plain))
            if DISK_FOLDER in hidden:
                break
        return []

    def close(self) -> None:
        """Close all of them."""
        while self._open:
            self._open.popitem()[1].close()


def _is_disk(path: str) -> bool:
    base = path.removeprefix(DISK_FOLDER)
    return (
        path.startswith(DISK_FOLDER)
        and bool(base)
        and "/" not in base
        and (not base.startswith(_WHITEOUT))
    )


def _hidden(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if path == ".wh.disk" or path in (_OPAQUE, DISK_FOLDER + _OPAQUE):
            yield DISK_FOLDER
        elif path.startswith(DISK_FOLDER + _WHITEOUT):
            yield DISK_FOLDER + path.removeprefix(DISK_FOLDER + _WHITEOUT)


def digest_of(storage: Storage, algorithm: str) -> str:
    """Of all of it, as "sha256:..."."""
    return f"{algorithm}:{digests(storage, [algorithm])[algorithm]}"


def unpacked_digest(storage: Storage) -> str:
    """Of what a layer holds, unpacked in bounded memory, as "sha256:..."."""
    kind = outer_compression(storage.read(0, min(10, storage.size)))
    if kind is None:
        return digest_of(storage, "sha256")
    total = hashlib.sha256()
    for piece in _unpacked(storage, kind):
        total.update(piece)
    return f"sha256:{total.hexdigest()}"


def _unpacked(storage: Storage, kind: str) -> Iterator[bytes]:
    try:
        coder = _coder(kind)
        waiting = b""
        offset = 0
        while offset < storage.size or waiting:
            if not waiting:
                length = min(_PIECE, storage.size - offset)
                waiting = storage.read(offset, length)
                offset += length
            if coder.eof:
                if not waiting.strip(b"\0"):
                    waiting = b""
                    continue
                coder = _coder(kind)
            piece = coder.decompress(waiting, _PIECE)
            yield piece
            if kind == "gzip":
                waiting = coder.unused_data if coder.eof else coder.unconsumed_tail
            else:
                waiting = coder.unused_data if coder.eof else b""
                while not coder.eof and not coder.needs_input:
                    yield coder.decompress(b"", _PIECE)
                    waiting = coder.unused_data if coder.eof else b""
        if not coder.eof:
            raise FormatError(f"{storage.name}: its {kind} stream is cut off")
    except FormatError:
        raise
    except Exception as error:
        if isinstance(error, _errors()):
            raise FormatError(f"{storage.name}: its {kind} stream is corrupt") from None
        raise


def _coder(kind: str) -> Any:
    if kind == "gzip":
        return zlib.decompressobj(31)
    if kind == "zstd":
        return _zstd().ZstdDecompressor()
    raise UnsupportedFeature(f"layers are packed by gzip or zstd, not by {kind}")


def _errors() -> tuple[type[Exception], ...]:
    return (zlib.error, _zstd().ZstdError, EOFError)


def _zstd() -> Any:
    import importlib
    import sys

    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return importlib.import_module(name)
