"""What machines leave behind: suspended, saved, dumped and crashed ones, and their settings in
binary form.

All of these have a magic, and all but a few a field or two more that must fit. Structures are in
`state_structures`, where their sources are named. Imports the view of contents.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from vmimg.errors import StorageError
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe import state_structures as s
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.elf import ELF_MACHINES, ELF_MAGIC
from vmimg.probe.state_reading import (
    active_hyperv_header,
    elf_core,
    hyperv_headers,
    hyperv_kind,
    libvirt_header,
    valid_vmgs_header,
    vmss_groups,
)

__all__ = ["RECOGNISERS"]


def _claim(
    name: str,
    title: str,
    confidence: int,
    evidence: tuple[Evidence, ...],
    details: dict[str, Any] | None = None,
    refines: tuple[str, ...] = (),
) -> Claim:
    kept = {k: v for k, v in (details or {}).items() if v not in ("", None)}
    return Claim(name, "state", title, confidence, evidence, kept, refines)


def recognise_vmware(view: View) -> Iterator[Claim]:
    """A suspended machine or a snapshot with memory (.vmss, .vmsn), and VMware's .nvram."""
    header = view.structure(s.VmssHeader, 0)
    if header is not None and header.magic in s.VMSS_MAGICS:
        kind = s.VMSS_MAGICS[header.magic]
        groups, _ = vmss_groups(view, 16)
        if not groups or header.group_count > s.MAX_VMSS_GROUPS:
            return
        names = [printable(group.name.decode("latin-1")) for group in groups]
        first = Evidence(0, f"the magic 0x{header.magic:08x}")
        second = Evidence(12, f"groups: {', '.join(names[:4])}")
        details = {"kind": kind, "groups": header.group_count}
        title = "VMware saved state (.vmss, .vmsn)"
        sure = 100 if all(name.isprintable() and name for name in names) else 60
        yield _claim("vmware-state", title, sure, (first, second), details)
    elif view.read(0, 4) == s.VMWARE_NVRAM_MAGIC:
        evidence = (Evidence(0, "the magic 'MRVN'"),)
        yield _claim("vmware-nvram", "VMware firmware settings (.nvram)", 80, evidence)


def recognise_virtualbox(view: View) -> Iterator[Claim]:
    """A machine that VirtualBox saved (.sav); its settings of firmware and TPM (.nvram)."""
    start = view.read(0, 32)
    if start.startswith(s.SSM_MAGIC) and start[24:27] in s.SSM_VERSIONS:
        details: dict[str, Any] = {"version": start[24:27].decode()}
        marks = [Evidence(0, f"the magic 'VirtualBox SavedState V{details['version']}'")]
        header = view.structure(s.SsmHeader, 0)
        sure = 80
        if header is not None and start == s.SSM_MAGIC_2:
            details["virtualbox"] = f"{header.ver_major}.{header.ver_minor}.{header.ver_build}"
            details["units"] = header.units
            details["live"] = bool(header.flags & s.SSM_LIVE_SAVE)
            bare = view.read(0, 60) + bytes(4)
            if zlib.crc32(bare) == header.crc:
                marks.append(Evidence(60, "the header's checksum is right"))
                sure = 100
        yield _claim("vbox-state", "VirtualBox saved state", sure, tuple(marks), details)
    elif view.read(257, 5) == b"ustar":
        # Machines with firmware settings only have them bare: that is a UEFI volume.
        name = view.read(0, 100).split(b"\0")[0]
        if name.startswith((b"TpmEmuTpms/", b"efi/")) and name.count(b"/") == 1:
            evidence = (Evidence(0, f"a tar that begins with {printable(name.decode('latin-1'))}"),)
            title = "VirtualBox settings of firmware and TPM (.nvram)"
            yield _claim("vbox-nvram", title, 80, evidence, refines=("tar",))


def recognise_hyperv(view: View) -> Iterator[Claim]:
    """Hyper-V's configuration and runtime state (.vmcx, .vmrs), and its guest state (.vmgs)."""
    header = active_hyperv_header(view)
    if header is not None:
        evidence = [
            Evidence(offset, "the signature 0x01282014")
            for offset, found in zip(s.HYPERV_HEADERS, hyperv_headers(view), strict=True)
            if found is not None
        ]
        kind = ""
        try:
            kind = hyperv_kind(view)
        except StorageError:
            pass
        if kind:
            evidence.append(Evidence(s.HYPERV_OBJECT_TABLE, f"keys of a {kind}"))
        details = {"version": f"{header.version >> 8}.{header.version & 255}", "kind": kind}
        known = header.version == s.HYPERV_VERSION
        title = "Hyper-V machine configuration or state (.vmcx, .vmrs)"
        yield _claim("hyperv-storage", title, 100 if known else 80, tuple(evidence), details)
    vmgs = valid_vmgs_header(view)
    if vmgs is not None:
        offset, guest, good = vmgs
        evidence = [Evidence(offset, "the signature 'GUESTRTS'")]
        if good:
            evidence.append(Evidence(offset + 12, "the header's checksum is right"))
        details = {
            "version": s.VMGS_VERSIONS.get(guest.version, f"0x{guest.version:x}"),
            "encrypted": guest.encryption_algorithm != 0,
        }
        title = "Hyper-V guest state (.vmgs)"
        # Hyper-V keeps it in a fixed VHD of its own.
        yield _claim("vmgs", title, 100 if good else 80, tuple(evidence), details, ("vhd",))


def recognise_qemu(view: View) -> Iterator[Claim]:
    """What QEMU, libvirt and Xen write when a machine is saved."""
    start = view.read(0, 32)
    if start[:4] == s.QEMU_VM_MAGIC:
        version = int.from_bytes(start[4:8], "big")
        details: dict[str, Any] = {"version": version}
        if start[8:9] == bytes((s.QEMU_VM_CONFIGURATION,)):
            length = min(int.from_bytes(start[9:13], "big"), 64)
            details["machine"] = printable(view.read(13, length).decode("latin-1"))
        evidence = (Evidence(0, f"the magic 'QEVM', version {version}"),)
        sure = 90 if version in s.QEMU_VM_VERSIONS else 50
        yield _claim("qemu-state", "QEMU machine state", sure, evidence, details)
    header = libvirt_header(view)
    if header is not None:
        partial = bytes(header.magic) == s.LIBVIRT_SAVE_PARTIAL
        known = header.compressed < len(s.LIBVIRT_COMPRESSIONS)
        details = {
            "version": header.version,
            "compression": s.LIBVIRT_COMPRESSIONS[header.compressed] if known else "unknown",
            "complete": not partial,
        }
        evidence = (Evidence(0, f"the magic '{bytes(header.magic).decode()}'"),)
        yield _claim("libvirt-state", "libvirt saved domain", 100, evidence, details)
    if start == s.XEN_SAVE_MAGIC:
        evidence = (Evidence(0, "the magic 'Xen saved domain, xl format'"),)
        yield _claim("xen-state", "Xen saved domain", 100, evidence, {"toolstack": "xl"})
    elif start[:8] == s.XEN_LIBXL_MAGIC:
        evidence = (Evidence(0, "the magic 'LibxlFmt'"),)
        yield _claim("xen-state", "Xen saved domain", 90, evidence, {"toolstack": "libxl"})


def recognise_memory(view: View) -> Iterator[Claim]:
    """The memory of a machine: core dumps, crash dumps, hibernation files, LiME."""
    start = view.read(0, 32)
    if start[:4] == ELF_MAGIC:
        yield from _core(view)
    elif start[:8] in s.DUMP_MAGICS:
        yield from _windows_dump(view, start)
    elif start[:4] == s.LIME_MAGIC:
        header = view.structure(s.LimeHeader, 0)
        if header is not None and header.version == 1 and header.s_addr <= header.e_addr:
            evidence = (Evidence(0, "the magic 'EMiL' and a range of memory"),)
            yield _claim("lime", "LiME memory image", 90, evidence, {"version": header.version})
    elif start[:4] in s.HIBERNATION_MAGICS:
        image = view.structure(s.HibernationHeader, 0)
        # Its own length: from 168 bytes in XP to about a KiB; a woken one may have been zeroed.
        if image is not None and image.length_self <= 4096 and view.size >= 4096:
            evidence = (Evidence(0, f"the magic '{start[:4].decode()}'"),)
            sure = 70 if image.length_self >= 64 else 50
            yield _claim("hibernation", "Windows hibernation file", sure, evidence)
    for magic, kind in s.KDUMP_MAGICS.items():
        if start.startswith(magic):
            evidence = (Evidence(0, f"the magic '{printable(magic.decode().strip(chr(0)))}'"),)
            yield _claim("kdump", "Linux crash dump", 90, evidence, {"kind": kind})


def _core(view: View) -> Iterator[Claim]:
    core = elf_core(view)
    if core is None:
        return
    header, bits, count = core
    machine = ELF_MACHINES.get(header.e_machine, str(header.e_machine))
    evidence = [Evidence(0, "the magic of ELF"), Evidence(16, "the type of a core dump")]
    note = view.read(header.e_phoff, 4096) if header.e_phoff < view.size else b""
    details = {"bits": bits, "machine": machine, "segments": count}
    if b"QEMU" in note or b"VMCOREINFO" in note:
        evidence.append(Evidence(header.e_phoff, "notes of QEMU or of a Linux kernel"))
        details["of"] = "a machine"
    yield _claim("elf-core", "core dump (ELF)", 90, tuple(evidence), details)


def _windows_dump(view: View, start: bytes) -> Iterator[Claim]:
    is_64 = start[4:8] == b"DU64"
    kind = s.DumpHeader64 if is_64 else s.DumpHeader32
    header = view.structure(kind, 0)
    details: dict[str, Any] = {"bits": 64 if is_64 else 32}
    if header is not None:
        details["type"] = s.DUMP_TYPES.get(header.dump_type, str(header.dump_type))
        details["processors"] = header.number_processors
    evidence = (Evidence(0, f"the magic '{start[:8].decode()}'"),)
    sure = 100 if header is not None and header.dump_type in s.DUMP_TYPES else 80
    yield _claim("windows-dump", "Windows crash dump", sure, evidence, details)


RECOGNISERS = (
    recognise_vmware,
    recognise_virtualbox,
    recognise_hyperv,
    recognise_qemu,
    recognise_memory,
)
