"""Bundle: an open package: its members, its disks read in place, its machines, its checksums.

Each kind derives from Bundle and says what it knows; finding disks by name and opening them is
here. Imports formats, machines and storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from vmimg.disk.policy import ParentPolicy
from vmimg.disk.stack import Disk
from vmimg.errors import OptionError, UnsafeImage, UnsupportedFeature
from vmimg.formats.descriptor import Option
from vmimg.formats.keys import Keys
from vmimg.formats.opening import open_storage_disk
from vmimg.machines.losses import Loss
from vmimg.machines.model import Machine
from vmimg.storage.base import Storage
from vmimg.storage.folder import Folder

if TYPE_CHECKING:
    from vmimg.transfer.engine import Progress

__all__ = ["Bundle", "BundleDisk", "Unpacking", "Verdict", "check_total"]

_DEFAULT_POLICY = ParentPolicy()


@dataclass(frozen=True, slots=True)
class BundleDisk:
    """A disk in a bundle. ``name``: what people call it ("disk1"), unique; ``member``: its file, ""
    for one that has none (it reads as zeros). ``format``: a registry name, "" where only its
    bytes tell. ``size``: virtual bytes as the metadata says, 0 where they do not. ``drive``:
    (number of the machine, number of its drive), or None.
    """

    name: str
    member: str
    format: str = ""
    size: int = 0
    drive: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying one thing came to. ``subject``: a member, or "signature" and the like.
    ``state``: "good", "bad", "missing" (it is promised and not there), "unlisted" (it is there and
    no checksum says what it should be), "unknown" (it could not be verified: ``detail`` says why).
    """

    subject: str
    state: Literal["good", "bad", "missing", "unlisted", "unknown"]
    what: str = ""
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "subject": self.subject,
            "state": self.state,
            "what": self.what,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Unpacking:
    """What a kind unpacked in its own way: bytes of each file or directory, by its name; and what
    could not be kept.
    """

    files: Mapping[str, int]
    losses: tuple[Loss, ...] = ()


def check_total(name: str, total: int, limit: int) -> None:
    """Raises UnsafeImage where the files of ``name`` are more than ``limit`` bytes together."""
    if total > limit:
        raise UnsafeImage(
            f"{name}: unpacks to {total} bytes, and {limit} are allowed; pass --max-size {total} "
            "if you believe it"
        )


class Bundle:
    """``kind``: a name of the registry. ``folder`` belongs to it. ``facts``: what else is worth
    telling, for `vmimg info`: plain values by names with hyphens. ``unpack_options``: of `unpack`.
    """

    kind: ClassVar[str]
    unpack_options: ClassVar[tuple[Option, ...]] = ()
    folder: Folder
    disks: tuple[BundleDisk, ...] = ()
    machines: tuple[Machine, ...] = ()
    facts: Mapping[str, Any] = {}

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        """What to call it in messages: the path that it was opened by."""
        return self.folder.name

    def storage(self, disk: BundleDisk) -> Storage:
        """The bytes of a disk's image, read in place; the caller closes it. A kind that keeps them
        in another way than as a member makes its own.
        """
        return self.folder.open(disk.member)

    def count_files(self) -> int:
        """How many files are in it."""
        return len(self.folder.names())

    def unpack(
        self,
        target: str,
        part: str | None,
        options: Mapping[str, Any],
        progress: Progress | None,
        *,
        limit: int,
    ) -> Unpacking | None:
        """Write everything in it, or the ``part`` that somebody named, to the new and empty
        directory ``target``, in the kind's own way. None for kinds that have none: their members
        are copied as they are. Raises UnsafeImage where that would be more than ``limit`` bytes.
        """
        return None

    def verify(self, *, trust: bytes | None = None) -> Iterator[Verdict]:
        """Reads everything that has a checksum, one verdict after the other. A kind that carries
        none says nothing. ``trust``: certificates (PEM) that a signature must lead to.
        """
        yield from ()

    def find(self, name: str | None = None) -> BundleDisk:
        """The disk called ``name`` (or the member, or the number from 1), or the only one.

        Raises OptionError that lists what there is.
        """
        names = ", ".join(disk.name for disk in self.disks)
        if name is None:
            if len(self.disks) == 1:
                return self.disks[0]
            if not self.disks:
                raise OptionError(f"{self.name}: there is no disk in it")
            raise OptionError(
                f"{self.name}: holds {len(self.disks)} disks: name one of them, as "
                f"{self.name}:{self.disks[0].name} (there are: {names})"
            )
        for disk in self.disks:
            if name in (disk.name, disk.member):
                return disk
        if name.isdecimal() and 0 < int(name[:9]) <= len(self.disks):
            return self.disks[int(name) - 1]
        raise OptionError(
            f"{self.name}: there is no disk '{name}' in it; there is: {names or 'none'}"
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
        """The disk called ``name``, or the only one, read in place. It lives no longer than the
        bundle. Raises what `vmimg.open` raises.
        """
        found = self.find(name)
        if not found.member:
            raise UnsupportedFeature(
                f"{self.name}: disk '{found.name}' has no file: it is empty, of {found.size} bytes"
            )
        return open_storage_disk(
            self.storage(found),
            format=found.format or None,
            snapshot=snapshot,
            policy=policy,
            keys=keys,
            sealed=sealed,
        )

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
