"""The sector ciphers give what the library gives sector by sector, and what the standard says."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vmimg.codecs.ciphers import SECTOR_SIZES, SectorCipher, sector_cipher
from vmimg.errors import UnsupportedFeature

# More than one piece of work for the cipher, and not a whole number of them.
LENGTH = (1 << 20) + 12288


def pseudo_random(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def iv_of(generator: str, number: int, key: bytes) -> bytes:
    if generator == "plain":
        return (number & 0xFFFF_FFFF).to_bytes(16, "little")
    if generator == "plain64":
        return number.to_bytes(16, "little")
    if generator == "plain64be":
        return number.to_bytes(16, "big")
    assert generator == "essiv:sha256"
    aes = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor()
    return aes.update(number.to_bytes(16, "little"))


def one_by_one(
    mode: str, key: bytes, sector: int, data: bytes, size: int = 512, step: int | None = None
) -> bytes:
    """``data`` encrypted by the library, a sector at a time; the IV grows by ``step``."""
    chaining, generator = mode.split("-")
    out, number = [], sector
    for start in range(0, len(data), size):
        iv = iv_of(generator, number, key)
        how = modes.XTS(iv) if chaining == "xts" else modes.CBC(iv)
        out.append(Cipher(algorithms.AES(key), how).encryptor().update(data[start : start + size]))
        number += size // 512 if step is None else step
    return b"".join(out)


def encrypted(cipher: SectorCipher, sector: int, data: bytes) -> bytes:
    buffer = bytearray(data)
    cipher.encrypt(sector, memoryview(buffer))
    return bytes(buffer)


def decrypted(cipher: SectorCipher, sector: int, data: bytes) -> bytes:
    buffer = bytearray(data)
    cipher.decrypt(sector, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("size", SECTOR_SIZES)
@pytest.mark.parametrize(
    ("mode", "key_bytes"),
    [
        ("xts-plain64", 32),
        ("xts-plain64", 64),
        ("xts-plain", 64),
        ("xts-essiv:sha256", 64),
        ("xts-plain64be", 32),
        ("cbc-plain64", 16),
        ("cbc-plain", 24),
        ("cbc-essiv:sha256", 32),
        ("cbc-plain64be", 32),
    ],
)
def test_a_run_of_sectors_is_what_the_library_makes_of_each(
    mode: str, key_bytes: int, size: int
) -> None:
    key = pseudo_random(key_bytes, key_bytes)
    data = pseudo_random(1, LENGTH)
    cipher = sector_cipher("aes", mode, key, sector_size=size)
    stored = encrypted(cipher, 8, data)
    assert stored == one_by_one(mode, key, 8, data, size)
    assert decrypted(cipher, 8, stored) == data


@pytest.mark.parametrize(
    ("key", "data", "starts"),
    [  # IEEE 1619-2007, annex B, vectors 1 and 4
        (bytes(32), bytes(512), "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e"),
        (
            bytes.fromhex("27182818284590452353602874713526 31415926535897932384626433832795"),
            bytes(range(256)) * 2,
            "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c",
        ),
    ],
)
def test_the_vectors_of_the_xts_standard(key: bytes, data: bytes, starts: str) -> None:
    assert encrypted(sector_cipher("aes", "xts-plain64", key), 0, data)[:32].hex() == starts


def test_the_vector_of_the_xts_standard_with_256_bit_keys_and_a_sector_number() -> None:
    key = bytes.fromhex(
        "2718281828459045235360287471352662497757247093699959574966967627"
        "3141592653589793238462643383279502884197169399375105820974944592"
    )
    stored = encrypted(sector_cipher("aes", "xts-plain64", key), 0xFF, bytes(range(256)) * 2)
    assert stored[:16].hex() == "1c3b3a102f770386e4836c99e370cf9b"


def test_plain_ivs_wrap_at_32_bits_and_plain64_ones_do_not() -> None:
    key, data = pseudo_random(2, 64), pseudo_random(3, 2048)
    first = (1 << 32) - 2
    for mode in ("xts-plain", "xts-plain64", "cbc-plain", "cbc-plain64"):
        own = key[:32] if mode.startswith("cbc") else key
        assert encrypted(sector_cipher("aes", mode, own), first, data) == one_by_one(
            mode, own, first, data
        )


def test_large_sectors_may_count_themselves() -> None:
    key, data = pseudo_random(4, 64), pseudo_random(5, 4 * 4096)
    cipher = sector_cipher("aes", "xts-plain64", key, sector_size=4096, iv_large_sectors=True)
    assert encrypted(cipher, 80, data) == one_by_one("xts-plain64", key, 10, data, 4096, step=1)


def test_a_run_may_begin_anywhere_in_memory_and_touches_nothing_else() -> None:
    key = pseudo_random(6, 64)
    cipher = sector_cipher("aes", "xts-plain64", key)
    buffer = bytearray(pseudo_random(7, 2000))
    expected = buffer[:3] + one_by_one("xts-plain64", key, 5, bytes(buffer[3:1539])) + buffer[1539:]
    cipher.encrypt(5, memoryview(buffer)[3:1539])
    assert buffer == expected


def test_threads_do_not_disturb_each_other() -> None:
    key, data = pseudo_random(8, 64), pseudo_random(9, LENGTH)
    ciphers = [
        sector_cipher("aes", "xts-plain64", key),
        sector_cipher("aes", "cbc-essiv:sha256", key[:32]),
    ]
    expected = [encrypted(cipher, 0, data) for cipher in ciphers]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: encrypted(ciphers[n % 2], 0, data), range(16)))
    assert results == expected * 8


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("serpent", "xts-plain64"),
        ("twofish", "xts-plain64"),
        ("aes", "ctr-plain64"),
        ("aes", "lrw-benbi"),
        ("aes", "cbc-essiv:sha1"),
        ("aes", "cbc-null"),
        ("aes", "xts-plain64:sha256"),
        ("aes", "xts"),
        ("", ""),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, mode: str) -> None:
    with pytest.raises(UnsupportedFeature, match=f"cipher {name}-{mode} is not supported"):
        sector_cipher(name, mode, bytes(32))


def test_parts_of_sectors_and_keys_of_other_lengths_are_mistakes() -> None:
    cipher = sector_cipher("aes", "xts-plain64", bytes(32), sector_size=4096)
    with pytest.raises(ValueError, match="not sectors of 4096"):
        cipher.decrypt(0, memoryview(bytearray(512)))
    with pytest.raises(ValueError, match="not sectors of 4096"):
        cipher.decrypt(1, memoryview(bytearray(4096)))
    with pytest.raises(ValueError, match="no key of 20 bytes"):
        sector_cipher("aes", "cbc-plain64", bytes(20))
