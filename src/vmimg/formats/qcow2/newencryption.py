"""How a new qcow2 image is encrypted: the options ``encrypt.*``, and what they make.

See `encryption` for the two ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.keys import Keys
from vmimg.formats.qcow2 import structures as s

if TYPE_CHECKING:
    from vmimg.disk.crypt import DataCipher
    from vmimg.formats.luks.volume import NewVolume

__all__ = ["Encryption", "encryption_method", "new_encryption"]

_PREFIX = "encrypt."
_METHODS = {"aes": s.CRYPT_AES, "luks": s.CRYPT_LUKS}


@dataclass(frozen=True, slots=True)
class Encryption:
    """``volume``: the LUKS header that goes into the image; None with AES."""

    cipher: DataCipher
    volume: NewVolume | None


def encryption_method(options: Mapping[str, OptionValue]) -> int:
    """The method that parsed ``options`` ask for. Raises OptionError where they contradict each
    other.
    """
    format = options.get(_PREFIX + "format")
    if options.get("encryption"):
        if format not in (None, "aes"):
            raise OptionError(f"encryption=on is encrypt.format=aes, not {format}")
        format = "aes"
    luks_only = [
        name for name in options if name.startswith(_PREFIX) and name != _PREFIX + "format"
    ]
    if luks_only and format != "luks":
        raise OptionError(f"{luks_only[0]} needs encrypt.format=luks")
    return _METHODS[str(format)] if format is not None else s.CRYPT_NONE


def new_encryption(
    options: Mapping[str, OptionValue], name: str, keys: Keys | None
) -> Encryption | None:
    """The encryption of a new image called ``name``; None where it is to have none.

    ``keys`` None: only sizes are wanted.
    """
    method = encryption_method(options)
    if method == s.CRYPT_NONE:
        return None
    from vmimg.disk.crypt import DataCipher

    if method == s.CRYPT_LUKS:
        from vmimg.formats.luks.volume import new_volume

        volume = new_volume(options, name, keys, prefix=_PREFIX)
        return Encryption(volume.data_cipher("place"), volume)
    if keys is None:
        return Encryption(DataCipher(name, None, "virtual"), None)
    from vmimg.formats.luks.keyslots import refuse_empty
    from vmimg.formats.qcow2.encryption import aes_cipher

    passphrase = keys(name)
    refuse_empty(passphrase, name)
    return Encryption(aes_cipher(name, passphrase), None)
