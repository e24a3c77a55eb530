"""Recognisers: functions from bytes to claims, one module for each family of files.

What disk formats claim comes from their drivers; here is everything else: what lies on a raw disk,
archives and bundles, compressed streams, machine descriptions, kernels and firmware. A recogniser
gets a `View` of the bytes, looks at their structure and yields what it is sure of. A watcher says
which ranges of a stream are worth keeping for one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import cache
from importlib import import_module
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.probe.claims import Claim

__all__ = ["Recogniser", "Watch", "recognisers", "watchers"]

Recogniser = Callable[[View], Iterator[Claim]]
Watch = Generator[tuple[int, int], bytes, None]
"""Yields (offset, length) that it wants kept, in ascending order, and is sent the bytes."""

_MODULES: Final = (
    "contents",
    "compressed",
    "archives",
    "cpio",
    "wim",
    "boot",
    "firmware",
    "machines",
    "texts",
    "states",
)


@cache
def recognisers() -> tuple[Recogniser, ...]:
    """All of them, in no order that matters."""
    return tuple(each for module in _modules() for each in getattr(module, "RECOGNISERS", ()))


@cache
def watchers() -> tuple[Callable[[], Watch], ...]:
    """What makes a watcher for one stream."""
    return tuple(each for module in _modules() for each in getattr(module, "WATCHERS", ()))


def _modules() -> list[object]:
    return [import_module(f"vmimg.probe.recognisers.{name}") for name in _MODULES]
