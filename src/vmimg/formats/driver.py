"""Driver: what a disk format implements.

One class per format. `inspect` must work without numpy, so that `vmimg info` starts fast; the rest
is imported by the methods that need it. Imports disk and storage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from vmimg.disk.layer import Layer, ParentRef
from vmimg.errors import UnsupportedFeature
from vmimg.formats.descriptor import OptionValue
from vmimg.formats.keys import Keys
from vmimg.storage.base import Buffer, Storage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vmimg.codecs import Codec
    from vmimg.formats.detect import Evidence
    from vmimg.formats.vetting import Finding

__all__ = [
    "CheckReport",
    "Companion",
    "Companions",
    "Driver",
    "Frame",
    "ImageInfo",
    "Snapshot",
    "Writer",
]


class Companions(Protocol):
    """Opens a file that an image names, if the policy allows it."""

    def __call__(self, named: str, role: str, *, read_only: bool = False) -> Storage:
        """The file that is ``named`` in the image as its ``role``: "data file".

        Open for writing where the image is, unless ``read_only``.
        """


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An internal snapshot. Sizes in bytes, dates since the epoch, times as the names say."""

    id: str
    name: str
    vm_state_size: int
    date_sec: int
    date_nsec: int
    vm_clock_nsec: int
    disk_size: int
    icount: int | None = None


@dataclass(slots=True)
class ImageInfo:
    """What one image file says of itself; sizes in bytes.

    ``details`` is format-specific, with the keys that qemu-img's JSON uses where it has one.
    """

    format: str
    virtual_size: int
    cluster_size: int | None = None
    encrypted: bool = False
    compressed: bool = False
    dirty: bool = False
    parent: ParentRef | None = None
    data_file: str | None = None
    snapshots: tuple[Snapshot, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines for people: what is on a raw disk, what was recognised but is not used."""


@dataclass(slots=True)
class CheckReport:
    """What check found, counted as qemu-img counts it.

    ``problems`` are lines for people. ``fixed_*`` count what --repair mended; ``leaks`` and
    ``corruptions`` what is left.
    """

    format: str
    errors: int = 0
    """Internal errors of the check itself: what could not be read."""
    leaks: int = 0
    corruptions: int = 0
    fixed_leaks: int = 0
    fixed_corruptions: int = 0
    total_clusters: int = 0
    allocated_clusters: int = 0
    fragmented_clusters: int = 0
    compressed_clusters: int = 0
    image_end_offset: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """qemu-img's: 1 the check failed, 2 corruptions, 3 leaks only, 0 nothing is left."""
        if self.errors:
            return 1
        return 2 if self.corruptions else 3 if self.leaks else 0

    def to_json(self, filename: str) -> dict[str, str | int]:
        """qemu-img's keys; like there, all but the first three are left out where zero."""
        numbers = {
            "image-end-offset": self.image_end_offset,
            "total-clusters": self.total_clusters,
            "allocated-clusters": self.allocated_clusters,
            "fragmented-clusters": self.fragmented_clusters,
            "compressed-clusters": self.compressed_clusters,
            "leaks": self.leaks,
            "corruptions": self.corruptions,
            "leaks-fixed": self.fixed_leaks,
            "corruptions-fixed": self.fixed_corruptions,
        }
        kept: dict[str, str | int] = {key: number for key, number in numbers.items() if number}
        head: dict[str, str | int] = {"filename": filename, "format": self.format}
        return head | {"check-errors": self.errors} | kept


@dataclass(frozen=True, slots=True)
class Companion:
    """A further file of a new image.

    ``name``: its path, relative to the directory of the image. ``start``: the address of its first
    byte in what a Writer answers.
    """

    name: str
    start: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What is stored of one block, as `Writer.frame` made it.

    ``note``: whatever the writer wants to find again when it places the block (a checksum, a kind).
    """

    data: Buffer
    note: Any = None


class Writer(ABC):
    """Lays out a new image: place first, then move. Never touches guest data.

    Told which blocks hold data, in ascending order between two calls of `drain`, it says where in
    the file each one goes, and hands back metadata as (offset, bytes) pairs: what is settled
    already from `drain`, the rest from `finish`. The same calls give the same layout, whatever the
    thread that makes them. What depends on the guest's data all the same (checksums, encryption)
    is done in `frame` and `encrypt`, on the data as it passes.

    Where an image is several files, they form one row of addresses: the image itself begins at 0,
    each of its ``companions`` where it says. Every offset here is such an address.
    """

    block_size: int
    """Bytes of a block; the last one of the disk may be cut short by the disk's end."""
    codec: Codec | None = None
    """The coder of compressed blocks; None where the image takes none."""
    compressed_only: bool = False
    """Every block is stored through the coder, those that do not shrink as well; `place` is never
    called. Compression needs no asking for."""
    companions: tuple[Companion, ...] = ()
    """The files besides the image itself, in ascending order of their starts."""
    preallocation: str = "off"
    """Unless "off", every block is reserved: "metadata" only in the tables, "falloc" with its
    space, "full" written with zeros.
    """
    any_block_size: bool = False
    """The format has no blocks of its own: block_size may be set to any power of two from 512."""
    late_metadata: bool = True
    """Whether metadata in front of the data is known only at the end, so that a stream needs two
    goes. Where it is not, of a format of any_block_size, nothing but the data itself depends on
    which blocks hold some: a virtual file is made without looking.
    """
    data_limit: int | None = None
    """Guest data that would lie behind this address is cut off: the last block of a file that holds
    the bare disk."""
    unwanted: tuple[str, ...] = ()
    """Names beside the image that must not exist: they would be read as parts of it."""
    refusal: str = ""
    """Not empty: why no file of the name that was given can be made; measuring needs no name."""
    index: str = ""
    """Not empty: the image is a directory. The file of this name in it has the addresses from 0;
    companions lie beside it. See Format.index."""
    whole_blocks: bool = False
    """A block that is placed is written whole: the zeros in it must not be holes of the file."""
    encrypted: bool = False
    """Guest data goes through `encrypt`."""
    stores_zeros: bool = False
    """What is never written does not read as zeros, so that zeros are stored like other data."""
    hides_parent: bool = True
    """Whether place_zeros works. Where it does not, zeros above a parent are placed as data."""

    @abstractmethod
    def place(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """File offsets (int64[n]) for the data of ``blocks`` (int64[n], ascending)."""

    def reserve(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """File offsets for ``blocks`` that nobody writes now: preallocation."""
        return self.place(blocks)

    def place_zeros(self, blocks: NDArray[np.int64]) -> None:
        """Say that ``blocks`` read as zeros although a parent may have data there.

        Only where there is a parent; without one, blocks that nobody places read as zeros.
        """
        raise UnsupportedFeature("this format cannot hide a parent's data behind zeros")

    def place_compressed(self, block: int, length: int, note: Any) -> int:
        """File offset for the ``length`` bytes of ``block`` that `frame` made, with its ``note``.

        Called in ascending order of blocks.
        """
        raise UnsupportedFeature("this format does not store compressed blocks")

    def frame(self, block: int, data: Buffer, plain: memoryview) -> Frame:
        """What is stored of ``block``: its compressed bytes ``data`` with a marker, padded, or
        ``plain`` as it is.

        ``plain``: the guest's bytes, block_size of them: behind the disk's end there are zeros.
        Called from many threads.
        """
        return Frame(data)

    def encrypt(self, address: int, virtual: int, data: memoryview) -> None:
        """Encrypt ``data`` in place: what is to be written at ``address``, of the disk's bytes from
        ``virtual``. Both are multiples of 512, and so is the length.
        """
        raise NotImplementedError

    def twin(self) -> Writer | None:
        """Another, untouched writer of the same image, for a stream that is laid out twice.

        None where the driver makes an equal one; what draws random numbers answers here.
        """
        return None

    @property
    def settled(self) -> int:
        """File offset below which nothing more will be placed but by `finish` (late metadata)."""
        return 0

    def drain(self, done: int) -> Iterator[tuple[int, bytes]]:
        """Metadata that is complete when no block below ``done`` comes any more.

        Keeps the writer's memory bounded. Where it is called is part of the layout: call it after
        the same blocks for the same image.
        """
        return iter(())

    @abstractmethod
    def finish(self) -> Iterator[tuple[int, bytes]]:
        """The rest of the metadata; afterwards `file_size` is known."""

    @abstractmethod
    def full_size(self) -> int:
        """Bytes of an image in which every block is placed as it is, or as large as compressed ones
        get: of all its files together. Places nothing.
        """

    @property
    @abstractmethod
    def file_size(self) -> int:
        """Bytes of the finished image file; valid once `finish` has been exhausted."""

    @property
    def companion_sizes(self) -> tuple[int, ...]:
        """Bytes of each of ``companions``; valid once `finish` has been exhausted."""
        return ()


class Driver(ABC):
    """One format's implementation."""

    @abstractmethod
    def probe(self, storage: Storage) -> int:
        """How sure it is that these bytes are its own: 0 to 100 (by magic). Reads a few KiB."""

    @abstractmethod
    def inspect(self, storage: Storage) -> ImageInfo:
        """Header facts, without numpy and without following any name. Raises FormatError."""

    @abstractmethod
    def open(
        self,
        storage: Storage,
        *,
        writable: bool,
        companions: Companions,
        snapshot: str | None = None,
        keys: Keys | None = None,
    ) -> Layer:
        """The layer of an image; closing it closes ``storage``. ``snapshot``: an id or a name.

        ``keys`` None: an encrypted image is opened sealed: it can be mapped, and what would need
        the key raises LockedImage. With keys a wrong one is an error here.
        """

    def writer(
        self,
        size: int,
        options: Mapping[str, OptionValue],
        *,
        parent: ParentRef | None = None,
        base: Layer | None = None,
        name: str = "disk",
        keys: Keys | None = None,
    ) -> Writer:
        """A new image of ``size`` virtual bytes. ``options`` as Format.parse_options gives them.

        ``parent``: what the image is to name as its parent; ``base`` is that parent, open, or None
        where the user asked not to look at it. ``name``: the file name of the image, for formats
        that name their own files. ``keys``: asked only where the image is to be encrypted; None
        where the sizes are all that is wanted.
        """
        raise UnsupportedFeature("images of this format cannot be made")

    def vet(self, storage: Storage) -> Iterator[Finding]:
        """What a stranger's image could do to its reader, as far as only this format can say.

        On top of what is made of `inspect` (vmimg.formats.vetting.of_info). Follows no name, reads
        at most a few MiB whatever the file says, and works without numpy where it can. FormatError
        where it cannot go on: what was said until then counts.
        """
        return iter(())

    def vet_other(self, storage: Storage) -> Iterator[Finding]:
        """Of what is no known disk: whether some readers would take it for one of this format."""
        return iter(())

    def evidence(self, storage: Storage) -> tuple[Evidence, ...]:
        """Why `probe` claims these bytes, besides the magic of the descriptor."""
        return ()

    def is_plain(self, storage: Storage) -> bool:
        """Whether the disk's first byte is that of ``storage``, which `probe` has claimed: then a
        partition table or a file system in front is what is on the disk, and no second format.
        """
        return False

    def explains(self, storage: Storage) -> tuple[str, ...]:
        """Names of other claims that follow from what `probe` has claimed: the first piece of a
        compressed image looks like a file of its coder.
        """
        return ()

    parent_extensions: ClassVar[tuple[str, ...]] = ()
    """Of files that `is_parent` may be asked about."""

    def is_parent(self, storage: Storage, ref: ParentRef) -> bool:
        """Whether ``storage`` is the image that ``ref`` means by an identifier; see
        `locate_parent`.
        """
        return False

    def locate_parent(self, ref: ParentRef, folders: Sequence[str]) -> str | None:
        """The path of the file that ``ref`` means, for formats that name a parent by an identifier.

        ``ref``: as this format's layers and `inspect` give it. ``folders``: where may be looked,
        the image's own first; nothing outside of them, nor below them, is. None where the format
        names its parents by path, or no file is the one. Raises ChainError where several are.
        """
        return None

    def check(
        self,
        storage: Storage,
        *,
        companions: Companions,
        repair: str = "",
        keys: Keys | None = None,
    ) -> CheckReport:
        """Check the metadata. ``repair``: "", "leaks" or "all" (then storage is writable).

        ``keys``: asked only where the metadata is encrypted, too.
        """
        raise UnsupportedFeature("this image format does not support checks")
