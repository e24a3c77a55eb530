"""Vetting cpio archives and initrds: where members would be written, and whether the archive holds
together. A kernel that unpacks an initrd does so into a root of its own: there, devices and links
to absolute names are what it needs, and later members replace earlier ones.

The format is in `vmimg.probe.cpio`.
"""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterator
from typing import Final

from vmimg.errors import FormatError
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.cpio import (
    TRAILER,
    CpioMember,
    cpio_kind,
    cpio_members,
    looks_like_initrd,
    next_segment,
    shown,
)
from vmimg.probe.streams import stream_kind

__all__ = ["VETTERS", "vet_cpio"]

_MAX_MEMBERS: Final = 20_000
_MAX_SEGMENTS: Final = 8
_MAX_SHOWN: Final = 8
_MAX_DEPTH: Final = 64


class _Tally:
    """What was seen of all archives in the file."""

    def __init__(self) -> None:
        self.members = 0
        self.names: dict[str, int] = {}
        self.escaping: list[CpioMember] = []
        self.duplicates: list[CpioMember] = []
        self.devices: list[CpioMember] = []
        self.links: list[CpioMember] = []
        self.link_names: set[str] = set()
        self.through_links: list[CpioMember] = []


def vet_cpio(view: View) -> Iterator[Finding]:
    """Of a cpio archive, or a row of them, up to something compressed."""
    tally = _Tally()
    at = 0
    for _ in range(_MAX_SEGMENTS):
        end = yield from _vet_archive(view, at, tally)
        following = next_segment(view, end) if end is not None else None
        if following is None:
            break
        at = following
        head = view.read(at, 16)
        if not cpio_kind(head):
            if not stream_kind(head):
                yield Finding.of(
                    "hidden-data",
                    f"{view.size - at} bytes that are no part of an initrd follow the archive",
                    offset=at,
                    evidence=head.hex(" "),
                )
            break
    yield from _vet_members(tally)


def _vet_archive(view: View, start: int, tally: _Tally) -> Generator[Finding, None, int | None]:
    """Answers where the archive ends; None where nothing behind it counts any more."""
    try:
        for member in cpio_members(view, start):
            if member.data + member.size > view.size:
                yield Finding.of(
                    "truncated",
                    f"its member '{shown(member.name)}' has {member.size} bytes at {member.data}, "
                    f"and the file ends at {view.size}",
                    offset=member.offset,
                )
                return None
            if member.name == TRAILER:
                return member.end
            _count(tally, member)
            if tally.members >= _MAX_MEMBERS:
                yield Finding.of(
                    "unfinished",
                    f"only the first {_MAX_MEMBERS} members were looked at",
                    severity=Severity.NOTE,
                )
                return None
            if member.end >= view.size:
                yield Finding.of("truncated", "the archive has no end", offset=view.size)
                return None
    except FormatError as error:
        yield Finding.of("malformed", str(error))
    return None


def _count(tally: _Tally, member: CpioMember) -> None:
    tally.members += 1
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts:
        tally.escaping.append(member)
    kind = stat.S_IFMT(member.mode)
    if kind in (stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK):
        tally.devices.append(member)
    elif kind == stat.S_IFLNK:
        tally.links.append(member)
    name = member.name.removeprefix("./").rstrip("/")
    if kind == stat.S_IFLNK:
        tally.link_names.add(name)
    elif tally.link_names and any(
        "/".join(parts[:count]).removeprefix("./") in tally.link_names
        for count in range(1, min(len(parts), _MAX_DEPTH))
    ):
        tally.through_links.append(member)
    if kind != stat.S_IFDIR and name in tally.names:
        tally.duplicates.append(member)
    tally.names[name] = member.offset


def _vet_members(tally: _Tally) -> Iterator[Finding]:
    initrd = looks_like_initrd(list(tally.names))
    # Of a guest's own root, this is how it is made.
    usual = Severity.NOTE if initrd else None
    for member in tally.escaping[:_MAX_SHOWN]:
        yield Finding.of(
            "member-escapes",
            f"its member '{shown(member.name)}' leads out of the directory it is unpacked into",
            offset=member.offset,
            evidence=shown(member.name),
        )
    for code, members, what in (
        ("member-escapes", tally.through_links, "lies behind a symbolic link of the archive"),
        ("member-device", tally.devices, "is a device, a pipe or a socket"),
        ("member-link", tally.links, "is a symbolic link"),
        ("member-duplicate", tally.duplicates, "is there more than once"),
    ):
        if members:
            first = members[0]
            more = f", and {len(members) - 1} more" if len(members) > 1 else ""
            yield Finding.of(
                code,
                f"its member '{shown(first.name)}' {what}{more}",
                offset=first.offset,
                severity=usual,
            )


# "initrd" refines it.
VETTERS: Final = {"cpio": vet_cpio}
