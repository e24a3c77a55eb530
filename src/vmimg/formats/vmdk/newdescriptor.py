"""NewDescriptor: the text that describes a new disk, as VMware's own tools write it.

::

    # Disk DescriptorFile          version, encoding, CID, parentCID, createType, parentFileNameHint
    # Extent description           a line for each file of data: access, sectors, type, name, offset
    # The Disk Data Base           ddb.*: controller, geometry, identity, versions

Lines end in a line feed; names are UTF-8. Text from VMware Workstation, vSphere's exports and
open-vmdk was compared; where they differ, the comments say what was taken. Spec: VMware "Virtual
Disk Format 5.0", "The Descriptor File".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import OptionError
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.vmdk import structures as s
from vmimg.formats.vmdk.geometry import disk_geometry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ExtentLine", "NewDescriptor"]

_CREATE_TYPES: Final = {
    # How a file on VMFS is allocated is no matter of the format: ESX writes "vmfs" for all three,
    # and QEMU refuses the other two words.
    "vmfsThin": "vmfs",
    "vmfsEagerZeroedThick": "vmfs",
}
_ESX: Final = frozenset({"vmfs", "vmfsThin", "vmfsEagerZeroedThick", "vmfsSparse"})
_WITH_PARENT: Final = (
    "monolithicSparse",
    "twoGbMaxExtentSparse",
    "streamOptimized",
    "vmfsSparse",
)
_WITH_ZEROED_GRAINS: Final = ("monolithicSparse", "twoGbMaxExtentSparse")

# VMware Tools that nobody manages from outside (open-vm-tools), of any version: 2^31 - 1.
_UNMANAGED_TOOLS: Final = "2147483647"
_UNMANAGED_INSTALL: Final = "4"
_HW_VERSION: Final = "4"
_HW_VERSION_COMPAT6: Final = "6"

# VMware's disks have NAA identifiers with its OUI 000C29: 6-000c29-...
_UUID_PREFIX: Final = "6000c29"


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One file of data: ``type`` is SPARSE, FLAT, VMFS or VMFSSPARSE; ``offset`` in sectors."""

    sectors: int
    type: str
    name: str
    offset: int | None = None


class NewDescriptor:
    """What is decided of a new disk of ``size`` bytes before anything is placed.

    ``options``: parsed; ``parent``, ``base`` and ``name`` as for Driver.writer. Raises OptionError
    for options that do not fit together, with the words of what to change.
    """

    def __init__(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None,
        base: Layer | None,
        name: str,
    ) -> None:
        self.size = size
        self.sectors = -(-size // s.SECTOR)
        self.subformat = str(options["subformat"])
        self.zeroed_grain = bool(options.get("zeroed_grain"))
        self.name = name
        self._adapter_type = str(options.get("adapter_type") or self._default_adapter())
        self._hw_version = _hw_version(options)
        self._tools_version = _tools_version(options)
        self._parent_hint = None if parent is None else parent.path
        self._parent_cid = s.NO_PARENT_CID
        if self.zeroed_grain and self.subformat not in _WITH_ZEROED_GRAINS:
            raise OptionError(
                f"zeroed_grain=on needs subformat={' or '.join(_WITH_ZEROED_GRAINS)}, "
                f"not {self.subformat}"
            )
        if parent is not None:
            if self.subformat not in _WITH_PARENT:
                raise OptionError(
                    f"a {self.subformat} disk cannot have a parent; "
                    f"subformat={', '.join(_WITH_PARENT)} can"
                )
            self._parent_cid = _cid_of(parent, base)
        for text in (name, self._parent_hint, self._hw_version, self._tools_version):
            if text is not None and not _fits(text):
                raise OptionError(
                    f"{text!r} cannot stand in a VMDK descriptor: quotation marks and control "
                    "characters have no place there"
                )
        facts = (
            size,
            sorted((key, value) for key, value in options.items() if value is not None),
            name,
            self._parent_hint,
            self._parent_cid,
        )
        self._identity = hashlib.blake2b(repr(facts).encode("utf-8", "surrogateescape"))

    @property
    def has_parent(self) -> bool:
        """Whether the disk stands above another one."""
        return self._parent_hint is not None

    @property
    def stem(self) -> str:
        """What the names of the disk's other files begin with."""
        short = self.name[:-5] if self.name.lower().endswith(".vmdk") else self.name
        return short or self.name

    def placed(self, blocks: NDArray[np.int64]) -> None:
        """Let the identity of the disk depend on which blocks hold data.

        A CID stands for a content: a child finds by it that its parent has changed. VMware draws a
        new one at random with every first write; here the same content shall give the same file.
        A writer never sees the content, but does see which blocks there are, and mixes them in
        where the descriptor is written after them. So two disks have the same CID when they agree
        in name, size, options and in the places of their data: a parent that was made anew with
        other data in exactly the same blocks looks unchanged to its children.
        """
        self._identity.update(blocks.tobytes())

    def placed_zeros(self, blocks: NDArray[np.int64]) -> None:
        """Like `placed`, for blocks that hide a parent's."""
        self._identity.update((~blocks).tobytes())

    def render(self, extents: Sequence[ExtentLine]) -> bytes:
        """The descriptor, with the identity as it is now."""
        cid, long_content_id, uuid = self._identifiers()
        geometry = disk_geometry(self.sectors, self._adapter_type)
        lines = [
            "# Disk DescriptorFile",
            "version=1",
            'encoding="UTF-8"',
            f"CID={cid:08x}",
            f"parentCID={self._parent_cid:08x}",
            'isNativeSnapshot="no"',
            f'createType="{_CREATE_TYPES.get(self.subformat, self.subformat)}"',
        ]
        if self._parent_hint is not None:
            lines.append(f'parentFileNameHint="{self._parent_hint}"')
        lines += ["", "# Extent description", *map(_extent_line, extents)]
        lines += [
            "",
            "# The Disk Data Base",
            "#DDB",
            "",
            f'ddb.adapterType = "{self._adapter_type}"',
            f'ddb.geometry.cylinders = "{geometry.cylinders}"',
            f'ddb.geometry.heads = "{geometry.heads}"',
            f'ddb.geometry.sectors = "{geometry.sectors}"',
            f'ddb.longContentID = "{long_content_id}"',
        ]
        if self.subformat == "vmfsThin":
            lines.append('ddb.thinProvisioned = "1"')
        if self._streamed:
            lines.append(f'ddb.toolsInstallType = "{_UNMANAGED_INSTALL}"')
        lines.append(f'ddb.toolsVersion = "{self._tools_version}"')
        # Two disks of one machine with the same uuid are one disk with two paths to a guest, so it
        # is made from the name as well: empty disks of one size differ in nothing else.
        lines.append(f'ddb.uuid = "{uuid}"')
        lines += [f'ddb.virtualHWVersion = "{self._hw_version}"', ""]
        return "\n".join(lines).encode("utf-8", "surrogateescape")

    def render_embedded(self, extents: Sequence[ExtentLine], sectors: int) -> bytes:
        """Like `render`, padded with zeros to ``sectors``. OptionError when it does not fit."""
        text = self.render(extents)
        room = sectors * s.SECTOR
        if len(text) >= room:
            raise OptionError(
                f"the descriptor takes {len(text)} bytes and has room for {room}: "
                "the name of the image or of its parent is too long"
            )
        return text.ljust(room, b"\0")

    @property
    def _streamed(self) -> bool:
        return self.subformat == "streamOptimized"

    def _default_adapter(self) -> str:
        # What is imported and what ESX has is at a SCSI controller; hosted disks, as qemu-img and
        # older Workstations make them, are at IDE, which every guest has a driver for.
        return "lsilogic" if self.subformat in _ESX or self._streamed else "ide"

    def _identifiers(self) -> tuple[int, str, str]:
        """CID, longContentID and uuid."""
        digest = self._identity.digest()
        cid = int.from_bytes(digest[:4])
        if cid in (0, s.UNKNOWN_CID, s.NO_PARENT_CID):  # two of them mean something, and 0 might
            cid = 1
        # The last eight digits of the long one are the short one.
        long_content_id = f"{digest[4:16].hex()}{cid:08x}"
        uuid = bytes.fromhex((_UUID_PREFIX + digest[16:32].hex())[:32])
        # As VMware spells it, with a capital in its own part and none in the rest.
        return cid, long_content_id, f"60 00 C2 {uuid[3:8].hex(' ')}-{uuid[8:].hex(' ')}"


def _cid_of(parent: ParentRef, base: Layer | None) -> int:
    cid = getattr(base, "cid", None)
    if isinstance(cid, int):
        return cid
    if base is None:
        raise OptionError(
            f"{parent.path}: a VMDK names its parent by the parent's CID, so that the parent "
            "must be there and be looked at"
        )
    raise OptionError(f"{parent.path}: the parent of a VMDK is a VMDK, not {base.format}")


def _hw_version(options: Mapping[str, OptionValue]) -> str:
    given = str(options.get("hwversion") or _HW_VERSION)
    if not options.get("compat6"):
        return given
    if given not in (_HW_VERSION, _HW_VERSION_COMPAT6):
        raise OptionError(f"compat6=on is hwversion=6, and hwversion={given} was given")
    return _HW_VERSION_COMPAT6


def _tools_version(options: Mapping[str, OptionValue]) -> str:
    given = {str(options[key]) for key in ("tools_version", "toolsversion") if options.get(key)}
    if len(given) > 1:
        raise OptionError("tools_version and toolsversion are the same option: give one of them")
    return given.pop() if given else _UNMANAGED_TOOLS


def _fits(text: str) -> bool:
    return not any(character < " " or character in '"\x7f' for character in text)


def _extent_line(extent: ExtentLine) -> str:
    line = f'RW {extent.sectors} {extent.type} "{extent.name}"'
    return line if extent.offset is None else f"{line} {extent.offset}"
