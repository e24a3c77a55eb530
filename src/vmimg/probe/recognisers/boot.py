"""Kernels, and what else firmware or a boot loader starts: ELF, EFI programs, images of U-Boot,
device trees.

A modern kernel is several things at once (a bzImage is an EFI program as well), so claims refine
one another. Structures are in `vmimg.probe.kernels` and `vmimg.probe.executables`, with their
sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from vmimg.formats.raw.findings import View, as_text
from vmimg.formats.vetting import printable
from vmimg.probe import kernels
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.elf import ELF_MAGIC
from vmimg.probe.executables import Elf, Pe, read_elf, read_pe
from vmimg.probe.streams import stream_kind
from vmimg.storage.base import NotHeld

__all__ = ["RECOGNISERS"]

_UIMAGE_OS: Final = {5: "Linux", 17: "U-Boot", 2: "NetBSD", 4: "FreeBSD", 18: "RTEMS"}
_UIMAGE_TYPES: Final = {
    1: "standalone program",
    2: "kernel",
    3: "RAM disk",
    4: "multi-file image",
    5: "firmware",
    6: "script",
    7: "file system",
    8: "device tree",
}
_UIMAGE_COMPRESSIONS: Final = {
    0: "none",
    1: "gzip",
    2: "bzip2",
    3: "lzma",
    4: "lzop",
    5: "lz4",
    6: "zstd",
}
_UIMAGE_MACHINES: Final = {
    2: "ARM",
    3: "i386",
    5: "MIPS",
    7: "PowerPC",
    22: "AArch64",
    26: "RISC-V",
}
# XEN_ELFNOTE_PHYS32_ENTRY: where a kernel is entered by PVH, which QEMU does with a vmlinux.
_PVH_NOTE: Final = 18
_XEN_VERSION_NOTE: Final = 5
# Linux for these is linked into the upper half.
_UPPER_HALF: Final = 1 << 63
_UPPER_MACHINES: Final = ("x86-64", "AArch64", "RISC-V", "LoongArch")
_UKI_SECTIONS: Final = (".linux", ".initrd", ".osrel", ".cmdline", ".uname", ".ucode", ".dtb")


def recognise_bzimage(view: View) -> Iterator[Claim]:
    """A Linux kernel for x86, or what boots as one: memtest86+, iPXE."""
    header = kernels.read_setup(view)
    if header is None:
        return
    version = f"{header.version >> 8}.{header.version & 0xFF:02}"
    name = kernels.kernel_version(view, header)
    start = kernels.setup_size(header)
    big = bool(header.loadflags & 1)
    evidence = [
        Evidence(0x202, f"the magic 'HdrS', boot protocol {version}"),
        Evidence(0x1FE, "the signature 55 aa of a boot sector"),
    ]
    details: dict[str, Any] = {
        "protocol": version,
        "setup-size": start,
        "kernel-size": int(header.syssize) * 16,
        "loaded-high": big,
    }
    if name:
        evidence.append(Evidence(int(header.kernel_version) + 0x200, f"the version '{name}'"))
        details["version"] = name
    if header.version >= 0x208 and header.payload_length:
        details.update(_payload(view, start + int(header.payload_offset)))
    if header.version >= 0x20C:
        details["efi-handover"] = bool(header.xloadflags & 0x0C)
    yield Claim(
        "bzimage",
        "boot",
        f"Linux kernel for x86 ({'bzImage' if big else 'zImage'})" + (f", {name}" if name else ""),
        100,
        evidence=tuple(evidence),
        details=details,
        refines=("efi", "pe", "multiboot"),
    )


def _payload(view: View, at: int) -> dict[str, Any]:
    try:
        kind = stream_kind(view.read(at, 16))
    except NotHeld:
        return {}
    return {"payload-offset": at, "payload-compression": kind} if kind else {}


def recognise_other_kernels(view: View) -> Iterator[Claim]:
    """Kernels for ARM and RISC-V, and those that unpack themselves under EFI."""
    found = kernels.read_linux_image(view)
    if found is not None:
        machine, header = found
        yield Claim(
            f"{machine}-image",
            "boot",
            f"Linux kernel for {machine} (Image)",
            100,
            evidence=(Evidence(56, f"the magic of a kernel for {machine}"),),
            details={
                "text-offset": int(header.text_offset),
                "image-size": int(header.image_size),
                "flags": f"{header.flags:#x}",
            },
            refines=("efi", "pe"),
        )
    arm = kernels.read_arm_image(view)
    if arm is not None:
        yield Claim(
            "zimage",
            "boot",
            "Linux kernel for ARM (zImage)",
            90,
            evidence=(Evidence(0x24, "the magic 0x016f2818"),),
            details={"image-size": int(arm.end - arm.start)},
            refines=("efi", "pe"),
        )
    zboot = kernels.read_zboot(view)
    if zboot is not None:
        kind = printable(zboot.compression.decode("ascii", "replace"))
        yield Claim(
            "efi-zboot",
            "boot",
            f"Linux kernel that unpacks itself under EFI, {kind}",
            100,
            evidence=(Evidence(4, "the magic 'zimg'"),),
            details={"compression": kind, "payload-size": int(zboot.payload_size)},
            refines=("efi", "pe"),
        )


def recognise_efi(view: View) -> Iterator[Claim]:
    """EFI programs and Unified Kernel Images; other programs in PE, as a guess."""
    pe = read_pe(view)
    if pe is None:
        return
    evidence = (
        Evidence(0, "the magic 'MZ'"),
        Evidence(pe.offset, f"the signature 'PE', for {pe.machine}"),
    )
    details = {
        "machine": pe.machine,
        "bits": pe.bits,
        "sections": [printable(name) for name in pe.names],
        "signed": bool(pe.certificates[1]),
    }
    if not pe.subsystem:
        title = f"program in PE for {pe.machine}"
        yield Claim("pe", "boot", title, 45, evidence=evidence, details=details)
        return
    more = (*evidence, Evidence(pe.offset + 92, f"its subsystem: {pe.subsystem}"))
    yield Claim(
        "efi", "boot", f"{pe.subsystem} for {pe.machine}", 90, evidence=more, details=details
    )
    if ".linux" in pe.names:
        yield _uki(view, pe, more, details)


def _uki(view: View, pe: Pe, evidence: tuple[Evidence, ...], details: dict[str, Any]) -> Claim:
    held = [name for name in _UKI_SECTIONS if name in pe.names]
    texts: dict[str, bytes] = {}
    for section, name in zip(pe.sections, pe.names, strict=True):
        if name in (".osrel", ".cmdline", ".uname") and len(texts) < 3:
            length = min(section.virtual_size, section.size_of_raw_data, 4096)
            try:
                texts[name[1:]] = view.read(int(section.pointer_to_raw_data), length)
            except NotHeld:
                continue
    facts = dict(details)
    for key, data in texts.items():
        facts[key] = printable(data.rstrip(b"\0\n").decode("utf-8", "replace"))
    system = _pretty_name(texts.get("osrel", b""))
    return Claim(
        "uki",
        "boot",
        "Unified Kernel Image" + (f": {system}" if system else ""),
        95,
        evidence=(*evidence, Evidence(0, f"sections {', '.join(held)}")),
        details=facts,
        refines=("efi",),
    )


def _pretty_name(osrel: bytes) -> str:
    for line in osrel.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return printable(value.strip("\"'"))
    return ""


def recognise_elf(view: View) -> Iterator[Claim]:
    """Kernels in ELF; any other ELF file, as a guess."""
    elf = read_elf(view)
    if elf is None:
        return
    about = f"{elf.bits} bits, {elf.order}, {elf.machine}"
    evidence = [Evidence(0, f"the magic 'ELF', {about}")]
    details = {
        "machine": elf.machine,
        "bits": elf.bits,
        "type": elf.type,
        "entry": f"{elf.entry:#x}",
        "segments": elf.segments,
        "sections": elf.sections,
    }
    yield Claim(
        "elf", "boot", f"ELF {elf.type}, {about}", 45, evidence=tuple(evidence), details=details
    )
    why = _kernel_by(elf)
    if why:
        yield Claim(
            "vmlinux",
            "boot",
            f"kernel in ELF for {elf.machine}",
            90,
            evidence=(*evidence, *(Evidence(0, words) for words in why)),
            details=details,
            refines=("elf", "multiboot"),
        )


def _kernel_by(elf: Elf) -> list[str]:
    words = []
    for name, kind, data in elf.notes:
        if name == "Xen" and kind == _PVH_NOTE:
            entry = int.from_bytes(data[:8], "little")
            words.append(f"a note of Xen with the entry for PVH, {entry:#x}")
        elif name == "Xen" and kind == _XEN_VERSION_NOTE:
            words.append(f"a note of Xen, interface '{printable(data.decode('ascii', 'replace'))}'")
        elif name == "Linux":
            words.append("a note of Linux")
    upper = any(address >= _UPPER_HALF for _, address, _ in elf.loaded)
    if upper and elf.type == "executable" and elf.machine in _UPPER_MACHINES:
        words.append("it is linked into the upper half of the address space")
    return words


def recognise_multiboot(view: View) -> Iterator[Claim]:
    """What GRUB's multiboot commands load; outside of ELF, as a guess."""
    found = kernels.find_multiboot(view)
    if found is None:
        return
    version, at = found
    inside_elf = view.read(0, 4) == ELF_MAGIC
    yield Claim(
        "multiboot",
        "boot",
        f"kernel for Multiboot{' 2' if version == 2 else ''}",
        60 if inside_elf else 40,
        evidence=(Evidence(at, "a Multiboot header with a good checksum"),),
        details={"version": version, "header-offset": at},
        refines=("elf",),
    )


def recognise_uimage(view: View) -> Iterator[Claim]:
    """U-Boot's legacy images."""
    found = kernels.read_uimage(view)
    if found is None:
        return
    header, good = found
    name = as_text(header.ih_name)
    kind = _UIMAGE_TYPES.get(int(header.ih_type), f"type {header.ih_type}")
    sum_words = f"the checksum of its header is {'right' if good else 'wrong'}"
    yield Claim(
        "uimage",
        "boot",
        f"U-Boot image: {kind}" + (f" '{name}'" if name else ""),
        100 if good else 70,
        evidence=(Evidence(0, "the magic 27 05 19 56"), Evidence(4, sum_words)),
        details={
            "name": name,
            "type": kind,
            "os": _UIMAGE_OS.get(int(header.ih_os), f"{header.ih_os}"),
            "machine": _UIMAGE_MACHINES.get(int(header.ih_arch), f"{header.ih_arch}"),
            "compression": _UIMAGE_COMPRESSIONS.get(int(header.ih_comp), f"{header.ih_comp}"),
            "data-size": int(header.ih_size),
            "made": datetime.fromtimestamp(int(header.ih_time), UTC).isoformat(),
        },
    )


def recognise_device_tree(view: View) -> Iterator[Claim]:
    """Device trees, and the image trees of U-Boot that have their form."""
    tree = kernels.read_device_tree(view)
    if tree is None:
        return
    header = tree.header
    evidence = (Evidence(0, f"the magic d0 0d fe ed, version {header.version}"),)
    details = {"version": int(header.version), "size": int(header.totalsize)}
    details_nodes = {**details, "nodes": list(tree.nodes[:16])}
    yield Claim(
        "dtb", "boot", "flattened device tree", 90, evidence=evidence, details=details_nodes
    )
    if tree.is_fit:
        yield Claim(
            "fit",
            "boot",
            "Flattened Image Tree of U-Boot",
            95,
            evidence=(*evidence, Evidence(0, "the nodes 'images' and 'configurations'")),
            details=details_nodes,
            refines=("dtb",),
        )


RECOGNISERS: Final = (
    recognise_bzimage,
    recognise_other_kernels,
    recognise_efi,
    recognise_elf,
    recognise_multiboot,
    recognise_uimage,
    recognise_device_tree,
)
