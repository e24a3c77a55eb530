"""OCI image layouts, in a tar or a directory: oci-layout, index.json, blobs/sha256/...

An index lists manifests, or further indexes (one for each platform); a manifest names the
configuration and the layers by digest. Sources: OCI image specification 1.1: image-layout.md,
image-index.md, manifest.md. Imports image and making.
"""

from __future__ import annotations

from typing import Any, Final

from vmimg.bundles.containers import docker
from vmimg.bundles.containers.image import (
    MAX_LAYERS,
    Blob,
    ContainerImage,
    Image,
    blob_name,
    diff_ids_of,
)
from vmimg.bundles.containers.making import make_oci as make
from vmimg.bundles.texts import read_json, textual
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder

__all__ = ["OCIImage", "make", "open"]

_MAX_MANIFESTS: Final = 256
_MAX_DEPTH: Final = 4
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_NAME: Final = "org.opencontainers.image.ref.name"
_FULL_NAME: Final = "io.containerd.image.name"


class OCIImage(ContainerImage):
    """An OCI image layout."""

    kind = "oci"


def open(folder: Folder, claim: Claim) -> ContainerImage:
    """The images in ``folder``. Raises FormatError, UnsupportedFeature."""
    # What is told by the disk in it may be either.
    if claim.container_format == "docker":
        return docker.open(folder, claim)
    layout = read_json(folder, "oci-layout")
    version = layout.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        shown = textual(version, 32)
        raise UnsupportedFeature(f"{folder.name}: is an OCI layout of version '{shown}', not 1")
    reader = _Reader(folder)
    reader.index(read_json(folder, "index.json"), "index.json", 0)
    return OCIImage(folder, tuple(reader.images), tuple(reader.blobs))


class _Reader:
    """Follows indexes to manifests."""

    def __init__(self, folder: Folder) -> None:
        self.images: list[Image] = []
        self.blobs: list[Blob] = []
        self._folder = folder
        self._seen: set[str] = set()

    def index(self, said: dict[str, Any], where: str, depth: int) -> None:
        """Everything that an index lists."""
        shown = f"{self._folder.name}: '{where}'"
        if depth > _MAX_DEPTH:
            raise FormatError(f"{shown}: lies {depth} indexes deep")
        listed = said.get("manifests")
        if not isinstance(listed, list):
            raise FormatError(f"{shown}: lists no manifests")
        if len(listed) + len(self.blobs) > _MAX_MANIFESTS:
            raise FormatError(f"{shown}: lists more than {_MAX_MANIFESTS} manifests")
        for entry in listed:
            blob = self._blob(entry, shown)
            self.blobs.append(blob)
            # What another file of a registry holds may be missing here; verify says so.
            if blob.member in self._seen or not self._folder.exists(blob.member):
                continue
            self._seen.add(blob.member)
            inner = read_json(self._folder, blob.member)
            if blob.media in _INDEXES or "manifests" in inner:
                self.index(inner, blob.member, depth + 1)
            elif isinstance(inner.get("layers"), list) and isinstance(inner.get("config"), dict):
                self._image(inner, blob, entry)

    def _image(self, said: dict[str, Any], manifest: Blob, entry: dict[str, Any]) -> None:
        shown = f"{self._folder.name}: '{manifest.member}'"
        config = self._blob(said["config"], shown)
        if len(said["layers"]) > MAX_LAYERS:
            raise FormatError(f"{shown}: has more than {MAX_LAYERS} layers")
        layers = tuple(self._blob(layer, shown) for layer in said["layers"])
        settings: dict[str, Any] = {}
        if self._folder.exists(config.member) and config.media.endswith("json"):
            settings = read_json(self._folder, config.member)
        notes = entry.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        tag = textual(notes.get(_FULL_NAME) or notes.get(_NAME), 128)
        platform = [textual(settings.get(key), 32) for key in ("os", "architecture")]
        self.images.append(
            Image(
                config, layers, settings, diff_ids_of(settings), (tag,) if tag else (),
                "/".join(platform) if all(platform) else "",
            )
        )  # fmt: skip

    def _blob(self, said: Any, where: str) -> Blob:
        if not isinstance(said, dict):
            raise FormatError(f"{where}: has a descriptor that is no object")
        member = blob_name(said.get("digest"), where)
        size, media = said.get("size"), said.get("mediaType")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise FormatError(f"{where}: does not say the size of '{member}'")
        return Blob(member, said["digest"], size, media if isinstance(media, str) else "")
