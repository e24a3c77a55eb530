"""The cryptography of EC2 bundles: RSA for keys and signatures, AES-128-CBC for the parts.

CBC is read at any place: a block needs only the one in front of it. Sources: RFC 8017, sections
7.2 and 8.2; NIST SP 800-38A, section 6.2; RFC 5652, section 6.3 (padding). `cryptography` is
imported when it is used. Imports storage.
"""

from __future__ import annotations

import hashlib
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Final

from vmimg.errors import FormatError, LockedImage, OptionError, StorageError
from vmimg.extras import require
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.folder import Folder
from vmimg.storage.output import Output
from vmimg.storage.view import ReadOnlyStorage

__all__ = ["CbcReader", "CbcWriter", "PrivateKey", "certificates_of", "seal", "verified"]

_PURPOSE: Final = "EC2 bundles"
_BLOCK: Final = 16
_MAX_OPEN: Final = 16
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[\sA-Za-z0-9+/=]{1,65536}-----END CERTIFICATE-----"
)
_MAX_CERTIFICATES: Final = 16
_KEY_TEXT: Final = re.compile(rb"[0-9a-fA-F]{32}")
_KEY_BITS: Final = (1024, 16384)


class PrivateKey:
    """An RSA key in PEM. Raises OptionError for what is none, LockedImage for one that is encrypted
    itself.
    """

    def __init__(self, pem: bytes) -> None:
        loading: Any = require("cryptography.hazmat.primitives.serialization", "crypt", _PURPOSE)
        try:
            self._key: Any = loading.load_pem_private_key(pem, None)
        except TypeError:
            raise LockedImage("the private key is encrypted itself: decrypt it first") from None
        except Exception:
            raise OptionError("the key is no private key in PEM") from None
        bits = getattr(self._key, "key_size", 0)
        if not hasattr(self._key, "decrypt") or not _KEY_BITS[0] <= bits <= _KEY_BITS[1]:
            raise OptionError("the key is no RSA key of 1024 bits or more")

    def open(self, sealed: bytes, name: str) -> bytes:
        """The 16 bytes whose hexadecimal text was encrypted. Raises LockedImage where the key is
        another's.
        """
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

        try:
            plain: bytes = self._key.decrypt(sealed, PKCS1v15())
        except Exception:
            plain = b""
        # A wrong key may give bytes all the same: newer libraries hide what went wrong.
        if not _KEY_TEXT.fullmatch(plain):
            raise LockedImage(f"{name}: the private key is not the one that it was bundled for")
        return bytes.fromhex(plain.decode())

    def sign(self, data: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 with SHA-1, which is what EC2 takes."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA1

        signature: bytes = self._key.sign(data, PKCS1v15(), SHA1())
        return signature

    def fits(self, certificate: Any) -> bool:
        """Whether ``certificate`` is of this key."""
        return bool(certificate.public_key() == self._key.public_key())


def certificates_of(pem: bytes, where: str) -> list[Any]:
    """The certificates in ``pem``. Raises OptionError where there is none."""
    x509: Any = require("cryptography.x509", "crypt", _PURPOSE)
    found = [match.group(0) for match in _CERTIFICATE.finditer(pem)][:_MAX_CERTIFICATES]
    try:
        certificates = [x509.load_pem_x509_certificate(each) for each in found]
    except Exception:
        raise OptionError(f"{where}: its certificate is broken") from None
    if not certificates:
        raise OptionError(f"{where}: holds no certificate in PEM")
    return certificates


def seal(certificate: Any, value: bytes, where: str) -> bytes:
    """``value`` as hexadecimal text, encrypted for whoever the certificate is of."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    try:
        sealed: bytes = certificate.public_key().encrypt(value.hex().encode(), PKCS1v15())
    except Exception:
        raise OptionError(f"{where}: its key is no RSA key that can encrypt") from None
    return sealed


def verified(certificates: Sequence[Any], signature: bytes, data: bytes) -> bool:
    """Whether one of them signed ``data``."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA1

    for certificate in certificates:
        try:
            certificate.public_key().verify(signature, data, PKCS1v15(), SHA1())
        except Exception:
            continue
        return True
    return False


class CbcReader(ReadOnlyStorage):
    """What the members ``names`` of ``folder`` hold together, decrypted. A few of them are open at
    a time: a large image has more parts than a process may have files.

    Raises FormatError where they are no whole blocks or the padding is none: then the key is wrong
    too, most likely.
    """

    def __init__(
        self, folder: Folder, names: Sequence[str], key: bytes, iv: bytes, name: str
    ) -> None:
        self.name = name
        self._folder = folder
        self._names = names
        self._open: OrderedDict[int, Storage] = OrderedDict()
        self._opening = threading.Lock()
        self._starts = list(accumulate([0, *(folder.size(each) for each in names)]))
        total = self._starts[-1]
        self._key = key
        self._iv = iv
        if not total or total % _BLOCK:
            raise FormatError(f"{name}: its parts have {total} bytes together, no whole blocks")
        self.size = total
        last = self._decrypted(total - _BLOCK, _BLOCK)
        padding = last[-1]
        if not 1 <= padding <= _BLOCK or last[-padding:] != bytes([padding]) * padding:
            raise FormatError(f"{name}: does not end as what was encrypted does")
        self.size = total - padding

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        end = offset + len(buffer)
        start = offset - offset % _BLOCK
        plain = self._decrypted(start, -(-(end - start) // _BLOCK) * _BLOCK)
        buffer[:] = plain[offset - start : end - start]

    def _decrypted(self, start: int, length: int) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CBC

        if length <= 0:
            return b""
        iv = self._iv if not start else self._raw(start - _BLOCK, _BLOCK)
        decryptor = Cipher(AES(self._key), CBC(iv)).decryptor()
        return decryptor.update(self._raw(start, length)) + decryptor.finalize()

    def _raw(self, start: int, length: int) -> bytes:
        pieces = []
        end = start + length
        number = min(bisect_right(self._starts, start), len(self._names)) - 1
        while start < end:
            base, stop = self._starts[number], min(end, self._starts[number + 1])
            if stop > start:
                with self._opening:
                    pieces.append(self._part(number).read(start - base, stop - start))
                start = stop
            number += 1
        return b"".join(pieces)

    def _part(self, number: int) -> Storage:
        part = self._open.pop(number, None)
        if part is None:
            part = self._folder.open(self._names[number])
        self._open[number] = part
        while len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        return part

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class CbcWriter(Storage):
    """Encrypts what is written to it from its first byte to its last, and cuts it into parts.

    ``add``: makes the next part, by its number. ``digests``: SHA-1 of each part that is complete.
    `finish` adds the padding; `close` throws away a part that is not complete.
    """

    writable = True

    def __init__(
        self, key: bytes, iv: bytes, part_size: int, add: Callable[[int], Output], name: str
    ) -> None:
        require("cryptography", "crypt", _PURPOSE)
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import AES
        from cryptography.hazmat.primitives.ciphers.modes import CBC

        self.name = name
        self.size = 0
        self.digests: list[str] = []
        self.total = 0
        self._encryptor = Cipher(AES(key), CBC(iv)).encryptor()
        self._part_size = part_size
        self._add = add
        self._part: Output | None = None
        self._filled = 0
        self._sum = hashlib.sha1(usedforsecurity=False)

    def write(self, offset: int, data: Buffer) -> None:
        if offset != self.size:
            raise StorageError(f"{self.name}: is written from its first byte to its last")
        self.size += memoryview(data).nbytes
        self._out(self._encryptor.update(data))

    def finish(self) -> None:
        """The padding, and the last part."""
        padding = _BLOCK - self.size % _BLOCK
        self._out(self._encryptor.update(bytes([padding]) * padding) + self._encryptor.finalize())
        self._complete()

    def _out(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._part is None:
                self._part = self._add(len(self.digests))
                self._filled = 0
                self._sum = hashlib.sha1(usedforsecurity=False)
            piece = view[: self._part_size - self._filled]
            self._part.storage.write(self._filled, piece)
            self._sum.update(piece)
            self._filled += len(piece)
            self.total += len(piece)
            view = view[len(piece) :]
            if self._filled == self._part_size:
                self._complete()

    def _complete(self) -> None:
        if self._part is not None:
            self._part.commit()
            self.digests.append(self._sum.hexdigest())
            self._part = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise StorageError(f"{self.name}: cannot be read while it is written")

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def resize(self, size: int) -> None:
        raise StorageError(f"{self.name}: is written from its first byte to its last")

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._part is not None:
            self._part.abort()
            self._part = None
