"""Vets tar, zip, 7z and ar: what two programs would read differently in one archive, sizes that
lie, what hides where no member is. What members may do is in `members`, bundles are in `bundles`.

Sources: as of the readers; the reports on PAX headers that make readers lose step (CVE-2025-62518)
and on overlapping zip members (Fifield, "A better zip bomb", 2019). Imports the archive readers.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity, printable
from vmimg.probe.recognisers.archives import AR_MAGIC, ArHeader, ar_size
from vmimg.probe.recognisers.bundles import bundles_in
from vmimg.probe.sevenzip import read_7z
from vmimg.probe.tar import read_tar
from vmimg.probe.vetters.members import Tally, vet_members
from vmimg.probe.zip import (
    LOCAL,
    End,
    LocalHeader,
    Record,
    ZipDirectory,
    read_zip,
)
from vmimg.units import format_size

__all__ = ["VETTERS"]

MAX_MEMBERS: Final = 8192
# Looked at behind the end of an archive, at most.
_MAX_BEHIND: Final = 1 << 20
# A zip member with a flag for it has its sizes behind its data: at most so many bytes.
_DESCRIPTOR: Final = 24
_MAX_LINKS: Final = 1024
_LEAVES: Final = re.compile(r"(^|[\\/])\.\.([\\/]|$)")
_HAS_DESCRIPTOR: Final = 0x08
_EXPANDS: Final = 1000
# What unpacks to less than this is no bomb, whatever the ratio.
_SMALL: Final = 64 << 20
# A member for each file of a system, or for each MiB of a disk.
_MANY: Final = (["lxd"], ["rootfs"], ["xva"])


def vet_tar(view: View) -> Iterator[Finding]:
    """A tar."""
    walk = read_tar(view, MAX_MEMBERS)
    yield from walk.problems
    kinds = [claim.name for claim in bundles_in(walk, "tar")]
    yield from vet_members(walk, tree=_tree(kinds))
    yield from _crowded(walk.crowded, len(walk.entries), kinds in _MANY)
    if walk.broken is not None:
        yield Finding.of(
            "malformed",
            f"what stands at {walk.broken} is no header of a member, and not the end",
            offset=walk.broken,
        )
    elif walk.missing:
        name = printable(walk.entries[-1].name) if walk.entries else ""
        yield Finding.of(
            "truncated",
            f"its last member '{name}' says that it has {walk.missing} bytes more than there are",
            offset=walk.entries[-1].offset if walk.entries else None,
        )
    elif walk.cut:
        yield Finding.of("odd-field", "it ends without the blocks of zeros that end an archive")
    elif walk.complete:
        yield from _behind(view, walk.end)
    unpacked = sum(entry.real_size for entry in walk.entries)
    yield from _expanding(unpacked, view.size)


def vet_zip(view: View) -> Iterator[Finding]:
    """A zip."""
    found = read_zip(view, MAX_MEMBERS)
    end = found.end
    if end is None:
        yield Finding.of("truncated", "its central directory is missing: the end was cut off")
        return
    yield from found.problems
    for problem in end.problems:
        yield Finding.of("copies-disagree", problem, offset=end.offset)
    if found.ends > 1:
        yield Finding.of(
            "copies-disagree",
            "there are two central directories that a reader could take for its own",
            offset=end.offset,
        )
    if end.stop != view.size:
        over = view.size - end.stop
        if over > 0:
            yield Finding.of(
                "hidden-data", f"{over} bytes are behind the end of the zip", offset=end.stop
            )
        else:
            yield Finding.of("truncated", "its comment is cut off", offset=end.offset)
    if found.broken is not None:
        yield Finding.of(
            "malformed",
            f"what stands at {found.broken} in its directory is no entry",
            offset=found.broken,
        )
    elif found.complete and len(found.records) != end.count:
        yield Finding.of(
            "copies-disagree",
            f"its directory has {len(found.records)} members, and its end says {end.count}",
            offset=end.offset,
        )
    yield from _read_links(found)
    yield from vet_members(found)
    yield from _crowded(found.crowded, len(found.records), False)
    if any(entry.encrypted for entry in found.entries):
        yield Finding.of("encrypted", "members of it are encrypted")
    yield from _vet_places(view, found, end)
    packed = sum(entry.stored for entry in found.entries)
    yield from _expanding(sum(entry.size for entry in found.entries), packed)


def vet_7z(view: View) -> Iterator[Finding]:
    """A 7z, as far as its headers go."""
    found = read_7z(view, MAX_MEMBERS)
    if not found.start_is_right:
        yield Finding.of("checksum-wrong", "the checksum of its start header is wrong", offset=8)
        return
    if found.stop is not None and found.stop > view.size:
        yield Finding.of("truncated", f"its header ends at {found.stop}", offset=12)
        return
    if found.stop is not None and found.stop < view.size:
        yield Finding.of(
            "hidden-data",
            f"{view.size - found.stop} bytes are behind the end of the 7z",
            offset=found.stop,
        )
    if found.header_is_right is False:
        yield Finding.of("checksum-wrong", "the checksum of its header is wrong", offset=28)
        return
    if found.problem:
        yield Finding.of("malformed", found.problem)
    if found.encrypted:
        yield Finding.of("encrypted", "its members or their names are encrypted")
    yield from vet_members(found)
    yield from _crowded(found.crowded, len(found.entries), False)
    if not (found.complete or found.crowded or found.problem or found.encrypted):
        yield Finding.of("unfinished", "its list of members could not be unpacked")
    yield from _expanding(sum(entry.size for entry in found.entries), view.size)


def vet_ar(view: View) -> Iterator[Finding]:
    """An ar archive: whether member follows member up to the end."""
    at = len(AR_MAGIC)
    for _ in range(MAX_MEMBERS):
        if at >= view.size:
            return
        header = view.structure(ArHeader, at)
        size = ar_size(header) if header is not None else None
        if header is None or size is None:
            message = f"what stands at {at} is no header of a member"
            yield Finding.of("malformed", message, offset=at)
            return
        name = header.ar_name.rstrip(b" ").decode("utf-8", "replace")
        # "/" and what begins with it are its tables; at the end of a name it is System V's.
        if _LEAVES.search(name) or (name.startswith("/") and not _AR_TABLE.fullmatch(name)):
            message = f"the member '{printable(name)}' leads out of where it is unpacked"
            yield Finding.of("member-escapes", message, offset=at, evidence=name)
        end = at + ctypes.sizeof(header) + size
        if end > view.size:
            message = f"the member '{printable(name)}' says that it has {size} bytes"
            yield Finding.of("truncated", message, offset=at)
            return
        at = end + end % 2
    yield Finding.of("too-many-members", f"it has more than the {MAX_MEMBERS} that were looked at")


_AR_TABLE: Final = re.compile(r"/(\d+|/|SYM64/)?")


def _read_links(found: ZipDirectory) -> Iterator[Finding]:
    """Where links lead is what they contain."""
    links = [entry for entry in found.entries if entry.kind == "symlink"]
    if len(links) > _MAX_LINKS:
        yield Finding.of("unfinished", f"only {_MAX_LINKS} of {len(links)} links were looked at")
    for entry in links[:_MAX_LINKS]:
        entry.link = (found.content(entry, 4096) or b"").decode("utf-8", "surrogateescape")


def _tree(kinds: list[str]) -> str | None:
    """Where in it the files are a system's, not a bundle's; None for nowhere."""
    return "rootfs/" if kinds == ["lxd"] else "" if kinds == ["rootfs"] else None


def _crowded(crowded: bool, count: int, rightly: bool) -> Iterator[Finding]:
    if crowded and rightly:
        message = f"only the first {count} members were looked at"
        yield Finding.of("unfinished", message, severity=Severity.NOTE)
    elif crowded:
        yield Finding.of("too-many-members", f"it has more than the {count} that were looked at")


def _expanding(unpacked: int, packed: int) -> Iterator[Finding]:
    if unpacked > _SMALL and unpacked > _EXPANDS * max(packed, 1):
        sizes = f"{format_size(packed)} are said to unpack to {format_size(unpacked)}"
        yield Finding.of("expands", f"it may fill the disk: {sizes}")


def _behind(view: View, end: int) -> Iterator[Finding]:
    """What is behind the end of a tar, where there should be zeros up to a full record."""
    rest = view.size - end
    for start, length in (
        (end, min(rest, _MAX_BEHIND)),
        (max(end + _MAX_BEHIND, view.size - _MAX_BEHIND), _MAX_BEHIND),
    ):
        data = view.read(start, length)
        kept = data.lstrip(b"\0")
        if kept:
            at = start + len(data) - len(kept)
            yield Finding.of(
                "hidden-data",
                f"there is data at {at}, behind the end of the archive",
                offset=at,
                evidence=printable(kept[:32].decode("latin-1")),
            )
            return
    if rest > 2 * _MAX_BEHIND:
        yield Finding.of("unfinished", f"{format_size(rest)} follow the end of the archive")


def _vet_places(view: View, found: ZipDirectory, end: End) -> Iterator[Finding]:
    """Local headers against the directory, and the members against each other."""
    tally = Tally()
    spans = []
    for record in found.records:
        span, findings = _vet_local(view, record)
        for finding in findings:
            yield from tally.tell(finding)
        if span is not None:
            spans.append((*span, record))
    spans.sort(key=lambda span: (span[0], span[1]))
    position = 0
    before: Record | None = None
    for start, stop, record in spans:
        if start < position and before is not None:
            names = f"'{printable(before.entry.name)}' and '{printable(record.entry.name)}'"
            finding = Finding.of(
                "tables-overlap", f"the members {names} lie in the same place", offset=start
            )
            yield from tally.tell(finding)
        elif start > position + (_slack(before) if before is not None else 0):
            yield from tally.tell(_gap(position, start))
        if stop > position:
            position, before = stop, record
    if found.complete and end.start > position + (_slack(before) if before is not None else 0):
        yield from tally.tell(_gap(position, end.start))
    if position > end.start and before is not None:
        yield Finding.of(
            "tables-overlap",
            f"the member '{printable(before.entry.name)}' reaches into the central directory",
            offset=end.start,
        )
    yield from tally.rest()


def _slack(before: Record) -> int:
    return _DESCRIPTOR if before.flags & _HAS_DESCRIPTOR else 0


def _gap(start: int, stop: int) -> Finding:
    where = "in front of its first member" if start == 0 else "between its members"
    return Finding.of("hidden-data", f"{stop - start} bytes are {where}", offset=start)


def _vet_local(view: View, record: Record) -> tuple[tuple[int, int] | None, list[Finding]]:
    """Where the member lies, and what is wrong with its local header."""
    entry, at = record.entry, record.entry.offset
    name = printable(entry.name)
    local = view.structure(LocalHeader, at) if 0 <= at < view.size else None
    if local is None or local.signature != LOCAL:
        message = f"the member '{name}' is not where the directory says"
        return None, [Finding.of("malformed", message, offset=record.offset)]
    findings = []
    begin = at + ctypes.sizeof(local)
    stop = begin + local.name_length + local.extra_length + entry.stored
    if stop > view.size:
        message = f"the member '{name}' is said to take {entry.stored} bytes: more than there are"
        findings.append(Finding.of("member-size", message, offset=record.offset))
        stop = view.size
    if view.read(begin, local.name_length) != record.name:
        findings.append(
            Finding.of(
                "copies-disagree",
                f"the member '{name}' has another name in its local header",
                offset=at,
            )
        )
    sizes = (local.compressed_size, local.uncompressed_size)
    # Left out where they follow the data; in an extra field where they do not fit.
    said = all(
        own in (real, 0xFFFFFFFF) or (own == 0 and record.flags & _HAS_DESCRIPTOR)
        for own, real in zip(sizes, (entry.stored, entry.size), strict=True)
    )
    if not said:
        message = f"the member '{name}' has other sizes in its local header"
        findings.append(Finding.of("member-size", message, offset=at))
    if local.method != entry.method or (local.flags ^ record.flags) & 1:
        message = f"the member '{name}' is packed in another way by its local header"
        findings.append(Finding.of("copies-disagree", message, offset=at))
    if entry.method == 0 and entry.stored != entry.size and not entry.encrypted:
        message = f"the member '{name}' is not packed and has two sizes"
        findings.append(Finding.of("member-size", message, offset=record.offset))
    return (at, stop), findings


VETTERS: Final[dict[str, Callable[[View], Iterator[Finding]]]] = {
    "tar": vet_tar,
    "zip": vet_zip,
    "7z": vet_7z,
    "ar": vet_ar,
}
