"""Vetting firmware: checksums, lengths and maps of volumes, and the store of variables.

The structures are in `vmimg.probe.firmware`, with their sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe import firmware

__all__ = ["VETTERS"]

_REVISIONS: Final = (1, 2)


def vet_uefi(view: View) -> Iterator[Finding]:
    """The volumes of a flash image."""
    for volume in firmware.find_volumes(view):
        yield from _vet_volume(view, volume)
        if volume.holds_variables:
            yield from _vet_store(view, volume)


def _vet_volume(view: View, volume: firmware.Volume) -> Iterator[Finding]:
    at, header = volume.offset, volume.header
    where = f"the firmware volume at {at}"
    if at + volume.size > view.size:
        yield Finding.of(
            "truncated",
            f"{where} states {volume.size} bytes, and the file ends at {view.size}",
            offset=at + 32,
        )
    if not volume.good_sum:
        yield Finding.of("checksum-wrong", f"the checksum of {where} is wrong", offset=at + 50)
    if header.revision not in _REVISIONS:
        yield Finding.of(
            "unknown-version", f"{where} is of revision {header.revision}", offset=at + 55
        )
    if volume.blocks is None:
        yield Finding.of("malformed", f"the map of blocks of {where} has no end", offset=at + 56)
    elif volume.blocks < volume.size:
        yield Finding.of(
            "odd-field",
            f"{where} states {volume.size} bytes and blocks of {volume.blocks} together",
            offset=at + 56,
        )
    if header.ext_header_offset and header.ext_header_offset >= volume.size:
        yield Finding.of(
            "table-outside",
            f"{where} has its further header at {header.ext_header_offset}, behind its end",
            offset=at + 52,
        )


def _vet_store(view: View, volume: firmware.Volume) -> Iterator[Finding]:
    store = firmware.read_store(view, volume)
    if store is None:
        yield Finding.of(
            "odd-field",
            f"the volume at {volume.offset} is for variables and has no store that is known",
            offset=volume.offset,
            severity=Severity.NOTE,
        )
        return
    room = volume.size - int(volume.header.header_length)
    if store.size > room:
        yield Finding.of(
            "impossible-size",
            f"the store of variables states {store.size} bytes, and its volume has {room}",
            offset=store.offset + 16,
        )
    if not (store.formatted and store.healthy):
        yield Finding.of(
            "dirty", "the store of variables is not marked as healthy", offset=store.offset + 20
        )
    if store.problem:
        yield Finding.of("malformed", store.problem)
    if not store.all_seen:
        yield Finding.of(
            "unfinished", "not all of its variables were looked at", severity=Severity.NOTE
        )


def vet_capsule(view: View) -> Iterator[Finding]:
    """Sizes of an update capsule."""
    found = firmware.read_capsule(view)
    if found is None:
        return
    _, header = found
    if header.capsule_image_size > view.size:
        yield Finding.of(
            "truncated",
            f"it states {header.capsule_image_size} bytes, and the file ends at {view.size}",
            offset=24,
        )
    if header.header_size > header.capsule_image_size:
        yield Finding.of(
            "impossible-size",
            f"its header of {header.header_size} bytes is longer than all of it",
            offset=16,
        )


def vet_option_rom(view: View) -> Iterator[Finding]:
    """Size and checksum of an option ROM."""
    rom = firmware.read_option_rom(view)
    if rom is None:
        return
    if rom.size > view.size:
        yield Finding.of(
            "truncated",
            f"it states {rom.size} bytes, and the file ends at {view.size}",
            offset=2,
        )
    # Of an image for EFI alone nobody asks for one.
    elif rom.good_sum is False and not rom.efi:
        yield Finding.of("checksum-wrong", "its bytes do not add up to 0", offset=0)


VETTERS: Final = {
    # "uefi-vars" refines it.
    "uefi-firmware": vet_uefi,
    "uefi-capsule": vet_capsule,
    "option-rom": vet_option_rom,
}
