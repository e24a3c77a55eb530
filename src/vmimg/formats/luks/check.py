"""check for LUKS: headers that are whole and agree, slots that lie where they can, no two in one
place. What a passphrase opens is not tried.

Version 2 has its header twice: --repair writes a damaged or older copy anew from the one that
counts, as cryptsetup does when it opens the volume.
"""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import TYPE_CHECKING

from vmimg.errors import FormatError, UnsupportedFeature
from vmimg.formats.driver import CheckReport
from vmimg.formats.luks import structures as s
from vmimg.formats.luks.luks1 import read_luks1
from vmimg.formats.luks.luks2 import HeaderCopy, checksum, find_headers, read_luks2

if TYPE_CHECKING:
    from vmimg.storage.base import Storage

__all__ = ["check_volume"]


def check_volume(storage: Storage, *, repair: str = "") -> CheckReport:
    """The report on the volume in ``storage``; ``repair`` other than "" mends header copies."""
    report = CheckReport("luks", image_end_offset=storage.size)
    try:
        if s.luks_version(storage.read(0, min(8, storage.size))) == 1:
            _check1(storage, report)
        else:
            _check2(storage, report, repair=bool(repair))
    except FormatError as error:
        _fault(report, str(error).removeprefix(f"{storage.name}: "))
    return report


def _check1(storage: Storage, report: CheckReport) -> None:
    header = read_luks1(storage)
    if header.payload_offset > storage.size:
        _fault(report, f"the data is said to be at {header.payload_offset}, behind the file's end")
    areas = [
        (slot.offset, slot.offset + header.material_bytes(slot), str(number))
        for number, slot in enumerate(header.slots)
        if slot.active
    ]
    _check_slots(areas, report)


def _check2(storage: Storage, report: CheckReport, *, repair: bool) -> None:
    header = read_luks2(storage)
    copies = find_headers(storage)
    newest = max(
        (copy for copy in copies if not copy.problem and copy.raw is not None),
        key=lambda copy: copy.raw.seqid if copy.raw is not None else 0,
    )
    for copy in copies:
        what = "first" if copy.offset == 0 else "second"
        problem = copy.problem
        if not problem and _differ(copy, newest):
            problem = f"the {what} header is older than the other one"
        if not problem:
            continue
        report.problems.append(problem)
        if repair:
            _rewrite(storage, newest, first=copy.offset == 0)
            report.fixed_corruptions += 1
        else:
            report.corruptions += 1
    try:
        header.ready(storage.name)
    except UnsupportedFeature as error:
        report.errors += 1
        report.problems.append(str(error).removeprefix(f"{storage.name}: "))
    areas = [(slot.offset, slot.offset + slot.size, slot.id) for slot in header.keyslots.values()]
    _check_slots(areas, report)
    for digest in header.digests.values():
        for missing in sorted(digest.keyslots - set(header.keyslots)):
            _fault(report, f"a digest names key slot {missing}, which there is not")
    if header.segments and not any(
        slot in header.digests[header.segments[0].digest].keyslots for slot in header.keyslots
    ):
        report.problems.append("no key slot is left: only the volume key itself opens it")


def _differ(copy: HeaderCopy, newest: HeaderCopy) -> bool:
    assert copy.raw is not None and newest.raw is not None
    return copy.json != newest.json or copy.raw.seqid != newest.raw.seqid


def _rewrite(storage: Storage, newest: HeaderCopy, *, first: bool) -> None:
    """Make the other header what ``newest`` is: with its own magic, place, salt and checksum."""
    assert newest.raw is not None
    raw = s.Luks2Header.from_buffer_copy(bytes(newest.raw))
    raw.hdr_offset = 0 if first else raw.hdr_size
    raw.salt[:] = secrets.token_bytes(64)
    # Set as bytes: the magic of the structure is a string to ctypes.
    binary = bytearray(bytes(raw).ljust(s.JSON_OFFSET, b"\0"))
    binary[:6] = s.MAGIC if first else s.SECOND_MAGIC
    made = checksum(raw, bytes(binary), newest.json)
    assert made is not None  # the one it is copied from has this kind
    start, size = s.Luks2Header.csum.offset, s.Luks2Header.csum.size
    binary[start : start + size] = made.ljust(size, b"\0")
    storage.write(int(raw.hdr_offset), bytes(binary) + newest.json)
    storage.flush()


def _check_slots(areas: list[tuple[int, int, str]], report: CheckReport) -> None:
    for (_, end, name), (start, _, other) in pairwise(sorted(areas)):
        if start < end:
            _fault(report, f"key slots {name} and {other} lie over each other at {start}")


def _fault(report: CheckReport, problem: str) -> None:
    report.corruptions += 1
    report.problems.append(problem)
