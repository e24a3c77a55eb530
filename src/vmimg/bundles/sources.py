"""Disks in bundles, for everything that takes a disk: convert, compare, measure, dd, map.

The engine below opens paths of images, and takes disks that are open. What is put around its verbs
here opens a bundle, or a disk that was named in one, and hands it on. Imports naming; opening when
there is a bundle.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from vmimg.bundles.naming import may_be_bundle, named
from vmimg.disk.stack import Disk
from vmimg.formats.opening import open_disk as open_image

__all__ = ["disk_in", "open_disk", "taking_bundles"]

P = ParamSpec("P")
R = TypeVar("R")

# What opening a disk is told by the arguments of a verb that have these names.
_SHARED: Final = ("policy", "keys", "snapshot")


def taking_bundles(
    verb: Callable[P, R], *, formats: tuple[str, ...] = ("source_format",), near: bool = False
) -> Callable[P, R]:
    """``verb``, whose first arguments (as many as there are ``formats``) are disks, for bundles
    too.

    ``formats``: the arguments that name the formats of those disks; one that is given says that
    its disk is no bundle. ``near``: the argument behind them is the path where the result goes.
    """
    signature = inspect.signature(verb)
    names = list(signature.parameters)

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        target = given.get(names[len(formats)]) if near else None
        with ExitStack() as stack:
            for name, format in zip(names, formats, strict=False):
                source = given.get(name)
                if given.get(format) is not None or not isinstance(source, str | os.PathLike):
                    continue
                settings: dict[str, Any] = {
                    key: given[key] for key in _SHARED if given.get(key) is not None
                }
                # Read once from its beginning to its end, a stream is unpacked faster than indexed.
                disk = disk_in(
                    source,
                    streams=False,
                    near=None if target is None else os.fspath(target),
                    **settings,
                )
                if disk is not None:
                    given[name] = stack.enter_context(disk)
                    given.pop("snapshot", None)
            return verb(*bound.args, **bound.kwargs)

    return run


def disk_in(path: str | os.PathLike[str], **settings: Any) -> Disk | None:
    """The disk that ``path`` names in a bundle, or the only one of the bundle that it is; None for
    what is no bundle. ``settings`` as for `open_named_disk`.
    """
    name = named(path)
    if name.disk is None and not may_be_bundle(name.path):
        return None
    from vmimg.bundles.opening import open_named_disk

    return open_named_disk(name, **settings)


@wraps(open_image)
def open_disk(path: Any, **settings: Any) -> Disk:
    """See `vmimg.formats.opening.open_disk`; ``path`` may be, or name a disk in, a bundle."""
    if settings.get("format") is None and not settings.get("writable"):
        known = ("snapshot", "policy", "keys", "sealed")
        disk = disk_in(path, **{key: settings[key] for key in known if key in settings})
        if disk is not None:
            return disk
    return open_image(path, **settings)
