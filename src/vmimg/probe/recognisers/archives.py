"""Archives: tar, zip, 7z, ar; and by what is in them, bundles.

Told by magic and by structure that follows it: a checksum, a directory that is where the end says.
Names of members are not needed to know an archive, so one that was cut off, or of which a stream
kept only a part, is claimed with what was seen of it. Sources: as of the readers
(`vmimg.probe.tar`, `.zip`, `.sevenzip`); ar(5) and deb(5).
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Iterator
from typing import Any, Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import printable
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.entries import Archive
from vmimg.probe.recognisers.bundles import bundles_in
from vmimg.probe.sevenzip import SIGNATURE, read_7z
from vmimg.probe.tar import BLOCK, TarWalk, header_of, read_tar
from vmimg.probe.zip import END, LOCAL, LocalHeader, ZipDirectory, read_zip
from vmimg.storage.base import NotHeld

__all__ = ["AR_MAGIC", "RECOGNISERS", "WATCHERS", "ArHeader", "ar_size"]

_MAX_MEMBERS: Final = 4096
# Headers of a stream that are kept, and the bytes of them and of what tells of bundles.
_WATCHED_MEMBERS: Final = 400
_WATCHED_BYTES: Final = 256 << 10
_NAMES: Final = 8

_FLAVOURS: Final = {"gnu": "GNU", "ustar": "ustar", "v7": "version 7"}


def recognise_tar(view: View) -> Iterator[Claim]:
    """A tar, and the bundle that it is."""
    block = view.read(0, BLOCK)
    if len(block) < BLOCK or header_of(block) is None:
        return
    walk = read_tar(view, _MAX_MEMBERS)
    if not walk.entries and not walk.extended:
        return
    flavour = "PAX" if walk.extended and walk.flavour == "ustar" else _FLAVOURS[walk.flavour]
    evidence = [Evidence(148, "the checksum of the first header")]
    if walk.flavour == "v7":
        confidence = 80 if len(walk.entries) > 1 or walk.complete else 60
    else:
        confidence = 100
        evidence.insert(0, Evidence(257, "the magic 'ustar'"))
    if walk.complete:
        evidence.append(Evidence(walk.end - 2 * BLOCK, "the end: blocks of zeros"))
    details = {"flavour": flavour, **_members(walk), "complete": walk.complete}
    yield Claim("tar", "archive", f"tar archive ({flavour})", confidence, tuple(evidence), details)
    yield from bundles_in(walk, "tar")


def watch_tar() -> Generator[tuple[int, int], bytes, None]:
    """Keeps the headers of a tar that goes by, and the small members that say what it is."""
    return TarWalk(_WATCHED_MEMBERS, _WATCHED_BYTES).steps()


def recognise_zip(view: View) -> Iterator[Claim]:
    """A zip, at the beginning of the file or behind something else; and the bundle that it is."""
    local = view.structure(LocalHeader, 0)
    at_start = local is not None and _is_plausible(local)
    found = read_zip(view, _MAX_MEMBERS)
    empty = view.read(0, 4) == END
    if found.end is None:
        if at_start:
            yield Claim(
                "zip",
                "archive",
                "zip archive",
                80,
                (Evidence(0, "a local header"),),
                {"complete": False},
            )
        return
    end = found.end
    evidence = [Evidence(end.offset, "the end of its central directory")]
    if end.count:
        evidence.append(Evidence(end.start, "its central directory"))
    details: dict[str, Any] = {**_members(found), "members": end.count}
    title = "zip archive"
    if at_start or empty:
        confidence = 100
        evidence.insert(0, Evidence(0, "a local header" if at_start else "an empty directory"))
    else:
        first = end.first + end.start - end.stated
        title = "zip archive behind something else"
        details["prefix"] = first
        confidence = _behind(view, found, first)
        if confidence < 60:
            evidence.append(Evidence(first, "no local header where the directory says"))
    if end.stop != view.size and confidence < 100:
        confidence -= 20
    yield Claim("zip", "archive", title, confidence, tuple(evidence), details)
    if confidence >= 50:
        yield from bundles_in(found, "zip")


def _behind(view: View, found: ZipDirectory, first: int) -> int:
    """How sure a zip is that does not begin at the beginning."""
    if found.end is None or found.end.count == 0:
        return 40
    try:
        local = view.structure(LocalHeader, first)
    except NotHeld:
        return 60
    return 90 if local is not None and _is_plausible(local) else 40


def _is_plausible(local: LocalHeader) -> bool:
    # Methods up to 99 are given out (AES is 99).
    return bool(local.signature == LOCAL and local.name_length and local.method <= 99)


def recognise_7z(view: View) -> Iterator[Claim]:
    """A 7z, and the bundle that it is."""
    if view.read(0, len(SIGNATURE)) != SIGNATURE:
        return
    found = read_7z(view, _MAX_MEMBERS)
    evidence = [Evidence(0, "the signature of 7z")]
    if found.start_is_right:
        evidence.append(Evidence(8, "the checksum of its start header"))
    details = {**_members(found), "version": found.version, "complete": found.complete}
    if found.encrypted:
        details["encrypted"] = True
    confidence = 100 if found.start_is_right else 60
    yield Claim("7z", "archive", "7z archive", confidence, tuple(evidence), details)
    yield from bundles_in(found, "7z")


class ArHeader(ctypes.BigEndianStructure):
    """A member of an ar archive; numbers are decimal digits."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("ar_name", ctypes.c_char * 16),
        ("ar_date", ctypes.c_char * 12),
        ("ar_uid", ctypes.c_char * 6),
        ("ar_gid", ctypes.c_char * 6),
        ("ar_mode", ctypes.c_char * 8),
        ("ar_size", ctypes.c_char * 10),
        ("ar_fmag", ctypes.c_char * 2),
    )


AR_MAGIC: Final = b"!<arch>\n"


def ar_size(header: ArHeader) -> int | None:
    """Bytes of a member; None where this is not the header of one."""
    digits = header.ar_size.strip()
    return int(digits) if header.ar_fmag == b"`\n" and digits.isdigit() else None


def recognise_ar(view: View) -> Iterator[Claim]:
    """An ar archive, such as a Debian package."""
    if view.read(0, len(AR_MAGIC)) != AR_MAGIC:
        return
    header = view.structure(ArHeader, len(AR_MAGIC))
    right = header is not None and ar_size(header) is not None
    evidence = (Evidence(0, "the magic '!<arch>'"),)
    yield Claim("ar", "archive", "ar archive", 100 if right else 60, evidence)
    if right and header is not None and header.ar_name.rstrip(b" /") == b"debian-binary":
        yield Claim(
            "deb",
            "archive",
            "Debian package",
            100,
            (*evidence, Evidence(len(AR_MAGIC), "member 'debian-binary'")),
            refines=("ar",),
        )


def _members(archive: Archive) -> dict[str, Any]:
    names = [printable(entry.name) for entry in archive.entries[:_NAMES]]
    return {"members": len(archive.entries), "names": names}


RECOGNISERS: Final = (recognise_tar, recognise_zip, recognise_7z, recognise_ar)
WATCHERS: Final = (watch_tar,)
