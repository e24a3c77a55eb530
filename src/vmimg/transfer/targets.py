"""What convert, create and measure have in common: formats by name or extension, layouts, parents,
own files.

Imports formats and below.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, MutableMapping

from vmimg.disk.layer import ParentRef
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError
from vmimg.formats.descriptor import Format, OptionValue
from vmimg.formats.driver import Writer
from vmimg.formats.keys import Keys
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import by_extension, find
from vmimg.storage.output import OutputSet
from vmimg.transfer.imaging import FileSink
from vmimg.units import format_exact

__all__ = [
    "add_outputs",
    "beside",
    "check_alignment",
    "check_makeable",
    "check_size",
    "choose_format",
    "is_device",
    "lay_out",
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
    check_makeable(found)
    return found


def check_makeable(format: Format) -> None:
    """Raise OptionError where no image of ``format`` can be made of a disk; its notes may say how
    else.
    """
    if not format.capabilities.create:
        hint = f"; {format.notes}" if format.notes else ""
        raise OptionError(f"{format.name} images can be read, but not made{hint}")


def check_alignment(align: int) -> None:
    """Raise OptionError where virtual sizes cannot be multiples of ``align`` bytes."""
    if align < 512 or align % 512:
        raise OptionError(f"a virtual size is aligned to a multiple of 512 bytes, not to {align}")


def check_size(format: Format, size: int) -> None:
    """Raise OptionError when ``format`` holds no disk of ``size`` bytes, naming one that does."""
    limits = format.limits
    if size > limits.max_size:
        hint = f"; {limits.larger} holds more" if limits.larger else ""
        raise OptionError(
            f"{format.name} holds {format_exact(limits.max_size)} at most, not "
            f"{format_exact(size)}{hint}"
        )


def lay_out(
    format: Format,
    size: int,
    options: Mapping[str, OptionValue],
    *,
    path: str,
    parent: ParentRef | None = None,
    base: Disk | None = None,
    sparse: int = 4096,
    compress: bool = False,
    keys: Keys | None = None,
) -> Writer:
    """The writer of a new image at ``path`` ("-" for a stream); ``options`` are parsed.

    Raises OptionError for what the format cannot do.
    """
    check_size(format, size)
    if compress and not format.capabilities.compression:
        raise OptionError(f"{format.name} images cannot be compressed")
    if parent is not None and not format.capabilities.parent:
        raise OptionError(f"a {format.name} image cannot have a backing file")
    writer = format.driver().writer(
        size,
        options,
        parent=parent,
        base=base.top if base is not None else None,
        name="disk" if path == "-" else os.path.basename(os.path.normpath(path)),
        keys=keys,
    )
    if compress and (writer.codec is None or not writer.codec.compresses):
        raise OptionError(
            f"{format.name} images with these options cannot be compressed; see -o help"
        )
    if writer.any_block_size and sparse:
        writer.block_size = sparse
    return writer


def add_outputs(outputs: OutputSet, writer: Writer, path: str, *, replace: bool) -> FileSink:
    """The files of a new image at ``path``: its companions first, for they are referred to."""
    if writer.index:
        path = os.path.join(outputs.folder(path, writer.index, replace=replace), writer.index)
    if writer.refusal:
        raise OptionError(f"{path}: {writer.refusal}")
    for name in writer.unwanted:
        if os.path.lexists(beside(path, name)):
            raise OptionError(
                f"{beside(path, name)} exists and would be read as a part of the new image: "
                "remove it, or choose another name"
            )
    companions = [
        (companion.start, outputs.add(beside(path, companion.name), replace=replace))
        for companion in writer.companions
    ]
    return FileSink(outputs.add(path, replace=replace), companions)


def parent_ref(
    found: Format,
    options: MutableMapping[str, OptionValue],
    backing: str | None,
    backing_format: str | None,
) -> ParentRef | None:
    """The parent that a new image of format ``found`` shall name, from -B and -F or from the
    options of the same meaning.

    Takes ``backing_file`` and ``backing_fmt`` out of ``options``.
    """
    from_options = options.pop("backing_file", None), options.pop("backing_fmt", None)
    path = backing if backing is not None else from_options[0]
    format = backing_format if backing_format is not None else from_options[1]
    if path is None:
        if format is not None:
            raise OptionError("a backing format was given, but no backing file")
        return None
    only = found.capabilities.parent_format
    if only and format is None:
        format = only
    if format is None:
        # An undeclared format would be guessed by the next reader, from bytes that a guest wrote.
        raise OptionError("a backing file needs its format: pass -F (qemu-img's rule, too)")
    name = find(str(format)).name
    if only and name != only:
        raise OptionError(f"the backing file of a {found.name} image is {only}, not {name}")
    return ParentRef(str(path), name)


def open_parent(
    child: str,
    parent: ParentRef,
    policy: ParentPolicy,
    *,
    share: bool = False,
    keys: Keys | bytes | str | None = None,
) -> Disk:
    """The parent of a ``child`` that is being made. The user names it, so it is trusted as it
    stands; what it names in turn is up to ``policy``.
    """
    return open_disk(
        beside(child, parent.path), format=parent.format, policy=policy, share=share, keys=keys
    )


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
        for piece in (layer, *getattr(layer, "parts", ())):
            file = os.path.realpath(piece.name)
            # Where the target is a directory, it is all that lies in it.
            if own not in (file, os.path.dirname(file)):
                continue
            raise OptionError(f"{target} is a file of the source: converting would destroy it")
