"""What vetting finds in a VHD: here its two footers, in `vetdynamic` what a dynamic disk has more.

Stands beside `header`, which refuses what cannot be read; here each thing gets the code of what is
wrong with it. Sizes of disks are a field of traps: programs round them in at least four ways, and
only what none of them does is told.

Spec: Microsoft Virtual Hard Disk Image Format Specification 1.0. No numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vmimg.formats.detect import Evidence
from vmimg.formats.sampling import hidden_data
from vmimg.formats.vetting import Finding, Severity
from vmimg.formats.vhd import structures as s
from vmimg.formats.vhd.header import FoundFooter, find_footers, virtual_size
from vmimg.formats.vhd.vetdynamic import NOWHERE, unknown_version, vet_dynamic
from vmimg.storage.base import NotHeld, Storage
from vmimg.units import align_up, format_size

__all__ = ["evidence", "vet", "vet_other"]

# How far from the end a footer is looked for that something stands behind.
_REACH: Final = 64 << 10
_MAX_GEOMETRY: Final = s.MAX_CYLINDERS * s.MAX_HEADS * s.MAX_SECTORS * s.SECTOR
# Whose disks are as large as their geometry says, for readers that go by the creator.
_SIZED_BY_GEOMETRY: Final = (b"vpc ", b"qemu")
_KNOWN_FEATURES: Final = s.TEMPORARY | s.RESERVED_FEATURE
# XenServer keeps a mark of its own behind saved_state.
_RESERVED: Final = s.Footer.reserved.offset + 1


def vet(storage: Storage) -> Iterator[Finding]:
    """Findings on the image in ``storage``. What `read_image` refuses without a code of its own is
    left to it.
    """
    head, end = find_footers(storage)
    if head is None and end is None:
        return
    if end is not None and end.good and end.fields.disk_type == s.FIXED:
        yield from _vet_fixed(storage, head, end)
        return
    yield from _vet_pair(storage, head, end)
    found = [each for each in (head, end) if each is not None]
    # As readers choose: the copy in front, which the guest cannot reach, where it is sound.
    best = next((each for each in found if each.good and each.sparse), None)
    best = best or next((each for each in found if each.good), found[0])
    yield from _vet_footer(best)
    if best.fields.disk_type == s.FIXED:
        yield from _vet_fixed_size(storage, best)
    elif best.sparse:
        last = end.offset if end is not None else storage.size
        yield from vet_dynamic(storage, best, last, end)


def evidence(storage: Storage) -> tuple[Evidence, ...]:
    """Why it is taken for a VHD, besides its magic: footers and header, and their checksums."""
    found: list[Evidence] = []
    for footer, what in zip(find_footers(storage), ("copy of the footer", "footer"), strict=True):
        if footer is None:
            continue
        sound = "a good checksum" if footer.good else "a wrong checksum"
        kind = s.TYPE_NAMES.get(footer.fields.disk_type, f"type {footer.fields.disk_type}")
        found.append(Evidence(footer.offset, f"a {what} with {sound}: {kind}"))
        if footer.spans_file:
            found.append(Evidence(footer.offset, "the footer says that the disk ends in front"))
        elif footer.good and footer.fields.disk_type == s.FIXED:
            place = footer.offset + s.Footer.current_size.offset
            size = int(footer.fields.current_size)
            found.append(Evidence(place, f"the footer says that the disk ends at {size}"))
        offset = footer.fields.data_offset
        if footer.sparse and offset + s.DYNAMIC_HEADER_SIZE <= storage.size:
            try:
                if storage.read(offset, 8) == s.DYNAMIC_COOKIE:
                    found.append(Evidence(offset, "a dynamic header where the footer says"))
            except NotHeld:
                pass
    return tuple(dict.fromkeys(found))


# Footers


def _vet_fixed(storage: Storage, head: FoundFooter | None, end: FoundFooter) -> Iterator[Finding]:
    """A fixed disk, whose beginning is the guest's."""
    if head is not None and end.offset >= s.FOOTER_SIZE:
        yield Finding.of(
            "copies-disagree",
            "its footer says that it is a fixed disk, but the disk begins with another footer: "
            "QEMU goes by that one",
            offset=0,
        )
    yield from _vet_footer(end)
    yield from _vet_fixed_size(storage, end)


def _vet_fixed_size(storage: Storage, footer: FoundFooter) -> Iterator[Finding]:
    size = virtual_size(footer.fields)
    offset = footer.offset + s.Footer.current_size.offset
    if size > footer.offset:
        yield Finding.of(
            "truncated",
            f"it is a fixed disk of {size} bytes, of which {footer.offset} are there",
            offset=offset,
        )
        return
    end = align_up(footer.fields.current_size, s.SECTOR)
    if end == footer.offset:
        return
    hidden = list(
        hidden_data(
            storage, end, footer.offset, "there is data between the end of the disk and the footer"
        )
    )
    yield from hidden
    if not hidden and end < footer.offset:
        yield Finding.of(
            "odd-field",
            f"its size is {size}, and the footer begins at {footer.offset}: who takes the file for "
            "a raw disk sees another one",
            offset=offset,
        )


def _vet_pair(
    storage: Storage, head: FoundFooter | None, end: FoundFooter | None
) -> Iterator[Finding]:
    """Of a disk that is not fixed: the footer, and its copy in front."""
    if end is None:
        yield _without_end(storage)
    elif not end.good:
        yield Finding.of("checksum-wrong", "the checksum of the footer is wrong", offset=end.offset)
    if head is None:
        assert end is not None
        if end.sparse:
            yield Finding.of("copies-disagree", "there is no copy of the footer in front", offset=0)
    elif not head.good:
        yield Finding.of(
            "checksum-wrong", "the checksum of the copy of the footer is wrong", offset=0
        )
    if head is None or end is None or not (head.good and end.good):
        return
    names = [
        name
        for name, *_ in s.Footer._fields_[:-1]
        if _value(head, name) != _value(end, name) and name != "checksum"
    ]
    if names or head.raw[: s.OLD_FOOTER_SIZE] != end.raw[: s.OLD_FOOTER_SIZE]:
        yield Finding.of(
            "copies-disagree",
            f"the footer and its copy in front differ in {', '.join(names) or 'reserved bytes'}",
            offset=end.offset + (getattr(s.Footer, names[0]).offset if names else 0),
        )


def vet_other(storage: Storage) -> Iterator[Finding]:
    """Of what is no VHD: whether it would be a fixed one without the last few KiB."""
    start, tail = _tail(storage)
    place = tail.rfind(s.COOKIE)
    raw = tail[place : place + s.FOOTER_SIZE] if place >= 0 else b""
    if len(raw) == s.FOOTER_SIZE and FoundFooter(start + place, s.FOOTER_SIZE, raw).spans_file:
        end = start + place + s.FOOTER_SIZE
        yield Finding.of(
            "hidden-data",
            f"in front of the last {storage.size - end} bytes it is a fixed VHD, footer and all: "
            "who cuts them off, or looks for the footer, sees another disk",
            offset=end,
        )


def _tail(storage: Storage) -> tuple[int, bytes]:
    start = max(0, storage.size - _REACH)
    return start, storage.read(start, storage.size - start)


def _value(footer: FoundFooter, name: str) -> bytes:
    place = getattr(s.Footer, name)
    return footer.raw[place.offset : place.offset + place.size]


def _without_end(storage: Storage) -> Finding:
    """No footer where it should be: it is lost, or something was put behind it."""
    start = max(s.FOOTER_SIZE, storage.size - _REACH)
    tail = storage.read(start, storage.size - start) if start < storage.size else b""
    place = tail.rfind(s.COOKIE)
    footer = tail[place : place + s.FOOTER_SIZE] if place >= 0 else b""
    if len(footer) == s.FOOTER_SIZE and FoundFooter(0, s.FOOTER_SIZE, footer).good:
        behind = start + place + s.FOOTER_SIZE
        return Finding.of(
            "hidden-data",
            f"there are {storage.size - behind} bytes behind the footer, which readers look for at "
            "the end of the file",
            offset=behind,
        )
    return Finding.of(
        "truncated", "there is no footer at its end: the file was cut off", offset=storage.size
    )


def _vet_footer(footer: FoundFooter) -> Iterator[Finding]:
    fields, start = footer.fields, footer.offset
    unknown = fields.features & ~_KNOWN_FEATURES
    if unknown:
        yield Finding.of(
            "unknown-features",
            f"the feature bits {unknown:#x} are not known",
            offset=start + s.Footer.features.offset,
        )
    if fields.file_format_version != s.VERSION:
        yield unknown_version(
            fields.file_format_version, start + s.Footer.file_format_version.offset
        )
    if fields.disk_type not in s.TYPE_NAMES:
        yield Finding.of(
            "unknown-features",
            f"it is of disk type {fields.disk_type}; there are 2 (fixed), 3 (dynamic) and 4 "
            "(differencing)",
            offset=start + s.Footer.disk_type.offset,
        )
    if fields.disk_type == s.FIXED and fields.data_offset not in NOWHERE:
        yield Finding.of(
            "odd-field",
            f"a fixed disk has no dynamic header, and this one names offset {fields.data_offset}",
            offset=start + s.Footer.data_offset.offset,
        )
    if fields.saved_state:
        yield Finding.of(
            "snapshots",
            "it belongs to a machine in saved state, whose memory is elsewhere",
            offset=start + s.Footer.saved_state.offset,
            severity=Severity.WARNING,
        )
    rest = footer.raw[_RESERVED:]
    if any(rest):
        place = start + _RESERVED + len(rest) - len(rest.lstrip(b"\0"))
        yield Finding.of("hidden-data", "the reserved bytes of the footer are used", offset=place)
    yield from _vet_sizes(fields, start)


def _vet_sizes(fields: s.Footer, start: int) -> Iterator[Finding]:
    current = int(fields.current_size)
    for name in ("current_size", "original_size"):
        size = int(getattr(fields, name))
        if size > s.MAX_SIZE:
            yield Finding.of(
                "impossible-size" if name == "current_size" else "odd-field",
                f"{name} says {format_size(size)}; VHD ends at 2040 GiB",
                offset=start + getattr(s.Footer, name).offset,
            )
    if current % s.SECTOR:
        yield Finding.of(
            "odd-field",
            f"its size of {current} bytes is not whole sectors",
            offset=start + s.Footer.current_size.offset,
        )
    cylinder = int(fields.heads) * int(fields.sectors_per_track) * s.SECTOR
    by_geometry = int(fields.cylinders) * cylinder
    by_creator = bytes(fields.creator_application) in _SIZED_BY_GEOMETRY
    # Rounding up gives less than a cylinder more, rounding down less than one less; geometries
    # of what is too large for one are cut off, by each program somewhere else.
    more = by_geometry - current >= cylinder and by_geometry != _MAX_GEOMETRY
    less = by_creator and by_geometry < _MAX_GEOMETRY and current - by_geometry >= cylinder
    if by_geometry and current <= s.MAX_SIZE and ((more and current) or less):
        yield Finding.of(
            "odd-field",
            f"its geometry says {by_geometry} bytes, its size {current}: readers that go by the "
            "geometry see another disk",
            offset=start + s.Footer.cylinders.offset,
        )
