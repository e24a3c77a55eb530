"""Sources: what may stand where a disk is read from: a path, a compressed file, standard input.

A pipe and a compressed file cannot be read at any offset, so they are spooled first: into a file
without a name, with holes for zeros, in bounded memory.
"""

from __future__ import annotations

import os

from vmimg import storage as storages
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.formats.detect import detect
from vmimg.formats.keys import Keys
from vmimg.formats.opening import open_file, open_storage_disk

__all__ = ["open_source"]

_DEFAULT_POLICY = ParentPolicy()
_HEAD = 16


def open_source(
    path: str,
    format: str | None = None,
    *,
    snapshot: str | None = None,
    share: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    near: str | None = None,
) -> Disk:
    """The disk in ``path``, in what ``path`` is a compressed form of, or on standard input ("-").

    ``format`` "raw" takes a compressed file as it is; standard input is raw where None. ``near``: a
    path in whose directory there is room for what has to be spooled. Raises what opening raises.
    """
    room = None if near in (None, "-") else os.path.dirname(os.path.realpath(str(near)))
    if path == "-":
        from vmimg.storage.stream import spool

        storage, format = spool(0, directory=room, limit=policy.max_size), format or "raw"
    else:
        storage = open_file(path, lock=not share)
        if format != "raw":
            storage = _unwrapped(storage, room, policy)
    return open_storage_disk(
        storage, format=format, snapshot=snapshot, policy=policy, share=share, keys=keys
    )


def _unwrapped(
    storage: storages.Storage, room: str | None, policy: ParentPolicy
) -> storages.Storage:
    """``storage``, or what it holds if it is compressed from outside."""
    from vmimg.storage.stream import outer_compression, spool

    try:
        head = storage.read(0, min(_HEAD, storage.size))
        # A DMG may begin with a bzip2 or xz stream: its first chunk.
        compressed = outer_compression(head) is not None and detect(storage)[0].confidence == 1
    except BaseException:
        storage.close()
        raise
    if not compressed:
        return storage
    return spool(storage, directory=room, limit=policy.max_size)
