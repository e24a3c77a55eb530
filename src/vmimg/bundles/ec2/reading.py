"""Opening an EC2 bundle: its image, decrypted as it is read, with the private key of its user.

Sources: see the package. Imports archives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vmimg.bundles.archives import digests, open_folder
from vmimg.bundles.bundle import Bundle, BundleDisk, Verdict
from vmimg.bundles.ec2.manifest import Manifest, read_manifest, signed_text
from vmimg.bundles.ec2.sealing import CbcReader, PrivateKey, certificates_of, verified
from vmimg.bundles.texts import architecture_of, need, read_text, textual
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, LockedImage, OptionError, UnsupportedFeature
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.opening import open_storage_disk
from vmimg.machines.model import Drive, Machine
from vmimg.probe.claims import Claim
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = ["Ec2Bundle", "open"]

_DEFAULT_POLICY: Final = ParentPolicy()
_ENDING: Final = ".manifest.xml"


class Ec2Bundle(Bundle):
    """A bundle by its manifest, the member ``manifest_name``."""

    kind = "ec2-bundle"

    def __init__(self, folder: Folder, manifest_name: str) -> None:
        super().__init__(folder)
        self.manifest_name = manifest_name
        self._text = read_text(folder, manifest_name)
        self.manifest: Manifest = read_manifest(
            self._text, manifest_name, f"{folder.name}:{manifest_name}"
        )
        self._inner: list[Folder] = []
        if self.manifest.kind == "machine":
            size = self.manifest.size
            self.disks = (BundleDisk("root", manifest_name, "raw", size, (0, 0)),)
            architecture = architecture_of(self.manifest.architecture)
            drive = Drive(path=self.manifest.name, format="raw", size=size)
            self.machines = (Machine(architecture=architecture, drives=(drive,)),)
        self.facts = self._facts()

    def _facts(self) -> dict[str, Any]:
        said = self.manifest
        facts: dict[str, Any] = {
            "image": textual(said.name),
            "image-type": textual(said.kind),
            "account": textual(said.user),
            "image-size": said.size,
            "bundled-size": said.bundled_size,
            "parts": len(said.parts),
            "encrypted": "AES-128-CBC, with a key for the account's private key",
            "signed": bool(said.signature),
        }
        told = {
            "architecture": said.architecture, "kernel-id": said.kernel_id,
            "ramdisk-id": said.ramdisk_id, "bundler": said.bundler,
        }  # fmt: skip
        facts |= {key: textual(value) for key, value in told.items() if value}
        if said.mappings:
            facts["block-devices"] = [f"{textual(v)}={textual(d)}" for v, d in said.mappings]
        return facts

    def find(self, name: str | None = None) -> BundleDisk:
        if not self.disks:
            raise UnsupportedFeature(
                f"{self.name}: bundles a {textual(self.manifest.kind)}, which is no disk"
            )
        return super().find(name)

    def storage(self, disk: BundleDisk) -> Storage:
        raise LockedImage(f"{self.name}: is encrypted: give the private key (PEM) of its account")

    def open_disk(
        self,
        name: str | None = None,
        *,
        snapshot: str | None = None,
        policy: ParentPolicy = _DEFAULT_POLICY,
        keys: Keys | bytes | str | None = None,
        sealed: bool = False,
    ) -> Disk:
        """As Bundle's; ``keys`` gives the private key in PEM."""
        found = self.find(name)
        folder = self._unpacked(as_keys(keys)(self.name))
        names = folder.names()
        if len(names) != 1:
            raise FormatError(f"{self.name}: its tar holds {len(names)} files, not the image alone")
        storage = folder.open(names[0])
        if storage.size != found.size:
            raise FormatError(
                f"{self.name}: its image has {storage.size} bytes, the manifest says {found.size}"
            )
        return open_storage_disk(
            storage, format="raw", snapshot=snapshot, policy=policy, keys=keys, sealed=sealed
        )

    def _unpacked(self, pem: bytes) -> Folder:
        try:
            key = PrivateKey(pem)
        except OptionError as error:
            raise LockedImage(f"{self.name}: {error}") from None
        said = self.manifest
        aes, iv = self._secrets(key)
        names = [need(self.folder, part.name, self.manifest_name) for part in said.parts]
        title = f"{self.name}:{textual(said.name)}.tar.gz"
        folder = open_folder(CbcReader(self.folder, names, aes, iv, title))
        self._inner.append(folder)
        return folder

    def _secrets(self, key: PrivateKey) -> tuple[bytes, bytes]:
        """The AES key and the IV: of the user's, or, for who has that key, of EC2's."""
        mine, theirs = self.manifest.for_user, self.manifest.for_ec2
        try:
            return key.open(mine.key, self.name), key.open(mine.iv, self.name)
        except LockedImage:
            return key.open(theirs.key, self.name), key.open(theirs.iv, self.name)

    def verify(self, *, trust: bytes | None = None) -> Iterator[Verdict]:
        total, complete = 0, True
        for part in self.manifest.parts:
            if not self.folder.exists(part.name):
                complete = False
                yield Verdict(part.name, "missing", "SHA1")
                continue
            with self.folder.open(part.name) as storage:
                total += storage.size
                found = digests(storage, ["sha1"])["sha1"]
            if found == part.digest:
                yield Verdict(part.name, "good", "SHA1")
            else:
                detail = f"it is {found}, not {part.digest}"
                yield Verdict(part.name, "bad", "SHA1", detail)
        if complete and total != self.manifest.bundled_size:
            detail = f"the parts have {total} bytes, not {self.manifest.bundled_size}"
            yield Verdict(self.manifest_name, "bad", "bundled_size", detail)
        yield self._signature(trust)

    def _signature(self, trust: bytes | None) -> Verdict:
        what = "RSA, SHA1"
        if not self.manifest.signature:
            return Verdict("signature", "missing", what)
        if trust is None:
            detail = "no certificate was given to verify it with"
            return Verdict("signature", "unknown", what, detail)
        certificates = certificates_of(trust, "the trusted certificates")
        if verified(certificates, self.manifest.signature, signed_text(self._text)):
            return Verdict("signature", "good", what)
        detail = "it is not that of the manifest as it is now by any certificate given"
        return Verdict("signature", "bad", what, detail)

    def close(self) -> None:
        while self._inner:
            self._inner.pop().close()
        super().close()


def open(folder: Folder, claim: Claim) -> Ec2Bundle:
    """The bundle in ``folder``. Raises FormatError, UnsupportedFeature, UnsafeImage."""
    index = getattr(folder, "index", "")
    found = [name for name in folder.names() if name.lower().endswith(_ENDING)]
    if index and folder.exists(index):
        return Ec2Bundle(folder, index)
    if not found:
        raise FormatError(f"{folder.name}: holds no {_ENDING}")
    if len(found) > 1:
        names = ", ".join(textual(name) for name in found[:4])
        raise OptionError(f"{folder.name}: holds {len(found)} bundles: name one of {names}")
    return Ec2Bundle(folder, found[0])
