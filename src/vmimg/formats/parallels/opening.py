"""Opening a Parallels image: a file by itself, or a bundle of them.

The states of a bundle become layers, each `beneath` the one that was made above it. A state is one
image file, or several in a row where the disk is split. Files that the descriptor names are opened
by ``companions`` and by nothing else. Imports the layers of this package.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from uuid import UUID

from vmimg.disk.concat import ConcatLayer
from vmimg.disk.layer import Layer
from vmimg.disk.views import EmptyLayer
from vmimg.errors import ChainError, FormatError, UnsafeImage, UnsupportedFeature
from vmimg.formats.driver import Companions
from vmimg.formats.parallels.bundle import Descriptor, Image, StorageRange, braced
from vmimg.formats.parallels.header import read_header
from vmimg.formats.parallels.layer import ParallelsLayer
from vmimg.formats.parallels.plain import PlainLayer
from vmimg.formats.vetting import printable
from vmimg.storage.base import Storage

__all__ = ["open_bundle", "open_companion", "open_file"]


class SplitLayer(ConcatLayer):
    """One state of a split disk. ``others``: further files, which are closed with it."""

    def __init__(self, parts: Sequence[Layer], *, name: str, others: Sequence[Storage]) -> None:
        super().__init__(parts)
        self.name = name
        self.format = "parallels"
        self._others = tuple(others)

    def close(self) -> None:
        try:
            super().close()
        finally:
            for other in self._others:
                other.close()


def open_file(storage: Storage, *, writable: bool) -> Layer:
    """The layer of an expanding image that lies in a file of its own."""
    header = read_header(storage)
    if not writable:
        return ParallelsLayer(storage, header)
    from vmimg.formats.parallels.allocation import WritableParallelsLayer

    return WritableParallelsLayer(storage, header)


def open_bundle(
    storage: Storage,
    descriptor: Descriptor,
    *,
    writable: bool,
    companions: Companions,
    snapshot: str | None,
) -> Layer:
    """The layer of the present state, or of the snapshot with that GUID, with all of those beneath.

    Raises FormatError, ChainError, UnsupportedFeature, and what ``companions`` raises.
    """
    if descriptor.refusal:
        raise UnsupportedFeature(f"{descriptor.name}: {descriptor.refusal}")
    top = descriptor.top if snapshot is None else descriptor.state(snapshot)
    layer: Layer | None = None
    for guid in reversed(descriptor.chain(top)):
        first = guid == top
        layer = _open_state(
            descriptor,
            guid,
            layer,
            writable=writable and first,
            companions=companions,
            others=(storage,) if first else (),
            present=guid == descriptor.top,
        )
    assert layer is not None
    layer.name = storage.name  # what people know the image by; those beneath, by their files
    return layer


def open_companion(named: str, companions: Companions, *, read_only: bool) -> Storage:
    """The image file that a descriptor names. Where that is a path on another machine, the file of
    the same name beside the descriptor, if there is one: bundles are moved.
    """
    role = "image"
    try:
        return companions(named, role, read_only=read_only)
    except (ChainError, UnsafeImage):
        last = posixpath.basename(named)
        if not posixpath.isabs(named) or not last:
            raise
        try:
            return companions(last, role, read_only=read_only)
        except (ChainError, UnsafeImage):
            pass
        raise


def _open_state(
    descriptor: Descriptor,
    guid: UUID,
    beneath: Layer | None,
    *,
    writable: bool,
    companions: Companions,
    others: Sequence[Storage],
    present: bool,
) -> Layer:
    storages = descriptor.storages
    split = len(storages) > 1
    parts = list[Layer]()
    for number, storage in enumerate(storages):
        image = descriptor.image(storage, guid)
        if image.plain and beneath is not None:
            raise FormatError(
                f"{descriptor.name}: the image of the snapshot {braced(guid)} is plain, but above "
                "another only expanding images can be"
            )
        last = number + 1 == len(storages)
        for part in _open_part(
            descriptor, storage, image, writable, companions, () if split else others, last, present
        ):
            part.beneath = beneath
            parts.append(part)
    if not split:
        return parts[0]
    joined = SplitLayer(parts, name=parts[0].name, others=others)
    if writable and beneath is not None and not joined.aligned:
        raise UnsupportedFeature(
            f"{descriptor.name}: its pieces do not end on whole clusters: it cannot be written in "
            "place above a snapshot; convert it first"
        )
    joined.beneath = beneath
    return joined


def _open_part(
    descriptor: Descriptor,
    storage: StorageRange,
    image: Image,
    writable: bool,
    companions: Companions,
    others: Sequence[Storage],
    last: bool,
    present: bool,
) -> Iterator[Layer]:
    """The layer of one image, and what is missing behind it in its storage."""
    # Snapshots may lie where nobody may write.
    file = open_companion(image.file, companions, read_only=not writable)
    what = f"{descriptor.name}: the image '{printable(image.file)}'"
    size = storage.end - storage.start
    if image.plain:
        if size > file.size:
            raise FormatError(
                f"{what} should have {size} bytes, and has {file.size}: it is truncated"
            )
        yield PlainLayer(file, size, writable=writable, others=others)
        return
    header = read_header(file)
    if header.size < size and present:
        raise FormatError(
            f"{what} should be a disk of {size} bytes, and its header says {header.size}"
        )
    size, missing = min(size, header.size), size - min(size, header.size)
    if writable:
        from vmimg.formats.parallels.allocation import WritableParallelsLayer

        yield WritableParallelsLayer(file, header, size=size, file=file.name, others=others)
    else:
        yield ParallelsLayer(file, header, size=size, file=file.name, others=others)
    # Disks grow: what is older is shorter.
    if missing and not last:
        yield EmptyLayer(missing)
