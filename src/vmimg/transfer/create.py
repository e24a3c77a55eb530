"""create: a new image with nothing in it: a layout in which no block is placed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack

from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.registry import find
from vmimg.storage.output import OutputSet
from vmimg.transfer.imaging import Imaging
from vmimg.transfer.targets import (
    add_outputs,
    check_alignment,
    check_makeable,
    lay_out,
    open_parent,
    parent_ref,
)
from vmimg.units import align_up

__all__ = ["create"]

_DEFAULT_POLICY = ParentPolicy()


def create(
    path: str | os.PathLike[str],
    size: int | None = None,
    *,
    format: str = "raw",
    options: Mapping[str, OptionValue] | None = None,
    backing: str | None = None,
    backing_format: str | None = None,
    check_backing: bool = True,
    align: int = 512,
    replace: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
) -> int:
    """Make an empty image at ``path`` and return its virtual size in bytes.

    ``size`` is in bytes and rounded up to a multiple of ``align``, a sector of 512 unless a larger
    one is wanted; where it is None it is that of the backing file. ``check_backing`` False names a
    backing file without opening it. The other parameters are those of `convert`. Raises
    OptionError, StorageError and what opening the backing file raises.

    A volume that is encrypted as a whole (luks) reads as noise where nothing was written yet.
    """
    target = os.fspath(path)
    found = find(format)
    check_makeable(found)
    given = dict(options or {})
    check_alignment(align)
    parent = parent_ref(found, given, backing, backing_format)
    parsed = found.parse_options(given)
    with ExitStack() as stack:
        base = None
        if parent is not None and (check_backing or size is None):
            base = stack.enter_context(open_parent(target, parent, policy, keys=keys))
            size = base.size if size is None else size
        if size is None:
            raise OptionError("how large? pass a size, or a backing file to take it from")
        size = align_up(size, align)
        writer = lay_out(
            found, size, parsed, path=target, parent=parent, base=base, keys=as_keys(keys)
        )
        with OutputSet() as outputs:
            sink = add_outputs(outputs, writer, target, replace=replace)
            Imaging(Disk([EmptyLayer(size)]), writer, sink).write(threads=1)
            sink.check_room()
    return size
