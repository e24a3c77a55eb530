"""Making an EC2 bundle, in one pass over the disk: tar, gzip, AES, parts, and then the manifest.

The key and the IV are random, as they must be: no two bundles are the same. Sources: see the
package. Imports archives and imaging.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from typing import Final

from vmimg import storage as storages
from vmimg.bundles.archives.deflating import DeflateStream
from vmimg.bundles.archives.tarwriting import END, tar_header, tar_padding
from vmimg.bundles.ec2.manifest import Manifest, Part, Sealed, signed_text, written
from vmimg.bundles.ec2.sealing import CbcWriter, PrivateKey, certificates_of, seal
from vmimg.bundles.imaging import stream_image
from vmimg.bundles.package import How, Made, Package
from vmimg.bundles.unsaid import unsaid
from vmimg.errors import OptionError, StorageError
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.output import Output, OutputSet

__all__ = ["make"]

_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_MAX_PEM: Final = 256 << 10
_PART_SIZES: Final = (1 << 16, 1 << 30)
_ARCHITECTURES: Final = {"x86_64": "x86_64", "i686": "i386", "aarch64": "arm64", "": "x86_64"}


def make(package: Package, target: str, how: How) -> Made:
    """A directory at ``target`` with the manifest and the parts."""
    if len(package.disks) != 1:
        raise OptionError(f"an EC2 bundle has one disk, not {len(package.disks)}")
    if how.format not in ("", "raw"):
        raise OptionError(f"an EC2 bundle has its disk as raw, not as {how.format}")
    if package.files:
        raise OptionError("an EC2 bundle holds an image and no other file")
    machine, disk = package.machine, package.disks[0]
    if machine.architecture not in _ARCHITECTURES:
        raise OptionError(f"EC2 has no machines of the architecture {machine.architecture}")
    part_size = int(how.options.get("part_size") or 10 << 20)
    if not _PART_SIZES[0] <= part_size <= _PART_SIZES[1]:
        raise OptionError("parts have 64 KiB to 1 GiB")
    key = PrivateKey(_pem(how, "key"))
    mine = certificates_of(_pem(how, "cert"), str(how.options["cert"]))[0]
    if not key.fits(mine):
        raise OptionError("the key is not that of the certificate")
    theirs = mine
    if how.options.get("ec2_cert"):
        theirs = certificates_of(_pem(how, "ec2_cert"), str(how.options["ec2_cert"]))[0]
    aes, iv = os.urandom(16), os.urandom(16)
    name = f"{disk.name}.img"
    with OutputSet() as outputs:
        folder = outputs.folder(target, f"{name}.manifest.xml", replace=how.replace)

        def add(number: int) -> Output:
            # By itself: a large image has more parts than a process may have files. The directory
            # that they are in appears at the end.
            return Output(os.path.join(folder, _part(name, number)))

        with CbcWriter(aes, iv, part_size, add, target) as stream:
            digest = _pack(package, name, stream, how)
            stream.finish()
        manifest = Manifest(
            name=name,
            user=str(how.options.get("user") or "000000000000").replace("-", ""),
            kind="machine",
            size=disk.disk.size,
            bundled_size=stream.total,
            digest=digest,
            parts=tuple(Part(_part(name, n), each) for n, each in enumerate(stream.digests)),
            for_user=Sealed(seal(mine, aes, "cert"), seal(mine, iv, "cert")),
            for_ec2=Sealed(seal(theirs, aes, "ec2_cert"), seal(theirs, iv, "ec2_cert")),
            architecture=_ARCHITECTURES[machine.architecture],
        )
        text = _signed(manifest, key)
        outputs.add(os.path.join(folder, f"{name}.manifest.xml")).write(0, text)
    losses = unsaid(machine, "an EC2 bundle", said=("architecture",), carried=[disk.drive])
    return Made(target, stream.total + len(text), losses)


def _part(name: str, number: int) -> str:
    return f"{name}.part.{number:02}"


def _pem(how: How, option: str) -> bytes:
    path = how.options.get(option)
    if not path:
        raise OptionError(
            "an EC2 bundle is made with a private key and its certificate: give the options "
            "key=FILE and cert=FILE"
        )
    with storages.open(str(path)) as storage:
        if storage.size > _MAX_PEM:
            raise StorageError(f"{path}: has {storage.size} bytes: that is no key or certificate")
        return storage.read(0, storage.size)


def _signed(manifest: Manifest, key: PrivateKey) -> bytes:
    from dataclasses import replace

    from vmimg import __version__

    text = written(manifest, "vmimg", __version__)
    signature = key.sign(signed_text(text))
    return written(replace(manifest, signature=signature), "vmimg", __version__)


def _pack(package: Package, name: str, stream: Storage, how: How) -> str:
    """Send the tar.gz with the image; the SHA-1 of the tar."""
    disk = package.disks[0].disk
    stream.write(0, _GZIP_HEADER)
    with closing(
        DeflateStream(stream, len(_GZIP_HEADER), level=how.level, threads=how.threads)
    ) as deflating:  # fmt: skip
        sink = _Summing(deflating)
        sink.write(tar_header(name, disk.size, "gnu"))
        stream_image(disk, "raw", sink, name=name, threads=how.threads, progress=how.progress)
        sink.write(tar_padding(disk.size))
        sink.write(END)
        checksum = deflating.finish()
        trailer = checksum.to_bytes(4, "little")
        trailer += (deflating.plain & 0xFFFFFFFF).to_bytes(4, "little")
        stream.write(deflating.at, trailer)
    return sink.sum.hexdigest()


class _Summing:
    """Passes on what is sent, and sums it up."""

    def __init__(self, target: DeflateStream) -> None:
        self.sum = hashlib.sha1(usedforsecurity=False)
        self._target = target

    def write(self, data: Buffer) -> None:
        self.sum.update(data)
        self._target.write(data)
