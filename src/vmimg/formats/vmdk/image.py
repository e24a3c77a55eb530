"""VmdkImage: what the extents of one VMDK share: the descriptor, its CID, and the files. No numpy.

The CID is how a delta knows that its parent is still what it was. It changes with the first write
after opening, before any data does, in place in the descriptor.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import FormatError
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.descriptor import Descriptor

if TYPE_CHECKING:
    from vmimg.storage.base import Storage

__all__ = ["VmdkImage", "VmdkLayer", "parent_of"]


class VmdkImage:
    """One image: ``storage`` is the file that was opened, ``files`` the further ones it names.

    ``text_offset``: where in ``storage`` the descriptor begins.
    """

    def __init__(
        self, storage: Storage, descriptor: Descriptor | None = None, text_offset: int = 0
    ) -> None:
        self.storage = storage
        self.descriptor = descriptor
        self.text_offset = text_offset
        self.files: dict[str, Storage] = {}
        self.cid = descriptor.cid if descriptor is not None else None
        self._touched = False
        self._lock = threading.Lock()

    def touch(self) -> None:
        """Called before anything is changed: gives the image another CID, the first time."""
        if self._touched:
            return
        with self._lock:
            if self._touched:
                return
            place = self.descriptor.cid_place if self.descriptor is not None else None
            if place is not None and self.cid is not None:
                start, digits = place
                cid = _new_cid(self.cid, digits)
                self.storage.write(self.text_offset + start, f"{cid:0{digits}x}".encode())
                self.storage.flush()
                self.cid = cid
            self._touched = True

    def close(self) -> None:
        """Close all files."""
        for storage in self.files.values():
            storage.close()
        self.storage.close()


class VmdkLayer(Layer):
    """What all layers of a VMDK have: its identity. Combined with a class that has the data."""

    format = "vmdk"
    storage: Storage
    """The file that was opened: the descriptor's, where the extents lie in others."""
    image: VmdkImage
    owns_image: bool = False
    """Whether closing this layer closes the files of the image: the outermost one does."""

    def adopt(self, image: VmdkImage, parent: ParentRef | None, *, writable: bool) -> None:
        """Become the layer of the whole image."""
        self.image = image
        self.owns_image = True
        self.storage = image.storage
        self.name = image.storage.name
        self.parent = parent
        self.writable = writable

    @property
    def cid(self) -> int | None:
        """The content identifier as it is now; None where there is no descriptor."""
        return self.image.cid

    def parent_mismatch(self, parent: Layer) -> str | None:
        descriptor = self.image.descriptor
        if descriptor is None or descriptor.parent_cid is None:
            return None
        if not isinstance(parent, VmdkLayer) or parent.cid is None:
            return None
        if parent.cid == descriptor.parent_cid:
            return None
        return (
            f"has the CID {parent.cid:08x}, and the image was made above "
            f"{descriptor.parent_cid:08x}: it is another one, or was changed since"
        )


def parent_of(descriptor: Descriptor | None, name: str) -> ParentRef | None:
    """The parent that the descriptor of the image ``name`` names."""
    if descriptor is None or descriptor.parent_hint is None:
        return None
    hint = descriptor.parent_hint
    if len(hint) > 4096:
        raise FormatError(f"{name}: the name of its parent has {len(hint)} characters")
    # Written on the machine where the delta was made: C:\VMs\base.vmdk, /vmfs/volumes/...
    last = hint.replace("\\", "/").rpartition("/")[2]
    return ParentRef(hint, "vmdk", (last,) if last not in ("", hint) else ())


def _new_cid(old: int, digits: int) -> int:
    """A random CID of so many digits that is not ``old`` nor has a meaning of its own."""
    import secrets  # takes longer to import than this module, and reading needs none

    while True:
        cid = secrets.randbits(4 * digits)
        if cid not in (old, s.NO_PARENT_CID, s.UNKNOWN_CID):
            return cid
