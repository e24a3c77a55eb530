"""Docker's image archives (docker save): manifest.json lists images, each with layers and settings.

Old ones keep each layer as <id>/layer.tar; since version 25 the archive is an OCI layout as well,
and manifest.json names its blobs. Sources: Docker's image specification 1.2 and 1.3. Imports image.
"""

from __future__ import annotations

import re
from typing import Any, Final

from vmimg.bundles.containers.image import (
    MAX_LAYERS,
    Blob,
    ContainerImage,
    Image,
    diff_ids_of,
)
from vmimg.bundles.containers.making import make_docker as make
from vmimg.bundles.texts import need, read_json, textual
from vmimg.errors import FormatError
from vmimg.probe.claims import Claim
from vmimg.storage.folder import Folder, joined

__all__ = ["DockerArchive", "make", "open"]

_MAX_IMAGES: Final = 256
_BY_DIGEST: Final = re.compile(r"(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json|\.tar)?", re.ASCII)


class DockerArchive(ContainerImage):
    """What `docker save` writes."""

    kind = "docker"


def open(folder: Folder, claim: Claim) -> DockerArchive:
    """The images in ``folder``. Raises FormatError, StorageError, UnsafeImage."""
    listed = read_json(folder, "manifest.json", list)
    where = f"{folder.name}: 'manifest.json'"
    if len(listed) > _MAX_IMAGES:
        raise FormatError(f"{where}: lists {len(listed)} images")
    images = tuple(_image(folder, entry, where) for entry in listed)
    return DockerArchive(folder, images, ())


def _image(folder: Folder, said: Any, where: str) -> Image:
    if not isinstance(said, dict):
        raise FormatError(f"{where}: lists what is no image")
    config, layers, tags = said.get("Config"), said.get("Layers"), said.get("RepoTags")
    if not isinstance(config, str) or not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise FormatError(f"{where}: lists an image without a configuration or layers")
    if not all(isinstance(layer, str) for layer in layers):
        raise FormatError(f"{where}: names a layer by what is no name")
    settings = read_json(folder, need(folder, joined("manifest.json", config), "manifest.json"))
    platform = [textual(settings.get(key), 32) for key in ("os", "architecture")]
    return Image(
        _named(config),
        tuple(_named(layer) for layer in layers),
        settings,
        diff_ids_of(settings),
        tuple(textual(tag, 128) for tag in tags[:16]) if isinstance(tags, list) else (),
        "/".join(platform) if all(platform) else "",
    )


def _named(name: str) -> Blob:
    """A member; its name is its digest, for some."""
    member = joined("manifest.json", name)
    found = _BY_DIGEST.fullmatch(member)
    return Blob(member, f"sha256:{found[1]}" if found else "")
