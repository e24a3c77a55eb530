"""What a file is, against what it was said to be, may be, and could be taken for.

The findings that come from detecting it, before anything in it is looked at. `vetting` puts them in
front of the others. Imports detecting, the policy and disk formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.registry import FORMATS, all_formats
from vmimg.formats.vetting import Finding
from vmimg.probe.claims import SURE, Claim
from vmimg.probe.detecting import Detection
from vmimg.probe.policy import Policy
from vmimg.storage.base import Storage

__all__ = ["vet_allowed", "vet_identity", "vet_likeness"]

# From here on a claim has more than a magic for it.
_PLAUSIBLE: Final = 80
_SECTOR: Final = 512
# What others read of a text to see whether it describes a VMDK, and of what it may consist.
_MAX_DESCRIPTOR: Final = 1 << 20
_TEXT: Final = bytes(range(32, 127)) + b"\t\n\v\f\r\x1c\x1d\x1e\x1f"


def vet_identity(detection: Detection, declared: str | None) -> Iterator[Finding]:
    """Whether it is one thing, and what it was declared as."""
    best = detection.best
    if detection.polyglot:
        names = detection.contradictions
        marks = [
            f"{claim.name} ({claim.evidence[0].meaning} at {claim.evidence[0].offset})"
            for claim in detection.claims
            if claim.name in names and claim.evidence
        ]
        yield Finding.of(
            "several-formats",
            f"it bears the marks of {' and of '.join(names)}",
            evidence=", ".join(marks),
        )
    if declared is not None and not _is_declared(best, declared):
        yield Finding.of(
            "declared-wrong",
            f"it was declared as {declared}, and is {best.name}: {best.title}",
            evidence=best.evidence[0].meaning if best.evidence else "",
            offset=best.evidence[0].offset if best.evidence else None,
        )
    if best.name == "raw":
        yield Finding.of("unrecognised")


def vet_likeness(storage: Storage, best: Claim) -> Iterator[Finding]:
    """What others may take it for, and that it is barely what it is taken for."""
    yield from _marked_only(best)
    yield from _like_descriptor(storage, best)
    if best.family == "content" or best.name == "raw":
        for format in all_formats():
            yield from format.driver().vet_other(storage)


def _marked_only(best: Claim) -> Iterator[Finding]:
    """Content of which there is a magic, and the fields around it are not what they should be."""
    if best.family == "content" and SURE <= best.confidence < _PLAUSIBLE:
        yield Finding.of(
            "filesystem",
            f"it has the magic of {best.title}, and not much else of it",
            evidence=best.evidence[0].meaning if best.evidence else "",
        )


def _like_descriptor(storage: Storage, best: Claim) -> Iterator[Finding]:
    """A text in which a VMDK is described, however it begins: readers find that as they like."""
    if best.name == "vmdk" or not storage.size:
        return
    head = storage.read(0, min(storage.size, _SECTOR))
    if head.translate(None, _TEXT):
        return
    text = storage.read(0, min(storage.size, _MAX_DESCRIPTOR)).partition(b"\0")[0].lower()
    place = text.find(b'createtype="')
    if place >= 0:
        yield Finding.of(
            "several-formats",
            "it is a text with the createType of a VMDK: some readers take it for one",
            offset=place,
        )


def _is_declared(best: Claim, declared: str) -> bool:
    """Whether ``declared`` is a right word for ``best``."""
    wanted = declared.lower()
    names = {best.name, best.disk_format, best.container_format, *best.refines} - {"", "bare"}
    if best.family == "content":
        names.add("raw")
    for format in FORMATS.values():
        if format.name in names and format.name != "raw":
            names |= set(format.aliases)
    # The three of an Amazon machine: a kernel, its first file system, and the disk.
    if best.family == "boot":
        names |= {"aki"} if "initrd" not in best.name and best.name != "cpio" else {"ari"}
    if best.family == "compressed":
        names.add("ari")
    if "raw" in names:
        names.add("ami")
    return wanted in names


def vet_allowed(best: Claim, policy: Policy) -> Iterator[Finding]:
    """Whether ``policy`` takes it."""
    names = {best.name, best.disk_format, best.container_format, *best.refines} - {"", "bare"}
    if best.family == "content":
        names.add("raw")
    if best.family == "boot":
        names |= {"aki", "ari"}
    if policy.formats and not names & set(policy.formats):
        yield Finding.of(
            "format-not-allowed",
            f"it is {best.name} ({best.title}); policy {policy.name} takes "
            f"{', '.join(policy.formats)}",
            evidence=best.name,
        )
