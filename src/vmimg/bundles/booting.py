"""Kernels and initrds that lie in a bundle: which members they are, and what is known of them.

Names tell what a member is for, its bytes what it is. Sources: the names that Debian, Ubuntu,
Fedora, Alpine, SUSE and CirrOS give them; vmimg.probe.kernels for the bytes. Imports probe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from vmimg.bundles.texts import textual
from vmimg.formats.raw.findings import View
from vmimg.probe import kernels
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import detect_storage
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = [
    "initrds_in",
    "is_initrd",
    "is_kernel",
    "kernel_facts",
    "kernels_in",
    "loader_in",
    "root_images",
]

_KERNEL: Final = re.compile(
    r"(.*[-_.])?(vmlinu[xz]|bzimage|zimage)([-_.].*)?|(.*[-_.])?(kernel|aki)([-_].*)?"
    r"|linux26|linux([-_]\d.*)?|image(\.gz)?"
)
_INITRD: Final = re.compile(r"(.*[-_.])?(initrd|initramfs|ramdisk|ari)([-_.0-9].*)?")
_ROOTS: Final = (".img", ".ami", ".ext2", ".ext3", ".ext4")
_LOADER: Final = re.compile(r".*[-_.](floppy|loader)(\.img)?", re.IGNORECASE)
# What has such a word in its name and is neither.
_OTHERS: Final = (
    ".cfg", ".conf", ".txt", ".ipxe", ".sig", ".asc", ".gpg", ".sha256", ".md5", ".json", ".xml",
    ".html", ".c32", ".0", ".raw", ".qcow2", ".squashfs", ".iso", ".manifest", ".md", ".deb",
    ".rpm", ".apk", ".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tgz", ".vmdk",
    ".vhd", ".vhdx", ".vdi",
)  # fmt: skip
# Linux's banner lies among its constants; an uncompressed kernel has some ten MiB of them.
_BANNER: Final = re.compile(rb"Linux version ([\x21-\x7e]{1,128}) ")
_MAX_SEARCHED: Final = 64 << 20
_PIECE: Final = 1 << 20
_MACHINES: Final = {
    "x86-64": "x86_64", "i386": "i686", "AArch64": "aarch64", "ARM": "armv7l", "RISC-V": "riscv64",
    "PowerPC64": "ppc64le", "S/390": "s390x", "IA-32": "i686",
}  # fmt: skip
# Of the x86 boot protocol: the kernel has an entry point in 64 bits.
_XLF_KERNEL_64: Final = 1


def is_kernel(name: str) -> bool:
    """Whether a member is called like a kernel."""
    base = name.rpartition("/")[2].lower()
    # A disk may be called linux.img, an initrd is.
    usable = not base.endswith((*_OTHERS, ".img")) and not is_initrd(name)
    return usable and bool(_KERNEL.fullmatch(base))


def is_initrd(name: str) -> bool:
    """Whether a member is called like an initrd."""
    base = name.rpartition("/")[2].lower()
    return bool(_INITRD.fullmatch(base)) and not base.endswith(_OTHERS)


def kernels_in(folder: Folder) -> list[str]:
    """The members that are called like kernels."""
    return [name for name in folder.names() if is_kernel(name)]


def initrds_in(folder: Folder) -> list[str]:
    """The members that are called like initrds."""
    return [name for name in folder.names() if is_initrd(name)]


def root_images(folder: Folder) -> list[str]:
    """The members that are called like images of a root file system beside its kernel."""
    return [
        name
        for name in folder.names()
        if name.lower().endswith(_ROOTS) and not is_initrd(name) and not loader_in((name,))
    ]


def loader_in(names: Iterable[str]) -> str:
    """The first of ``names`` that is called like a boot loader on a floppy, "" for none."""
    return next((name for name in names if _LOADER.fullmatch(name)), "")


def kernel_facts(storage: Storage) -> dict[str, Any]:
    """What a kernel or an initrd is: "title", and "version" and "architecture" where they are told.

    Raises StorageError where it cannot be read.
    """
    best = detect_storage(storage).best
    claims = [best, *best.inside]
    claim = next((each for each in claims if each.family == "boot"), best)
    if claim.family in ("disk", "content"):
        return {"kind": "unknown", "title": "unknown"}
    facts: dict[str, Any] = {"kind": claim.name, "title": textual(claim.title)}
    version = textual(claim.details.get("version")) if claim.name == "bzimage" else ""
    if not version and claim is best and claim.name in ("arm64-image", "riscv-image", "vmlinux"):
        version = _banner(storage)
    if version:
        facts["version"] = version.partition(" ")[0]
    architecture = _architecture(claim, storage if claim is best else None)
    if architecture:
        facts["architecture"] = architecture
    return facts


def _architecture(claim: Claim, storage: Storage | None) -> str:
    if claim.name == "bzimage" and storage is not None:
        header = kernels.read_setup(View(storage, 0, storage.size))
        if header is None or header.version < 0x20C:
            return ""
        return "x86_64" if header.xloadflags & _XLF_KERNEL_64 else "i686"
    known = {"arm64-image": "aarch64", "riscv-image": "riscv64", "zimage": "armv7l"}
    machine = claim.details.get("machine")
    return known.get(claim.name) or _MACHINES.get(str(machine), "")


def _banner(storage: Storage) -> str:
    before = b""
    for offset in range(0, min(storage.size, _MAX_SEARCHED), _PIECE):
        data = before + storage.read(offset, min(_PIECE, storage.size - offset))
        found = _BANNER.search(data)
        if found:
            return found[1].decode("ascii")
        before = data[-256:]
    return ""
