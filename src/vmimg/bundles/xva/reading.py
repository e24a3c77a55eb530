"""XvaBundle: an export of XenServer or XCP-ng that is open. Imports machines and storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar, Final

from vmimg.bundles.bundle import Bundle, BundleDisk, Verdict
from vmimg.bundles.xva.members import CHECKSUMS, blocks_of
from vmimg.bundles.xva.old import ChunkedDisk, chunked_disks, is_old, open_chunks
from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.machines.registry import find
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

__all__ = ["XvaBundle"]

_MAX_XML: Final = 16 << 20
"""Exports with many snapshots have some hundred KiB."""


class XvaBundle(Bundle):
    """Disks are called disk1, disk2 ... in the order of the machine's drives; those that no machine
    has (of snapshots) follow. ``member`` is the directory with the blocks.
    """

    kind: ClassVar[str] = "xva"

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        described = next((n for n in ("ova.xml", "./ova.xml") if folder.exists(n)), None)
        if described is None:
            raise FormatError(f"{folder.name}: there is no ova.xml in it")
        text = folder.read(described, _MAX_XML)
        where = f"{folder.name}: '{described}'"
        self._blocks = blocks_of(_names(folder), folder.name)
        self._chunks: dict[str, ChunkedDisk] = {}
        self.machines = find("xapi").read(text, where)
        if is_old(text):
            sizes = {drive.path: drive.size for each in self.machines for drive in each.drives}
            self._chunks = chunked_disks(folder.names(), sizes, folder)
        self.disks = tuple(self._listed())
        self.facts = self._facts(is_old(text))

    def storage(self, disk: BundleDisk) -> Storage:
        if disk.member in self._chunks:
            return open_chunks(self.folder, self._chunks[disk.member])
        if disk.member not in self._blocks:
            raise UnsupportedFeature(f"{self.name}: the disk '{disk.name}' was not exported")
        from vmimg.bundles.xva.blocks import BlockStorage

        return BlockStorage(self.folder, self._blocks[disk.member], disk.size)

    def verify(self, *, trust: bytes | None = None) -> Iterator[Verdict]:
        from vmimg.bundles.xva.checksums import verify_blocks

        for blocks in self._blocks.values():
            yield from verify_blocks(self.folder, blocks)
        for disk in self._chunks.values():
            yield Verdict(disk.directory, "unlisted", "", "exports of this age have no checksums")

    def _listed(self) -> Iterator[BundleDisk]:
        rest = dict.fromkeys([*self._blocks, *self._chunks])
        number = 0
        for at, machine in enumerate(self.machines):
            for drive_at, drive in enumerate(machine.drives):
                if drive.device != "disk":
                    continue
                number += 1
                there = drive.path in self._blocks or drive.path in self._chunks
                member = drive.path if there else ""
                rest.pop(member, None)
                yield BundleDisk(f"disk{number}", member, "raw", drive.size, (at, drive_at))
        for directory in rest:
            number += 1
            chunks = self._chunks.get(directory)
            yield BundleDisk(f"disk{number}", directory, "raw", chunks.size if chunks else 0)

    def _facts(self, old: bool) -> dict[str, object]:
        kinds = sorted({CHECKSUMS[e] for blocks in self._blocks.values() for e in blocks.checksums})
        facts: dict[str, object] = {
            "layout": "chunks" if self._chunks else "blocks",
            "blocks": sum(len(blocks.numbers) for blocks in self._blocks.values()),
        }
        if kinds:
            facts["checksums"] = kinds
        if old:
            facts["version"] = "0.1"
        return facts


def _names(folder: Folder) -> Iterable[str]:
    """The names of all files, one by one where the folder can: there may be millions."""
    members = getattr(folder, "members", None)
    return folder.names() if members is None else (name for name, _, _ in members())
