"""What vetting finds in an image: findings with stable codes, and the table of all codes.

Each format says in `Driver.vet` what only it knows of its own structures; what all formats have in
common (a parent, a data file, encryption, a dirty flag) is made here of `ImageInfo`. Nothing here
opens what an image names. `vmimg.probe.vetting` puts both together and applies a policy. Imports
the contract of drivers; no numpy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vmimg.formats.driver import ImageInfo

__all__ = ["CODES", "Code", "Finding", "Severity", "is_outside", "of_info", "of_name", "printable"]


class Severity(IntEnum):
    """How bad a finding is: for the reader, not for the disk in the image."""

    NOTE = 0
    """Worth knowing; what a policy allows becomes one."""
    WARNING = 1
    """Harmless here, and somebody must decide about it before the image goes on."""
    ERROR = 2
    """The image contradicts itself, or makes its reader do what its sender has no right to."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Code:
    """A kind of finding. ``title`` says what is so, ``remedy`` what to do, each in a sentence."""

    severity: Severity
    title: str
    remedy: str


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        # What it is
        "several-formats": Code(
            _E,
            "The file bears the marks of more than one format.",
            "Ask the sender which it is; two programs may take it for two different disks.",
        ),
        "declared-wrong": Code(
            _E,
            "The file is not of the format that was declared for it.",
            "Refuse it, or declare what it is.",
        ),
        "format-not-allowed": Code(
            _E,
            "The policy does not allow this format.",
            "Convert it to one that is allowed: vmimg convert.",
        ),
        "subformat-not-allowed": Code(
            _E,
            "The policy does not allow this kind of the format.",
            "Convert it: vmimg convert -o subformat=...",
        ),
        "unrecognised": Code(
            _N,
            "Nothing in the file says what it is: it can only be a raw disk.",
            "Declare it as raw if that is what it is.",
        ),
        # What it makes its reader open
        "backing-file": Code(
            _W,
            "The image is an overlay: it reads from another file, beside it.",
            "Flatten it before it is handed on: vmimg convert.",
        ),
        "backing-file-undeclared": Code(
            _W,
            "The image names a parent and not its format, so that a reader may guess.",
            "Flatten it, or write the format into it: qemu-img rebase -u -F.",
        ),
        "backing-file-outside": Code(
            _E,
            "The image names a parent outside of its own directory, or no file at all.",
            "Refuse it; from somebody you trust: vmimg convert --allow-dir.",
        ),
        "data-file": Code(
            _W,
            "The image keeps its data in another file, beside it.",
            "Put all into one file: vmimg convert.",
        ),
        "data-file-outside": Code(
            _E,
            "The image names a data file outside of its own directory, or no file at all.",
            "Refuse it; from somebody you trust: vmimg convert --allow-dir.",
        ),
        "external-extent": Code(
            _W,
            "The disk is in several files: this one names others, beside it.",
            "Put all into one file: vmimg convert.",
        ),
        "extent-outside": Code(
            _E,
            "The image names an extent outside of its own directory.",
            "Refuse it; from somebody you trust: vmimg convert --allow-dir.",
        ),
        "device-extent": Code(
            _E,
            "The image names a device of the machine that reads it.",
            "Refuse it.",
        ),
        # Structure
        "malformed": Code(
            _E,
            "The file breaks the rules of its format.",
            "Refuse it, or ask for another copy; vmimg check says more.",
        ),
        "unsupported": Code(
            _W,
            "The image asks for something that vmimg does not know.",
            "Have it made without that.",
        ),
        "unknown-version": Code(
            _E,
            "The image is of a version of its format that is not known.",
            "Have it made in a version that is.",
        ),
        "unknown-features": Code(
            _E,
            "Bits are set for features that nobody knows, so nobody knows what they do.",
            "Refuse it, or have it made without them.",
        ),
        "recent-features": Code(
            _N,
            "It uses features of its format that older programs do not know.",
            "Have it made without them if such a program is to read it.",
        ),
        "odd-field": Code(
            _W,
            "A field holds what no maker writes there.",
            "Convert it, which writes all fields anew: vmimg convert.",
        ),
        "odd-descriptor": Code(
            _E,
            "The text that describes the disk has lines which do not belong there.",
            "Convert it, which writes the text anew: vmimg convert.",
        ),
        "copies-disagree": Code(
            _E,
            "Two copies of the same structure differ: readers may see two different disks.",
            "Refuse it, or have it repaired by its owner: vmimg check --repair.",
        ),
        "checksum-wrong": Code(
            _E,
            "A checksum does not match what it covers.",
            "Ask for another copy; vmimg check says more.",
        ),
        "truncated": Code(
            _E,
            "The file ends before what it says it holds.",
            "Ask for another copy.",
        ),
        "table-outside": Code(
            _E,
            "A table lies outside of the file, or too close to its end to fit.",
            "Refuse it; vmimg check says more.",
        ),
        "tables-overlap": Code(
            _E,
            "Two structures lie in the same place: who writes one destroys the other.",
            "Refuse it; vmimg check says more.",
        ),
        "impossible-size": Code(
            _E,
            "A size that the image states cannot be.",
            "Refuse it.",
        ),
        "too-large": Code(
            _E,
            "The disk is larger than the policy allows.",
            "Shrink it, or raise max-virtual-size in the policy.",
        ),
        "expands": Code(
            _W,
            "It unpacks to very much more than it takes.",
            "Unpack it with a limit: vmimg convert --max-size.",
        ),
        "hidden-data": Code(
            _W,
            "There is data that the format has no use for.",
            "Convert it, which leaves it behind: vmimg convert.",
        ),
        # State
        "encrypted": Code(
            _W,
            "The content is encrypted: nobody without the key can vet it.",
            "Vet what is inside after it has been unlocked.",
        ),
        "dirty": Code(
            _W,
            "It was not closed: its metadata may be stale.",
            "Have it repaired by its owner: vmimg check --repair.",
        ),
        "corrupt": Code(
            _E,
            "The program that wrote it last marked it as corrupt.",
            "Have it repaired by its owner: vmimg check --repair.",
        ),
        "log-pending": Code(
            _W,
            "It has a log that is not replayed: readers that ignore it see another disk.",
            "Convert it, which replays the log: vmimg convert.",
        ),
        "snapshots": Code(
            _N,
            "It holds earlier states of the disk as well, or the memory of a machine.",
            "Convert it, which takes the present state only: vmimg convert.",
        ),
        "costly-key": Code(
            _E,
            "Trying a single passphrase takes more work or memory than any maker asks for.",
            "Refuse it; its owner can change that: cryptsetup luksConvertKey.",
        ),
        # What is on a disk
        "partition-table": Code(
            _W,
            "The partition table is not as firmware and tools write it.",
            "Look at it with a partition editor; have the image made anew.",
        ),
        "filesystem": Code(
            _W,
            "What is on the disk is larger than the disk, or does not fit together.",
            "Ask for another copy: the image is probably cut off.",
        ),
        # Bundles and archives
        "member-escapes": Code(
            _E,
            "A member of the archive would be written outside of where it is unpacked.",
            "Refuse it.",
        ),
        "member-link": Code(
            _W,
            "A member of the archive is a link.",
            "Unpack it with a program that checks where links lead.",
        ),
        "member-device": Code(
            _E,
            "A member of the archive is a device, a pipe or a socket.",
            "Refuse it.",
        ),
        "member-duplicate": Code(
            _E,
            "Two members of the archive have one name: programs differ in which they take.",
            "Refuse it.",
        ),
        "member-size": Code(
            _E,
            "A member of the archive lies about its size.",
            "Refuse it.",
        ),
        "too-many-members": Code(
            _E,
            "The archive has more members than any bundle needs.",
            "Refuse it.",
        ),
        "nested-archive": Code(
            _W,
            "The archive holds another archive, which was not looked into.",
            "Unpack it and vet what is inside.",
        ),
        "manifest-lies": Code(
            _E,
            "The manifest names what is not there, or names it twice.",
            "Refuse it, or ask for another copy.",
        ),
        "xml-entities": Code(
            _E,
            "The XML declares entities or a document type: bombs, and reading of other files.",
            "Refuse it.",
        ),
        "xml-oversize": Code(
            _E,
            "The XML is larger or deeper than any description of a machine.",
            "Refuse it.",
        ),
        "names-outside": Code(
            _E,
            "The description names a file outside of its own directory.",
            "Refuse it; from somebody you trust, correct the path.",
        ),
        "runs-program": Code(
            _W,
            "The description says which program is run, or is a program itself.",
            "Read it before it is used, or refuse it.",
        ),
        "unfinished": Code(
            _W,
            "There was more to look at than vetting allows itself time for.",
            "vmimg check looks at all of it.",
        ),
    }
)
"""All codes, by name. They are stable: programs compare them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is so. ``message``: in a sentence without the name of the file, printable.

    ``offset``: where in the file, in bytes, if it is at a place; ``evidence``: what stands there.
    ``severity`` and ``remedy`` are the code's own unless they are given. ``within``: the member of
    a bundle that it is about; the offset then counts from that member's start.
    """

    code: str
    message: str
    offset: int | None = None
    evidence: str = ""
    remedy: str = ""
    severity: Severity = _N
    within: str = ""

    @classmethod
    def of(
        cls,
        code: str,
        message: str = "",
        *,
        offset: int | None = None,
        evidence: str = "",
        severity: Severity | None = None,
    ) -> Finding:
        """A finding of ``code``, with what the table says wherever nothing else is given."""
        kind = CODES[code]
        return cls(
            code,
            printable(message) or kind.title,
            offset,
            printable(evidence),
            kind.remedy,
            kind.severity if severity is None else severity,
        )

    def to_json(self) -> dict[str, Any]:
        """code, severity, message, remedy; offset and evidence where there are any."""
        facts: dict[str, Any] = {
            "code": self.code,
            "severity": str(self.severity),
            "message": self.message,
        }
        if self.offset is not None:
            facts["offset"] = self.offset
        if self.evidence:
            facts["evidence"] = self.evidence
        if self.within:
            facts["within"] = self.within
        return facts | {"remedy": self.remedy}


def of_info(info: ImageInfo) -> Iterator[Finding]:
    """What every format has in common: a parent, a data file, encryption, flags, snapshots."""
    if info.parent is not None:
        names = (info.parent.path, *info.parent.alternatives)
        yield of_name("backing-file", "backing-file-outside", names[0], "its backing file")
        for name in names[1:]:
            if is_outside(name):
                # Tried only where the first is not to be had, and then a policy decides.
                yield Finding.of(
                    "backing-file",
                    f"another name that it has for its backing file leads elsewhere: '{name}'",
                    evidence=name,
                )
        if info.parent.format is None:
            yield Finding.of(
                "backing-file-undeclared",
                f"it does not say which format its backing file '{names[0]}' has",
                evidence=names[0],
            )
    if info.data_file is not None:
        yield of_name("data-file", "data-file-outside", info.data_file, "its data file")
    if info.encrypted:
        yield Finding.of("encrypted")
    if info.dirty:
        yield Finding.of("dirty")
    if info.snapshots:
        count = len(info.snapshots)
        yield Finding.of(
            "snapshots",
            f"it holds {count} internal snapshot{'' if count == 1 else 's'}",
            evidence=", ".join(snapshot.name for snapshot in info.snapshots[:8]),
        )


def of_name(inside: str, outside: str, name: str, what: str) -> Finding:
    """The finding for a file that an image names: of code ``inside`` where it lies beside the image
    or below it, of code ``outside`` where it does not. ``what``: "its data file".
    """
    if is_outside(name):
        return Finding.of(outside, f"{what} is '{name}'", evidence=name)
    return Finding.of(inside, f"{what} is '{name}', beside it", evidence=name)


def is_outside(name: str) -> bool:
    """Whether a name from an image leads out of the image's directory, or is no file name at all.

    As strict for paths of Windows as for ours: the reader may be there. Nothing is looked up.
    """
    if name.startswith("uuid:"):
        return False
    if not name or "\0" in name or name.startswith("json:") or "://" in name:
        return True
    name = name.removeprefix("file:").replace("\\", "/")
    first = name.partition("/")[0]
    if name.startswith("/") or ":" in first:
        return True
    return os.path.normpath(name).replace("\\", "/").split("/")[0] == ".."


def printable(text: str) -> str:
    """``text`` on one line of at most 300 characters, without what would steer a terminal."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:300])
    return kept + "..." if len(text) > 300 else kept
