"""OvfBundle, OvaBundle: an OVF package that is open: its disks, and what its manifest comes to.

Imports machines, formats and storage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, Final

from vmimg.bundles.bundle import Bundle, BundleDisk, Verdict
from vmimg.bundles.ovf.members import Members
from vmimg.bundles.pieces import open_pieces
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import ChainError, FormatError, OptionError, UnsupportedFeature, VmimgError
from vmimg.formats.detect import identify
from vmimg.formats.keys import Keys
from vmimg.formats.opening import open_storage_disk
from vmimg.formats.vetting import printable
from vmimg.machines.dialects.ovf import Envelope, File, OvfDisk, envelope
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder
from vmimg.storage.stream import HEAD_SIZE, outer_compression

__all__ = ["OvaBundle", "OvfBundle"]

_DEFAULT_POLICY: Final = ParentPolicy()
_MAX_XML: Final = 16 << 20
# Images whose first bytes are looked at when a package is opened; of more, when they are read.
_MAX_LOOKED_AT: Final = 64
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}")
_UGLY: Final = re.compile(r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-|vmdisk[0-9A-Fa-f]{8}-")
_COMPRESSIONS: Final = ("gzip", "bzip2")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a disk is: the ``pieces`` of its file, and how they are compressed. ``problem``: why it
    cannot be read.
    """

    disk: OvfDisk
    pieces: tuple[str, ...] = ()
    compression: str = ""
    problem: str = ""


class OvfBundle(Bundle):
    """Disks are called by their ids in the descriptor, disk1, disk2 ... where those are no names
    for people; those names are always understood. The format is what the bytes are: the URI in the
    descriptor is a hint, and ``facts["problems"]`` says where it is another.
    """

    kind: ClassVar[str] = "ovf"
    _one: ClassVar[bool] = True

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self._members = Members(folder, one=self._one)
        text = folder.read(self._members.descriptor, _MAX_XML)
        self.envelope: Envelope = envelope(text, f"{folder.name}: '{self._members.descriptor}'")
        self.machines = self.envelope.machines
        self.problems: list[str] = []
        self._places: dict[str, _Place] = {}
        self._files = {file.id: file for file in self.envelope.files}
        self.disks = tuple(self._listed())
        self.facts = self._facts()

    @property
    def descriptor(self) -> str:
        """Names of members: the descriptor, the `manifest` and the `certificate`, "" where none."""
        return self._members.descriptor

    @property
    def manifest(self) -> str:
        return self._members.manifest

    @property
    def certificate(self) -> str:
        return self._members.certificate

    @property
    def stem(self) -> str:
        """The descriptor's name without its extension."""
        return self._members.stem

    def find(self, name: str | None = None) -> BundleDisk:
        number = re.fullmatch(r"disk(\d{1,6})", name or "")
        known = any(name in (disk.name, disk.member) for disk in self.disks)
        if number is not None and not known and 0 < int(number[1]) <= len(self.disks):
            return self.disks[int(number[1]) - 1]
        return super().find(name)

    def storage(self, disk: BundleDisk) -> Storage:
        place = self._place(disk)
        if place.problem:
            raise FormatError(f"{self.name}: disk '{disk.name}': {place.problem}")
        if not place.pieces:
            raise UnsupportedFeature(
                f"{self.name}: disk '{disk.name}' has no file: it is empty, of {disk.size} bytes"
            )
        return open_pieces(
            self.folder,
            place.pieces,
            disk.member,
            compression=place.compression,
            limit=_unpacked_limit(disk.size),
        )

    def open_disk(
        self,
        name: str | None = None,
        *,
        snapshot: str | None = None,
        policy: ParentPolicy = _DEFAULT_POLICY,
        keys: Keys | bytes | str | None = None,
        sealed: bool = False,
    ) -> Disk:
        found = self.find(name)
        if not self._place(found).disk.parent:
            return super().open_disk(
                name, snapshot=snapshot, policy=policy, keys=keys, sealed=sealed
            )
        return self._open_chain(found, snapshot, policy, keys, sealed)

    def verify(
        self, *, trust: bytes | None = None, now: datetime | None = None
    ) -> Iterator[Verdict]:
        """``now``: the time to judge certificates by."""
        from vmimg.bundles.manifest import verify_manifest

        members = self._members
        yield from self._wrong_sizes()
        expected = self.expected()
        if members.manifest:
            found = verify_manifest(self.folder, members.manifest, expected)
        else:
            detail = "there is no manifest"
            found = (Verdict(printable(each), "unlisted", "", detail) for each in expected)
        for verdict in found:
            if trust is not None and verdict.state == "unlisted":
                # Whoever asks for a signature asks for one of everything.
                detail = f"{verdict.detail}, and so nobody signed it"
                verdict = replace(verdict, state="bad", detail=detail)
            yield verdict
        if members.certificate:
            yield from self._verify_signature(trust, now)
        elif trust is not None:
            yield Verdict("signature", "missing", "", "there is none, and one was asked for")

    # Disks

    def _listed(self) -> Iterator[BundleDisk]:
        places = {id: at for at, id in reversed(list(self.envelope.places.items()))}
        names = _friendly([disk.id for disk in self.envelope.disks])
        for disk, name in zip(self.envelope.disks, names, strict=True):
            place = self._places[name] = self._located(disk)
            if place.problem:
                self.problems.append(f"disk '{name}': {place.problem}")
            file = self._files.get(disk.file)
            member = place.pieces[0] if len(place.pieces) == 1 else ""
            if not member and file is not None:
                member = printable(file.name)
            found = BundleDisk(name, member, "", disk.capacity, places.get(disk.id))
            if len(self._places) <= _MAX_LOOKED_AT:
                found = self._looked_at(found, place)
            yield found

    def _located(self, disk: OvfDisk) -> _Place:
        if not disk.file:
            return _Place(disk)
        file = self._files.get(disk.file)
        if file is None:
            return _Place(disk, problem=f"there is no file '{printable(disk.file[:80])}'")
        try:
            pieces = self._members.pieces(file)
        except (FormatError, UnsupportedFeature) as error:
            return _Place(disk, problem=str(error).removeprefix(f"{self.name}: "))
        if not pieces:
            return _Place(disk, problem=f"its file '{printable(file.href[:200])}' is not there")
        return _Place(disk, pieces, file.compression or self._compressed(file, pieces))

    def _compressed(self, file: File, pieces: tuple[str, ...]) -> str:
        """Whether a file is compressed and the descriptor does not say so, as its name may."""
        if not file.name.lower().endswith((".gz", ".bz2")):
            return ""
        with self.folder.open(pieces[0]) as storage:
            kind = outer_compression(storage.read(0, min(HEAD_SIZE, storage.size)))
        return kind if kind in _COMPRESSIONS else ""

    def _looked_at(self, disk: BundleDisk, place: _Place) -> BundleDisk:
        """``disk`` with the format that its bytes have, where that costs little."""
        if place.problem or not place.pieces or place.compression:
            return disk
        try:
            with self.storage(disk) as storage:
                format = identify(storage).name
        except VmimgError:
            return disk  # whoever opens it will be told
        # oVirt says of all disks that they are VMDKs, and means qcow2 or raw.
        said = "" if self.envelope.flavour == "ovirt" else place.disk.format_name
        if said and format != said:
            self.problems.append(
                f"disk '{disk.name}' is said to be {said}, and its file is {format}"
            )
        return BundleDisk(disk.name, disk.member, format, disk.size, disk.drive)

    def _place(self, disk: BundleDisk) -> _Place:
        return self._places[disk.name]

    def _open_chain(
        self,
        found: BundleDisk,
        snapshot: str | None,
        policy: ParentPolicy,
        keys: Keys | bytes | str | None,
        sealed: bool,
    ) -> Disk:
        """A delta disk above the disks that the descriptor calls its parents. What the images say
        of their parents is not followed: they are called otherwise here.
        """
        chain = self._ancestry(found, policy.max_depth) if policy.follow else [found]
        alone = ParentPolicy(follow=False, max_size=policy.max_size)
        opened = list[Disk]()
        try:
            for disk in chain:
                layer = open_storage_disk(
                    self.storage(disk),
                    format=disk.format or None,
                    snapshot=snapshot if disk is found else None,
                    policy=policy if disk is chain[-1] else alone,
                    keys=keys,
                    sealed=sealed,
                )
                opened.append(layer)
                if len(opened) < 2 or policy.allow_changed:
                    continue
                child = opened[-2].layers[-1]
                reason = child.parent_mismatch(layer.top) if child.parent is not None else None
                if reason is not None:
                    raise ChainError(
                        f"{child.name}: its parent {layer.name} {reason}; reading it would mix two "
                        "disks. Pass --allow-changed-parent if you know better"
                    )
        except BaseException:
            for each in opened:
                each.close()
            raise
        return Disk([layer for disk in opened for layer in disk.layers])

    def _ancestry(self, found: BundleDisk, depth: int) -> list[BundleDisk]:
        by_id = {self._places[disk.name].disk.id: disk for disk in self.disks}
        chain = [found]
        while parent := self._place(chain[-1]).disk.parent:
            disk = by_id.get(parent)
            if disk is None:
                raise ChainError(
                    f"{self.name}: disk '{chain[-1].name}' stands above "
                    f"'{printable(parent[:80])}', which is not there"
                )
            if disk in chain or len(chain) >= depth:
                raise ChainError(f"{self.name}: the parents of disk '{found.name}' have no end")
            chain.append(disk)
        return chain

    # Verifying

    def expected(self) -> list[str]:
        """The members that a manifest must name, in their order."""
        members = self._members
        expected = dict.fromkeys([members.descriptor])
        for file in self.envelope.files:
            try:
                pieces = members.pieces(file)
            except VmimgError:
                continue  # told by `_wrong_sizes`
            expected |= dict.fromkeys(pieces)
        if not self._one:
            own = (members.manifest, members.certificate)
            expected |= dict.fromkeys(name for name in members.all if name not in own)
        return list(expected)

    def _wrong_sizes(self) -> Iterator[Verdict]:
        """What the descriptor says of its files, where that is not so."""
        for file in self.envelope.files:
            name = printable(file.name[:200])
            try:
                pieces = self._members.pieces(file)
            except UnsupportedFeature as error:
                yield Verdict(name, "unknown", "", str(error))
                continue
            except VmimgError as error:
                yield Verdict(name, "bad", "size", str(error))
                continue
            size = sum(self.folder.size(piece) for piece in pieces)
            if not pieces:
                yield Verdict(name, "missing", "", "the descriptor refers to it")
            elif file.size is not None and file.size != size:
                detail = f"it has {size} bytes, the descriptor says {file.size}"
                yield Verdict(name, "bad", "size", detail)

    def _verify_signature(self, roots: bytes | None, now: datetime | None) -> Iterator[Verdict]:
        from vmimg.bundles import signing
        from vmimg.bundles.manifest import MAX_BYTES as MAX_MANIFEST

        members = self._members
        if not members.manifest:
            detail = "there is a certificate, and no manifest that it could be about"
            yield Verdict("signature", "unknown", "", detail)
            return
        where = f"{self.name}: '{members.certificate}'"
        try:
            manifest = self.folder.read(members.manifest, MAX_MANIFEST)
            data = self.folder.read(members.certificate, signing.MAX_BYTES)
            yield from signing.verify_signature(
                manifest, members.manifest, data, where, roots=roots, now=now
            )
        except OptionError:
            raise
        except UnsupportedFeature as error:
            yield Verdict("signature", "unknown", "", str(error))
        except VmimgError as error:
            yield Verdict("signature", "bad", "", str(error))

    def _facts(self) -> dict[str, Any]:
        said, members = self.envelope, self._members
        facts: dict[str, Any] = {"descriptor": members.descriptor, "ovf-version": said.version}
        if said.flavour:
            facts["made-by"] = said.flavour
        if members.manifest:
            facts["manifest"] = members.manifest
        if members.certificate:
            facts["certificate"] = members.certificate
        if len(members.descriptors) > 1:
            facts["descriptors"] = len(members.descriptors)
        if said.networks:
            facts["networks"] = [printable(network.name) for network in said.networks]
        products = [" ".join(filter(None, (p.vendor, p.product, p.version))) for p in said.products]
        if any(products):
            facts["products"] = [printable(product) for product in products if product]
        if said.eulas:
            facts["licences"] = len(said.eulas)
        deltas = {disk.id: disk.parent for disk in said.disks if disk.parent}
        if deltas:
            facts["parents"] = deltas
        if self.problems:
            facts["problems"] = list(self.problems)
        return facts


class OvaBundle(OvfBundle):
    """An OVF package in a tar: the first descriptor counts."""

    kind: ClassVar[str] = "ova"
    _one: ClassVar[bool] = False


def _friendly(ids: Sequence[str]) -> list[str]:
    """Names for disks: their ids, or disk1, disk2 ... by their places. All are different."""
    plain = [id if _PLAIN.fullmatch(id) and not _UGLY.match(id) else "" for id in ids]
    taken = set(plain)
    for at, name in enumerate(plain):
        number = at + 1
        while not name or (name != plain[at] and name in taken):
            name, number = f"disk{number}", number + len(ids)
        plain[at] = name
        taken.add(name)
    return plain


def _unpacked_limit(capacity: int) -> int:
    """Bytes that the file of a disk may unpack to: no image is much larger than its disk."""
    if not capacity:
        return _DEFAULT_POLICY.max_size
    return capacity + capacity // 8 + (64 << 20)
