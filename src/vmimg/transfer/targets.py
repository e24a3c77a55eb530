"""What convert, create and measure have in common: formats by name or extension, parents, own
files.

Imports formats and below.
"""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping

from vmimg.disk.layer import ParentRef
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError
from vmimg.formats.descriptor import Format, OptionValue
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import by_extension, find

__all__ = [
    "beside",
    "choose_format",
    "is_device",
    "open_parent",
    "parent_ref",
    "refuse_own_files",
]


def choose_format(path: str, name: str | None) -> Format:
    """The format called ``name``, or else that of the extension of ``path``.

    Raises OptionError where neither tells, or the format cannot be written.
    """
    found = find(name) if name is not None else by_extension(path)
    if found is None:
        what = "a stream" if path == "-" else f"{path}"
        raise OptionError(f"{what}: its extension names no format; pass -O with one")
    if not found.capabilities.create:
        raise OptionError(f"{found.name} images can be read, but not made")
    return found


def parent_ref(
    options: MutableMapping[str, OptionValue], backing: str | None, backing_format: str | None
) -> ParentRef | None:
    """The parent that a new image shall name, from -B and -F or from the options of the same
    meaning.

    Takes ``backing_file`` and ``backing_fmt`` out of ``options``.
    """
    from_options = options.pop("backing_file", None), options.pop("backing_fmt", None)
    path = backing if backing is not None else from_options[0]
    format = backing_format if backing_format is not None else from_options[1]
    if path is None:
        if format is not None:
            raise OptionError("a backing format was given, but no backing file")
        return None
    if format is None:
        # An undeclared format would be guessed by the next reader, from bytes that a guest wrote.
        raise OptionError("a backing file needs its format: pass -F (qemu-img's rule, too)")
    return ParentRef(str(path), find(str(format)).name)


def open_parent(
    child: str, parent: ParentRef, policy: ParentPolicy, *, share: bool = False
) -> Disk:
    """The parent of a ``child`` that is being made. The user names it, so it is trusted as it
    stands; what it names in turn is up to ``policy``.
    """
    return open_disk(beside(child, parent.path), format=parent.format, policy=policy, share=share)


def beside(image: str, named: str) -> str:
    """The path of ``named``, which is relative to the directory of ``image``."""
    return os.path.join(os.path.dirname(os.path.realpath(image)), named)


def is_device(path: str) -> bool:
    """Whether ``path`` is a block device: written in place, never replaced."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def refuse_own_files(source: Disk, target: str) -> None:
    """Raise OptionError when ``target`` is one of the files that ``source`` is read from."""
    if target == "-" or not os.path.exists(target):
        return
    own = os.path.realpath(target)
    for layer in source.layers:
        if os.path.realpath(layer.name) == own:
            raise OptionError(f"{target} is a file of the source: converting would destroy it")
