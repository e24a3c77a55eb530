"""Extras: libraries that the base install leaves out, and what to say where one is missing.

They are the optional dependencies of pyproject.toml; ``vmimg[all]`` is all of them.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from vmimg.errors import UnsupportedFeature

__all__ = ["require"]


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """The module of that name, which comes with ``vmimg[extra]``.

    ``purpose``: what needs it, as the beginning of a sentence: "LZFSE chunks". Raises
    UnsupportedFeature, saying what to install, where it is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise UnsupportedFeature(
            f"{purpose}: this needs {name}; pip install 'vmimg[{extra}]'"
        ) from error
