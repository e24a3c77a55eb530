"""Images of a WIM into directories: files, hard links, symbolic links and junctions, their times.

Files are written in the order in which they lie in the archive, so that each chunk of a solid
resource is decompressed once. Links come last, when nothing is written any more that could go
through one; those that lead out of the image are not made. Owners and access rights of Windows
mean nothing here and are left. Imports folder and tree.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from vmimg import storage as storages
from vmimg.bundles.bundle import Unpacking, check_total
from vmimg.bundles.wim.folder import WimFolder
from vmimg.bundles.wim.structures import ENCRYPTED
from vmimg.bundles.wim.tree import Entry, Link, read_link
from vmimg.errors import FormatError, StorageError, UnsafeImage
from vmimg.formats.vetting import printable
from vmimg.machines.losses import Loss
from vmimg.storage.base import Storage
from vmimg.transfer.engine import Progress

__all__ = ["extract"]

_CHUNK: Final = 1 << 20
_MAX_LINK: Final = 1 << 16
_REASONS: Final = {
    "links": "they lead out of the image",
    "encrypted-files": "they are encrypted, for one user of Windows",
    "streams": "files have one content here; -o streams=on writes them as files of their own",
    "reparse-points": "they mean something to a driver of Windows only",
}


def extract(
    folder: WimFolder,
    images: Mapping[int, str],
    *,
    streams: bool,
    limit: int,
    progress: Progress | None,
) -> Unpacking:
    """Write each of ``images`` to its directory. What could not be kept is counted.

    Raises UnsafeImage, before any file is written, where they have more than ``limit`` bytes: one
    blob may be the content of any number of files.
    """
    sizes: dict[str, int] = {}
    lost: Counter[str] = Counter()
    writers = []
    for image, target in images.items():
        os.makedirs(target, exist_ok=True)
        writer = _Writer(folder, target, lost, streams=streams)
        writer.plan(folder.walk(image))
        writers.append((image, writer))
    done, total = 0, sum(writer.total for _, writer in writers)
    check_total(folder.name, total, limit)
    for image, writer in writers:
        for length in writer.write_files():
            done += length
            if progress is not None:
                progress(done, max(1, total))
        writer.write_links()
        writer.set_times()
        _make_durable()
        if len(images) == 1:
            sizes |= writer.sizes
        else:
            sizes[str(image)] = sum(writer.sizes.values())
    losses = tuple(Loss(what, str(lost[what]), _REASONS[what]) for what in sorted(lost))
    return Unpacking(sizes, losses)


class _Writer:
    """Of one image."""

    def __init__(
        self, folder: WimFolder, target: str, lost: Counter[str], *, streams: bool
    ) -> None:
        self._folder = folder
        self._target = target
        self._lost = lost
        self._streams = streams
        self._files: list[tuple[tuple[int, int, int], bytes | None, str, tuple[int, int]]] = []
        self._links: list[tuple[str, Entry]] = []
        self._same: dict[int, str] = {}
        self._names: list[tuple[str, str]] = []
        self._times: list[tuple[str, tuple[int, int]]] = []
        self.total = 0
        self.sizes: dict[str, int] = {}
        """Of what lies in the root, by name."""

    def plan(self, entries: Iterator[tuple[str, Entry]]) -> None:
        """Make the directories, and remember the rest."""
        for path, entry in entries:
            if "/" not in path:
                self.sizes[path] = 0
            if entry.is_directory:
                _made(os.mkdir, os.path.join(self._target, path))
                self._times.append((path, entry.times))
            elif entry.is_link:
                self._links.append((path, entry))
            elif entry.is_file:
                if entry.link and entry.link in self._same:
                    self._names.append((self._same[entry.link], path))
                    continue
                if entry.link:
                    self._same[entry.link] = path
                self._add(entry.sha1, path, entry)
            elif entry.attributes & ENCRYPTED:
                self._lost["encrypted-files"] += 1
            else:
                self._lost["reparse-points"] += 1
            for name, sha1 in entry.streams:
                if self._streams:
                    self._add(sha1, f"{path}:{name}", entry)
                else:
                    self._lost["streams"] += 1

    def write_files(self) -> Iterator[int]:
        """Bytes as they are written."""
        for _, sha1, path, times in sorted(self._files, key=lambda each: each[0]):
            target = os.path.join(self._target, path)
            if os.path.lexists(target):
                raise UnsafeImage(f"{self._folder.name}: two files are called '{printable(path)}'")
            with (
                self._folder.content(sha1, f"{self._folder.name}:{path}") as source,
                storages.open(target, "create", lock=False) as file,
            ):
                yield from _copied(source, file)
                self.sizes[path.split("/")[0]] = self.sizes.get(path.split("/")[0], 0) + source.size
            _set_times(target, times)
        for first, path in self._names:
            _made(os.link, os.path.join(self._target, first), os.path.join(self._target, path))

    def write_links(self) -> None:
        """Symbolic links; those from the root of a drive begin at the root of the image."""
        for path, entry in self._links:
            link = self._read_link(path, entry)
            if link is None:
                self._lost["reparse-points"] += 1
                continue
            target = _inside(path, link)
            if target is None:
                self._lost["links"] += 1
                continue
            _made(os.symlink, target, os.path.join(self._target, path))

    def set_times(self) -> None:
        """Of directories, when nothing in them changes any more."""
        for path, times in reversed(self._times):
            _set_times(os.path.join(self._target, path), times)

    def _add(self, sha1: bytes | None, path: str, entry: Entry) -> None:
        place = (0, 0, 0)
        if sha1 is not None:
            blob = self._folder.archive.find(sha1)
            place = (blob.part, blob.run, blob.offset)
            self.total += blob.original
        self._files.append((place, sha1, path, entry.times))

    def _read_link(self, path: str, entry: Entry) -> Link | None:
        with self._folder.content(entry.sha1, f"{self._folder.name}:{path}") as storage:
            if storage.size > _MAX_LINK:
                raise FormatError(f"{storage.name}: is a link of {storage.size} bytes")
            return read_link(storage.read(0, storage.size), entry.tag)


def _inside(path: str, link: Link) -> str | None:
    """The target of a link, relative to where it lies; None where it leads out of the image."""
    below = [] if link.absolute else path.split("/")[:-1]
    for part in link.target.split("/"):
        if part == ".." and not below:
            return None
        if part == "..":
            below.pop()
        elif part not in ("", "."):
            below.append(part)
    # Without "a/..": where a is a link itself, that would be another directory.
    return os.path.relpath("/" + "/".join(below), "/" + os.path.dirname(path))


def _copied(source: Storage, target: Storage) -> Iterator[int]:
    for offset in range(0, source.size, _CHUNK):
        data = source.read(offset, min(_CHUNK, source.size - offset))
        if data.count(0) != len(data):
            target.write(offset, data)
        yield len(data)
    target.resize(source.size)


def _make_durable() -> None:
    # One call for all: one for each of the 100 000 files of a Windows takes minutes.
    if hasattr(os, "sync"):
        os.sync()


def _made(make: Callable[..., None], *paths: str) -> None:
    try:
        make(*paths)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{paths[-1]}: cannot make it: {reason.lower()}") from error


def _set_times(path: str, times: tuple[int, int]) -> None:
    try:
        os.utime(path, ns=times)
    except (OSError, OverflowError):
        pass  # a time that this file system cannot hold
