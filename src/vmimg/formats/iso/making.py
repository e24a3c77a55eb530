"""create_iso: a disc made of a directory: ISO 9660 with Rock Ridge and Joliet, bootable if wanted.

pycdlib lays the disc out and writes its structures; here is what it leaves open: names that are
unique on all three trees, dates that come from the files and never from the clock, contents that
are read one after the other in bounded memory, and output that appears when it is complete. Equal
trees make equal discs. Imports storage; pycdlib when a disc is made.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vmimg import extras
from vmimg.errors import OptionError, StorageError, UnsupportedFeature
from vmimg.formats.iso import structures as s
from vmimg.formats.iso.names import joliet_name, unique
from vmimg.formats.iso.tree import Node, scan
from vmimg.storage.file import FileStorage
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmimg.storage.base import Storage

__all__ = ["IsoResult", "create_iso", "source_date", "write_disc"]

Progress = Callable[[int, int], None]

DEFAULT_LABEL: Final = "CDROM"

_COPY: Final = 1 << 20
_BUFFER: Final = 1 << 18
_ZEROS: Final = bytes(_COPY)
# Path tables say which directory lies in which by 16 bits.
_MAX_DIRECTORIES: Final = 65535
_MAX_BLOCKS: Final = 1 << 32
_LABEL: Final = 32
_JOLIET_LABEL: Final = 16
# Firmware loads four virtual sectors of 512 bytes, and what it loaded loads the rest.
_BIOS_SECTORS: Final = 4
_BOOT_INFO_END: Final = 64
_UEFI: Final = 0xEF
_MBR: Final = 512
# What isohybrid gives the partition that is the disc.
_HYBRID_TYPE: Final = 0x17
_MAX_SECTOR_COUNT: Final = 0xFFFF
_HYBRID_OFFSET: Final = 0x40
_HYBRID_SIGNATURE: Final = b"\xfb\xc0\x78\x70"
# Levels of directories below the root (ECMA-119 6.8.2.1).
_MAX_DEPTH: Final = 7
_CATALOGUE: Final = "BOOT.CAT;1"
# Dates of directory records count years in one byte from 1900 on.
_FIRST_DATE: Final = -2208988800
_LAST_DATE: Final = 5869583999


@dataclass(frozen=True, slots=True)
class IsoResult:
    """What was made; ``size`` in bytes. ``skipped``: what was left out, and why, in lines."""

    path: str
    size: int
    label: str
    files: int
    directories: int
    skipped: tuple[str, ...] = ()


def create_iso(
    directory: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    label: str = DEFAULT_LABEL,
    boot_bios: str | os.PathLike[str] | None = None,
    boot_efi: str | os.PathLike[str] | None = None,
    boot_info_table: bool = True,
    hybrid: bool = False,
    publisher: str = "",
    application: str = "VMIMG",
    replace: bool = False,
    progress: Progress | None = None,
) -> IsoResult:
    """Make the image ``path`` of an optical disc with everything that is in ``directory``.

    ``boot_bios``: a boot loader that is loaded without emulation, and gets a boot information table
    unless that is refused; ``boot_efi``: an image of a FAT file system with EFI's boot loader. Each
    is a file in ``directory``, named as it is there, or any other, which is put into /boot.
    ``hybrid``: with an MBR in front, for USB sticks; takes isolinux.bin as ``boot_bios``.

    All belongs to root, permissions and times are those of the files; with SOURCE_DATE_EPOCH in the
    environment no time is later than that. Needs pycdlib. Raises OptionError, StorageError and
    UnsupportedFeature.
    """
    source, target = os.fspath(directory), os.fspath(path)
    _pycdlib()
    skipped: list[str] = []
    root = scan(source, target, skipped)
    bios = None if boot_bios is None else _boot_file(root, source, os.fspath(boot_bios))
    efi = None if boot_efi is None else _boot_file(root, source, os.fspath(boot_efi))
    with Output(target, replace=replace) as storage:
        size = write_disc(
            root,
            storage,
            label=label,
            bios=bios,
            efi=efi,
            boot_info_table=boot_info_table,
            hybrid=hybrid,
            publisher=publisher,
            application=application,
            progress=progress,
        )
    kinds = [node.kind for node in root.walk()]
    return IsoResult(
        path=target,
        size=size,
        label=label,
        files=len(kinds) - kinds.count("directory"),
        directories=kinds.count("directory") - 1,
        skipped=tuple(skipped),
    )


def source_date() -> int | None:
    """SOURCE_DATE_EPOCH of the environment, in seconds: no date on the disc is later than that."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise OptionError(f"SOURCE_DATE_EPOCH is a whole number of seconds, not '{text}'")
    return int(text)


def write_disc(
    root: Node,
    storage: Storage,
    *,
    label: str,
    bios: Node | None = None,
    efi: Node | None = None,
    boot_info_table: bool = False,
    hybrid: bool = False,
    publisher: str = "",
    application: str = "VMIMG",
    progress: Progress | None = None,
) -> int:
    """Write a disc with the tree ``root`` into ``storage``, an empty file or a device; returns its
    size in bytes.
    """
    if storage.name == "-":
        raise OptionError("an ISO image is not written to standard output: name a file")
    _check_text("label", label, _LABEL)
    _check_text("publisher", publisher, 128)
    _check_text("application", application, 128)
    root.settle(reserved=(_CATALOGUE,))
    _check_size(root)
    latest = source_date()
    newest = max(node.mtime for node in root.walk())
    date = newest if latest is None else latest
    with _errors_of_pycdlib(storage.name):
        iso = _pycdlib().PyCdlib()
        # Level 3: files beyond 4 GiB in several extents, and names of 31 letters. Level 4, that of
        # ISO 9660:1999, has no limit on depth: in others, pycdlib relocates what lies too deep,
        # and loses the ends of long names.
        iso.new(
            interchange_level=4 if _depth(root) > _MAX_DEPTH else 3,
            joliet=3,
            rock_ridge="1.09",
            # The label is put in later: Joliet's is shorter, and may have other letters.
            pub_ident_str=_ascii(publisher),
            app_ident_str=_ascii(application),
        )
        try:
            sources = _add_tree(iso, root)
            _add_boot(iso, root, bios, efi, boot_info_table)
            if hybrid:
                _add_hybrid(iso, bios, efi, root)
            _label(iso, label)
            _date(iso, root, date, latest)
            sink = _Sink(storage)
            iso.write_fp(sink, _COPY, None if progress is None else _callback(progress))
            sink.finish()
            _date_descriptors(storage, date, latest)
            if hybrid and efi is not None:
                _drop_gpt(storage, sink.end)
        finally:
            iso.close()
    for source in sources:
        source.close()
    return sink.end


def _pycdlib() -> Any:
    return extras.require("pycdlib", "iso", "Making an ISO image")


def _callback(progress: Progress) -> Callable[[int, int, Any], None]:
    # pycdlib counts the arguments that its callback takes.
    def call(done: int, total: int, opaque: Any) -> None:
        progress(done, total)

    return call


@contextmanager
def _errors_of_pycdlib(name: str) -> Iterator[None]:
    _pycdlib()  # says what to install where it is missing
    from pycdlib.pycdlibexception import PyCdlibException

    try:
        yield
    except PyCdlibException as error:
        raise UnsupportedFeature(f"{name}: cannot be made: {error}") from error


# What may be on a disc


def _check_text(what: str, text: str, most: int) -> None:
    if len(_ascii(text)) > most:
        raise OptionError(f"the {what} '{text}' is longer than {most} letters")
    if not text.isprintable():
        raise OptionError(f"the {what} {text!r} has letters that cannot be printed")


def _check_size(root: Node) -> None:
    nodes = list(root.walk())
    folders = sum(node.kind == "directory" for node in nodes)
    if folders > _MAX_DIRECTORIES:
        raise OptionError(f"{folders} directories are more than a disc has ({_MAX_DIRECTORIES})")
    blocks = sum(-(-node.size // s.SECTOR) for node in nodes)
    if blocks + (len(nodes) >> 2) >= _MAX_BLOCKS:
        raise OptionError(f"{blocks * s.SECTOR} bytes of files are more than a disc holds (8 TiB)")


def _depth(root: Node) -> int:
    """Levels of directories below ``root``."""
    level, depth = [root], -1
    while level:
        depth += 1
        level = [c for node in level for c in node.children if c.kind == "directory"]
    return depth


def _boot_file(root: Node, directory: str, given: str) -> Node:
    """The node of a boot image: a file of the tree, or another one that is put there."""
    found = None if os.path.isabs(given) else root.find(given)
    if found is None:
        # A path to what lies in the directory anyway: named from where the user stands.
        inside = os.path.relpath(os.path.realpath(given), os.path.realpath(directory))
        found = None if inside.startswith(os.pardir) else root.find(inside)
    if found is None:
        try:
            status = os.stat(given)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(
                f"{given}: cannot open it, neither in {directory} nor from here: {reason}"
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise OptionError(f"{given}: is not a file to boot from")
        folder = root.find("boot")
        if folder is None or folder.kind != "directory":
            folder = root.add(Node("boot", stat.S_IFDIR | 0o755, int(status.st_mtime)))
        found = folder.add(
            Node(
                os.path.basename(given),
                status.st_mode,
                int(status.st_mtime),
                source=given,
                size=status.st_size,
            )
        )
    if found.kind != "file" or not found.size:
        raise OptionError(f"{given}: is not a file to boot from, or an empty one")
    return found


# The tree


def _add_tree(iso: Any, root: Node) -> list[_Source]:
    sources = []
    pending = [(root, "", "")]
    while pending:
        parent, iso_path, joliet_path = pending.pop()
        for node in parent.children:
            path = f"{iso_path}/{node.iso_name}"
            joliet = f"{joliet_path}/{node.joliet_name}"
            if node.kind == "directory":
                iso.add_directory(path, rr_name=node.name, joliet_path=joliet, file_mode=node.mode)
                pending.append((node, path, joliet))
            elif node.kind == "link":
                # Joliet has no links: there it is left out.
                iso.add_symlink(path, node.name, node.target)
            else:
                source = _Source(node)
                sources.append(source)
                iso.add_fp(
                    source,
                    node.size,
                    path,
                    rr_name=node.name,
                    joliet_path=joliet,
                    file_mode=node.mode,
                )
    return sources


def _free_name(root: Node, wanted: str) -> str:
    """``wanted``, or another name that nothing in the root directory has."""
    names = {node.name for node in root.children} | {node.joliet_name for node in root.children}
    return unique([wanted], joliet_name, names)[0]


def _iso_path(root: Node, wanted: Node) -> str:
    pending = [(root, "")]
    while pending:
        parent, path = pending.pop()
        for node in parent.children:
            if node is wanted:
                return f"{path}/{node.iso_name}"
            if node.children:
                pending.append((node, f"{path}/{node.iso_name}"))
    raise AssertionError(f"{wanted.name} is not in the tree")


def _add_boot(
    iso: Any, root: Node, bios: Node | None, efi: Node | None, boot_info_table: bool
) -> None:
    catalogue = _free_name(root, "boot.cat")
    where = {
        "bootcatfile": f"/{_CATALOGUE}",
        "rr_bootcatname": catalogue,
        "joliet_bootcatfile": f"/{catalogue}",
    }
    if bios is not None:
        if boot_info_table and bios.size < _BOOT_INFO_END:
            raise OptionError(
                f"{bios.name}: is too short for a boot information table; make it without one"
            )
        iso.add_eltorito(
            _iso_path(root, bios),
            boot_load_size=_BIOS_SECTORS,
            boot_info_table=boot_info_table,
            **where,
        )
    if efi is not None:
        sectors = -(-efi.size // s.SECTOR) * 4
        # UEFI 13.3.2.1: zero says that it goes on to the end of the disc.
        iso.add_eltorito(
            _iso_path(root, efi),
            boot_load_size=sectors if sectors <= _MAX_SECTOR_COUNT else 0,
            platform_id=_UEFI,
            efi=True,
            **where,
        )


def _add_hybrid(iso: Any, bios: Node | None, efi: Node | None, root: Node) -> None:
    if efi is not None and efi.size > _MAX_SECTOR_COUNT * 512:
        raise OptionError(f"{efi.name}: is larger than 32 MiB, too large for a hybrid image")
    if bios is None:
        raise OptionError("a hybrid image needs a loader for BIOS: isolinux.bin of syslinux")
    with _Source(bios) as loader:
        if loader.read(len(_HYBRID_SIGNATURE) + _HYBRID_OFFSET)[_HYBRID_OFFSET:] != (
            _HYBRID_SIGNATURE
        ):
            raise OptionError(
                f"{bios.name}: has no signature of isolinux at {_HYBRID_OFFSET}, so that it "
                "cannot be started from the MBR of a hybrid image"
            )
    digest = hashlib.sha256()
    for node in root.walk():
        digest.update(f"{node.name}\0{node.mode}\0{node.mtime}\0{node.size}\n".encode())
    iso.add_isohybrid(
        mbr_id=int.from_bytes(digest.digest()[:4], "little"),
        part_type=_HYBRID_TYPE,
        efi=efi is not None,
    )


def _drop_gpt(storage: Storage, size: int) -> None:
    """Take out the GPT that pycdlib adds for EFI: its checksums are wrong, its GUIDs random. The
    MBR says where EFI's image is.
    """
    volume = s.VolumeDescriptor.from_buffer_copy(
        storage.read(s.FIRST_DESCRIPTOR * s.SECTOR, s.SECTOR)
    )
    end = int(volume.volume_space_size.little) * s.SECTOR
    storage.zero(_MBR, s.FIRST_DESCRIPTOR * s.SECTOR - _MBR)
    storage.zero(end, size - end)


# Label and dates: what pycdlib takes from the clock and from the system's time zone


def _ascii(text: str) -> str:
    return "".join(letter if letter.isascii() else "_" for letter in text)


def _label(iso: Any, label: str) -> None:
    iso.pvd.volume_identifier = _ascii(label).encode().ljust(_LABEL)
    if iso.enhanced_vd is not None:
        iso.enhanced_vd.volume_identifier = iso.pvd.volume_identifier
    wide = label.encode("utf-16-be")[: 2 * _JOLIET_LABEL]
    if wide[-2:-1] >= b"\xd8" and wide[-2:-1] <= b"\xdb":  # half of a letter
        wide = wide[:-2]
    iso.joliet_vd.volume_identifier = wide + b"\0 " * ((2 * _JOLIET_LABEL - len(wide)) // 2)


class _Dates:
    """Dates of records by seconds since the epoch, none later than ``latest``."""

    def __init__(self, latest: int | None) -> None:
        from pycdlib.dates import DirectoryRecordDate

        self._latest = latest
        self._date = DirectoryRecordDate
        self._made: dict[int, Any] = {}

    def short(self, seconds: int) -> Any:
        """What pycdlib has for the seven bytes of records; equal dates share one."""
        if seconds not in self._made:
            year, *rest = _utc(seconds, self._latest)
            date = self._date()
            date.parse(bytes((year - 1900, *rest, 0)))
            self._made[seconds] = date
        return self._made[seconds]


def _utc(seconds: int, latest: int | None) -> tuple[int, ...]:
    if latest is not None:
        seconds = min(seconds, latest)
    return tuple(time.gmtime(max(_FIRST_DATE, min(seconds, _LAST_DATE))))[:6]


def _date_descriptors(storage: Storage, date: int, latest: int | None) -> None:
    """Put ``date`` into the volume descriptors as they are written: pycdlib asks the clock then."""
    year, *rest = _utc(date, latest)
    stamp = f"{year:04}{''.join(f'{part:02}' for part in rest)}00\0".encode()
    unset = b"0" * 16 + b"\0"
    kind = s.VolumeDescriptor
    for number in range(s.FIRST_DESCRIPTOR, s.FIRST_DESCRIPTOR + s.MAX_DESCRIPTORS):
        head = storage.read(number * s.SECTOR, 6)
        if head[1:] != s.STANDARD_IDENTIFIER or head[0] == s.TERMINATOR:
            return
        if head[0] in (s.PRIMARY, s.SUPPLEMENTARY):
            # Creation, modification, expiration, effective: one behind the other.
            storage.write(
                number * s.SECTOR + kind.volume_creation.offset, stamp + stamp + unset + unset
            )


def _date(iso: Any, root: Node, date: int, latest: int | None) -> None:
    dates = _Dates(latest)
    if iso.enhanced_vd is not None:  # of the same directories as the primary one
        iso.enhanced_vd.root_directory_record().date = dates.short(root.mtime)
    for descriptor in (iso.pvd, iso.joliet_vd):
        top = descriptor.root_directory_record()
        top.date = dates.short(root.mtime)
        attribute = "iso_name" if descriptor is iso.pvd else "joliet_name"
        encoding = "ascii" if descriptor is iso.pvd else "utf-16-be"
        pending: list[tuple[Any, Node, int]] = [(top, root, root.mtime)]
        while pending:
            record, node, above = pending.pop()
            named = {getattr(c, attribute).encode(encoding): c for c in node.children}
            for child in record.children:
                if node is root and child.file_ident in (b"\0", b"\1") and child.rock_ridge:
                    # There is no other way to say it of the root directory.
                    child.rock_ridge.dr_entries.px_record.posix_file_mode = root.mode
                if child.file_ident == b"\0":
                    _date_record(child, dates, node.mtime)
                elif child.file_ident == b"\1":
                    _date_record(child, dates, above)
                elif child.file_ident in named:
                    below = named[child.file_ident]
                    _date_record(child, dates, below.mtime)
                    if below.kind == "directory":
                        pending.append((child, below, node.mtime))
                else:  # the boot catalogue
                    _date_record(child, dates, date)


def _date_record(record: Any, dates: _Dates, seconds: int) -> None:
    record.date = dates.short(seconds)
    if record.rock_ridge is None:
        return
    for entries in (record.rock_ridge.dr_entries, record.rock_ridge.ce_entries):
        stamps = entries and entries.tf_record
        if stamps:
            for name in ("access_time", "modification_time", "attribute_change_time"):
                if getattr(stamps, name) is not None:
                    setattr(stamps, name, dates.short(seconds))


# Bytes, in and out


class _Source(io.RawIOBase):
    """The content of a file, opened when it is read and closed when all of it was."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node
        self._storage: Storage | None = None
        self._position = 0
        self._hole = (0, 0)
        """Start and end of the hole or the data that was met last; of data, end and end."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = self._node.size - self._position
        size = left if size < 0 else min(size, left)
        if self._storage is None:
            self._storage = self._open()
        try:
            if size == _COPY and self._is_hole(self._storage, self._position + size):
                data = _ZEROS
            else:
                data = self._storage.read(self._position, size)
        except BaseException:
            self._forget()  # pycdlib does not close what fails
            raise
        self._position += size
        if size == left:
            self._forget()
        return data

    def close(self) -> None:
        self._forget()
        super().close()

    def _is_hole(self, storage: Storage, end: int) -> bool:
        if self._position >= self._hole[1]:
            for first, last, hole in storage.extents(self._position, self._node.size):
                self._hole = (first if hole else last, last)
                break
        return self._hole[0] <= self._position and end <= self._hole[1]

    def _open(self) -> Storage:
        source = self._node.source
        if isinstance(source, bytes):
            return MemoryStorage(bytearray(source))
        storage = FileStorage(source, lock=False)
        if storage.size != self._node.size:
            storage.close()
            raise StorageError(f"{source}: its size changed while the image was made")
        return storage

    def _forget(self) -> None:
        if self._storage is not None:
            self._storage.close()
            self._storage = None


class _Sink:
    """A file object over a storage. What is small is put together before it is written, also where
    each piece is sought first; large zeros become holes. What is left out in between reads as zeros
    on a device, too. ``end``: of all that was written.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._position = 0
        self._pending = bytearray()
        self._start = 0
        self.end = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset += self.end
        elif whence == os.SEEK_CUR:
            offset += self._position
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes) -> int:
        if self.end < min(self._position, self._storage.size):
            self._storage.zero(self.end, min(self._position, self._storage.size) - self.end)
        if self._position != self._start + len(self._pending) or len(data) >= _BUFFER:
            self.flush()
            self._start = self._position
        if len(data) < _BUFFER:
            self._pending += data
            if len(self._pending) >= _BUFFER:
                self.flush()
        elif data == _ZEROS[: len(data)]:
            # Behind the end of a new file there are zeros, as soon as something follows.
            if self._position < self._storage.size:
                self._storage.zero(self._position, len(data))
        else:
            self._storage.write(self._position, data)
        self._position += len(data)
        self.end = max(self.end, self._position)
        return len(data)

    def finish(self) -> None:
        """Write what is pending, and have the size of all that was written."""
        self.flush()
        if self._storage.size < self.end:
            self._storage.resize(self.end)

    def flush(self) -> None:
        if self._pending:
            self._storage.write(self._start, self._pending)
            self._pending = bytearray()
        self._start = self._position
