"""Firmware: UEFI flash images and their variables, update capsules, BIOS images and option ROMs.

Structures are in `vmimg.probe.firmware`, with their sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe import firmware
from vmimg.probe.claims import Claim, Evidence
from vmimg.units import format_size

__all__ = ["RECOGNISERS"]

_SHOWN: Final = 32
_BIOS_BYTES: Final = 64 << 10


def recognise_uefi(view: View) -> Iterator[Claim]:
    """Flash images of UEFI, and those that hold nothing but variables."""
    volumes = firmware.find_volumes(view)
    if not volumes:
        return
    evidence = [
        Evidence(
            volume.offset,
            f"a firmware volume of {format_size(volume.size)} ({volume.kind}), with a "
            f"{'good' if volume.good_sum else 'wrong'} checksum",
        )
        for volume in volumes
    ]
    details: dict[str, Any] = {
        "volumes": [
            {"offset": volume.offset, "size": volume.size, "kind": volume.kind}
            for volume in volumes
        ]
    }
    store = None
    for volume in volumes:
        if volume.holds_variables and store is None:
            store = firmware.read_store(view, volume)
    if store is not None:
        evidence.append(
            Evidence(store.offset, f"a variable store, {store.kind}, of {format_size(store.size)}")
        )
        details |= _store_details(store)
    count = f"{len(volumes)} volume{'' if len(volumes) == 1 else 's'}"
    sure = 100 if all(volume.good_sum for volume in volumes) else 80
    yield Claim(
        "uefi-firmware",
        "boot",
        f"UEFI flash image, {count}",
        sure,
        evidence=tuple(evidence),
        details=details,
    )
    if all(volume.holds_variables for volume in volumes):
        names = ""
        if store is not None:
            live = sum(variable.live for variable in store.variables)
            names = f", {live} variable{'' if live == 1 else 's'}"
        yield Claim(
            "uefi-vars",
            "boot",
            f"UEFI variables{names}",
            sure,
            evidence=tuple(evidence),
            details=details,
            refines=("uefi-firmware",),
        )


def _store_details(store: firmware.VariableStore) -> dict[str, Any]:
    live = [variable for variable in store.variables if variable.live]
    return {
        "store": store.kind,
        "store-size": store.size,
        "variable-count": len(live),
        "deleted-count": len(store.variables) - len(live),
        "variables": [printable(variable.name) for variable in live[:_SHOWN]],
        # A platform key ends setup mode: from then on only what is signed is started.
        "platform-key": any(v.name == "PK" and v.data_size for v in live),
    }


def recognise_capsule(view: View) -> Iterator[Claim]:
    """Update capsules."""
    found = firmware.read_capsule(view)
    if found is None:
        return
    kind, header = found
    yield Claim(
        "uefi-capsule",
        "boot",
        f"UEFI update capsule ({kind})",
        90,
        evidence=(Evidence(0, f"the GUID of a capsule ({kind})"),),
        details={
            "header-size": int(header.header_size),
            "size": int(header.capsule_image_size),
            "flags": f"{header.flags:#x}",
        },
    )


def recognise_option_rom(view: View) -> Iterator[Claim]:
    """Expansion ROMs of cards; QEMU loads them for network cards and VGA."""
    rom = firmware.read_option_rom(view)
    if rom is None:
        return
    evidence = [Evidence(0, f"the magic 55 aa, for {rom.size} bytes")]
    details: dict[str, Any] = {"size": rom.size}
    confidence = 60
    if rom.vendor is not None and rom.device is not None:
        confidence = 90
        evidence.append(Evidence(0x18, f"PCI data for {rom.vendor:04x}:{rom.device:04x}"))
        details |= {"vendor": f"{rom.vendor:04x}", "device": f"{rom.device:04x}", "efi": rom.efi}
    if rom.plug_and_play:
        evidence.append(Evidence(0x1A, "a Plug and Play header"))
        confidence = max(confidence, 80)
    if rom.good_sum:
        evidence.append(Evidence(0, "its bytes add up to 0"))
    yield Claim(
        "option-rom", "boot", "option ROM", confidence, evidence=tuple(evidence), details=details
    )


def recognise_bios(view: View) -> Iterator[Claim]:
    """A BIOS image has no magic: a jump where the processor begins, and a date behind it."""
    if not _BIOS_BYTES <= view.size <= 16 << 20 or view.size % _BIOS_BYTES:
        return
    tail = view.read(-16, 16)
    date = tail[5:13]
    if tail[:1] != b"\xea" or date[2:3] != b"/" or date[5:6] != b"/":
        return
    if not (date[:2] + date[3:5] + date[6:]).isdigit():
        return
    yield Claim(
        "bios",
        "boot",
        "BIOS image",
        60,
        evidence=(
            Evidence(view.size - 16, "a far jump at the reset vector"),
            Evidence(view.size - 11, f"the date {date.decode('ascii')}"),
        ),
        details={"date": date.decode("ascii"), "size": view.size},
    )


RECOGNISERS: Final = (recognise_uefi, recognise_capsule, recognise_option_rom, recognise_bios)
