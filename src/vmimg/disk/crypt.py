"""DataCipher: the hook by which layers keep their data encrypted.

What a disk stores is encrypted in sectors, and the IV of a sector counts either its place in the
file (LUKS) or its virtual offset (the old AES of qcow and qcow2). A DataCipher is told both and
knows which. One without a key is sealed: everything but the data can be had. Imports codecs and
errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vmimg.errors import LockedImage

if TYPE_CHECKING:
    from vmimg.codecs.ciphers import SectorCipher

__all__ = ["DataCipher"]


class DataCipher:
    """Encrypts and decrypts the data of one image, in place, from any number of threads.

    ``cipher``: None seals the image called ``name``: both methods raise LockedImage. ``counts``:
    what the number of a sector is made from, in units of 512 bytes; "place" is the offset in the
    storage that holds the data. ``granularity``: the bytes that have one IV; places, virtual
    offsets and lengths are multiples of it.
    """

    def __init__(
        self, name: str, cipher: SectorCipher | None, counts: Literal["place", "virtual"]
    ) -> None:
        self.granularity = 512 if cipher is None else cipher.sector_size
        self._name = name
        self._cipher = cipher
        self._by_place = counts == "place"

    @property
    def sealed(self) -> bool:
        """There is no key: no data can be read or written."""
        return self._cipher is None

    def require_key(self) -> None:
        """Raise LockedImage where there is no key."""
        self._unsealed()

    def decrypt(self, place: int, virtual: int, data: memoryview) -> None:
        """Decrypt ``data``, which lies at ``place`` and is the disk's from ``virtual``."""
        self._unsealed().decrypt((place if self._by_place else virtual) // 512, data)

    def encrypt(self, place: int, virtual: int, data: memoryview) -> None:
        """Encrypt ``data``, which goes to ``place`` and is the disk's from ``virtual``."""
        self._unsealed().encrypt((place if self._by_place else virtual) // 512, data)

    def _unsealed(self) -> SectorCipher:
        if self._cipher is None:
            raise LockedImage(
                f"{self._name}: its data is encrypted, and no passphrase or key file was given"
            )
        return self._cipher
