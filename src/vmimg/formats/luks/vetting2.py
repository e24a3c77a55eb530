"""What a stranger's LUKS volume of version 2 could do to its reader.

The two headers must agree; the JSON is gone through field by field, taking what is of the wrong
type for missing: the parser of this format says that. No numpy. Spec: LUKS2 on-disk format 1.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vmimg.formats.luks import structures as s
from vmimg.formats.luks.luks2 import HeaderCopy, find_headers
from vmimg.formats.luks.work import (
    MAX_ARGON2_KIB,
    MAX_ARGON2_LANES,
    MAX_ARGON2_WORK,
    MAX_ITERATIONS,
    costly_pbkdf2,
    vet_cipher,
)
from vmimg.formats.regions import Area, overlaps
from vmimg.formats.vetting import Finding, Severity
from vmimg.storage.base import Storage

__all__ = ["vet_luks2"]

_REQUIREMENTS: Final = frozenset(
    (
        *("online-reencrypt", "online-reencrypt-v2", "online-reencrypt-v3", "online-reencrypt-v4"),
        *("offline-reencrypt", "inline-hw-tags", "opal"),
    )
)
_FLAGS: Final = frozenset(
    (
        *("allow-discards", "same-cpu-crypt", "submit-from-crypt-cpus", "no-journal"),
        *("no-read-workqueue", "no-write-workqueue", "high-priority"),
    )
)
# cryptsetup makes the name of a library of it, and loads that.
_TOKEN_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SEGMENTS: Final = ("crypt", "linear", "hw-opal", "hw-opal-crypt")
# A kind with more objects than this breaks the rules, and the parser of this format says so.
_MAX_OBJECTS: Final = 64
_FOREVER: Final = 1 << 62


def vet_luks2(storage: Storage) -> Iterator[Finding]:
    """A volume of version 2; ``storage`` begins with it."""
    copies = find_headers(storage)
    faults = list(_vet_copies(storage, copies))
    yield from faults
    if any(fault.code == "truncated" for fault in faults):
        return  # and so is all that lies behind the headers
    whole = [copy for copy in copies if not copy.problem and copy.raw is not None]
    if not whole:
        return
    best = max(whole, key=lambda copy: copy.raw.seqid if copy.raw is not None else 0)
    assert best.raw is not None
    text, _, rest = best.json.partition(b"\0")
    place = best.offset + s.JSON_OFFSET
    if any(rest):
        behind = len(best.json) - len(rest.lstrip(b"\0"))
        yield Finding.of("hidden-data", "there is data behind the JSON", offset=place + behind)
    try:
        root = json.loads(text)
    except (ValueError, RecursionError):
        return  # said by inspect
    yield from _vet_root(storage, 2 * int(best.raw.hdr_size), place, _object(root))


def _vet_copies(storage: Storage, copies: list[HeaderCopy]) -> Iterator[Finding]:
    first, second = copies
    if first.raw is not None and second.raw is not None and not (first.problem or second.problem):
        if first.raw.seqid != second.raw.seqid or first.json != second.json:
            yield Finding.of(
                "copies-disagree",
                f"the two headers differ: they are versions {first.raw.seqid} and "
                f"{second.raw.seqid} of it",
                offset=second.offset,
            )
        return
    for copy in copies:
        if not copy.problem:
            continue
        if copy.raw is not None:
            cut = copy.offset + copy.raw.hdr_size > storage.size
            code = "truncated" if cut else "checksum-wrong"
            field = 0 if cut else int(s.Luks2Header.csum.offset)
            yield Finding.of(code, copy.problem, offset=copy.offset + field)
        elif "says that it takes" in copy.problem:
            place = copy.offset + int(s.Luks2Header.hdr_size.offset)
            yield Finding.of("impossible-size", copy.problem, offset=place)
        elif any(not other.problem for other in copies):
            yield Finding.of("copies-disagree", copy.problem, offset=copy.offset)


def _vet_root(
    storage: Storage, reserved: int, place: int, root: Mapping[str, Any]
) -> Iterator[Finding]:
    config = _object(root.get("config"))
    unknown = [
        name
        for name in _list(_object(config.get("requirements")).get("mandatory"))
        if name not in _REQUIREMENTS
    ]
    if unknown:
        yield Finding.of(
            "unknown-features",
            f"who does not know these features must not open it: {', '.join(map(str, unknown))}",
            offset=place,
            evidence=", ".join(map(str, unknown)),
        )
    odd = [name for name in _list(config.get("flags")) if name not in _FLAGS]
    if odd:
        yield Finding.of(
            "odd-field",
            f"it has flags that are not known, and may be ignored: {', '.join(map(str, odd))}",
            offset=place,
            severity=Severity.NOTE,
        )
    yield from _vet_tokens(root, place)
    yield from _vet_segments(storage, reserved, place, root)
    yield from _vet_keyslots(storage, reserved, place, root)
    yield from _vet_digests(root, place)


def _vet_tokens(root: Mapping[str, Any], place: int) -> Iterator[Finding]:
    types = [str(token.get("type", "")) for _, token in _objects(root, "tokens")]
    if not types:
        return
    wrong = [kind for kind in types if not _TOKEN_TYPE.fullmatch(kind)]
    if wrong:
        yield Finding.of(
            "odd-field",
            f"a token is of the type '{wrong[0]}': a library of such a name would be loaded",
            offset=place,
            evidence=wrong[0],
            severity=Severity.ERROR,
        )
    else:
        yield Finding.of(
            "odd-field",
            f"it has tokens that say where its key is to be had: {', '.join(types[:8])}",
            offset=place,
            severity=Severity.NOTE,
        )


def _vet_segments(
    storage: Storage, reserved: int, place: int, root: Mapping[str, Any]
) -> Iterator[Finding]:
    areas = [Area("the headers", 0, reserved)]
    for key, segment in _objects(root, "segments"):
        if any(str(flag).startswith("backup-") for flag in _list(segment.get("flags"))):
            continue  # what a re-encryption began with lies where the rest does
        what = f"segment {key}"
        kind = segment.get("type")
        if kind not in _SEGMENTS:
            yield Finding.of("unknown-features", f"{what} is of the type '{kind}'", offset=place)
            continue
        name, _, mode = str(segment.get("encryption", "")).partition("-")
        if kind == "crypt":
            yield from vet_cipher(name, mode, place)
        start, size = _number(segment.get("offset")), _number(segment.get("size"))
        if start is None or start == 0:
            continue  # a header by itself; or said by inspect
        if start + (size or 0) > storage.size:
            yield Finding.of(
                "truncated",
                f"{what} is said to be at {start}, {size or 'all'} bytes, and the file ends at "
                f"{storage.size}",
                offset=place,
            )
            continue
        areas.append(Area(what, start, _FOREVER if size is None else start + size, place))
    yield from overlaps(areas)


def _vet_keyslots(
    storage: Storage, reserved: int, place: int, root: Mapping[str, Any]
) -> Iterator[Finding]:
    areas = [Area("the headers", 0, reserved)]
    starts = [
        start
        for _, segment in _objects(root, "segments")
        if (start := _number(segment.get("offset")))
    ]
    if starts:
        areas.append(Area("the data", min(starts), _FOREVER, place))
    slots = _objects(root, "keyslots")
    for key, slot in slots:
        what, area = f"key slot {key}", _object(slot.get("area"))
        start, size = _number(area.get("offset")), _number(area.get("size"))
        yield from _vet_kdf(what, _object(slot.get("kdf")), place)
        if start is None or size is None:
            continue  # said by inspect
        if start + size > storage.size:
            yield Finding.of(
                "table-outside",
                f"{what} is said to be at {start}, {size} bytes, and the file ends at "
                f"{storage.size}",
                offset=place,
            )
            continue
        areas.append(Area(what, start, start + size, place))
    yield from overlaps(areas)
    if not slots:
        yield Finding.of("odd-field", "it has no key slot: nobody can open it", offset=place)


def _vet_kdf(what: str, kdf: Mapping[str, Any], place: int) -> Iterator[Finding]:
    iterations, memory = _integer(kdf, "iterations"), _integer(kdf, "memory")
    passes, lanes = _integer(kdf, "time"), _integer(kdf, "cpus")
    if iterations > MAX_ITERATIONS:
        yield costly_pbkdf2(what, iterations, place)
    elif memory > MAX_ARGON2_KIB or memory * passes > MAX_ARGON2_WORK or lanes > MAX_ARGON2_LANES:
        yield Finding.of(
            "costly-key",
            f"{what} asks for {memory} KiB of memory, {passes} passes over it and {lanes} threads "
            "of Argon2",
            offset=place,
        )


def _vet_digests(root: Mapping[str, Any], place: int) -> Iterator[Finding]:
    for key, digest in _objects(root, "digests"):
        what = f"digest {key}"
        yield from _vet_kdf(what, digest, place)
        for kind in ("keyslots", "segments"):
            known = {name for name, _ in _objects(root, kind)}
            missing = [str(name) for name in _list(digest.get(kind)) if name not in known]
            if missing:
                yield Finding.of(
                    "malformed",
                    f"{what} is of {kind} that are not there: {', '.join(missing[:8])}",
                    offset=place,
                )


# JSON: what is of another type than it should be is taken for missing


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(root: Mapping[str, Any], kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = _object(root.get(kind))
    return [(key[:20], _object(value)) for key, value in list(found.items())[:_MAX_OBJECTS]]


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        return []
    return [item for item in value[:_MAX_OBJECTS] if isinstance(item, str)]


def _number(value: object) -> int | None:
    """A number of 64 bits, which JSON has as text; None for "dynamic" and for what is none."""
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 20:
        return None
    return int(value)


def _integer(value: Mapping[str, Any], key: str) -> int:
    number = value.get(key)
    return number if type(number) is int and number > 0 else 0
