"""XPRESS, LZX and LZMS, the coders of Windows images, by wimlib's libwim where it is installed.

libwim (LGPL) is loaded when the first chunk needs it, and never required: what is stored without
compression is read and written without it. Of the library only its compression interface is used,
which works on buffers in memory and knows nothing of files. Source: wimlib.h, "compression".
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from functools import cache
from typing import Any, Final

from vmimg.codecs import Buffer, Level
from vmimg.errors import FormatError, UnsupportedFeature

__all__ = ["KINDS", "Compressor", "Decompressor", "available"]

KINDS: Final = {"XPRESS": 1, "LZX": 2, "LZMS": 3}
"""Names of coders, and libwim's numbers of them."""
NAMES: Final = ("libwim.so.15", "libwim.15.dylib", "libwim-15.dll")
_LEVELS: Final[dict[Level, int]] = {"fast": 20, "default": 0, "best": 100}


def available() -> bool:
    """Whether libwim is there."""
    return _found(NAMES) is not None


class Compressor:
    """Compresses chunks of at most ``chunk`` bytes; for one thread at a time."""

    def __init__(self, kind: str, chunk: int, level: Level = "default") -> None:
        self._library = _library(kind)
        made = ctypes.c_void_p()
        failed = self._library.wimlib_create_compressor(
            KINDS[kind], chunk, _LEVELS[level], ctypes.byref(made)
        )
        if failed:
            raise UnsupportedFeature(f"libwim cannot compress chunks of {chunk} bytes with {kind}")
        self._made = made
        self._room = ctypes.create_string_buffer(chunk)
        weakref.finalize(self, self._library.wimlib_free_compressor, made)

    def compress(self, data: bytes) -> bytes:
        """``data`` compressed, or as it is where it does not become smaller."""
        length = self._library.wimlib_compress(
            data, len(data), self._room, max(0, len(data) - 1), self._made
        )
        return ctypes.string_at(self._room, length) if length else data


class Decompressor:
    """Decompresses chunks of at most ``chunk`` bytes; threads take turns."""

    def __init__(self, kind: str, chunk: int) -> None:
        self._library = _library(kind)
        self._kind = kind
        self._lock = threading.Lock()
        made = ctypes.c_void_p()
        failed = self._library.wimlib_create_decompressor(KINDS[kind], chunk, ctypes.byref(made))
        if failed:
            raise UnsupportedFeature(f"libwim cannot read {kind} in chunks of {chunk} bytes")
        self._made = made
        weakref.finalize(self, self._library.wimlib_free_decompressor, made)

    def decompress(self, data: Buffer, size: int) -> bytes:
        """The ``size`` bytes that the chunk ``data`` holds. Raises FormatError."""
        room = ctypes.create_string_buffer(size)
        packed = bytes(data)
        with self._lock:
            failed = self._library.wimlib_decompress(packed, len(packed), room, size, self._made)
        if failed:
            raise FormatError(f"a chunk is no sound {self._kind} data")
        return room.raw


def _library(kind: str) -> Any:
    library = _found(NAMES)
    if library is None:
        raise UnsupportedFeature(
            f"{kind} compression: this needs wimlib's library libwim (Debian and Ubuntu: "
            "apt install libwim15; Fedora: wimlib; macOS: brew install wimlib)"
        )
    return library


@cache
def _found(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number, size, pointer = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
        calls: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
            ("create_compressor", number, (number, size, ctypes.c_uint, pointer)),
            ("compress", size, (ctypes.c_char_p, size, pointer, size, pointer)),
            ("free_compressor", None, (pointer,)),
            ("create_decompressor", number, (number, size, pointer)),
            ("decompress", number, (ctypes.c_char_p, size, pointer, size, pointer)),
            ("free_decompressor", None, (pointer,)),
        )
        for call, result, arguments in calls:
            function = getattr(library, f"wimlib_{call}")
            function.restype, function.argtypes = result, arguments
        return library
    return None
