"""Tar: its headers, walked in a file or as a stream goes by. Nothing is unpacked.

    header | content, up to 512 | header | content | ... | two blocks of zeros | padding

Every header is a block of 512 bytes with a checksum. v7 has names of 100 bytes; ustar adds a
prefix; PAX ('x', 'g') and GNU ('L', 'K') put longer names and larger numbers in members of their
own, in front of the one that they are about. A reader that knows them and one that does not see two
different archives, so what makes them differ is noted (`TarWalk.problems`).

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual,
"Basic Tar Format" and "Storing Sparse Files". Imports vetting and entries; no numpy.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Generator
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, printable
from vmimg.probe.entries import TELLING_BYTES, Entry, Kind, is_telling
from vmimg.storage.base import NotHeld

__all__ = ["BLOCK", "TarHeader", "TarWalk", "header_of", "read_tar"]

BLOCK: Final = 512
_ZEROS: Final = bytes(BLOCK)
_MAX_PROBLEMS: Final = 64

_KINDS: Final[dict[bytes, Kind]] = {
    **dict.fromkeys((b"0", b"\0", b"7", b"S"), "file"),
    b"1": "hardlink",
    b"2": "symlink",
    **dict.fromkeys((b"3", b"4"), "device"),
    b"5": "directory",
    b"6": "fifo",
}


_EXTENSIONS: Final = frozenset((b"x", b"g", b"X", b"L", b"K"))
_PLAIN_FILES: Final = frozenset((b"0", b"\0"))


class TarHeader(ctypes.BigEndianStructure):
    """A header; numbers are octal digits, or binary where the top bit of the field is set."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("name", ctypes.c_char * 100),
        ("mode", ctypes.c_uint8 * 8),
        ("uid", ctypes.c_uint8 * 8),
        ("gid", ctypes.c_uint8 * 8),
        ("size", ctypes.c_uint8 * 12),
        ("mtime", ctypes.c_uint8 * 12),
        ("chksum", ctypes.c_uint8 * 8),
        ("typeflag", ctypes.c_uint8),
        ("linkname", ctypes.c_char * 100),
        ("magic", ctypes.c_uint8 * 6),
        ("version", ctypes.c_uint8 * 2),
        ("uname", ctypes.c_uint8 * 32),
        ("gname", ctypes.c_uint8 * 32),
        ("devmajor", ctypes.c_uint8 * 8),
        ("devminor", ctypes.c_uint8 * 8),
        ("prefix", ctypes.c_char * 155),
        ("padding", ctypes.c_uint8 * 12),
    )


class GnuSparse(ctypes.BigEndianStructure):
    """What GNU tar has in the place of the prefix, for a member with holes."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("unused", ctypes.c_uint8 * 386),
        ("sp", ctypes.c_uint8 * 96),
        ("isextended", ctypes.c_uint8),
        ("realsize", ctypes.c_uint8 * 12),
        ("unused_2", ctypes.c_uint8 * 17),
    )


def _field(name: str) -> slice:
    """Where it lies in a block: a structure for each of a million members would be slow."""
    field = getattr(TarHeader, name)
    return slice(field.offset, field.offset + field.size)


_NAME: Final = _field("name")
_SIZE: Final = _field("size")
_CHKSUM: Final = _field("chksum")
_TYPEFLAG: Final = _field("typeflag")
_LINKNAME: Final = _field("linkname")
_MAGIC: Final = _field("magic")
_PREFIX: Final = _field("prefix")
# What is added up of the checksum's own field: blanks.
_BLANKS: Final = 8 * ord(" ")
# What is read at once where members are small and many.
_NEAR: Final = 64 << 10
_SMALL: Final = 8 << 10
_MANY: Final = 4

# Where a block of the map of an old GNU sparse member says that another one follows.
_SPARSE_MORE: Final = 504


class TarWalk:
    """The members of a tar, as `steps` comes by them, at most ``limit``.

    ``flavour``: "v7", "ustar" or "gnu" by the first header. ``complete``: the end was seen, which
    is at ``end`` (bytes). ``broken``: where something else than a header stands. ``cut``: the
    archive ends before its end, and ``missing`` bytes of a member with it. ``partial``: a part of
    the stream was not kept. ``crowded``: there are more members than ``limit``.

    The limits are those of a look at a stranger's file; who opens one derives and has larger ones.
    """

    # Names and PAX records, in bytes: Linux has paths of 4096.
    max_extension = 64 << 10
    # PAX headers and long names that are read besides the members, and what they take together.
    max_extra = 8192
    max_extensions = 4 << 20
    # Records of one PAX header.
    max_records = 1024
    # Blocks of the maps of sparse members, each with 21 pieces: a disk may well have 100 000.
    max_maps = 32768

    def __init__(self, limit: int, budget: int | None = None) -> None:
        self.entries: list[Entry] = []
        self.complete = False
        self.flavour = ""
        self.end = 0
        self.broken: int | None = None
        self.cut = False
        self.missing = 0
        self.partial = False
        self.crowded = False
        self.extended = False
        self.problems: list[Finding] = []
        self._view: View | None = None
        self._limit = limit
        self._budget = budget
        self._count = 0
        self._extra = 0
        self._maps = 0
        self._extension_bytes = 0
        self._names = _Overrides()

    def steps(self) -> Generator[tuple[int, int], bytes, None]:
        """Asks for (offset, length), ascending, and is sent the bytes, fewer where they end."""
        at = 0
        while True:
            self.end = at
            if (
                self._count >= self._limit
                or self._extra > self.max_extra
                or self._maps >= self.max_maps
                or self._extension_bytes > self.max_extensions
            ):
                self.crowded = True
                return
            if self._budget is not None and not self._spend(BLOCK):
                return
            block = yield at, BLOCK
            if len(block) < BLOCK:
                self.cut = True
                return
            if block == _ZEROS:
                second = yield at + BLOCK, BLOCK
                self.complete = True
                self.end = at + (2 * BLOCK if second == _ZEROS else BLOCK)
                return
            if not _is_header(block):
                self.broken = at
                return
            if not self.flavour:
                self.flavour = _flavour(TarHeader.from_buffer_copy(block))
            size = _number(block[_SIZE])
            if size is None:
                self._note("member-size", "a header has a size that is no number", at)
                self.broken = at
                return
            flag = block[_TYPEFLAG]
            if flag in _EXTENSIONS:
                self.extended = True
                self._extra += 1
                if size > self.max_extension:
                    self._note("malformed", f"a header for names has {size} bytes", at)
                elif size and self._spend(size):
                    self._extension_bytes += size
                    self._take(flag, (yield at + BLOCK, size), at)
                at += BLOCK + _padded(size)
                continue
            at = yield from self._member(at, flag, size, block)

    def run(self, view: View) -> None:
        """Go through the tar that ``view`` is on."""
        self._view = view
        steps = self.steps()
        read = _nearby(view)
        try:
            offset, length = next(steps)
            while True:
                offset, length = steps.send(read(offset, length))
        except StopIteration:
            pass
        except NotHeld:
            self.partial = True
        if self.cut and self.end > view.size:
            self.missing = self.end - view.size

    def content(self, entry: Entry, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a member; None where they are not to be had."""
        if self._view is None or entry.data is None:
            return None
        try:
            return self._view.read(entry.data, min(entry.size, limit))
        except NotHeld:
            return None

    def keep(self, entry: Entry) -> None:
        """Take a member that the walk came by."""
        self.entries.append(entry)

    def _member(
        self, at: int, flag: bytes, size: int, block: bytes
    ) -> Generator[tuple[int, int], bytes, int]:
        data = at + BLOCK
        real = 0
        if flag == b"S":
            sparse = GnuSparse.from_buffer_copy(block)
            real = _number(bytes(sparse.realsize)) or 0
            more = sparse.isextended
            while more and self._maps < self.max_maps and self._spend(BLOCK):
                self._maps += 1
                piece = yield data, BLOCK
                data += BLOCK
                more = piece[_SPARSE_MORE] if len(piece) == BLOCK else 0
        entry = self._names.entry(self, at, block, flag, size)
        if real:
            entry.real_size = real
        if entry.kind in ("file", "other"):
            if not entry.real_size and flag != b"S":
                entry.data = data
            following = data + _padded(entry.stored)
        else:
            if entry.stored:
                self._note(
                    "member-size",
                    f"'{printable(entry.name)}' is no file and says that it has {entry.stored} "
                    "bytes: readers lose step behind it",
                    at,
                )
            following = data
        self._count += 1
        self.keep(entry)
        if self._budget is None or entry.data is None:
            return following
        wanted = min(entry.size, TELLING_BYTES)
        if wanted and is_telling(entry.name) and self._budget > 4 * wanted and self._spend(wanted):
            yield entry.data, wanted
        return following

    def _take(self, flag: bytes, body: bytes, at: int) -> None:
        if flag == b"L":
            self._names.set("path", body.split(b"\0")[0], self, at)
        elif flag == b"K":
            self._names.set("linkpath", body.split(b"\0")[0], self, at)
        else:
            self._names.records(body, flag == b"g", self, at)

    def _spend(self, count: int) -> bool:
        """Whether there is still room for what a stream keeps."""
        if self._budget is None:
            return True
        self._budget -= count
        self.partial = self._budget < 0
        return not self.partial

    def _note(self, code: str, message: str, offset: int) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Finding.of(code, message, offset=offset))


def read_tar(view: View, limit: int) -> TarWalk:
    """The members of the tar that ``view`` is on, at most ``limit``."""
    walk = TarWalk(limit)
    walk.run(view)
    return walk


def header_of(block: bytes) -> TarHeader | None:
    """The header in a block of 512 bytes; None where its checksum says that it is none."""
    return TarHeader.from_buffer_copy(block) if _is_header(block) else None


def _is_header(block: bytes) -> bool:
    stored = _octal(block[_CHKSUM])
    if not stored:
        return False
    # One half of Adler-32 is the sum of the bytes and 1, modulo 65521; that many ASCII has not.
    total = (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
    unsigned = total - sum(block[_CHKSUM]) + _BLANKS
    if stored == unsigned:
        return True
    # Some old programs added up signed characters.
    rest = block[: _CHKSUM.start] + block[_CHKSUM.stop :]
    return stored == unsigned - 256 * sum(byte > 127 for byte in rest)


def _nearby(view: View) -> Callable[[int, int], bytes]:
    """Reads of ``view``: several headers at once where some were near to each other."""
    held, start, last, row = b"", 0, 0, 0

    def read(offset: int, length: int) -> bytes:
        nonlocal held, start, last, row
        at = offset - start
        if at >= 0 and at + length <= len(held):
            last = offset
            return held[at : at + length]
        row = row + 1 if offset - last <= _SMALL else 0
        last = offset
        if row >= _MANY and length <= BLOCK and offset + _NEAR <= view.size:
            try:
                held, start = view.read(offset, _NEAR), offset
            except NotHeld:
                pass
            else:
                return held[:length]
        return view.read(offset, length)

    return read


class _Overrides:
    """What extension headers say of the members behind them."""

    def __init__(self) -> None:
        self._next: dict[str, bytes] = {}
        self._all: dict[str, bytes] = {}

    def set(self, key: str, value: bytes, walk: TarWalk, at: int, everyone: bool = False) -> None:
        """Keep what is said of the next member, or of ``everyone`` from here on."""
        known = self._all if everyone else self._next
        if known.get(key, value) != value and not key.startswith("GNU.sparse."):
            walk._note("copies-disagree", f"a member has two extended headers for its {key}", at)
        if len(known) < 64:
            known[key] = value

    def records(self, body: bytes, everyone: bool, walk: TarWalk, at: int) -> None:
        """Of a PAX header: length, space, key=value, end of line; one behind the other."""
        position = 0
        for _ in range(walk.max_records):
            if position >= len(body) or body[position] == 0:
                return
            space = body.find(b" ", position, position + 8)
            digits = body[position:space] if space > 0 else b""
            end = position + int(digits) if digits.isdigit() else 0
            equals = body.find(b"=", position, end)
            if not position < space < equals < end <= len(body) or body[end - 1] != ord("\n"):
                walk._note("malformed", "a PAX header is not made up of records", at)
                return
            key = body[space + 1 : equals].decode("ascii", "replace")
            value = body[equals + 1 : end - 1]
            position = end
            if key not in _PAX_KEYS:
                continue
            if b"\0" in value:
                walk._note("malformed", f"a PAX header has a zero byte in its {key}", at)
            if everyone:
                walk._note("copies-disagree", f"a PAX header has one {key} for all members", at)
            self.set(key, value, walk, at, everyone)
        walk._note("malformed", f"a PAX header has more than {walk.max_records} records", at)

    def entry(self, walk: TarWalk, at: int, block: bytes, flag: bytes, size: int) -> Entry:
        if not self._next and not self._all and flag in _PLAIN_FILES:
            return _plain_entry(block, at, size)
        header = TarHeader.from_buffer_copy(block)
        said = {**self._all, **self._next}
        self._next = {}
        plain = header.name
        if bytes(header.magic) == b"ustar\0" and header.prefix:
            plain = header.prefix + b"/" + plain
        name = said.get("path", plain)
        sparse = "GNU.sparse.name" in said or "GNU.sparse.size" in said
        if sparse:
            name = said.get("GNU.sparse.name", name)
        elif plain != name and _misleads(plain, name):
            walk._note(
                "copies-disagree",
                f"its name is '{_text(name)}' by the extended header, '{_text(plain)}' by its own",
                at,
            )
        stored = self._size(said, size, walk, at)
        kind = _KINDS.get(flag, "other")
        if kind == "file" and flag in b"0\0" and name.endswith(b"/"):
            kind = "directory"  # of v7, which has no flag for it
        if kind == "other":
            walk._note("odd-field", f"a member is of a kind ({flag!r}) that is not POSIX's", at)
        real = said.get("GNU.sparse.realsize", said.get("GNU.sparse.size", b""))
        return Entry(
            name=_text(name),
            kind=kind,
            size=stored,
            stored=stored,
            offset=at,
            link=_text(said.get("linkpath", header.linkname)),
            real_size=int(real) if real.isdigit() and len(real) < 20 else 0,
            plain_name=_text(plain) if plain != name else "",
        )

    def _size(self, said: dict[str, bytes], size: int, walk: TarWalk, at: int) -> int:
        digits = said.get("size")
        if digits is None:
            return size
        if not digits.isdigit() or len(digits) > 19:
            walk._note("member-size", "a PAX header has a size that is no number", at)
            return size
        stated = int(digits)
        # What does not fit into eleven octal digits is left out of the header.
        if stated != size and stated < 8**11:
            walk._note(
                "member-size",
                f"a member has {stated} bytes by its PAX header, {size} by its own: "
                "readers lose step behind it",
                at,
            )
        return stated


_PAX_KEYS: Final = (
    *("path", "linkpath", "size"),
    *("GNU.sparse.name", "GNU.sparse.realsize", "GNU.sparse.size", "GNU.sparse.major"),
)


def _plain_entry(block: bytes, at: int, size: int) -> Entry:
    """The same as `_Overrides.entry` of a file of which nothing else is said, as most are."""
    name = block[_NAME].partition(b"\0")[0]
    if block[_PREFIX.start] and block[_MAGIC] == b"ustar\0":
        name = block[_PREFIX].partition(b"\0")[0] + b"/" + name
    kind: Kind = "directory" if name.endswith(b"/") else "file"
    link = block[_LINKNAME].partition(b"\0")[0] if block[_LINKNAME.start] else b""
    return Entry(_text(name), kind, size, size, at, None, _text(link) if link else "")


def _misleads(plain: bytes, name: bytes) -> bool:
    """Whether a reader that ignores extended headers takes the member for another one. What they
    are for is not meant: names that are too long for the header, or no ASCII.
    """
    if len(name.rstrip(b"/")) <= 100 and name.isascii():
        return True
    # Cut-off names have no suffix left; names in another script keep theirs.
    suffix = plain.rpartition(b".")[2]
    return len(plain) < 99 and b"." in plain and not name.endswith(suffix)


def _flavour(header: TarHeader) -> str:
    magic = bytes(header.magic) + bytes(header.version)
    return "gnu" if magic == b"ustar  \0" else "ustar" if magic[:5] == b"ustar" else "v7"


def _number(field: bytes) -> int | None:
    """A number of a header; None where it is none, or negative."""
    if field[0] & 0x80:
        # GNU's base 256. 0xFF begins a negative one.
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else None
    return _octal(field)


def _octal(field: bytes) -> int | None:
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    # int() takes signs and underscores.
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        return None
    return int(digits, 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
