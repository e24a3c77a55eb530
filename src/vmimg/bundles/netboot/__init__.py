"""Netboot sets: a kernel and an initrd, what else they load, and what tells a boot loader of them.

There is no disk in a set: `unpack` and `info` are what one does with it. `entries` reads iPXE
scripts, GRUB's menus, those of PXELINUX and loader entries; nothing is run and nothing is fetched.
Sources: iPXE's documentation of its scripts; GNU GRUB's manual, "Menu entries"; SYSLINUX's
"Config"; the Boot Loader Specification, type 1. Imports probe and storage.
"""

from __future__ import annotations

from typing import Any, Final

from vmimg.bundles import uec
from vmimg.bundles.booting import initrds_in, kernel_facts, kernels_in, root_images
from vmimg.bundles.bundle import Bundle, BundleDisk
from vmimg.bundles.netboot.entries import BootEntry, entries_of
from vmimg.bundles.texts import listed, textual
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.raw.contents import examine
from vmimg.probe.claims import Claim
from vmimg.probe.settings import as_words
from vmimg.storage.folder import Folder

__all__ = ["NetbootSet", "open"]

_MAX_TEXT: Final = 256 << 10
_MAX_TEXTS: Final = 64
_MAX_SHOWN: Final = 32
_TEXTS: Final = (".ipxe", ".cfg", ".conf", ".pxe", ".menu", ".txt")
_SQUASHFS: Final = b"hsqs"
_MAX_FLOPPY: Final = 2880 << 10
_DISKS: Final = ("filesystem", "mbr", "gpt")


class NetbootSet(Bundle):
    """``entries``: what can be booted by it. ``squashfs``: members with root file systems."""

    kind = "netboot"
    entries: tuple[BootEntry, ...] = ()
    squashfs: tuple[str, ...] = ()

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        names = listed(folder)
        self.kernels = tuple(kernels_in(folder)[:_MAX_SHOWN])
        self.initrds = tuple(initrds_in(folder)[:_MAX_SHOWN])
        if not self.kernels:
            raise FormatError(f"{self.name}: is no netboot set: there is no kernel in it")
        found: list[BootEntry] = []
        texts = [name for name in names.values() if _is_text(name)][:_MAX_TEXTS]
        for name in texts:
            found += self._entries(name)
        self.entries = tuple(found)
        self.squashfs = tuple(name for name in names.values() if self._is_squashfs(name))
        self.facts = self._facts()

    def find(self, name: str | None = None) -> BundleDisk:
        raise UnsupportedFeature(
            f"{self.name}: is a netboot set: a kernel and what it loads, and no disk"
        )

    def _entries(self, name: str) -> tuple[BootEntry, ...]:
        if not 0 < self.folder.size(name) <= _MAX_TEXT:
            return ()
        words = as_words(self.folder.read(name, _MAX_TEXT))
        return entries_of(words, name, self.folder.names()) if words is not None else ()

    def _is_squashfs(self, name: str) -> bool:
        if not name.lower().endswith((".squashfs", ".sqfs", ".img", "modloop", ".sfs")) and (
            "modloop" not in name.lower()
        ):
            return False
        with self.folder.open(name) as storage:
            return storage.size > 96 and storage.read(0, 4) == _SQUASHFS

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"kernels": [self._about(name) for name in self.kernels]}
        if self.initrds:
            facts["initrds"] = [self._about(name) for name in self.initrds]
        if self.squashfs:
            facts["squashfs"] = list(self.squashfs[:_MAX_SHOWN])
        if self.entries:
            facts["menu"] = [entry.to_json() for entry in self.entries[:_MAX_SHOWN]]
            missing = sorted({name for entry in self.entries for name in entry.missing})
            if missing:
                facts["missing"] = missing[:_MAX_SHOWN]
        return facts

    def _about(self, name: str) -> dict[str, Any]:
        with self.folder.open(name) as storage:
            return {"file": textual(name), "size": storage.size, **kernel_facts(storage)}


def open(folder: Folder, claim: Claim) -> Bundle:
    """The set in ``folder``. Raises FormatError."""
    # Of a compressed archive detecting sees the beginning only: a disk may lie behind the kernel.
    if kernels_in(folder) and any(_is_root(folder, name) for name in root_images(folder)[:16]):
        return uec.open(folder, claim)
    return NetbootSet(folder)


def _is_root(folder: Folder, name: str) -> bool:
    """Whether it is a file system: sets have .img of other things too, floppies among them."""
    with folder.open(name) as storage:
        return storage.size > _MAX_FLOPPY and examine(storage).kind in _DISKS


def _is_text(name: str) -> bool:
    lower = name.lower()
    return (
        lower.endswith(_TEXTS)
        or "pxelinux.cfg/" in lower
        or lower.rpartition("/")[2] in ("autoexec", "boot", "menu")
    )
