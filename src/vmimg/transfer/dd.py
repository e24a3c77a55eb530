"""dd: a range of a disk becomes an image of its own."""

from __future__ import annotations

import os
from contextlib import ExitStack

from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import RangeLayer
from vmimg.errors import OptionError
from vmimg.formats.keys import Keys
from vmimg.transfer.convert import ConvertResult, convert
from vmimg.transfer.engine import Progress
from vmimg.transfer.sources import open_source
from vmimg.transfer.targets import refuse_own_files

__all__ = ["dd"]

_DEFAULT_POLICY = ParentPolicy()


def dd(
    source: str | os.PathLike[str] | Disk,
    target: str | os.PathLike[str],
    *,
    format: str | None = None,
    source_format: str | None = None,
    bs: int = 512,
    count: int | None = None,
    skip: int = 0,
    threads: int = 0,
    replace: bool = False,
    share: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write ``count`` blocks of ``bs`` bytes, from block ``skip`` of ``source``, to a new image.

    ``source`` is a path or an open disk, which stays open. ``count`` None takes all that follow.
    Like qemu-img's dd: the virtual size of the result is what was asked for, no more than the
    source has, rounded up to a sector. Raises what convert raises.
    """
    if bs < 1 or skip < 0 or (count is not None and count < 0):
        raise OptionError("bs is at least 1; skip and count are not negative")
    path = os.fspath(target)
    with ExitStack() as stack:
        if isinstance(source, Disk):
            disk = source
        else:
            disk = stack.enter_context(
                open_source(
                    os.fspath(source), source_format, share=share, policy=policy, keys=keys,
                    near=path,
                )
            )  # fmt: skip
        refuse_own_files(disk, path)
        if skip * bs > disk.size:
            raise OptionError(f"skip={skip} lies behind the end of {disk.name}")
        length = disk.size - skip * bs
        if count is not None:
            length = min(length, count * bs)
        part = Disk([RangeLayer(disk, skip * bs, length)])
        return convert(
            part, path, format=format, threads=threads, replace=replace, progress=progress
        )
