"""Block coders: the compression of single clusters and grains.

One block in, one block out; any thread may call any coder at any time, and the same input gives the
same bytes in each of them. The libraries are imported when a coder is first used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from typing import Final, Literal

from vmimg.errors import OptionError

__all__ = ["CODECS", "LEVELS", "Buffer", "Codec", "Level", "codec", "find_level"]

Buffer = bytes | bytearray | memoryview
Level = Literal["fast", "default", "best"]

LEVELS: Final[tuple[Level, ...]] = ("fast", "default", "best")

CODECS: Final = {
    "adc": ("vmimg.codecs.adc", "Adc"),
    "bzip2": ("vmimg.codecs.bzip2", "Bzip2"),
    "deflate": ("vmimg.codecs.deflate", "Deflate"),
    "lzfse": ("vmimg.codecs.lzfse", "Lzfse"),
    "lzma": ("vmimg.codecs.lzma", "Lzma"),
    "zlib": ("vmimg.codecs.zlib", "Zlib"),
    "zstd": ("vmimg.codecs.zstd", "Zstd"),
}
"""Name to module and class. qcow2 says ``zlib`` and means ``deflate``: there is no zlib header;
VMDK says ``deflate`` and means ``zlib``."""


class Codec(ABC):
    """Compresses and decompresses single blocks. Keeps no state that a caller could see."""

    name: str
    compresses: bool = True
    """False for the one that leaves all as it is, which formats have whose blocks all go through a
    coder."""

    @abstractmethod
    def compress(self, data: Buffer, level: Level = "default") -> bytes | bytearray:
        """``data`` compressed; longer than ``data`` where it does not compress."""

    @abstractmethod
    def decompress(self, data: Buffer, size: int) -> bytes | bytearray:
        """The ``size`` bytes that ``data`` holds; whatever follows the stream is ignored.

        Raises FormatError for a stream that is corrupt or holds less. Never allocates more than
        ``size`` for the result: the caller has checked that number. The message names neither file
        nor offset, which only the caller knows.
        """


def find_level(name: str) -> Level:
    """The level of that name; OptionError for any other."""
    for level in LEVELS:
        if level == name:
            return level
    raise OptionError(f"level is one of {', '.join(LEVELS)}, not '{name}'")


@cache
def codec(name: str) -> Codec:
    """The coder of that name, one of CODECS; OptionError for any other."""
    try:
        module, kind = CODECS[name]
    except KeyError:
        raise OptionError(f"there is no compression '{name}'; known: {', '.join(CODECS)}") from None
    made: Codec = getattr(import_module(module), kind)()
    return made
