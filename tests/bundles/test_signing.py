"""Signatures of manifests: what openssl signs we verify, what we sign openssl verifies."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

import peers
from vmimg.bundles.signing import Signer, parse_signature, verify_signature
from vmimg.errors import FormatError, LockedImage, OptionError

pytestmark = pytest.mark.peer("openssl")

MANIFEST = b"SHA256(a.ovf)= " + b"0" * 64 + b"\n"
THEN = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pair:
    key: bytes
    certificate: bytes


def _openssl(*arguments: str | Path, data: bytes | None = None) -> bytes:
    return peers.run("openssl", *arguments, input=data).stdout


@cache
def pair(name: str = "Acme", *options: str, bits: int = 1024) -> Pair:
    """A key and a certificate that it signed itself."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "key"), Path(folder, "cert")
        _openssl("req", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-keyout", key, "-out",
                 certificate, "-subj", f"/CN={name}", "-days", "7300", *options)  # fmt: skip
        return Pair(key.read_bytes(), certificate.read_bytes())


@cache
def issued(
    by: Pair, name: str = "Signer", *, authority: bool = False, digest: str = "sha256"
) -> Pair:
    """A key and a certificate that ``by`` signed."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "ca.key").write_bytes(by.key)
        (place / "ca.pem").write_bytes(by.certificate)
        ca = "TRUE" if authority else "FALSE"
        (place / "ext").write_text(f"basicConstraints=critical,CA:{ca}\n")
        _openssl("req", "-newkey", "rsa:1024", "-nodes", "-keyout", place / "key", "-out",
                 place / "csr", "-subj", f"/CN={name}")  # fmt: skip
        _openssl("x509", "-req", "-in", place / "csr", "-CA", place / "ca.pem", "-CAkey",
                 place / "ca.key", "-set_serial", "7", f"-{digest}", "-days", "7300", "-extfile",
                 place / "ext", "-out", place / "cert")  # fmt: skip
        return Pair((place / "key").read_bytes(), (place / "cert").read_bytes())


def judged(
    data: bytes, manifest: bytes = MANIFEST, roots: bytes | None = None
) -> dict[str, tuple[str, str]]:
    found = verify_signature(manifest, "a.mf", data, "a.cert", roots=roots, now=THEN)
    return {verdict.subject: (verdict.state, verdict.detail) for verdict in found}


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_openssl_verifies_what_we_sign(tmp_path: Path, algorithm: str) -> None:
    both = pair()
    signer = Signer(both.key, both.certificate, algorithm=algorithm)
    data = signer.sign(MANIFEST, "a.mf")
    assert len(data) == signer.size("a.mf")
    assert data.startswith(f"{algorithm.upper()}(a.mf)= ".encode())
    line, _, certificate = data.partition(b"\n")
    (tmp_path / "signature").write_bytes(bytes.fromhex(line.partition(b"= ")[2].decode()))
    (tmp_path / "public").write_bytes(_openssl("x509", "-pubkey", "-noout", data=certificate))
    (tmp_path / "a.mf").write_bytes(MANIFEST)
    said = _openssl("dgst", f"-{algorithm}", "-verify", tmp_path / "public", "-signature",
                    tmp_path / "signature", tmp_path / "a.mf")  # fmt: skip
    assert b"Verified OK" in said


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_we_verify_what_openssl_signs(tmp_path: Path, algorithm: str) -> None:
    both = pair()
    (tmp_path / "key").write_bytes(both.key)
    value = _openssl("dgst", f"-{algorithm}", "-sign", tmp_path / "key", data=MANIFEST)
    # ovftool's form: capitals do not matter, ends of lines neither.
    data = f"{algorithm.upper()}(a.mf)= {value.hex().upper()}\r\n".encode() + both.certificate
    found = judged(data)
    assert found["signature"][0] == "good"
    assert ("SHA-1 is weak" in found["signature"][1]) == (algorithm == "sha1")
    assert judged(data, MANIFEST + b" ")["signature"][0] == "bad"


def test_a_certificate_alone_says_who_and_not_whether_to_believe_it() -> None:
    both = pair()
    data = Signer(both.key, both.certificate).sign(MANIFEST, "a.mf")
    verdicts = list(verify_signature(MANIFEST, "a.mf", data, "a.cert", now=THEN))
    assert verdicts[1].what == "CN=Acme"
    state, detail = judged(data)["certificate"]
    assert state == "unknown"
    assert "self-signed" in detail


def test_trust_goes_from_the_signer_over_authorities_to_a_root() -> None:
    root = pair("Root")
    between = issued(root, "Between", authority=True)
    signer = issued(between)
    data = Signer(signer.key, signer.certificate + between.certificate).sign(MANIFEST, "a.mf")
    state, detail = judged(data, roots=root.certificate)["certificate"]
    assert state == "good", detail
    assert "trusted by CN=Root" in detail
    assert judged(data, roots=pair("Other").certificate)["certificate"][0] == "bad"
    # The same name with another key is not the same root.
    false = pair("Root", "-set_serial", "9")
    assert judged(data, roots=false.certificate)["certificate"][0] == "bad"
    alone = Signer(signer.key, signer.certificate).sign(MANIFEST, "a.mf")
    assert judged(alone, roots=root.certificate)["certificate"][0] == "bad"


def test_a_file_of_trust_without_certificates_is_refused() -> None:
    both = pair()
    data = Signer(both.key, both.certificate).sign(MANIFEST, "a.mf")
    for empty in (b"", b"no certificate"):
        with pytest.raises(OptionError, match="none in PEM"):
            judged(data, roots=empty)


def test_who_is_no_authority_cannot_vouch_for_others() -> None:
    root = pair("Root")
    plain = issued(root, "Plain")
    forged = issued(plain, "Forged")
    data = Signer(forged.key, forged.certificate + plain.certificate).sign(MANIFEST, "a.mf")
    assert judged(data, roots=root.certificate)["certificate"][0] == "bad"


@pytest.mark.parametrize("digest, name", [("md5", "MD5"), ("sha1", "SHA-1")])
def test_an_issuer_that_signed_with_a_weak_digest_proves_nothing(digest: str, name: str) -> None:
    root = pair("Root")
    signer = issued(root, digest=digest)
    data = Signer(signer.key, signer.certificate).sign(MANIFEST, "a.mf")
    state, detail = judged(data, roots=root.certificate)["certificate"]
    assert state == "bad"
    assert f"signed with {name}" in detail
    # Whoever trusts that very certificate needs no issuer.
    assert judged(data, roots=signer.certificate)["certificate"][0] == "good"


def test_a_certificate_that_expired_is_bad_whoever_trusts_it() -> None:
    both = pair()
    data = Signer(both.key, both.certificate).sign(MANIFEST, "a.mf")
    late = datetime(2090, 1, 1, tzinfo=UTC)
    found = list(verify_signature(MANIFEST, "a.mf", data, "x", roots=both.certificate, now=late))
    assert found[1].state == "bad"
    assert "expired" in found[1].detail


def test_the_signature_is_of_the_key_in_the_certificate() -> None:
    both = pair()
    data = Signer(both.key, both.certificate).sign(MANIFEST, "a.mf")
    swapped = data.partition(b"\n")[0] + b"\n" + pair("Other").certificate
    assert judged(swapped)["signature"][0] == "bad"
    with pytest.raises(OptionError, match="not that of the certificate"):
        Signer(both.key, pair("Other").certificate)


def test_an_encrypted_key_needs_its_password(tmp_path: Path) -> None:
    both = pair()
    locked = _openssl("pkcs8", "-topk8", "-passout", "pass:secret", data=both.key)
    with pytest.raises(LockedImage):
        Signer(locked, both.certificate)
    with pytest.raises(LockedImage):
        Signer(locked, both.certificate, password=b"wrong")
    data = Signer(locked, both.certificate, password=b"secret").sign(MANIFEST, "a.mf")
    assert judged(data)["signature"][0] == "good"


def test_keys_that_ovf_does_not_know_are_refused_when_signing(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "cert"
    _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", key, "-out", certificate, "-subj", "/CN=EC")  # fmt: skip
    with pytest.raises(OptionError, match="RSA"):
        Signer(key.read_bytes(), certificate.read_bytes())
    value = _openssl("dgst", "-sha256", "-sign", key, data=MANIFEST)
    data = f"SHA256(a.mf)= {value.hex()}\n".encode() + certificate.read_bytes()
    assert judged(data)["signature"][0] == "good"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n",
        b"SHA1(a.mf)= 00\n",
        b"SHA1(a.mf)= 000\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"SHA1(a.mf)= 00\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"SHA1(a.mf)= 00\n" + b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n" * 99,
        bytes(1 << 20),
    ],
)
def test_what_is_no_signature_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        judged(data)


def test_a_certificate_with_any_byte_changed_is_an_error_of_ours_or_not_believed() -> None:
    both = pair()
    signer = Signer(both.key, both.certificate)
    line = signer.sign(MANIFEST, "a.mf").partition(b"\n")[0]
    der = base64.b64decode(b"".join(both.certificate.split(b"\n")[1:-2]))
    for at in range(0, len(der), 3):
        changed = der[:at] + bytes([der[at] ^ 0x55]) + der[at + 1 :]
        block = base64.encodebytes(changed)
        data = b"%s\n-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % (line, block)
        try:
            found = judged(data, roots=both.certificate)
        except FormatError as error:
            assert "\n" not in str(error)
        else:
            assert found["certificate"][0] == "bad"


def test_what_else_is_in_the_file_is_told() -> None:
    both = pair()
    data = Signer(both.key, both.certificate).sign(MANIFEST, "a.mf")
    data += b"-----BEGIN PKCS7-----\nMAAA\n-----END PKCS7-----\n"  # as VBoxManage signova does
    assert parse_signature(data, "x").others == ("PKCS7",)
    assert "PKCS7" in judged(data)["signature"][1]
