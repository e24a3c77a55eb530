"""Kernels, initrds and firmware to recognise and to vet: good ones, and one bad one for each rule.

Those of real machines are in the tests; what is here is small enough to be a seed.
"""

from __future__ import annotations

import gzip
import shutil
import stat
from pathlib import Path

import peers
from probe import boot_by_hand as hand
from probe.boot_by_hand import cpio_of, newc
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]

_FOLDER = stat.S_IFDIR | 0o755
_LINK = stat.S_IFLNK | 0o777


def _initrd() -> bytes:
    return cpio_of(
        newc(b".", mode=_FOLDER),
        newc(b"init", b"#!/bin/sh\n", 0o100755),
        newc(b"dev", mode=_FOLDER),
        newc(b"dev/console", mode=stat.S_IFCHR | 0o600),
        newc(b"bin", mode=_FOLDER),
        newc(b"bin/sh", b"/bin/busybox", _LINK),
    )


def _microcode() -> bytes:
    path = b"kernel/x86/microcode"
    return cpio_of(
        newc(b"kernel", mode=_FOLDER),
        newc(path, mode=_FOLDER),
        newc(path + b"/GenuineIntel.bin", bytes(range(256)) * 8),
    )


def _archive(*more: bytes) -> bytes:
    return cpio_of(newc(b"a", b"text"), newc(b"b", b"more"), *more)


def _uki() -> bytes:
    osrel = b'NAME="Hand"\nPRETTY_NAME="Hand made 1"\n'
    sections = ((b".osrel", 512, 64), (b".cmdline", 576, 64), (b".linux", 1024, 512))
    data = bytearray(hand.pe_of(sections=sections))
    data[512 : 512 + len(osrel)] = osrel
    data[576:589] = b"root=/dev/vda"
    return bytes(data)


def _by_cpio(kind: str) -> Sample:
    def make(folder: Path) -> Path:
        source = folder / "files"
        for name in ("etc", "bin"):
            (source / name).mkdir(parents=True)
        (source / "bin" / "text").write_bytes(b"text" * 100)
        names = b".\netc\nbin\nbin/text\n"
        done = peers.run("cpio", "-o", "-H", kind, cwd=source, input=names)
        path = folder / "archive.cpio"
        path.write_bytes(done.stdout)
        shutil.rmtree(source)
        return path

    return Sample(f"cpio-{kind}", make, "cpio", peers=("cpio",))


def _by_mkimage() -> Sample:
    def make(folder: Path) -> Path:
        data, path = folder / "data", folder / "uImage"
        data.write_bytes(b"kernel" * 100)
        peers.run("mkimage", "-A", "arm64", "-O", "linux", "-T", "kernel", "-C", "none",
                  "-n", "by mkimage", "-d", data, path)  # fmt: skip
        data.unlink()
        return path

    return Sample("uimage-of-mkimage", make, "uimage", peers=("mkimage",))


def _ovmf(name: str, claim: str) -> Sample:
    def make(folder: Path) -> Path:
        found = peers.find("ovmf")
        assert found is not None
        return Path(shutil.copy(found.with_name(name), folder / name))

    return Sample(name, make, claim, peers=("ovmf",))


def _vars() -> bytes:
    return hand.store_of(
        hand.variable("PK", b"key" * 20),
        hand.variable("Boot0000", b"old", state=0x3D),
        hand.variable("Boot0000", b"new"),
    )


GOOD: tuple[Sample, ...] = (
    of_bytes("bzimage", "vmlinuz", hand.bzimage_of, "bzimage"),
    of_bytes("efi-program", "boot.efi", hand.pe_of, "efi"),
    of_bytes("pe-program", "a.exe", lambda: hand.pe_of(subsystem=3), "pe"),
    of_bytes("uki", "linux.efi", _uki, "uki"),
    of_bytes("vmlinux", "vmlinux", hand.elf_of, "vmlinux"),
    of_bytes("elf-program", "ls", lambda: hand.elf_of(kernel=False), "elf"),
    of_bytes("arm64-image", "Image", hand.arm64_of, "arm64-image"),
    of_bytes("arm-zimage", "zImage", hand.zimage_of, "zimage"),
    of_bytes("efi-zboot", "vmlinuz.efi", hand.zboot_of, "efi-zboot"),
    of_bytes("uimage", "uImage", lambda: hand.uimage_of(b"kernel" * 50), "uimage"),
    of_bytes("dtb", "a.dtb", hand.dtb_of, "dtb"),
    of_bytes("fit", "a.itb", lambda: hand.dtb_of(fit=True), "fit"),
    of_bytes(
        "uefi-volumes",
        "a.fd",
        lambda: hand.volume_of() + hand.volume_of(size=0x8000),
        "uefi-firmware",
    ),
    of_bytes("uefi-variables", "vars.fd", _vars, "uefi-vars"),
    of_bytes("uefi-capsule", "a.cap", hand.capsule_of, "uefi-capsule"),
    of_bytes("option-rom", "a.rom", hand.rom_of, "option-rom"),
    of_bytes("bios", "bios.bin", hand.bios_of, "bios"),
    of_bytes("multiboot", "kernel.bin", hand.multiboot_of, "multiboot"),
    of_bytes("initrd", "initrd", _initrd, "initrd"),
    of_bytes("initrd-gzip", "initrd.gz", lambda: gzip.compress(_initrd(), mtime=0), "gzip"),
    of_bytes(
        "initrd-microcode",
        "initrd",
        lambda: _microcode() + gzip.compress(_initrd(), mtime=0),
        "initrd",
    ),
    of_bytes("initrd-of-two", "initrd", lambda: _microcode() + _initrd(), "initrd"),
    *(_by_cpio(kind) for kind in ("newc", "crc", "odc", "bin")),
    _by_mkimage(),
    _ovmf("OVMF_VARS_4M.ms.fd", "uefi-vars"),
    _ovmf("OVMF_VARS.fd", "uefi-vars"),
)

BAD: tuple[Sample, ...] = (
    of_bytes("bzimage-cut-off", "a", lambda: hand.bzimage_of(syssize=9999), "bzimage", "truncated"),
    of_bytes(
        "bzimage-payload-outside",
        "a",
        lambda: hand.bzimage_of(payload=(1 << 30, 64)),
        "bzimage",
        "table-outside",
    ),
    of_bytes(
        "bzimage-version-outside",
        "a",
        lambda: hand.bzimage_of(version_at=0x4000),
        "bzimage",
        "odd-field",
    ),
    of_bytes("efi-cut-off", "a", lambda: hand.pe_of()[:1400], "efi", "truncated"),
    of_bytes(
        "efi-sections-overlap",
        "a",
        lambda: hand.pe_of(sections=((b".text", 512, 600), (b".data", 1024, 512))),
        "efi",
        "tables-overlap",
    ),
    of_bytes(
        "efi-signature-outside",
        "a",
        lambda: hand.pe_of(certificates=(1536, 4096)),
        "efi",
        "truncated",
    ),
    of_bytes("efi-with-more-behind", "a", lambda: hand.pe_of(size=200_000), "efi", "hidden-data"),
    of_bytes(
        "vmlinux-cut-off", "a", lambda: hand.elf_of(file_size=1 << 20), "vmlinux", "truncated"
    ),
    of_bytes("arm-zimage-cut-off", "a", lambda: hand.zimage_of(end=1 << 20), "zimage", "truncated"),
    of_bytes(
        "efi-zboot-cut-off", "a", lambda: hand.zboot_of(size=1 << 20), "efi-zboot", "truncated"
    ),
    of_bytes(
        "uimage-header-sum",
        "a",
        lambda: hand.uimage_of(b"k" * 90, header_sum=1),
        "uimage",
        "checksum-wrong",
    ),
    of_bytes(
        "uimage-data-sum",
        "a",
        lambda: hand.uimage_of(b"k" * 90, data_sum=1),
        "uimage",
        "checksum-wrong",
    ),
    of_bytes(
        "uimage-cut-off", "a", lambda: hand.uimage_of(b"k" * 90, size=900), "uimage", "truncated"
    ),
    of_bytes(
        "uimage-trailing",
        "a",
        lambda: hand.uimage_of(b"k" * 90) + b"hidden",
        "uimage",
        "hidden-data",
    ),
    of_bytes("dtb-cut-off", "a", lambda: hand.dtb_of(total=4096), "dtb", "truncated"),
    of_bytes(
        "dtb-strings-outside", "a", lambda: hand.dtb_of(strings=1 << 20), "dtb", "table-outside"
    ),
    of_bytes("dtb-overlap", "a", lambda: hand.dtb_of(overlap=True), "dtb", "tables-overlap"),
    of_bytes("dtb-trailing", "a", lambda: hand.dtb_of() + b"hidden", "dtb", "hidden-data"),
    of_bytes("uefi-cut-off", "a", lambda: hand.volume_of()[:5000], "uefi-firmware", "truncated"),
    of_bytes(
        "uefi-checksum", "a", lambda: hand.volume_of(off=1), "uefi-firmware", "checksum-wrong"
    ),
    of_bytes(
        "uefi-revision", "a", lambda: hand.volume_of(revision=9), "uefi-firmware", "unknown-version"
    ),
    of_bytes(
        "uefi-blocks-without-end",
        "a",
        lambda: hand.volume_of(ended=False, blocks=((16, 4096), (1, 1))),
        "uefi-firmware",
        "malformed",
    ),
    of_bytes(
        "uefi-blocks-too-few",
        "a",
        lambda: hand.volume_of(blocks=((1, 4096),)),
        "uefi-firmware",
        "odd-field",
    ),
    of_bytes(
        "uefi-header-outside",
        "a",
        lambda: hand.volume_of(size=4096, further=5000),
        "uefi-firmware",
        "table-outside",
    ),
    of_bytes(
        "uefi-store-too-large",
        "a",
        lambda: hand.store_of(size=1 << 20),
        "uefi-vars",
        "impossible-size",
    ),
    of_bytes("uefi-store-unhealthy", "a", lambda: hand.store_of(state=0xFF), "uefi-vars", "dirty"),
    of_bytes(
        "uefi-variable-outside",
        "a",
        lambda: hand.store_of(hand.variable("PK", b"", data_size=1 << 30)),
        "uefi-vars",
        "malformed",
    ),
    of_bytes(
        "uefi-no-variable", "a", lambda: hand.store_of(b"garbage!" * 10), "uefi-vars", "malformed"
    ),
    of_bytes(
        "capsule-cut-off", "a", lambda: hand.capsule_of(stated=9999), "uefi-capsule", "truncated"
    ),
    of_bytes(
        "capsule-header",
        "a",
        lambda: hand.capsule_of(header=2000),
        "uefi-capsule",
        "impossible-size",
    ),
    of_bytes("option-rom-cut-off", "a", lambda: hand.rom_of(blocks=9), "option-rom", "truncated"),
    of_bytes(
        "option-rom-checksum", "a", lambda: hand.rom_of(off=1), "option-rom", "checksum-wrong"
    ),
    of_bytes(
        "cpio-escapes",
        "a",
        lambda: _archive(newc(b"../../etc/passwd", b"x")),
        "cpio",
        "member-escapes",
    ),
    of_bytes(
        "cpio-absolute", "a", lambda: _archive(newc(b"/etc/passwd", b"x")), "cpio", "member-escapes"
    ),
    of_bytes(
        "cpio-through-link",
        "a",
        lambda: _archive(newc(b"link", b"/etc", _LINK), newc(b"link/passwd", b"x")),
        "cpio",
        "member-escapes",
    ),
    of_bytes(
        "cpio-link", "a", lambda: _archive(newc(b"link", b"/etc", _LINK)), "cpio", "member-link"
    ),
    of_bytes(
        "cpio-device",
        "a",
        lambda: _archive(newc(b"disk", mode=stat.S_IFBLK | 0o600)),
        "cpio",
        "member-device",
    ),
    of_bytes("cpio-twice", "a", lambda: _archive(newc(b"a", b"other")), "cpio", "member-duplicate"),
    of_bytes(
        "cpio-member-too-large",
        "a",
        lambda: _archive(newc(b"c", size=1 << 30)),
        "cpio",
        "truncated",
    ),
    of_bytes(
        "cpio-without-end",
        "a",
        lambda: cpio_of(newc(b"a", b"x"), newc(b"b"), trailer=b""),
        "cpio",
        "truncated",
    ),
    of_bytes("cpio-broken", "a", lambda: _archive(b"garbage " * 20), "cpio", "malformed"),
    of_bytes("cpio-trailing", "a", lambda: _archive() + b"hidden data", "cpio", "hidden-data"),
    of_bytes(
        "initrd-escapes",
        "a",
        lambda: _microcode() + cpio_of(newc(b"../x", b"y")),
        "initrd",
        "member-escapes",
    ),
)
