"""UEFI firmware: the volumes of a flash image, and the store of variables in one of them.

A flash image is a row of firmware volumes, with padding between them. A volume has a header with a
checksum and a map of blocks; that with the variables (OVMF_VARS.fd, and the .nvram of VirtualBox)
has a variable store behind its header.

Sources: the UEFI Platform Initialization specification 1.8 volume 3 (volumes), EDK II's
MdeModulePkg/Include/Guid/VariableFormat.h (stores), UEFI specification 2.10 section 23.3
(capsules); the PCI Firmware specification 3.3 section 5 and the BIOS Boot specification (option
ROMs). Imports storage.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

from vmimg.formats.raw.findings import View, as_guid
from vmimg.storage.base import NotHeld

__all__ = [
    "CapsuleHeader",
    "OptionRom",
    "Variable",
    "VariableStore",
    "Volume",
    "find_volumes",
    "read_capsule",
    "read_option_rom",
    "read_store",
    "read_volume",
]

FILE_SYSTEMS: Final = {
    "7a9354d9-0468-444a-81ce-0bf617d890df": "FFS 1",
    "8c8ce578-8a3d-4f1c-9935-896185c32dd3": "FFS 2",
    "5473c07a-3dcb-4dca-bd6f-1e9689e7349a": "FFS 3",
    "fff12b8d-7696-4c8b-a985-2747075b4f50": "variables",
    "00504624-8a59-4eeb-bd0f-6b36e96128e0": "variables (Apple)",
    "04adeead-61ff-4d31-b6ba-64f8bf901f5a": "Apple boot volume",
}
_STORES: Final = {
    "aaf32c78-947b-439a-a180-2e144ec37792": "authenticated",
    "ddcf3616-3275-4164-98b6-fe85707ffe7d": "plain",
}
CAPSULES: Final = {
    "6dcbd5ed-e82d-4c44-bda1-7194199ad92a": "firmware management",
    "3b6686bd-0d76-4030-b70e-b5519e2fc5a0": "EFI",
    "4a3ca68b-7723-48fb-803d-578cc1fec44d": "AMI Aptio, signed",
    "14eebb90-890a-43db-aed1-5d3c4588a418": "AMI Aptio",
    "539182b9-abb5-4391-b69a-e3a943f72fcc": "Intel",
}
_SIGNATURE: Final = b"_FVH"
_MAX_HEADER: Final = 4096
_MAX_VOLUMES: Final = 32
# Where a volume may begin: on a block of the flash. AAVMF has a jump in front of its first.
_STEP: Final = 4096
_MAX_STEPS: Final = 256
_MAX_VARIABLES: Final = 2000
_VARIABLE_START: Final = 0x55AA
# Bits are cleared as a variable is written, and deleted.
VAR_ADDED: Final = 0x3F


class VolumeHeader(ctypes.LittleEndianStructure):
    """EFI_FIRMWARE_VOLUME_HEADER without the map of blocks behind it."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("zero_vector", ctypes.c_uint8 * 16),
        ("file_system_guid", ctypes.c_uint8 * 16),
        ("fv_length", ctypes.c_uint64),
        ("signature", ctypes.c_char * 4),
        ("attributes", ctypes.c_uint32),
        ("header_length", ctypes.c_uint16),
        ("checksum", ctypes.c_uint16),
        ("ext_header_offset", ctypes.c_uint16),
        ("reserved", ctypes.c_uint8),
        ("revision", ctypes.c_uint8),
    )


@dataclass(slots=True)
class Volume:
    """A firmware volume at ``offset``. ``blocks``: the bytes that its map of blocks adds up to, or
    None where the map does not end in the header.
    """

    offset: int
    header: VolumeHeader
    kind: str
    good_sum: bool
    blocks: int | None

    @property
    def size(self) -> int:
        """In bytes, as it says."""
        return int(self.header.fv_length)

    @property
    def holds_variables(self) -> bool:
        """Whether it is for variables, by its GUID."""
        return self.kind.startswith("variables")


def read_volume(view: View, at: int) -> Volume | None:
    """The volume at ``at``; None where there is none, or a header that cannot be."""
    header = view.structure(VolumeHeader, at)
    if header is None or header.signature != _SIGNATURE:
        return None
    length = int(header.header_length)
    if not ctypes.sizeof(VolumeHeader) + 8 <= length <= _MAX_HEADER or length % 2:
        return None
    data = view.read(at, length)
    if len(data) < length:
        return None
    words = (int.from_bytes(data[i : i + 2], "little") for i in range(0, length, 2))
    guid = as_guid(header.file_system_guid)
    return Volume(
        at,
        header,
        FILE_SYSTEMS.get(guid, guid),
        sum(words) & 0xFFFF == 0,
        _block_map(data[ctypes.sizeof(VolumeHeader) :]),
    )


def _block_map(data: bytes) -> int | None:
    total = 0
    for at in range(0, len(data) - 7, 8):
        count = int.from_bytes(data[at : at + 4], "little")
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if not count and not length:
            return total
        total += count * length
    return None


def find_volumes(view: View) -> list[Volume]:
    """The volumes of the flash image, in order, up to the first gap of 1 MiB, or to what was not
    seen of a stream.
    """
    volumes: list[Volume] = []
    at = steps = 0
    while at < view.size and steps < _MAX_STEPS and len(volumes) < _MAX_VOLUMES:
        try:
            volume = read_volume(view, at)
        except NotHeld:
            break
        if volume is None or volume.size < _STEP:
            if not volumes and steps >= 2:
                break
            steps += 1
            at += _STEP
            continue
        steps = 0
        volumes.append(volume)
        at += -(-volume.size // _STEP) * _STEP
    return volumes


class StoreHeader(ctypes.LittleEndianStructure):
    """VARIABLE_STORE_HEADER, behind the header of the volume."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("signature", ctypes.c_uint8 * 16),
        ("size", ctypes.c_uint32),
        ("format", ctypes.c_uint8),
        ("state", ctypes.c_uint8),
        ("reserved", ctypes.c_uint16),
        ("reserved1", ctypes.c_uint32),
    )


class VariableHeader(ctypes.LittleEndianStructure):
    """VARIABLE_HEADER: of a plain store."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("start_id", ctypes.c_uint16),
        ("state", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("attributes", ctypes.c_uint32),
        ("name_size", ctypes.c_uint32),
        ("data_size", ctypes.c_uint32),
        ("vendor_guid", ctypes.c_uint8 * 16),
    )


class AuthenticatedVariableHeader(ctypes.LittleEndianStructure):
    """AUTHENTICATED_VARIABLE_HEADER."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("start_id", ctypes.c_uint16),
        ("state", ctypes.c_uint8),
        ("reserved", ctypes.c_uint8),
        ("attributes", ctypes.c_uint32),
        ("monotonic_count", ctypes.c_uint64),
        ("time_stamp", ctypes.c_uint8 * 16),
        ("pub_key_index", ctypes.c_uint32),
        ("name_size", ctypes.c_uint32),
        ("data_size", ctypes.c_uint32),
        ("vendor_guid", ctypes.c_uint8 * 16),
    )


@dataclass(frozen=True, slots=True)
class Variable:
    """``offset``: of its header in the file; ``data_size`` in bytes; ``live``: not deleted."""

    name: str
    guid: str
    offset: int
    data_size: int
    attributes: int
    live: bool


@dataclass(slots=True)
class VariableStore:
    """``kind``: "authenticated" or "plain". ``size``: of the store, its header included.
    ``problem``: what ends the walk over the variables too early, as a sentence; ``all_seen``: no
    bound did.
    """

    offset: int
    kind: str
    size: int
    formatted: bool
    healthy: bool
    variables: tuple[Variable, ...] = ()
    problem: str = ""
    all_seen: bool = True


def read_store(view: View, volume: Volume) -> VariableStore | None:
    """The variable store of a volume, with its variables (at most 2000 of them)."""
    at = volume.offset + int(volume.header.header_length)
    header = view.structure(StoreHeader, at)
    kind = _STORES.get(as_guid(header.signature)) if header is not None else None
    if header is None or kind is None:
        return None
    store = VariableStore(at, kind, int(header.size), header.format == 0x5A, header.state == 0xFE)
    end = min(at + store.size, volume.offset + volume.size, view.size)
    try:
        _read_variables(view, store, end)
    except NotHeld:
        store.all_seen = False
    return store


def _read_variables(view: View, store: VariableStore, end: int) -> None:
    kind = AuthenticatedVariableHeader if store.kind == "authenticated" else VariableHeader
    at = store.offset + ctypes.sizeof(StoreHeader)
    found: list[Variable] = []
    while at + ctypes.sizeof(kind) <= end:
        header: ctypes.Structure | None = view.structure(kind, at)
        if header is None or header.start_id != _VARIABLE_START:
            # Free flash is all ones.
            if header is not None and header.start_id != 0xFFFF:
                store.problem = f"there is something else than a variable at {at}"
            break
        if len(found) >= _MAX_VARIABLES:
            store.all_seen = False
            break
        name_size, data_size = int(header.name_size), int(header.data_size)
        start = at + ctypes.sizeof(kind)
        if name_size == data_size == 0xFFFFFFFF:
            # Written up to its header only, when the power went.
            name_size = data_size = 0
        if start + name_size + data_size > end or name_size > 4096:
            store.problem = (
                f"the variable at {at} states {name_size} bytes of name and {data_size} of data, "
                f"and the store ends at {end}"
            )
            break
        name = view.read(start, name_size).decode("utf-16-le", "replace").partition("\0")[0]
        found.append(
            Variable(
                name,
                as_guid(header.vendor_guid),
                at,
                data_size,
                int(header.attributes),
                header.state & 0x7F == VAR_ADDED,
            )
        )
        at = start + name_size + data_size
        at += -(at - store.offset) % 4
    store.variables = tuple(found)


class CapsuleHeader(ctypes.LittleEndianStructure):
    """EFI_CAPSULE_HEADER, at offset 0."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("capsule_guid", ctypes.c_uint8 * 16),
        ("header_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("capsule_image_size", ctypes.c_uint32),
    )


def read_capsule(view: View) -> tuple[str, CapsuleHeader] | None:
    """(what for, the header) of an update capsule."""
    header = view.structure(CapsuleHeader, 0)
    kind = CAPSULES.get(as_guid(header.capsule_guid)) if header is not None else None
    if header is None or kind is None or header.header_size < ctypes.sizeof(CapsuleHeader):
        return None
    return kind, header


@dataclass(slots=True)
class OptionRom:
    """``size``: in bytes, as its header says; ``good_sum``: None where the file ends before that.
    ``vendor``, ``device``: PCI identifiers, None without a PCI data structure; ``efi``: the code
    type of the first image is EFI's.
    """

    size: int
    good_sum: bool | None
    vendor: int | None = None
    device: int | None = None
    efi: bool = False
    plug_and_play: bool = False


def read_option_rom(view: View) -> OptionRom | None:
    """An expansion ROM of a card, for a BIOS; None for boot sectors, which only end in 55 aa."""
    head = view.read(0, min(512, view.size))
    if len(head) < 512 or head[:2] != b"\x55\xaa" or not head[2]:
        return None
    rom = OptionRom(head[2] * 512, None)
    at = int.from_bytes(head[0x18:0x1A], "little")
    pci = view.read(at, 24) if 0x1A <= at <= 0xFFF0 else b""
    if pci[:4] == b"PCIR" and len(pci) == 24:
        rom.vendor = int.from_bytes(pci[4:6], "little")
        rom.device = int.from_bytes(pci[6:8], "little")
        rom.efi = pci[20] == 3
    at = int.from_bytes(head[0x1A:0x1C], "little")
    rom.plug_and_play = 0x1C <= at <= 508 and head[at : at + 4] == b"$PnP"
    if rom.size <= view.size:
        rom.good_sum = sum(view.read(0, rom.size)) & 0xFF == 0
    if rom.vendor is None and not rom.plug_and_play and not rom.good_sum:
        return None
    return rom
