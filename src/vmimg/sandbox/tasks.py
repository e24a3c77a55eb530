"""What a sandboxed process can be asked to do. A new task is a function and one row of TASKS.

A task is given the path of an image, which `vmimg.storage.open` knows to be open already, and
answers with a record that `records` can encode. Everything that it may import is imported before:
the confined process reads no file, not even a module of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vmimg.sandbox.records import decode

__all__ = ["TASKS", "Task", "preload"]

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """``run``: the path and the arguments to the answer, a record. ``numpy``: whether it may use
    numpy, whose import takes 0.1 s.
    """

    run: Callable[[str, Arguments], Any]
    numpy: bool = False


def _detect(path: str, arguments: Arguments) -> Any:
    from vmimg.probe.detecting import detect

    return detect(path)


def _vet(path: str, arguments: Arguments) -> Any:
    from vmimg.probe.policy import Policy
    from vmimg.probe.vetting import vet

    policy = decode(Policy, arguments["policy"])
    return vet(path, policy=policy, declared=arguments["declared"])


def _info(path: str, arguments: Arguments) -> Any:
    from vmimg.formats.info import image_info

    (found,) = image_info(path, format=arguments["format"], share=arguments["share"])
    return found


TASKS: Final[dict[str, Task]] = {
    "detect": Task(_detect),
    "vet": Task(_vet, numpy=True),
    "info": Task(_info),
}

# Where modules lie that a task may import while it runs.
_PACKAGES: Final = ("vmimg.formats", "vmimg.codecs", "vmimg.disk", "vmimg.probe")
# Text in images: Python loads a coder when it is first asked for.
_ENCODINGS: Final = (
    *("ascii", "latin_1", "cp437", "cp1252", "mac_roman"),
    *("utf_8", "utf_8_sig", "utf_16", "utf_16_le", "utf_16_be", "utf_32"),
)


def preload(task: Task) -> None:
    """Import all that ``task`` could come to need."""
    from vmimg.formats.registry import all_formats

    if not task.numpy:
        # A module that asks for it is none that this task needs: it fails here and now.
        sys.modules["numpy"] = None  # type: ignore[assignment]
    else:
        importlib.import_module("numpy.ma")  # numpy loads it in the middle of a call
    for encoding in _ENCODINGS:
        importlib.import_module(f"encodings.{encoding}")
    for format in all_formats():
        format.driver()
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            try:
                importlib.import_module(module.name)
            except ImportError:
                continue  # numpy, or an extra that is not installed
