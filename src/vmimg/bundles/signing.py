"""Signatures of OVF packages: a .cert file with that of the manifest and an X.509 certificate.

    SHA256(machine.mf)= 7f4b8efb8fe20c06df1db68281a63f1b...
    -----BEGIN CERTIFICATE-----
    ...

The signature is RSASSA-PKCS1-v1_5 over the bytes of the manifest, in hexadecimal: what `openssl
dgst -sign` makes. ovftool and OVF 1 take SHA-1, OVF 2 allows more. Certificates of issuers may
follow the signer's; VirtualBox adds a CMS signature, which is told and not looked at. Spec: DMTF
DSP0243 2.1, section 5.5; RFC 8017, section 8.2; RFC 5280, section 6. `cryptography` is imported
when it is used.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from vmimg import storage as storages
from vmimg.bundles.bundle import Verdict
from vmimg.bundles.manifest import ALGORITHMS, algorithm_of
from vmimg.errors import FormatError, LockedImage, OptionError, StorageError
from vmimg.extras import require
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.vetting import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

__all__ = ["MAX_BYTES", "Signature", "Signer", "parse_signature", "sign", "verify_signature"]

MAX_BYTES: Final = 256 << 10
"""The largest .cert file, and the largest file of certificates, that is read."""
_MAX_CERTIFICATES: Final = 16
_MAX_ROOTS: Final = 1024
_KEY_BITS: Final = (1024, 16384)
_PURPOSE: Final = "signatures of OVF packages"
# Certificates have been forged by the one (2008); by the other, documents (2017).
_WEAK: Final = {"md5": "MD5", "sha1": "SHA-1"}
_LINE: Final = re.compile(
    rb"\s*([A-Za-z][A-Za-z0-9]{0,15}(?:-\d{1,4})?)\s*\(([^\r\n]{1,4096})\)\s*="
    rb"\s*([0-9A-Fa-f]{2,8192})[ \t]*(?:\r?\n|\r|$)"
)
_BLOCK: Final = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,32})-----[\sA-Za-z0-9+/=]{1,262144}-----END \1-----"
)
_CERTIFICATES: Final = (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE")


@dataclass(frozen=True, slots=True)
class Signature:
    """``algorithm``: of manifest.ALGORITHMS, "" for another; ``label`` as it is written. ``name``
    of the manifest. ``certificates``: in PEM, the signer's first. ``others``: what else is there.
    """

    algorithm: str
    label: str
    name: str
    value: bytes
    certificates: tuple[bytes, ...]
    others: tuple[str, ...] = ()


def parse_signature(data: bytes, where: str) -> Signature:
    """What a .cert file says. Raises FormatError where it does not begin with a signature, or has
    no certificate.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"{where}: has {len(data)} bytes, and {MAX_BYTES} are the most")
    match = _LINE.match(data.removeprefix(b"\xef\xbb\xbf"))
    if match is None or len(match.group(3)) % 2:
        raise FormatError(f"{where}: does not begin with a signature, 'SHA256(name.mf)= ...'")
    label, name = match.group(1).decode("ascii"), match.group(2).decode("utf-8", "surrogateescape")
    certificates, others = list[bytes](), list[str]()
    for block in _BLOCK.finditer(data):
        if block.group(1) in _CERTIFICATES:
            certificates.append(block.group(0) + b"\n")
        else:
            others.append(block.group(1).decode("ascii"))
    if not certificates:
        raise FormatError(f"{where}: there is no certificate in it")
    if len(certificates) > _MAX_CERTIFICATES:
        raise FormatError(f"{where}: has {len(certificates)} certificates")
    return Signature(
        algorithm_of(label),
        label,
        name.strip(),
        bytes.fromhex(match.group(3).decode("ascii")),
        tuple(certificates),
        tuple(others),
    )


def verify_signature(
    manifest: bytes,
    name: str,
    data: bytes,
    where: str,
    *,
    roots: bytes | None = None,
    now: datetime | None = None,
) -> Iterator[Verdict]:
    """Two verdicts: on the "signature" of ``manifest``, which is called ``name``, and on the
    "certificate": who signed, and whether that can be believed.

    ``data`` is the .cert file, ``where`` what to call it. ``roots``: certificates in PEM that are
    trusted; without them nobody can say whose the certificate is. ``now``: the time to check
    validity at. Raises what `parse_signature` raises, and UnsupportedFeature where `cryptography`
    is missing.
    """
    signature = parse_signature(data, where)
    x509: Any = require("cryptography.x509", "crypt", _PURPOSE)
    chain = [_certificate(x509, pem, where) for pem in signature.certificates]
    state, detail = _checked(signature, manifest, chain[0])
    notes = [detail] if detail else []
    if signature.algorithm == "sha1":
        notes.append("SHA-1 is weak")
    if signature.name not in (name, name.rpartition("/")[2]):
        notes.append(f"it calls the manifest '{printable(signature.name)}'")
    notes += [
        f"a block of {other} is there too, and was not looked at" for other in signature.others
    ]
    yield Verdict("signature", state, signature.label, "; ".join(notes))
    yield _believed(chain, _roots(x509, roots), now or datetime.now(UTC))


def sign(
    path: str | os.PathLike[str],
    key: str | os.PathLike[str],
    certificate: str | os.PathLike[str],
    *,
    algorithm: str = "sha256",
    keys: Keys | bytes | str | None = None,
    output: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> str:
    """Sign the OVF package or OVA at ``path``; where the signed one is.

    ``key``, ``certificate``: PEM files, the signer's certificate first. A manifest that is there is
    verified before, one with other digests than ``algorithm``'s is made anew, one that is missing
    is made. ``keys``: the password of the key, where it is encrypted. ``output``: where to write
    the signed OVA (``replace``: it may exist); without it the OVA itself is replaced, once the new
    one is complete. Raises FormatError for a package that is not what its manifest says,
    OptionError for a key that is not that of the certificate, LockedImage without the password.
    """
    from vmimg.bundles.ovf.resigning import sign_package

    signer = load_signer(os.fspath(key), os.fspath(certificate), algorithm, as_keys(keys))
    target = None if output is None else os.fspath(output)
    return sign_package(os.fspath(path), signer, output=target, replace=replace)


def load_signer(key: str, certificate: str, algorithm: str, keys: Keys) -> Signer:
    """What signs with the PEM files ``key`` and ``certificate``; where the key is encrypted,
    ``keys`` is asked for its password.
    """
    texts = [_small(path) for path in (key, certificate)]
    try:
        return Signer(texts[0], texts[1], algorithm=algorithm)
    except LockedImage:
        return Signer(texts[0], texts[1], algorithm=algorithm, password=keys(key))


def _small(path: str) -> bytes:
    with storages.open(path) as storage:
        if storage.size > MAX_BYTES:
            raise StorageError(
                f"{path}: has {storage.size} bytes: that is no key and no certificate"
            )
        return storage.read(0, storage.size)


class Signer:
    """Signs manifests with an RSA key and its certificate, both PEM. ``certificates``: the signer's
    first, those of issuers behind it.

    Raises OptionError where they do not fit together, LockedImage for a key that needs a password.
    """

    def __init__(
        self,
        key: bytes,
        certificates: bytes,
        *,
        algorithm: str = "sha256",
        password: bytes | None = None,
    ) -> None:
        x509: Any = require("cryptography.x509", "crypt", _PURPOSE)
        if algorithm not in ALGORITHMS:
            known = ", ".join(ALGORITHMS)
            raise OptionError(f"a manifest is signed with {known}, not with '{algorithm}'")
        self.algorithm = algorithm
        self._key = _private_key(key, password)
        blocks = [match.group(0) for match in _BLOCK.finditer(certificates[:MAX_BYTES])
                  if match.group(1) in _CERTIFICATES]  # fmt: skip
        if not blocks:
            raise OptionError("the file of the certificate holds none in PEM")
        self._blocks = b"".join(block.replace(b"\r\n", b"\n") + b"\n" for block in blocks)
        try:
            first = x509.load_pem_x509_certificate(blocks[0])
            public = first.public_key()
        except Exception as error:
            raise OptionError(f"the certificate cannot be read: {_first_line(error)}") from error
        if public != self._key.public_key():
            raise OptionError("the key is not that of the certificate")

    def size(self, name: str) -> int:
        """Bytes of the .cert file for a manifest called ``name``."""
        return len(self._text(name, bytes((self._key.key_size + 7) // 8)))

    def sign(self, manifest: bytes, name: str) -> bytes:
        """The .cert file for ``manifest``, which is called ``name`` (without directories)."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

        return self._text(name, self._key.sign(manifest, PKCS1v15(), _hash(self.algorithm)))

    def _text(self, name: str, value: bytes) -> bytes:
        line = f"{ALGORITHMS[self.algorithm]}({name})= {value.hex()}\n"
        return line.encode("utf-8", "surrogateescape") + self._blocks


def _private_key(data: bytes, password: bytes | None) -> RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password)
    except TypeError as error:
        if password is None:
            raise LockedImage("the key is encrypted, and no password was given") from error
        raise OptionError("the key is not encrypted, and a password was given") from error
    except Exception as error:
        if password is not None and "password" in str(error).lower():
            raise LockedImage("the password is not that of the key") from error
        raise OptionError(f"the key is no private key in PEM: {_first_line(error)}") from error
    if not isinstance(key, RSAPrivateKey):
        raise OptionError("OVF packages are signed with RSA keys, and this is another kind")
    if not _KEY_BITS[0] <= key.key_size <= _KEY_BITS[1]:
        raise OptionError(f"a key of {key.key_size} bits is no good for signing")
    return key


def _hash(algorithm: str) -> Any:
    from cryptography.hazmat.primitives import hashes

    kinds: dict[str, Any] = {
        "sha1": hashes.SHA1,
        "sha256": hashes.SHA256,
        "sha384": hashes.SHA384,
        "sha512": hashes.SHA512,
    }
    return kinds[algorithm]()


def _certificate(x509: Any, pem: bytes, where: str) -> Certificate:
    try:
        # Old tools give the block other names; what is in it is the same.
        body = re.sub(rb"(BEGIN|END) [A-Z0-9 ]+-----", rb"\1 CERTIFICATE-----", pem)
        with warnings.catch_warnings():
            # Of a serial number that is none, the library warns on standard error.
            warnings.simplefilter("ignore")
            found: Certificate = x509.load_pem_x509_certificate(body)
        # Fields are decoded when they are asked for: what is broken in them shall show here.
        _ = found.subject, found.issuer, found.not_valid_before_utc, found.not_valid_after_utc
    except Exception as error:
        raise FormatError(f"{where}: its certificate is broken: {_first_line(error)}") from error
    return found


def _checked(signature: Signature, manifest: bytes, certificate: Certificate) -> tuple[Any, str]:
    """(state, detail) of the signature itself."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not signature.algorithm:
        return "unknown", f"signatures with '{signature.label}' are not known here"
    try:
        key = certificate.public_key()
        digest = _hash(signature.algorithm)
        if isinstance(key, RSAPublicKey):
            if not _KEY_BITS[0] <= key.key_size <= _KEY_BITS[1]:
                return "unknown", f"the RSA key has {key.key_size} bits"
            key.verify(signature.value, manifest, PKCS1v15(), digest)
            return "good", f"RSA of {key.key_size} bits"
        if isinstance(key, EllipticCurvePublicKey):
            key.verify(signature.value, manifest, ECDSA(digest))
            return "good", f"ECDSA of {key.key_size} bits"
    except InvalidSignature:
        return "bad", "it is not that of the manifest as it is now"
    except Exception as error:
        return "unknown", f"the key cannot be used: {_first_line(error)}"
    return "unknown", "the key is neither RSA nor ECDSA"


def _roots(x509: Any, data: bytes | None) -> list[Certificate]:
    if data is None:
        return []
    blocks = [m.group(0) for m in _BLOCK.finditer(data) if m.group(1) in _CERTIFICATES]
    if not blocks:
        raise OptionError("the file of trusted certificates holds none in PEM")
    return [_certificate(x509, pem, "the trusted certificates") for pem in blocks[:_MAX_ROOTS]]


def _believed(chain: Sequence[Certificate], roots: Sequence[Certificate], now: datetime) -> Verdict:
    """The verdict on the certificate of the signer, the first of ``chain``."""
    signer = chain[0]
    who = _name(signer.subject)
    start, end = signer.not_valid_before_utc, signer.not_valid_after_utc
    notes = [f"valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}"]
    own = signer.subject == signer.issuer
    notes.append("self-signed" if own else f"issued by {_name(signer.issuer)}")
    if not start <= now <= end:
        notes.append("it has expired" if now > end else "it is not valid yet")
        return Verdict("certificate", "bad", who, "; ".join(notes))
    if not roots:
        notes.append("no certificates to trust were given, so that nothing says whose it is")
        return Verdict("certificate", "unknown", who, "; ".join(notes))
    path = _path(chain, roots, now)
    if path is None:
        weak = next((kind for each in chain if (kind := _digest_name(each)) in _WEAK), "")
        notes.append("no certificate that is trusted stands behind it")
        if weak:
            notes.append(f"one is signed with {_WEAK[weak]}, which proves nothing any more")
        return Verdict("certificate", "bad", who, "; ".join(notes))
    notes.append(f"trusted by {_name(path[-1].subject)}")
    return Verdict("certificate", "good", who, "; ".join(notes))


def _path(
    chain: Sequence[Certificate], roots: Sequence[Certificate], now: datetime
) -> list[Certificate] | None:
    """Certificates from the signer's to a trusted one, each issued by the next; None where none."""
    path = [chain[0]]
    while len(path) <= _MAX_CERTIFICATES:
        last = path[-1]
        if last in roots:
            return path
        for candidates, trusted in ((roots, True), (chain[1:], False)):
            issuer = next(
                (
                    each
                    for each in candidates
                    if each not in path
                    and each.subject == last.issuer
                    and each.not_valid_before_utc <= now <= each.not_valid_after_utc
                    and _may_issue(each, len(path) - 1)
                    and _issued(last, each)
                ),
                None,
            )
            if issuer is not None:
                path.append(issuer)
                if trusted:
                    return path
                break
        else:
            return None
    return None


def _may_issue(certificate: Certificate, below: int) -> bool:
    """Whether it is that of an authority, with ``below`` authorities under it (RFC 5280, 4.2.1)."""
    from cryptography import x509

    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        try:
            usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
            if not usage.key_cert_sign:
                return False
        except x509.ExtensionNotFound:
            pass
    except x509.ExtensionNotFound:
        return False
    except Exception:
        return False  # broken extensions make no authority
    return basic.ca and (basic.path_length is None or basic.path_length >= below)


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    """Whether the signature on ``certificate`` is by the key of ``issuer``, and worth something."""
    try:
        if _digest_name(certificate) in _WEAK:
            return False
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False  # another name, another key, or an algorithm that is no longer taken
    return True


def _digest_name(certificate: Certificate) -> str:
    """Of the signature on it, "" where that cannot be told."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except Exception:
        return ""
    return algorithm.name if algorithm is not None else ""


def _name(name: Any) -> str:
    try:
        return printable(name.rfc4514_string()[:256])
    except Exception:
        return "?"


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0][:160])
