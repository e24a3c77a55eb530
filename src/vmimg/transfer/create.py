"""create: a new image with nothing in it: a layout in which no block is placed."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.registry import find
from vmimg.storage.output import OutputSet
from vmimg.transfer.imaging import FileSink, Imaging, check_room
from vmimg.transfer.targets import beside, open_parent, parent_ref
from vmimg.units import align_up, format_size

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
    replace: bool = False,
    policy: ParentPolicy = _DEFAULT_POLICY,
) -> int:
    """Make an empty image at ``path`` and return its virtual size in bytes.

    ``size`` is in bytes and rounded up to a sector of 512; where it is None it is that of the
    backing file. ``check_backing`` False names a backing file without opening it. The other
    parameters are those of `convert`. Raises OptionError, StorageError and what opening the backing
    file raises.
    """
    target = os.fspath(path)
    found = find(format)
    if not found.capabilities.create:
        raise OptionError(f"{found.name} images can be read, but not made")
    given = dict(options or {})
    parent = parent_ref(given, backing, backing_format)
    if parent is not None and (check_backing or size is None):
        with open_parent(target, parent, policy) as base:
            size = base.size if size is None else size
    if size is None:
        raise OptionError("how large? pass a size, or a backing file to take it from")
    size = align_up(size, 512)
    if size > found.limits.max_size:
        raise OptionError(
            f"{found.name} holds {format_size(found.limits.max_size)} at most, "
            f"not {format_size(size)}"
        )
    writer = found.driver().writer(size, found.parse_options(given), parent=parent)
    with OutputSet() as outputs:
        data = None
        if writer.data_file is not None:
            data = outputs.add(beside(target, writer.data_file), replace=replace)
        image = outputs.add(target, replace=replace)
        work = Imaging(Disk([EmptyLayer(size)]), writer, FileSink(image, data))
        work.write(threads=1)
        check_room(image, work.file_size)
    return size
