"""The one place that opens bundles, and disks in them: `appliance.ova`, `appliance.ova:disk2`.

What a path is, detect says; a kind of the registry opens it. What the vetting calls an error of
the packaging (names that lead out of it, links, devices, two members of one name) is refused before
anything is read by a name in it. Imports probe, transfer and below; kinds when they are used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from vmimg.bundles.bundle import Bundle
from vmimg.bundles.kind import BundleKind
from vmimg.bundles.naming import Named, is_packed
from vmimg.bundles.registry import BUNDLES, by_claim
from vmimg.disk.layer import Layer
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import FormatError, StorageError, UnsafeImage
from vmimg.formats.keys import Keys
from vmimg.formats.opening import open_file
from vmimg.probe.claims import SURE, Claim
from vmimg.probe.detecting import detect, detect_storage
from vmimg.storage.folder import Folder

__all__ = ["is_bundle", "open_bundle", "open_named_disk"]

_DEFAULT_POLICY: Final = ParentPolicy()
# What may be in a stream that is a compressed disk.
_DISKS: Final = ("disk", "content")
_ARCHIVES: Final = ("tar", "zip", "7z", "cpio")
# Where in an archive the files of a whole system are: they may have links and devices.
_TREES: Final = {"lxd": "rootfs/"}
# Files that describe a machine whose disks lie beside them.
_DESCRIPTIONS: Final = {
    "ovf": "ovf",
    "vmx": "vmware",
    "vbox": "virtualbox",
    "pvs": "pvm",
    "hyperv-xml": "hyperv",
    "hyperv-storage": "hyperv",
    "ec2-bundle": "ec2-bundle",
}
# Extensions of archives, which are not read inside of others.
_NESTED: Final = (
    ".ova", ".box", ".xva", ".tar", ".zip", ".7z", ".gz", ".tgz", ".xz", ".zst", ".bz2", ".wim",
)  # fmt: skip
# Archives that are read as one file: other parts of them may lie beside it.
_SPLITTABLE: Final = ("wim", "esd", "swm")
# How what describes a machine is called in an archive.
_MACHINES: Final = {
    "/config.pvs": "pvm",
    ".vmx": "vmware",
    ".vbox": "virtualbox",
    ".vmcx": "hyperv",
}
# The directories in a bundle in which descriptions are that are not beside the disks.
_INNER: Final = {"hyperv": ("virtual machines", "snapshots")}


def is_bundle(path: str, *, descriptions: bool = True, streams: bool = True) -> bool:
    """Whether ``path`` is a bundle and no image of a disk.

    ``descriptions``: also for a file that describes what lies beside it; ``streams``: also for a
    disk that was compressed by itself, which the engine can unpack too. False for what cannot be
    read: whoever opens it will say why.
    """
    try:
        found = _found(path) if path != "-" else None
    except (StorageError, FormatError):
        return False
    if found is None or (found.stream and not streams):
        return False
    return descriptions or not found.index


def open_bundle(
    path: str | os.PathLike[str],
    *,
    policy: ParentPolicy = _DEFAULT_POLICY,
    near: str | None = None,
) -> Bundle:
    """The bundle at ``path``: an archive, a directory, or the file that describes what lies beside
    it (.ovf, .vmx, .vbox). Close it after use.

    ``near``: a path in whose directory there is room for what can only be read unpacked. Raises
    FormatError where it is none, UnsafeImage for one that was made to do harm, and what reading
    raises.
    """
    text = os.fspath(path)
    found = _found(text)
    if found is None:
        raise FormatError(_no_bundle(text))
    return _opened(text, found, policy, near)


def open_named_disk(
    name: Named,
    *,
    snapshot: str | None = None,
    policy: ParentPolicy = _DEFAULT_POLICY,
    keys: Keys | bytes | str | None = None,
    sealed: bool = False,
    streams: bool = True,
    near: str | None = None,
) -> Disk | None:
    """The disk that was named in a bundle, or the only one; the bundle is closed with it.

    None where no disk was named and the path is no bundle, ``streams`` as for `is_bundle`. Raises
    FormatError for an archive that is no bundle: its bytes are no disk either.
    """
    if name.disk is not None:
        bundle = open_bundle(name.path, policy=policy, near=near)
    else:
        try:
            found = _found(name.path)
        except (StorageError, FormatError):
            return None  # whoever opens it says why
        if found is None or (found.stream and not streams):
            _refuse_archive(name.path)
            return None
        bundle = _opened(name.path, found, policy, near)
    try:
        disk = bundle.open_disk(
            name.disk, snapshot=snapshot, policy=policy, keys=keys, sealed=sealed
        )
    except BaseException:
        bundle.close()
        raise
    return _Held(disk.layers, bundle)


class _Held(Disk):
    """A disk that closes the bundle which it lies in."""

    def __init__(self, layers: Sequence[Layer], bundle: Bundle) -> None:
        super().__init__(layers)
        self._bundle = bundle

    def close(self) -> None:
        super().close()
        self._bundle.close()


@dataclass(frozen=True, slots=True)
class _Found:
    """What a path is. ``packing``: the claim's name of what it is packed in, "" for a directory.
    ``index``: the file in the directory that was named. ``stream``: it is a disk that was
    compressed by itself.
    """

    kind: BundleKind
    claim: Claim
    packing: str = ""
    index: str = ""
    stream: bool = False


def _found(path: str) -> _Found | None:
    if os.path.isdir(path):
        return _in_folder(path)
    with open_file(path, lock=False) as storage:
        if not is_packed(storage):
            return None
        detection = detect_storage(storage)
    best = detection.best
    if best.family == "disk":
        return None
    if detection.polyglot:
        names = " and of ".join(detection.contradictions)
        raise UnsafeImage(f"{path}: bears the marks of {names}: `vmimg vet` says more")
    if best.name in _DESCRIPTIONS and best.family != "archive" and "zip" not in best.refines:
        kind = BUNDLES[_DESCRIPTIONS[best.name]]
        return _Found(kind, best, "", _index(path, kind))
    if best.name in _SPLITTABLE:
        return _Found(BUNDLES["wim"], best, "", os.path.basename(path))
    packing = next((name for name in (*best.refines, best.name) if name in _ARCHIVES), best.name)
    for claim in (best, *best.inside):
        kind_found = by_claim(claim.name)
        if kind_found is not None:
            return _Found(kind_found, claim, packing)
    # Of a compressed tar detect sees the beginning only, often one disk: the names in it decide.
    if best.family == "compressed" and any(claim.name == "tar" for claim in best.inside):
        return _Found(BUNDLES["disk-archive"], best, packing)
    if best.family == "compressed" and best.inside and best.inside[0].family in _DISKS:
        return _Found(BUNDLES["disk-archive"], best, packing, stream=True)
    return None


def _refuse_archive(path: str) -> None:
    """Raise FormatError if ``path`` is an archive that is no bundle: its bytes are no disk."""
    try:
        with open_file(path, lock=False) as storage:
            if not is_packed(storage):
                return
            best = detect_storage(storage).best
    except (StorageError, FormatError):
        return
    if best.family == "archive" and best.confidence >= SURE:
        raise FormatError(f"{_no_bundle(path)}; with -f raw its bytes are taken as they are")


def _opened(path: str, found: _Found, policy: ParentPolicy, near: str | None) -> Bundle:
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(path, found, policy, near))
        bundle = _of_a_machine(found.kind, folder).open(folder, found.claim)
        stack.pop_all()
        return bundle


def _no_bundle(path: str) -> str:
    """What to say of a path that is no bundle."""
    if os.path.isdir(path):
        return f"{path}: is a directory with nothing in it that says what it is"
    with open_file(path, lock=False) as storage:
        best = detect_storage(storage).best
    if best.family == "disk" and best.confidence >= SURE:
        return f"{path}: is a disk ({best.title}) and no bundle: `vmimg pack` makes one of it"
    if best.family != "archive" or best.confidence < SURE:
        return f"{path}: is no bundle (see `vmimg detect`); `vmimg pack` makes one of a disk"
    names = [str(name) for name in best.details.get("names", ())]
    inner = next((name for name in names if name.lower().endswith(_NESTED)), None)
    if inner is None:
        return f"{path}: {best.title}: there is no disk in it that is known"
    return f"{path}: holds another archive, {inner}: unpack that one first"


def _of_a_machine(kind: BundleKind, folder: Folder) -> BundleKind:
    """``kind``, or that of the machine that is described in what seemed an archive of a disk: of a
    compressed tar detect sees the beginning only.
    """
    if kind.name != "disk-archive":
        return kind
    for name in folder.names():
        last = "/" + name.lower()
        for end, machine in _MACHINES.items():
            if last.endswith(end):
                return BUNDLES[machine]
    return kind


def _index(path: str, kind: BundleKind) -> str:
    """The name of the description at ``path`` in its bundle."""
    above, last = os.path.split(os.path.abspath(path))
    inner = os.path.basename(above)
    return f"{inner}/{last}" if inner.lower() in _INNER.get(kind.name, ()) else last


def _in_folder(path: str) -> _Found | None:
    try:
        open_file(path, lock=False).close()
        return None  # a disk that is a directory
    except StorageError:
        pass
    try:
        claims = detect(path).claims
    except StorageError:
        return None
    for claim in claims:
        kind = by_claim(claim.name)
        if kind is not None:
            return _Found(kind, claim)
    return None


def _folder(path: str, found: _Found, policy: ParentPolicy, near: str | None) -> Folder:
    from vmimg.bundles.archives import DirectoryFolder, open_folder
    from vmimg.bundles.archives.refusing import Refusing

    if not found.packing:
        index = found.index
        if index == os.path.basename(path) and os.path.islink(path):
            # The user named the link: what lies beside the file is meant, not beside the link.
            path = os.path.realpath(path)
            index = os.path.basename(path)
        above = os.path.dirname(path) or "." if index else path
        if "/" in index:
            above = os.path.dirname(os.path.abspath(above))
        folder: Folder = DirectoryFolder(above)
        folder.index = index
        return folder
    refusing = Refusing(path, tree=_TREES.get(found.kind.name))
    storage = open_file(path, lock=False)
    return open_folder(storage, found.packing, near=near, limit=policy.max_size, refusing=refusing)
