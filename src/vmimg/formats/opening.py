"""The one place that opens disks: the file, its format, and the chain of files behind it.

What an image names (a parent, a data file) is opened only as ParentPolicy allows, and a parent only
with the format that its child declares, never by a guess. Imports disk, storage and the registry;
no numpy until a layer needs it.
"""

from __future__ import annotations

import os
import re
from typing import Final

from vmimg import storage as storages
from vmimg.disk.layer import UNNAMED, Layer, ParentRef
from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import ChainError, OptionError, StorageError, UnsafeImage, VmimgError
from vmimg.formats.descriptor import Format
from vmimg.formats.detect import identify
from vmimg.formats.driver import Companions
from vmimg.formats.keys import Keys, as_keys
from vmimg.formats.registry import all_formats, find
from vmimg.storage.base import Storage
from vmimg.storage.folder import joined

__all__ = ["Chain", "open_disk", "open_file", "open_storage_disk"]

_DEFAULT_POLICY: Final = ParentPolicy()


def open_disk(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    writable: bool = False,
    snapshot: str | None = None,
    policy: ParentPolicy = _DEFAULT_POLICY,
    share: bool = False,
    keys: Keys | bytes | str | None = None,
    sealed: bool = False,
) -> Disk:
    """The disk in the image at ``path``, with all of its parents; close it after use.

    ``format`` is a registry name, found by the image's structure where it is None. ``snapshot`` is
    the id or name of an internal snapshot, opened instead of the present state. ``share`` takes no
    locks, to read what a running machine writes. ``keys``: the passphrase of what is encrypted, or
    a function that is asked for it with the name of each such image. ``sealed``: open encrypted
    images without a key, to map them. Raises what is in `vmimg.errors`, and nothing else.
    """
    if share and writable:
        raise OptionError("an image cannot be shared (-U) and written")
    if format is not None:
        find(format)  # a wrong name is said before a file is touched
    storage = open_file(path, "rw" if writable else "r", lock=not share)
    return open_storage_disk(
        storage,
        format=format,
        writable=writable,
        snapshot=snapshot,
        policy=policy,
        share=share,
        keys=keys,
        sealed=sealed,
    )


def open_storage_disk(
    storage: Storage,
    *,
    format: str | None = None,
    writable: bool = False,
    snapshot: str | None = None,
    policy: ParentPolicy = _DEFAULT_POLICY,
    share: bool = False,
    keys: Keys | bytes | str | None = None,
    sealed: bool = False,
) -> Disk:
    """Like `open_disk`, from bytes that are open already.

    ``storage`` belongs to the disk from then on: it is closed with it, and when opening fails.
    """
    chain = Chain(policy, share=share, keys=None if sealed else as_keys(keys))
    try:
        chain.adopt(storage)
        if writable and snapshot is not None:
            raise OptionError(f"{storage.name}: a snapshot can be read, not written")
        found = find(format) if format is not None else identify(storage)
        return Disk(chain.layers(storage, found, writable=writable, snapshot=snapshot))
    except BaseException:
        chain.close()
        raise


def open_file(
    path: str | os.PathLike[str], mode: storages.Mode = "r", *, lock: bool = True
) -> Storage:
    """The bytes that an image at ``path`` begins with: of the file, or, where ``path`` is a
    directory that is an image, of the file in it which a format says to look for (Format.index).

    Raises what opening raises, and StorageError for any other directory.
    """
    text = os.fspath(path)
    if not os.path.isdir(text):
        return storages.open(text, mode, lock=lock)
    names = {format.index for format in all_formats() if format.index}
    for name in sorted(names):
        inside = os.path.join(text, name)
        if os.path.isfile(inside):
            return storages.open(inside, mode, lock=lock)
    raise StorageError(
        f"{text}: is a directory, and no image: there is no {' or '.join(sorted(names))} in it"
    )


class Chain:
    """Follows what images name, and holds every file that was opened on the way.

    ``policy`` decides; ``share`` takes no locks; ``keys`` as in `Driver.open`.
    """

    def __init__(
        self, policy: ParentPolicy, *, share: bool = False, keys: Keys | None = None
    ) -> None:
        self._policy = policy
        self._share = share
        self._keys = keys
        self._opened: list[Storage] = []
        self._names: dict[tuple[int, ...] | str, str] = {}
        """What to call each file that is open, by its identity and by its real path."""

    def adopt(self, storage: Storage) -> Storage:
        """Hold ``storage``. Raises ChainError when the chain has the same file already."""
        self._opened.append(storage)
        identity = storage.identity()
        if identity is None:
            return storage
        if identity in self._names:
            raise ChainError(
                f"{storage.name}: the chain of images loops: it is {self._names[identity]} again; "
                "rebase one of them"
            )
        self._names[identity] = self._names[os.path.realpath(storage.name)] = storage.name
        return storage

    def layers(
        self, storage: Storage, format: Format, *, writable: bool, snapshot: str | None
    ) -> list[Layer]:
        """The layer of ``storage`` and those of its parents, as far as the policy follows them."""
        layer = self._layer(storage, format, writable=writable, snapshot=snapshot)
        layers = [layer]
        while layer.beneath is not None or (layer.parent is not None and self._policy.follow):
            if len(layers) >= self._policy.max_depth:
                raise ChainError(
                    f"{layer.name}: the chain of images has more than "
                    f"{self._policy.max_depth} layers"
                )
            if layer.beneath is not None:
                layer = layer.beneath
                layers.append(layer)
                continue
            assert layer.parent is not None
            storage, format = self.parent(storage, layer.parent)
            child = layer
            layer = self._layer(storage, format, writable=False, snapshot=None)
            layers.append(layer)
            reason = child.parent_mismatch(layer)
            if reason is not None and not self._policy.allow_changed:
                raise ChainError(
                    f"{child.name}: its parent {layer.name} {reason}; reading it would mix two "
                    "disks. Pass --allow-changed-parent if you know better"
                )
        return layers

    def parent(self, child: Storage, ref: ParentRef) -> tuple[Storage, Format]:
        """The parent that ``child`` names, open for reading, and its format as declared."""
        # Everything that can be refused without opening anything is refused first.
        if child.folder is not None:
            # What it is called there is all that there is of a path.
            named = path = self._member(child, ref)
        else:
            named, path = self._locate(child, ref)
        declared = ref.format or self._policy.parent_format
        if declared is None:
            raise ChainError(
                f"{child.name}: does not say which format its backing file '{ref.path}' has, and "
                "guessing is unsafe; pass --backing-format"
            )
        try:
            format = find(declared)
        except OptionError as error:
            raise ChainError(
                f"{child.name}: the format of its backing file '{ref.path}': {error}"
            ) from None
        if child.folder is not None:
            return self._open_member(child, path, ref.path, "backing file"), format
        return self._open(child, path, named, "backing file", writable=False), format

    def _member(self, child: Storage, ref: ParentRef) -> str:
        """The member of the archive in which ``child`` lies that is its parent."""
        folder = child.folder
        assert folder is not None
        if ref.path.startswith(UNNAMED):
            driver = find(ref.format or "raw").driver()
            for member in folder.names():
                if member != child.member and member.lower().endswith(driver.parent_extensions):
                    with folder.open(member) as storage:
                        if driver.is_parent(storage, ref):
                            return member
        else:
            for named in (ref.path, *ref.alternatives):
                try:
                    member = joined(child.member, named)
                except UnsafeImage:
                    continue
                if member != child.member and folder.exists(member):
                    return member
            # Hyper-V and others name it by where it lay on its host.
            for named in (ref.path, *ref.alternatives):
                last = re.split(r"[\\/]", named)[-1].lower()
                found = [
                    member
                    for member in folder.names()
                    if member.rpartition("/")[2].lower() == last and member != child.member
                ]
                if last and len(found) == 1:
                    return found[0]
        raise ChainError(
            f"{child.name}: its backing file '{ref.path}' is not in {folder.name}, and an image is "
            "followed nowhere else from there; unpack it first"
        )

    def _open_member(self, image: Storage, member: str, named: str, role: str) -> Storage:
        """A file beside ``image`` in the archive that it lies in."""
        folder = image.folder
        assert folder is not None
        if not folder.exists(member):
            raise ChainError(f"{image.name}: its {role} '{named}' is not in {folder.name}")
        key = f"{folder.name}\0{member}"
        if key in self._names or member == image.member:
            raise ChainError(
                f"{image.name}: its {role} '{named}' is {self._names.get(key, image.name)} again: "
                "the chain of images loops"
            )
        storage = self.adopt(folder.open(member))
        self._names[key] = storage.name
        return storage

    def _locate(self, child: Storage, ref: ParentRef) -> tuple[str, str]:
        """(as named in ``child``, path) of the parent: the first candidate that the policy takes
        and that exists. Where none does, what is wrong with the first is said.
        """
        if ref.format is not None and ref.path.startswith(UNNAMED):
            found = self._search(child, ref)
            return found, self._resolve(child, found, "backing file")
        refusal: VmimgError | None = None
        missing: tuple[str, str] | None = None
        for named in (ref.path, *ref.alternatives):
            try:
                path = self._resolve(child, named, "backing file")
            except (ChainError, UnsafeImage) as error:
                refusal = refusal or error
                continue
            # A child may bear its parent's name, in another directory.
            if named != ref.path and path in self._names:
                continue
            if os.path.exists(path):
                return named, path
            missing = missing or (named, path)
        if missing is not None and (refusal is None or missing[0] == ref.path):
            return missing
        assert refusal is not None
        raise refusal

    def _search(self, child: Storage, ref: ParentRef) -> str:
        """The file that ``ref``, which knows only an identifier, means."""
        assert ref.format is not None
        if child.identity() is None or not os.path.exists(child.name):
            folders = list[str]()
        else:
            folders = [os.path.dirname(os.path.realpath(child.name))]
        folders += [os.fspath(folder) for folder in self._policy.allowed]
        found = find(ref.format).driver().locate_parent(ref, folders)
        if found is None:
            raise ChainError(
                f"{child.name}: its parent is the {ref.format} image {ref.path}, and no file "
                "beside it is that; pass --allow-dir with the directory that holds it"
            )
        if folders and os.path.dirname(found) == folders[0]:
            return os.path.basename(found)  # as people know it: beside the child
        return found

    def close(self) -> None:
        """Close every file that was opened."""
        for storage in self._opened:
            storage.close()

    def _layer(
        self, storage: Storage, format: Format, *, writable: bool, snapshot: str | None
    ) -> Layer:
        layer = format.driver().open(
            storage,
            writable=writable,
            companions=self.companions(storage, writable=writable),
            snapshot=snapshot,
            keys=self._keys,
        )
        self._policy.admit(storage.name, layer.size)
        return layer

    def companions(self, image: Storage, *, writable: bool) -> Companions:
        """What opens the files besides parents that ``image`` names."""

        def companion(named: str, role: str, *, read_only: bool = False) -> Storage:
            if image.folder is not None:
                return self._open_member(image, joined(image.member, named), named, role)
            path = self._resolve(image, named, role)
            # QEMU looks for a data file in the current directory, and writes its name as it was
            # given there. Followed where there is none beside the image, if the policy takes it.
            if not os.path.exists(path) and os.path.exists(named):
                path = self._resolve(image, os.path.abspath(named), role)
            return self._open(image, path, named, role, writable=writable and not read_only)

        return companion

    def _resolve(self, image: Storage, named: str, role: str) -> str:
        # Memory, and what came through a pipe: a name would be looked for wherever we stand.
        if image.identity() is None or not os.path.exists(image.name):
            raise UnsafeImage(
                f"{image.name}: its {role} is '{named}', but the image lies in no directory in "
                "which that could be looked for; save it to a file first"
            )
        return self._policy.resolve(image.name, named, role)

    def _open(self, image: Storage, path: str, named: str, role: str, *, writable: bool) -> Storage:
        # Before the lock is asked for: an image that names itself would hold the lock it waits for.
        if path in self._names:
            raise ChainError(
                f"{image.name}: its {role} '{named}' is {self._names[path]} again: "
                "the chain of images loops; rebase one of them"
            )
        try:
            storage = open_file(path, "rw" if writable else "r", lock=not self._share)
        except StorageError as error:
            raise ChainError(
                f"{image.name}: its {role} '{named}' cannot be opened: {error}"
            ) from error
        # The path that was decided on is what was opened; people know the file by what they typed.
        shown = os.path.join(os.path.dirname(image.name), named)
        if os.path.realpath(shown) == path:
            storage.name = shown
        return self.adopt(storage)
