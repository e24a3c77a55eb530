"""Sector ciphers: how disks are encrypted, sector by sector, each with an IV of its own.

AES itself is the library's, `cryptography`: one ECB call over a whole run of sectors. What the
modes put around it, exclusive-ors and the doubling of tweaks, is done on arrays, because a cipher
object per sector of 512 bytes costs ten times what it does. XTS is IEEE 1619; the names of ciphers,
modes and IVs are those of dm-crypt, which LUKS took over.

    data ──┬──────────── xor ─── AES ─── xor ──── XTS: both times with the tweak of the block
           │              │               │
    sector number ── IV ── AES with the second key ── doubled from block to block
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vmimg.errors import UnsupportedFeature
from vmimg.extras import require

__all__ = ["SECTOR_SIZES", "SectorCipher", "sector_cipher"]

SECTOR_SIZES: Final = (512, 1024, 2048, 4096)

# A run is worked off in pieces of this size, so that what a thread keeps to work in is small, and
# most of it in its core's cache.
_CHUNK: Final = 512 << 10
_AES_BLOCK: Final = 16
# Blocks whose tweaks are shifted out of one number: the carry times x^7 must fit in 64 bits.
_SPAN: Final = 32

_WORD: Final = np.dtype("<u8")
Words = NDArray[np.uint64]
_IvMaker = Callable[[Words], Words]
"""Sector numbers, uint64[n], to IVs, uint64[n, 2] in the order of their bytes."""


class SectorCipher(ABC):
    """Encrypts and decrypts runs of whole sectors in place, from any number of threads.

    ``sector_size``: what has one IV. Sectors are numbered in units of 512 bytes whatever that is,
    as LUKS 2 and dm-crypt count them.
    """

    def __init__(self, iv: _IvMaker, sector_size: int, iv_large_sectors: bool) -> None:
        self.sector_size = sector_size
        self._iv = iv
        self._divisor = np.uint64(sector_size // 512 if iv_large_sectors else 1)
        self._step = 1 if iv_large_sectors else sector_size // 512

    def decrypt(self, sector: int, data: memoryview) -> None:
        """Decrypt ``data``, whole sectors of which the first has the number ``sector``."""
        self._run(sector, data, self._decrypt)

    def encrypt(self, sector: int, data: memoryview) -> None:
        """Encrypt ``data``, whole sectors of which the first has the number ``sector``."""
        self._run(sector, data, self._encrypt)

    def _run(self, sector: int, data: memoryview, work: Callable[[Words, Words], None]) -> None:
        data = data.cast("B")
        size = self.sector_size
        if len(data) % size or sector * 512 % size:
            raise ValueError(f"{len(data)} bytes at sector {sector} are not sectors of {size}")
        for start in range(0, len(data), _CHUNK):
            words = np.frombuffer(data[start : start + _CHUNK], _WORD).reshape(-1, size // 8)
            first = np.uint64(sector + start // 512) // self._divisor
            numbers = first + np.arange(0, len(words) * self._step, self._step, dtype=np.uint64)
            work(self._iv(numbers), words)

    @abstractmethod
    def _decrypt(self, ivs: Words, words: Words) -> None:
        """In place: ``words`` uint64[n, words of a sector], ``ivs`` uint64[n, 2]."""

    @abstractmethod
    def _encrypt(self, ivs: Words, words: Words) -> None:
        """In place: ``words`` uint64[n, words of a sector], ``ivs`` uint64[n, 2]."""


def sector_cipher(
    name: str, mode: str, key: bytes, *, sector_size: int = 512, iv_large_sectors: bool = False
) -> SectorCipher:
    """The cipher ``name`` in ``mode``: "aes" and "xts-plain64", "cbc-essiv:sha256".

    ``key``: of XTS both keys, one behind the other. ``iv_large_sectors``: the IV counts sectors of
    ``sector_size``, and not units of 512 bytes. Raises UnsupportedFeature, with the names in the
    message, for what there is not; ValueError for a key of a length that the cipher has not.
    """
    chaining, _, generator = mode.partition("-")
    if name != "aes" or chaining not in _CHAININGS:
        raise UnsupportedFeature(
            f"the cipher {name}-{mode} is not supported: AES in XTS or CBC mode is"
        )
    if sector_size not in SECTOR_SIZES:
        raise ValueError(f"no cipher has sectors of {sector_size} bytes")
    keys = 2 if chaining == "xts" else 1
    if len(key) not in (16 * keys, 24 * keys, 32 * keys):
        raise ValueError(f"{name}-{chaining} has no key of {len(key)} bytes")
    iv = _iv_maker(name, mode, generator, key)
    return _CHAININGS[chaining](key, iv, sector_size, iv_large_sectors)


class _Xts(SectorCipher):
    """XEX with ciphertext stealing, which whole sectors never need."""

    def __init__(self, key: bytes, iv: _IvMaker, sector_size: int, iv_large_sectors: bool) -> None:
        super().__init__(iv, sector_size, iv_large_sectors)
        half = len(key) // 2
        self._aes, self._tweak_aes = _Aes(key[:half]), _Aes(key[half:])

    def _decrypt(self, ivs: Words, words: Words) -> None:
        self._work(ivs, words, self._aes.decrypt)

    def _encrypt(self, ivs: Words, words: Words) -> None:
        self._work(ivs, words, self._aes.encrypt)

    def _work(self, ivs: Words, words: Words, aes: Callable[[memoryview], None]) -> None:
        tweaks = _tweaks(self._tweak_aes.encrypted(ivs), self.sector_size // _AES_BLOCK)
        room, blocks = _room(words.size)
        flat = words.reshape(-1)
        np.bitwise_xor(flat, tweaks, out=blocks)
        aes(room)
        np.bitwise_xor(blocks, tweaks, out=flat)


class _Cbc(SectorCipher):
    """Cipher block chaining, begun anew in each sector."""

    def __init__(self, key: bytes, iv: _IvMaker, sector_size: int, iv_large_sectors: bool) -> None:
        super().__init__(iv, sector_size, iv_large_sectors)
        self._aes = _Aes(key)

    def _decrypt(self, ivs: Words, words: Words) -> None:
        room, flat = _room(words.size)
        plain = flat.reshape(words.shape)
        plain[:] = words
        self._aes.decrypt(room)
        plain[:, 2:] ^= words[:, :-2]
        plain[:, :2] ^= ivs
        words[:] = plain

    def _encrypt(self, ivs: Words, words: Words) -> None:
        # Each block needs the one before it: all sectors of the run go on side by side.
        room, flat = _room(ivs.size)
        state = flat.reshape(-1, 2)
        state[:] = ivs
        for column in range(0, words.shape[1], 2):
            state ^= words[:, column : column + 2]
            self._aes.encrypt(room)
            words[:, column : column + 2] = state


_CHAININGS: Final[dict[str, type[_Xts] | type[_Cbc]]] = {"xts": _Xts, "cbc": _Cbc}


class _Aes:
    """AES on blocks in memory, in place. The library's contexts are for one thread each.

    ``room``: the blocks and _AES_BLOCK bytes behind them, which the library asks for.
    """

    def __init__(self, key: bytes) -> None:
        library = require("cryptography.hazmat.primitives.ciphers", "crypt", "encrypted disks")
        self._cipher = library.Cipher(library.algorithms.AES(key), library.modes.ECB())
        self._mine = threading.local()

    def encrypt(self, room: memoryview) -> None:
        context = getattr(self._mine, "encryptor", None)
        if context is None:
            context = self._mine.encryptor = self._cipher.encryptor()
        context.update_into(room[:-_AES_BLOCK], room)

    def decrypt(self, room: memoryview) -> None:
        context = getattr(self._mine, "decryptor", None)
        if context is None:
            context = self._mine.decryptor = self._cipher.decryptor()
        context.update_into(room[:-_AES_BLOCK], room)

    def encrypted(self, blocks: Words) -> Words:
        """``blocks``, uint64[n, 2], encrypted, in a new array."""
        room, flat = _room(blocks.size)
        flat[:] = blocks.reshape(-1)
        self.encrypt(room)
        return flat.reshape(blocks.shape).copy()


def _tweaks(starts: Words, blocks: int) -> Words:
    """The tweaks of XTS, uint64[n * blocks * 2]: ``starts`` times x^0, x^1, ... in GF(2^128).

    ``starts``: uint64[n, 2], the low half first. A number times x^j is shifted to the left by j;
    what comes out at the top comes back, times x^7 + x^2 + x + 1, at the bottom.
    """
    spans = blocks // _SPAN
    if spans > 1:
        begun = np.empty((len(starts), spans, 2), np.uint64)
        begun[:, 0] = starts
        for span in range(1, spans):
            low, high = begun[:, span - 1, 0], begun[:, span - 1, 1]
            carry = high >> np.uint64(64 - _SPAN)
            begun[:, span, 0] = (low << np.uint64(_SPAN)) ^ _reduced(carry)
            begun[:, span, 1] = (high << np.uint64(_SPAN)) | (low >> np.uint64(64 - _SPAN))
        starts = begun.reshape(-1, 2)
    low, high = starts[:, :1], starts[:, 1:]
    tweaks = _array("tweaks", len(starts) * _SPAN * 2).reshape(len(starts), _SPAN, 2)
    carry = _array("carry", len(starts) * _SPAN).reshape(len(starts), _SPAN)
    half = _array("half", len(starts) * _SPAN).reshape(len(starts), _SPAN)
    one = np.uint64(1)
    np.left_shift(high, _SHIFTS, out=half)
    np.right_shift(low >> one, _REST, out=carry)
    np.bitwise_or(half, carry, out=tweaks[:, :, 1])
    np.left_shift(low, _SHIFTS, out=half)
    np.right_shift(high >> one, _REST, out=carry)
    for shift in (0, 1, 1):  # x^0, x^1, x^2
        if shift:
            carry <<= one
        half ^= carry
    carry <<= np.uint64(5)
    np.bitwise_xor(half, carry, out=tweaks[:, :, 0])
    return tweaks.reshape(-1)


_SHIFTS: Final = np.arange(_SPAN, dtype=np.uint64)
_REST: Final = np.uint64(63) - _SHIFTS


def _reduced(carry: Words) -> Words:
    """``carry`` times x^7 + x^2 + x + 1."""
    one, two, seven = np.uint64(1), np.uint64(2), np.uint64(7)
    return np.asarray(carry ^ (carry << one) ^ (carry << two) ^ (carry << seven))


# IVs


def _iv_maker(name: str, mode: str, generator: str, key: bytes) -> _IvMaker:
    generator, _, digest = generator.partition(":")
    if generator == "essiv" and digest in _ESSIV_HASHES:
        aes = _Aes(hashlib.new(digest, key).digest())

        def essiv(numbers: Words) -> Words:
            return aes.encrypted(_plain64(numbers))

        return essiv
    if generator in _PLAIN_IVS and not digest:
        return _PLAIN_IVS[generator]
    raise UnsupportedFeature(
        f"the cipher {name}-{mode} is not supported: the IVs plain, plain64 and essiv:sha256 are"
    )


def _plain64(numbers: Words) -> Words:
    ivs = np.zeros((len(numbers), 2), _WORD)
    ivs[:, 0] = numbers
    return ivs


def _plain(numbers: Words) -> Words:
    return _plain64(numbers & np.uint64(0xFFFF_FFFF))


def _plain64be(numbers: Words) -> Words:
    ivs = np.zeros((len(numbers), 2), _WORD)
    ivs[:, 1] = numbers.astype(">u8").view(_WORD)
    return ivs


_PLAIN_IVS: Final[dict[str, _IvMaker]] = {
    "plain": _plain,
    "plain64": _plain64,
    "plain64be": _plain64be,
}
# The digest is the key of the AES that makes the IVs, so that it must have a length of AES.
_ESSIV_HASHES: Final = ("sha256",)


# What a thread works in: arrays of its own, made once. No two of its ciphers work at a time.

_MINE: Final = threading.local()


def _buffer(name: str, size: int) -> memoryview:
    kept: dict[str, memoryview] = _MINE.__dict__
    buffer = kept.get(name)
    if buffer is None or len(buffer) < size:
        buffer = kept[name] = memoryview(bytearray(max(size, _CHUNK + _AES_BLOCK)))
    return buffer[:size]


def _array(name: str, words: int) -> Words:
    return np.frombuffer(_buffer(name, words * 8), _WORD)


def _room(words: int) -> tuple[memoryview, Words]:
    """Room for that many words and a block behind them, and the words as an array."""
    room = _buffer("room", words * 8 + _AES_BLOCK)
    return room, np.frombuffer(room[:-_AES_BLOCK], _WORD)
