"""LUKS, Linux Unified Key Setup: a disk encrypted as a whole, versions 1 and 2. This module is
only the descriptor.
"""

from __future__ import annotations

from vmimg.formats.descriptor import Capabilities, Format, Limits, Magic, Option

__all__ = ["ENCRYPTION_OPTIONS", "LUKS"]

ENCRYPTION_OPTIONS = (
    Option(
        "cipher-alg",
        "cipher and bits of its key",
        default="aes-256",
        choices=("aes-128", "aes-192", "aes-256"),
    ),
    Option("cipher-mode", "how the cipher is chained", default="xts", choices=("xts", "cbc")),
    Option(
        "ivgen-alg",
        "how sectors are numbered",
        default="plain64",
        choices=("plain", "plain64", "essiv"),
    ),
    Option("ivgen-hash-alg", "hash of essiv", choices=("sha256",)),
    Option(
        "hash-alg",
        "hash that makes keys of passphrases",
        default="sha256",
        choices=("sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160"),
    ),
    Option("iter-time", "milliseconds that trying a passphrase takes", kind="int", default=2000),
)
"""Of a LUKS 1 header, wherever it stands."""

LUKS = Format(
    name="luks",
    title="Linux Unified Key Setup",
    implementation="vmimg.formats.luks.driver:LuksDriver",
    extensions=(".luks",),
    magic=(Magic(0, b"LUKS\xba\xbe"),),
    options=ENCRYPTION_OPTIONS,
    capabilities=Capabilities(
        read=True, write=True, create=True, convert=True, check=True, encryption="always"
    ),
    limits=Limits(max_size=1 << 62),
    spec="LUKS on-disk format 1.2.3; LUKS2 on-disk format 1.1",
    notes="Version 2 is read and written in place; new images have version 1, which QEMU reads.",
)
