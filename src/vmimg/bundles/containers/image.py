"""One image of a container: its configuration and its layers, by the members that hold them.

Sources: see the package. Imports texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vmimg.bundles.bundle import Bundle, BundleDisk, Verdict
from vmimg.bundles.containers.layers import DISK_FOLDER, Layers, digest_of, unpacked_digest
from vmimg.bundles.texts import architecture_of, textual
from vmimg.errors import FormatError, VmimgError
from vmimg.machines.model import Drive, Machine
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = ["MAX_LAYERS", "Blob", "ContainerImage", "Image", "blob_name", "diff_ids_of"]

MAX_LAYERS: Final = 1024
_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", re.ASCII)
_MAX_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class Blob:
    """A member that something refers to. ``digest``: "sha256:...", "" where none is said; ``size``:
    bytes as is said, -1 where it is not. ``media``: its type.
    """

    member: str
    digest: str = ""
    size: int = -1
    media: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """``layers`` from the lowest on. ``diff_ids``: digests of the layers, unpacked."""

    config: Blob
    layers: tuple[Blob, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    diff_ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    platform: str = ""


class ContainerImage(Bundle):
    """Images of containers in one archive or directory; ``blobs``: what else is referred to.

    The disks are looked for when they are first asked for: layers may have to be unpacked for it.
    """

    images: tuple[Image, ...] = ()
    blobs: tuple[Blob, ...] = ()

    def __init__(self, folder: Folder, images: tuple[Image, ...], blobs: tuple[Blob, ...]) -> None:
        super().__init__(folder)
        self.images = images
        self.blobs = blobs
        self._layers = Layers(folder)
        self._disks: tuple[BundleDisk, ...] | None = None
        self._machines: list[Machine] = []
        self._where: dict[str, tuple[str, str]] = {}
        self.facts = self._facts()

    @property
    def disks(self) -> tuple[BundleDisk, ...]:  # type: ignore[override]
        """Files below /disk of each image, as far as they are images of disks by their names."""
        if self._disks is None:
            self._disks = tuple(self._found())
        return self._disks

    @property
    def machines(self) -> tuple[Machine, ...]:  # type: ignore[override]
        """One for each image with a disk: its architecture is known, and nothing else."""
        return tuple(self._machines) if self.disks else ()

    def storage(self, disk: BundleDisk) -> Storage:
        layer, name = self._where[disk.name]
        return self._layers.folder(layer).open(name)

    def verify(self, *, trust: bytes | None = None) -> Iterator[Verdict]:
        seen: set[tuple[str, str]] = set()
        blobs = [*self.blobs]
        for image in self.images:
            blobs += [image.config, *image.layers]
        for blob in blobs:
            if (blob.member, blob.digest) not in seen:
                seen.add((blob.member, blob.digest))
                yield self._verdict(blob)
        for image in self.images:
            for layer, diff_id in zip(image.layers, image.diff_ids, strict=False):
                key = (layer.member, f"unpacked {diff_id}")
                if key not in seen and self.folder.exists(layer.member):
                    seen.add(key)
                    yield self._unpacked(layer, diff_id)
            if len(image.diff_ids) != len(image.layers) and image.settings:
                said, have = len(image.diff_ids), len(image.layers)
                detail = f"it lists {said} layers, the manifest {have}"
                yield Verdict(image.config.member, "bad", "diff_ids", detail)

    def close(self) -> None:
        self._layers.close()
        super().close()

    def _verdict(self, blob: Blob) -> Verdict:
        what = blob.digest.partition(":")[0]
        if not self.folder.exists(blob.member):
            return Verdict(blob.member, "missing", what)
        size = self.folder.size(blob.member)
        if blob.size >= 0 and size != blob.size:
            detail = f"it has {size} bytes, not {blob.size}"
            return Verdict(blob.member, "bad", "size", detail)
        if not blob.digest:
            return Verdict(blob.member, "unlisted")
        with self.folder.open(blob.member) as storage:
            found = digest_of(storage, what)
        if found == blob.digest:
            return Verdict(blob.member, "good", what)
        return Verdict(blob.member, "bad", what, f"it is {found}, not {blob.digest}")

    def _unpacked(self, layer: Blob, diff_id: str) -> Verdict:
        what = "diff_id"
        try:
            with self.folder.open(layer.member) as storage:
                found = unpacked_digest(storage)
        except VmimgError as error:
            return Verdict(layer.member, "unknown", what, str(error))
        if found == diff_id:
            return Verdict(layer.member, "good", what)
        return Verdict(layer.member, "bad", what, f"unpacked it is {found}, not {diff_id}")

    def _found(self) -> Iterator[BundleDisk]:
        taken: set[str] = set()
        for image in self.images:
            # What a build attests is kept as an image too, whose layers are texts.
            layers = [
                layer.member
                for layer in image.layers
                if "tar" in (layer.media or "tar") and self.folder.exists(layer.member)
            ]
            found = self._layers.disks(layers)
            if found:
                drives = tuple(
                    Drive(path=member, slot=slot) for slot, (_, member) in enumerate(found)
                )
                architecture = architecture_of(image.settings.get("architecture"))
                title = image.platform if len(self.images) > 1 else ""
                self._machines.append(Machine(title, architecture=architecture, drives=drives))
            for slot, (layer, member) in enumerate(found):
                base = member.rpartition("/")[2]
                name = base.rpartition(".")[0] or base
                if name in taken and image.platform:
                    name = f"{name}-{image.platform.replace('/', '-')}"
                while name in taken:
                    name += "-"
                taken.add(name)
                self._where[name] = (layer, member)
                format = "" if not base.endswith((".raw",)) else "raw"
                drive = (len(self._machines) - 1, slot)
                yield BundleDisk(name, f"{layer}:{member}", format, drive=drive)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"images": len(self.images)}
        tags = [tag for image in self.images for tag in image.tags]
        if tags:
            facts["tags"] = tags[:_MAX_SHOWN]
        platforms = [image.platform for image in self.images if image.platform]
        if platforms:
            facts["platforms"] = platforms[:_MAX_SHOWN]
        for image in self.images[:1]:
            for key in ("created", "author"):
                if textual(image.settings.get(key)):
                    facts[key] = textual(image.settings[key])
            facts["layers"] = [
                f"{layer.member} ({self.folder.size(layer.member)} bytes)"
                if self.folder.exists(layer.member)
                else f"{textual(layer.member)} (missing)"
                for layer in image.layers[:_MAX_SHOWN]
            ]
        facts["disk-folder"] = f"/{DISK_FOLDER}"
        return facts


def blob_name(digest: Any, where: str) -> str:
    """The member of an OCI layout for a digest. Raises FormatError for what is none."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise FormatError(f"{where}: refers to '{textual(digest, 80)}', which is no digest")
    return "blobs/" + digest.replace(":", "/")


def diff_ids_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Digests of the layers, unpacked, as a configuration says them."""
    roots = settings.get("rootfs")
    listed = roots.get("diff_ids") if isinstance(roots, dict) else None
    if not isinstance(listed, list):
        return ()
    return tuple(each for each in listed[:MAX_LAYERS] if isinstance(each, str))
