"""open_folder: an archive as a Folder, whatever kind of archive it is.

What it is, its bytes say: the kind of bundle that it was taken for says nothing of how it is
packed. A tar may be compressed. Imports probe and storage.
"""

from __future__ import annotations

import os
from typing import Final

from vmimg.bundles.archives.onefile import OneFileFolder, inner_name
from vmimg.bundles.archives.refusing import Refusing
from vmimg.bundles.archives.sevenfolder import SevenZipFolder
from vmimg.bundles.archives.tarfolder import TarFeed, TarFolder
from vmimg.bundles.archives.unpacking import head_of, unpacked
from vmimg.bundles.archives.zipfolder import ZipFolder
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import FormatError
from vmimg.formats.raw.findings import View
from vmimg.probe.sevenzip import SIGNATURE
from vmimg.probe.streams import stream_kind
from vmimg.probe.tar import BLOCK, header_of
from vmimg.probe.vetters.archives import vet_7z, vet_zip
from vmimg.probe.zip import END, LOCAL
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = ["open_folder"]

_POLICY: Final = ParentPolicy()


def open_folder(
    storage: Storage,
    claim_name: str = "",
    *,
    near: str | None = None,
    limit: int = _POLICY.max_size,
    refusing: Refusing | None = None,
) -> Folder:
    """The members of the archive in ``storage``, which belongs to the folder from then on: it is
    closed with it, and when opening fails.

    ``claim_name``: what it was detected as; it decides where the first bytes do not (a zip may
    stand behind something else). ``near``: a path in whose directory temporary copies are made, of
    what cannot be read in place; ``limit``: bytes that anything may unpack to. ``refusing``: judges
    what vetting would say of it; without, members are taken as they are.

    Raises FormatError for what is no archive, or is damaged; UnsafeImage, UnsupportedFeature.
    """
    try:
        if near is not None and not os.path.isdir(near):
            near = os.path.dirname(near) or "."
        return _folder(storage, claim_name, near, limit, refusing)
    except BaseException:
        storage.close()
        raise


def _folder(
    storage: Storage, claim_name: str, near: str | None, limit: int, refusing: Refusing | None
) -> Folder:
    head = storage.read(0, min(BLOCK, storage.size))
    if claim_name == "zip" or head[:4] in (LOCAL, END):
        if refusing is not None:
            refusing.findings(vet_zip(View(storage, 0, storage.size)))
        return ZipFolder(storage, near=near, limit=limit)
    if head.startswith(SIGNATURE):
        if refusing is not None:
            refusing.findings(vet_7z(View(storage, 0, storage.size)))
        return SevenZipFolder(storage, near=near, limit=limit)
    if len(head) == BLOCK and header_of(head) is not None:
        return TarFolder(storage, refusing=refusing)
    kind = stream_kind(head[:16])
    if kind:
        return _compressed(storage, kind, near, limit, refusing)
    raise FormatError(f"{storage.name}: is no archive that is known")


def _compressed(
    storage: Storage, kind: str, near: str | None, limit: int, refusing: Refusing | None
) -> Folder:
    name, inner = storage.name, inner_name(storage)
    head = head_of(storage, kind, BLOCK)
    if len(head) < BLOCK or header_of(head) is None:
        content, _ = unpacked(storage, kind, near=near, limit=limit)
        return OneFileFolder(content, name, inner)
    # The headers are seen as the stream goes by, when that is gone through in any case.
    feed = TarFeed(name, refusing)
    content, seen = unpacked(storage, kind, near=near, limit=limit, watch=feed.take)
    try:
        return TarFolder(content, feed if seen else None, refusing)
    except BaseException:
        content.close()
        raise
