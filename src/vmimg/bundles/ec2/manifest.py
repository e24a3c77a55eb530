"""The manifest of an EC2 bundle: read, and written as the AMI tools write it.

Versions: 2007-10-10, and 3 before it, which had no machine_configuration. Sources: see the package.
Imports machines' XML.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from vmimg.bundles.texts import textual
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.machines.xml import Element, attribute, child, children, find, parse, text
from vmimg.storage.folder import joined

__all__ = ["VERSION", "Manifest", "Part", "Sealed", "read_manifest", "signed_text", "written"]

VERSION: Final = "2007-10-10"
_VERSIONS: Final = (VERSION, "3", "2007-01-01", "2006-03-01")
_MAX_PARTS: Final = 100_000
_MAX_SIZE: Final = 1 << 60
_HEX: Final = re.compile(r"[0-9a-fA-F]{2,4096}")
_SHA1: Final = re.compile(r"[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Part:
    """``name`` of the file, ``digest``: SHA-1 in hexadecimal."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """A key and an IV, each encrypted for somebody."""

    key: bytes = b""
    iv: bytes = b""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Sizes in bytes: ``size`` of the image, ``bundled_size`` of all parts. ``digest``: SHA-1 of
    the tar. ``kind``: "machine", "kernel" or "ramdisk".
    """

    name: str
    user: str
    kind: str
    size: int
    bundled_size: int
    digest: str
    parts: tuple[Part, ...]
    for_user: Sealed
    for_ec2: Sealed
    architecture: str = ""
    kernel_id: str = ""
    ramdisk_id: str = ""
    mappings: tuple[tuple[str, str], ...] = ()
    bundler: str = ""
    signature: bytes = b""


def read_manifest(data: bytes, name: str, where: str) -> Manifest:
    """The manifest in ``data``, the member ``name``. Raises FormatError, UnsupportedFeature, and
    UnsafeImage for parts that lie elsewhere.
    """
    root = parse(data, where, root="manifest")
    version = _text(root, "version")
    if version not in _VERSIONS:
        raise UnsupportedFeature(f"{where}: is a manifest of version '{textual(version)}'")
    image = child(root, "image")
    if image is None:
        raise FormatError(f"{where}: has no element 'image'")
    algorithm = _algorithm(image, "ec2_encrypted_key") or _algorithm(image, "user_encrypted_key")
    if algorithm.upper() != "AES-128-CBC":
        raise UnsupportedFeature(f"{where}: is encrypted by '{textual(algorithm)}'")
    return Manifest(
        name=_text(image, "name"),
        user=_text(image, "user"),
        kind=_text(image, "type") or "machine",
        size=_size(image, "size", where),
        bundled_size=_size(image, "bundled_size", where),
        digest=_text(image, "digest").lower(),
        parts=_parts(image, name, where),
        for_user=Sealed(
            _hex(image, "user_encrypted_key", where), _hex(image, "user_encrypted_iv", where)
        ),
        for_ec2=Sealed(
            _hex(image, "ec2_encrypted_key", where), _hex(image, "ec2_encrypted_iv", where)
        ),
        architecture=_text(root, "machine_configuration", "architecture"),
        kernel_id=_text(root, "machine_configuration", "kernel_id"),
        ramdisk_id=_text(root, "machine_configuration", "ramdisk_id"),
        mappings=tuple(_mappings(root)),
        bundler=" ".join(
            word for word in (_text(root, "bundler", "name"), _text(root, "bundler", "version"))
            if word
        ),
        signature=_hex(root, "signature", where, missing=True),
    )  # fmt: skip


def signed_text(data: bytes) -> bytes:
    """What the signature is over: the two elements as they stand in the text. b"" where there is no
    ``image``.
    """
    machine, image = (_element(data, name) for name in (b"machine_configuration", b"image"))
    return machine + image if image else b""


def _element(data: bytes, name: bytes) -> bytes:
    start = data.find(b"<" + name + b">")
    end = data.find(b"</" + name + b">")
    return data[start : end + len(name) + 3] if 0 <= start < end else b""


def _parts(image: Element, name: str, where: str) -> tuple[Part, ...]:
    holder = child(image, "parts")
    if holder is None:
        raise FormatError(f"{where}: lists no parts")
    found: dict[int, Part] = {}
    for at, element in enumerate(children(holder, "part")):
        if at >= _MAX_PARTS:
            raise FormatError(f"{where}: lists more than {_MAX_PARTS} parts")
        said = attribute(element, "index") or ""
        file, digest = _text(element, "filename"), _text(element, "digest").lower()
        if not re.fullmatch(r"\d{1,6}", said, re.ASCII) or int(said) in found:
            raise FormatError(f"{where}: has a part of the number '{textual(said)}'")
        if not file or not _SHA1.fullmatch(digest):
            raise FormatError(f"{where}: part {said} has no name or no SHA-1")
        found[int(said)] = Part(joined(name, file), digest)
    if not found or sorted(found) != list(range(len(found))):
        raise FormatError(f"{where}: its parts are not numbered from 0 on")
    return tuple(found[number] for number in range(len(found)))


def _mappings(root: Element) -> list[tuple[str, str]]:
    holder = find(root, "machine_configuration", "block_device_mapping")
    mappings = list(children(holder, "mapping"))[:64] if holder is not None else []
    return [(_text(each, "virtual"), _text(each, "device")) for each in mappings]


def _text(element: Element, *path: str) -> str:
    found = find(element, *path)
    return text(found).strip() if found is not None else ""


def _algorithm(image: Element, name: str) -> str:
    found = child(image, name)
    return (attribute(found, "algorithm") or "") if found is not None else ""


def _size(image: Element, name: str, where: str) -> int:
    said = _text(image, name)
    if not re.fullmatch(r"\d{1,19}", said, re.ASCII) or int(said) > _MAX_SIZE:
        raise FormatError(f"{where}: its {name} is '{textual(said[:32])}'")
    return int(said)


def _hex(element: Element, name: str, where: str, *, missing: bool = False) -> bytes:
    said = _text(element, name)
    if not said and missing:
        return b""
    if not _HEX.fullmatch(said) or len(said) % 2:
        raise FormatError(f"{where}: its {name} is no hexadecimal number")
    return bytes.fromhex(said)


def written(manifest: Manifest, bundler: str, version: str) -> bytes:
    """The manifest as XML; without a signature where it has none."""
    configuration = _tag("architecture", manifest.architecture)
    if manifest.mappings:
        inner = "".join(
            _tag("mapping", _tag("virtual", virtual) + _tag("device", device), raw=True)
            for virtual, device in manifest.mappings
        )
        configuration += _tag("block_device_mapping", inner, raw=True)
    for name, value in (("kernel_id", manifest.kernel_id), ("ramdisk_id", manifest.ramdisk_id)):
        configuration += _tag(name, value) if value else ""
    parts = "".join(
        f'<part index="{number}">{_tag("filename", part.name)}{_digest(part.digest)}</part>'
        for number, part in enumerate(manifest.parts)
    )
    image = (
        _tag("name", manifest.name)
        + _tag("user", manifest.user)
        + _tag("type", manifest.kind)
        + _digest(manifest.digest)
        + _tag("size", str(manifest.size))
        + _tag("bundled_size", str(manifest.bundled_size))
        + _sealed("ec2_encrypted_key", manifest.for_ec2.key)
        + _sealed("user_encrypted_key", manifest.for_user.key)
        + _tag("ec2_encrypted_iv", manifest.for_ec2.iv.hex())
        + _tag("user_encrypted_iv", manifest.for_user.iv.hex())
        + f'<parts count="{len(manifest.parts)}">{parts}</parts>'
    )
    maker = _tag("name", bundler) + _tag("version", version) + _tag("release", "0")
    body = (
        _tag("version", VERSION)
        + _tag("bundler", maker, raw=True)
        + _tag("machine_configuration", configuration, raw=True)
        + _tag("image", image, raw=True)
    )
    if manifest.signature:
        body += _tag("signature", manifest.signature.hex())
    return f"<?xml version='1.0'?>{_tag('manifest', body, raw=True)}".encode()


def _tag(name: str, value: str, *, raw: bool = False) -> str:
    return f"<{name}>{value if raw else escape(value)}</{name}>"


def _digest(value: str) -> str:
    return f'<digest algorithm="SHA1">{value}</digest>'


def _sealed(name: str, value: bytes) -> str:
    return f'<{name} algorithm="AES-128-CBC">{value.hex()}</{name}>'
