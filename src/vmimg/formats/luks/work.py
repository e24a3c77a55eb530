"""What a LUKS header may ask for before vetting speaks up: the work of a passphrase, and ciphers.

No numpy, and no library of ciphers: this says what is known of, not what can be done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.vetting import Finding, Severity

__all__ = [
    "MAX_ARGON2_KIB",
    "MAX_ARGON2_LANES",
    "MAX_ARGON2_WORK",
    "MAX_ITERATIONS",
    "costly_pbkdf2",
    "vet_cipher",
]

MAX_ITERATIONS: Final = 12_000_000
"""Of PBKDF2, each time: two or three seconds of a good processor; OpenStack has the same limit."""
MAX_ARGON2_KIB: Final = 4 << 20
"""The most that cryptsetup allows."""
MAX_ARGON2_WORK: Final = 64 << 20
"""Memory in KiB, times passes over it."""
MAX_ARGON2_LANES: Final = 64

# Of the kernel's crypto API and dm-crypt: what cryptsetup has been able to format with.
_CIPHERS: Final = frozenset(
    (
        *("adiantum", "aegis128", "aes", "anubis", "aria", "blowfish", "camellia", "cast5"),
        *("cast6", "des", "des3_ede", "khazad", "paes", "seed", "serpent", "sm4", "tea"),
        *("tnepres", "twofish", "xchacha12", "xchacha20", "chacha20", "xeta", "xtea"),
    )
)
_CHAINING: Final = frozenset(
    ("xts", "cbc", "ctr", "ecb", "lrw", "pcbc", "plain", "random", "adiantum", "gcm", "hctr2")
)
_NO_CIPHERS: Final = ("cipher_null", "null")


def costly_pbkdf2(what: str, iterations: int, place: int) -> Finding:
    """The finding for ``what`` ("key slot 0") that asks for more than MAX_ITERATIONS, at ``place``
    of the file.
    """
    return Finding.of(
        "costly-key",
        f"{what} asks for {iterations} iterations of PBKDF2; more than {MAX_ITERATIONS} are "
        "not made by anybody",
        offset=place,
    )


def vet_cipher(name: str, mode: str, place: int) -> Iterator[Finding]:
    """The cipher ``name`` in ``mode`` ("xts-plain64"), which stands at ``place`` of the file."""
    if name.startswith("capi:"):
        return  # the kernel's own words, of which there is no list
    chaining = mode.partition("-")[0].split(",")[0]
    if name in _NO_CIPHERS:
        yield Finding.of(
            "odd-field",
            "its cipher does not encrypt: what is inside is not protected, and can be anything",
            offset=place,
            evidence=f"{name}-{mode}",
        )
    elif name.replace(",", ":").split(":")[0] not in _CIPHERS or (
        mode and chaining not in _CHAINING
    ):
        yield Finding.of(
            "unknown-features",
            f"it is encrypted by a cipher that is not known: '{name}-{mode}'",
            offset=place,
            evidence=f"{name}-{mode}",
            severity=Severity.ERROR,
        )
