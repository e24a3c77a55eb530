"""What members of any archive can do to whoever unpacks it: leave the directory, pass through
links, make devices, take each other's place.

Names are judged as the strictest of all systems would take them, for the archive may be unpacked on
any. The files of a whole system, for a container, are another matter: they are unpacked by
programs made for it, and rightly have links, devices and names that differ only in case. Sources:
GNU tar's and Python's rules for extraction (PEP 706), the "Zip Slip" reports. Imports entries,
vetting.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from vmimg.formats.vetting import Finding, Severity, printable
from vmimg.probe.entries import Archive, Entry, base_of, is_archive, path_of

__all__ = ["MemberErrors", "Tally", "vet_members"]

# Of one code, how many are told one by one.
_TOLD: Final = 4
_MAX_NAME: Final = 4096
_MAX_PARTS: Final = 256
# Parts of paths that are followed through links, in all.
_MAX_STEPS: Final = 200_000
# Links that are remembered of an archive of any size.
_MAX_LINKS: Final = 65536
# Members whose first bytes are looked at.
_MAX_HEADS: Final = 256
_HEAD: Final = 512
_LONG: Final = "has a longer name than any system takes"
_TWICE: Final = "is in it twice"
_DRIVE: Final = re.compile(r"[A-Za-z]:")
# Parts that begin with no dot, and letters of which none means something to a system.
_HARMLESS: Final = re.compile(
    r"(?![A-Za-z]:)\w[\w .:+=@,~-]*(?:/\w[\w .:+=@,~-]*)*\Z", re.ASCII
).match
_LEAVES: Final = re.compile(r"(^|[\\/])\.\.([\\/]|$)")


class Tally:
    """Findings of which there may be thousands: the first few of each code, and how many more."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Severity]] = Counter()

    def tell(self, finding: Finding) -> Iterator[Finding]:
        """The finding, unless there were enough like it."""
        key = finding.code, finding.severity
        self._counts[key] += 1
        if self._counts[key] <= _TOLD:
            yield finding

    def rest(self) -> Iterator[Finding]:
        """What was not told."""
        for (code, severity), count in self._counts.items():
            if count > _TOLD:
                message = f"there are {count - _TOLD} more members of which that can be said"
                yield Finding.of(code, message, severity=severity)


def vet_members(archive: Archive, *, tree: str | None = None) -> Iterator[Finding]:
    """What is wrong with the members' names, kinds and links.

    ``tree``: where the files of a whole system begin ("rootfs/"); "": all are, None: none.
    """
    tally = Tally()
    yield from _bounded(_Members(archive, tree), tally)
    yield from tally.rest()


class MemberErrors:
    """The same for who goes through an archive of any size, one member after the other, and wants
    to know of errors only. Keeps nothing but links: who asks knows all names already.
    """

    def __init__(self, *, tree: str | None = None) -> None:
        self._members = _Members(None, tree)

    def of(self, entry: Entry, *, twice: bool) -> Finding | None:
        """What is wrong with the next one; ``twice``: there was one of its name before."""
        if not twice and entry.kind == "file" and self._members.is_harmless(entry.name):
            return None
        for finding in self._members.one(entry, twice):
            if finding.severity == Severity.ERROR:
                return finding
        return None


def _bounded(members: _Members, tally: Tally) -> Iterator[Finding]:
    for finding in members.findings():
        yield from tally.tell(finding)


class _Members:
    def __init__(self, archive: Archive | None, tree: str | None) -> None:
        self._archive = archive
        self._tree = tree
        self._steps = _MAX_STEPS
        self._heads = _MAX_HEADS
        self._links: set[str] = set()
        self._exact: dict[str, Entry] = {}
        self._folded: set[str] = set()

    def findings(self) -> Iterator[Finding]:
        """One after the other, however many there are."""
        entries = self._archive.entries if self._archive is not None else []
        paths = [path_of(entry) for entry in entries]
        self._links = {
            self._key(path)
            for path, entry in zip(paths, entries, strict=True)
            if entry.kind == "symlink"
        }
        for path, entry in zip(paths, entries, strict=True):
            inside = self._in_tree(path)
            if _is_long(entry, path):
                yield _of("malformed", entry, _LONG)
                continue
            yield from self._name(entry, path, inside)
            yield from self._kind(entry, path, inside)
            yield from self._twice(entry, path, inside)
            if not inside and entry.kind == "file":
                yield from self._content(entry)
        if self._steps < 0:
            yield Finding.of("unfinished", "its links were not all followed")

    def is_harmless(self, name: str) -> bool:
        """Whether nothing can be wrong with a file of that name: most have one, and are many."""
        return not self._links and len(name) <= _MAX_PARTS and _HARMLESS(name) is not None

    def one(self, entry: Entry, twice: bool) -> Iterator[Finding]:
        """Of one that comes behind those before it."""
        path = path_of(entry)
        inside = self._in_tree(path)
        if _is_long(entry, path):
            yield _of("malformed", entry, _LONG)
            return
        yield from self._name(entry, path, inside)
        yield from self._kind(entry, path, inside)
        if twice and path and entry.kind != "directory":
            yield _of("member-duplicate", entry, _TWICE)
        if entry.kind == "symlink" and len(self._links) < _MAX_LINKS:
            self._links.add(self._key(path))

    def _key(self, path: str) -> str:
        return path if self._in_tree(path) else path.casefold()

    def _in_tree(self, path: str) -> bool:
        return self._tree is not None and path.startswith(self._tree)

    def _name(self, entry: Entry, path: str, inside: bool) -> Iterator[Finding]:
        name = entry.name
        if not path and entry.kind != "directory":
            yield _of("malformed", entry, "has no name")
        if name.startswith("/") or _LEAVES.search(name) if not inside else _leaves(name):
            yield _of("member-escapes", entry, "leads out of the directory that it is unpacked in")
        elif not inside and (_DRIVE.match(name) or name.startswith("\\")):
            yield _of("member-escapes", entry, "leads elsewhere on Windows")
        elif not inside and "\\" in name:
            yield _of("odd-field", entry, "has backslashes in its name")
        elif not inside and not name.isprintable():
            yield _of("odd-field", entry, "has bytes in its name that are no text")
        if self._links and self._through(path.split("/")[:-1]):
            yield _of("member-escapes", entry, "lies behind a link: it is written where that leads")

    def _through(self, parts: list[str]) -> bool:
        """Whether a link is among the directories that are ``parts``."""
        self._steps -= len(parts)
        if self._steps < 0:
            return False
        around = ""
        for part in parts:
            around = f"{around}/{part}" if around else part
            if self._key(around) in self._links:
                return True
        return False

    def _kind(self, entry: Entry, path: str, inside: bool) -> Iterator[Finding]:
        if entry.kind in ("device", "fifo", "socket"):
            severity = Severity.WARNING if inside else None
            yield _of("member-device", entry, f"is a {entry.kind}", severity)
        elif entry.kind in ("symlink", "hardlink"):
            leads = printable(entry.link)
            yield _of("member-link", entry, f"is a link to '{leads}'" if leads else "is a link")
            if self._link_leaves(entry, path, inside):
                yield _of("member-escapes", entry, f"is a link that leads out, to '{leads}'")

    def _link_leaves(self, entry: Entry, path: str, inside: bool) -> bool:
        target = entry.link
        if entry.kind == "hardlink":
            # From the top of the archive, as the names of members are.
            return bool(target.startswith("/") or _LEAVES.search(target) or _DRIVE.match(target))
        if inside:
            return False  # what is root there, is not root here
        if target.startswith(("/", "\\")) or _DRIVE.match(target):
            return True
        parts = [*path.split("/")[:-1], *target.replace("\\", "/").split("/")]
        self._steps -= len(parts)
        if len(parts) > 2 * _MAX_PARTS:
            return True
        if self._steps < 0:
            return False
        around: list[str] = []
        linked = False
        for part in parts:
            if part in ("", "."):
                continue
            if part == "..":
                # The parent of where a link leads is not the parent of the link.
                if not around or linked:
                    return True
                around.pop()
                continue
            around.append(part)
            linked = linked or self._key("/".join(around)) in self._links
        return False

    def _twice(self, entry: Entry, path: str, inside: bool) -> Iterator[Finding]:
        if not path:
            return
        known = self._exact.setdefault(path, entry)
        if known is not entry:
            if not entry.kind == known.kind == "directory":
                yield _of("member-duplicate", entry, _TWICE)
            return
        if not inside:
            folded = path.casefold()
            if folded in self._folded:
                message = "differs from another only in case: on some systems they are one"
                yield _of("member-duplicate", entry, message, Severity.WARNING)
            self._folded.add(folded)

    def _content(self, entry: Entry) -> Iterator[Finding]:
        head = None
        if entry.size >= 64 and self._heads and self._archive is not None:
            self._heads -= 1
            head = self._archive.content(entry, _HEAD)
        if is_archive(entry, head):
            yield _of("nested-archive", entry, "is an archive or compressed")


def _is_long(entry: Entry, path: str) -> bool:
    return len(entry.name) > _MAX_NAME or path.count("/") >= _MAX_PARTS


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _of(code: str, entry: Entry, words: str, severity: Severity | None = None) -> Finding:
    name = printable(entry.name) or base_of(entry)
    return Finding.of(
        code,
        f"the member '{name}' {words}",
        offset=entry.offset,
        evidence=entry.name,
        severity=severity,
    )
