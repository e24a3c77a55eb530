"""cpio archives and initrds, with what follows the microcode in front of an initrd.

An initrd that is compressed is found inside of its stream. The format is in `vmimg.probe.cpio`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from vmimg.errors import FormatError
from vmimg.formats.raw.findings import View
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.cpio import (
    TRAILER,
    cpio_kind,
    cpio_members,
    looks_like_initrd,
    next_segment,
    shown,
)
from vmimg.storage.base import NotHeld
from vmimg.storage.slice import SliceStorage

__all__ = ["RECOGNISERS", "recognise_cpio"]

_MAX_MEMBERS: Final = 64
_MAX_DEPTH: Final = 3
_KINDS: Final = {
    "newc": "new ASCII format",
    "crc": "new ASCII format with checksums",
    "odc": "old ASCII format",
    "binary": "old binary format",
    "binary-swapped": "old binary format, big-endian",
}


class _Behind(SliceStorage):
    """What follows an archive; ``depth`` as UnpackedHead has it."""

    depth = 0


@dataclass(slots=True)
class _Seen:
    names: list[str] = field(default_factory=list)
    first_data: int = 0
    end: int | None = None
    """Where the archive ends, if its trailer was reached."""
    problem: str = ""


def recognise_cpio(view: View) -> Iterator[Claim]:
    """cpio, and the initrd that it may be."""
    kind = cpio_kind(view.read(0, min(6, view.size)))
    if not kind:
        return
    seen = _look(view)
    if not seen.names and seen.end is None:
        return
    yield Claim(
        "cpio",
        "archive",
        f"cpio archive, {_KINDS[kind]}",
        _confidence(kind, seen),
        evidence=tuple(_evidence(kind, seen)),
        details=_details(kind, seen),
    )
    if looks_like_initrd(seen.names):
        yield _initrd(view, kind, seen)


def _look(view: View) -> _Seen:
    seen = _Seen()
    try:
        for member in cpio_members(view):
            if member.name == TRAILER:
                seen.end = member.end
                break
            seen.names.append(member.name)
            if len(seen.names) >= _MAX_MEMBERS:
                break
    except FormatError as error:
        seen.problem = str(error)
    except NotHeld:
        pass
    return seen


def _confidence(kind: str, seen: _Seen) -> int:
    if kind in ("binary", "binary-swapped"):
        # Two bytes are no magic; two members or an end make up for it.
        return 80 if len(seen.names) > 1 or seen.end is not None else 40
    return 100 if not seen.problem else 80


def _evidence(kind: str, seen: _Seen) -> Iterator[Evidence]:
    yield Evidence(0, f"the header of a member, {_KINDS[kind]}")
    if seen.names:
        names = ", ".join(f"'{shown(name)}'" for name in seen.names[:8])
        yield Evidence(0, f"members {names}" + (" and more" if len(seen.names) > 8 else ""))
    if seen.end is not None:
        yield Evidence(seen.end, f"it ends with {TRAILER}")
    if seen.problem:
        yield Evidence(0, seen.problem)


def _details(kind: str, seen: _Seen) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": kind, "members": [shown(name) for name in seen.names[:16]]}
    if seen.end is not None:
        facts["member-count"] = len(seen.names)
    return facts


def _initrd(view: View, kind: str, seen: _Seen) -> Claim:
    evidence = list(_evidence(kind, seen))
    details = _details(kind, seen)
    microcode = any(name.lstrip("./").startswith("kernel/x86/microcode") for name in seen.names)
    inside: tuple[Claim, ...] = ()
    title = "initrd"
    if microcode:
        title = "initrd that begins with microcode"
        details["microcode"] = True
        evidence.append(Evidence(0, "microcode for x86 in kernel/x86/microcode"))
    if seen.end is not None:
        try:
            start = next_segment(view, seen.end)
            if start is not None:
                inside = _behind(view, start)
                details["next-offset"] = start
                what = inside[0].title if inside and inside[0].name != "raw" else "something"
                evidence.append(Evidence(start, f"{what} follows"))
                title += f", then: {what}"
        except NotHeld:
            pass
    return Claim(
        "initrd",
        "boot",
        title,
        90,
        evidence=tuple(evidence),
        details=details,
        refines=("cpio",),
        inside=inside,
    )


def _behind(view: View, start: int) -> tuple[Claim, ...]:
    """What is in the file from ``start``: the rest of the initrd."""
    from vmimg.probe.detecting import claims_on

    depth = getattr(view.storage, "depth", 0) + 1
    if depth > _MAX_DEPTH:
        return ()
    rest = _Behind(view.storage, view.start + start, view.size - start)
    rest.depth = depth
    return tuple(claims_on(rest, depth=depth))


RECOGNISERS: Final = (recognise_cpio,)
