"""Vetting compressed streams: what they become, whether what they state is so, and what else is in
the file.

A stream is unpacked up to 64 MiB, 4 MiB of the file or half a second, whichever comes first; what
it holds is vetted by whoever reads the claims inside. Honest streams reach 1030:1 (gzip of zeros),
7000:1 (xz) and more, so a high ratio is a warning with its figures. Imports `streams`.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import process_time
from typing import Final

from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity, is_outside
from vmimg.probe.held import Held
from vmimg.probe.stream_headers import StreamHeader, read_stream_header, read_xz_index
from vmimg.probe.streams import TITLES, XZ_MEMORY, Unpacking, stream_kind
from vmimg.storage.base import NotHeld
from vmimg.units import format_size

__all__ = ["RATIO", "VETTERS", "vet_compressed"]

RATIO: Final = 1000
"""Bytes out for a byte in, from which on a stream `expands`."""
# What unpacks to less than this does no harm, whatever its ratio.
_HARMLESS: Final = 16 << 20
_MAX_IN: Final = 4 << 20
_MAX_OUT: Final = 64 << 20
_SECONDS: Final = 0.5
# Decoded in Python, some 20 MB/s.
_SLOW: Final = {"lz4": 4 << 20, "lz4-legacy": 4 << 20, "lzop": 2 << 20}
_SLOW_IN: Final = 512 << 10
# What a window may take, as in vmimg.storage.stream.
_MEMORY: Final = {"xz": XZ_MEMORY, "lzma": XZ_MEMORY, "lzip": XZ_MEMORY, "zstd": 128 << 20}
# More than these no encoder can make of a byte: a block of 128 KiB in four bytes, or 255 zeros per
# byte of a length; deflate's 258 in two bits.
_LIMITS: Final = {"zstd": 32768, "lz4": 256, "gzip": 1032}
_HEAD: Final = 64 << 10
_LAYERS: Final = 4
# pzstd writes 12 bytes for each frame, and an index of frames has some for each.
_SKIPPED: Final = 64 << 10


def vet_compressed(view: View) -> Iterator[Finding]:
    """Of a stream of any kind."""
    kind = stream_kind(view.read(0, min(16, view.size)))
    if not kind:
        return
    header = read_stream_header(view, kind)
    yield from _vet_header(view, kind, header)
    if kind == "compress":
        yield Finding.of("unsupported", "streams of compress (.Z) are not unpacked")
        return
    unpacking, head = _measure(view, kind)
    yield from _vet_data(unpacking)
    yield from _vet_ratio(view, header, unpacking)
    yield from _vet_rest(view, kind, unpacking)
    yield from _vet_layers(head)


def _vet_header(view: View, kind: str, header: StreamHeader) -> Iterator[Finding]:
    most = _MEMORY.get(kind)
    if most is not None and header.memory is not None and header.memory > most:
        yield Finding.of(
            "unsupported",
            f"unpacking it takes a window of {format_size(header.memory)}, more than the "
            f"{format_size(most)} that are allowed",
        )
    if header.problem:
        yield Finding.of("odd-field", f"{header.problem}", offset=0)
    if header.details.startswith("needs"):
        yield Finding.of("unsupported", f"it {header.details}, which is not part of it")
    if header.name and (is_outside(header.name) or "/" in header.name or "\\" in header.name):
        yield Finding.of(
            "odd-field",
            f"the name in its header is a path: '{header.name}'; gunzip -N would use it",
            evidence=header.name,
        )
    limit = _LIMITS.get(kind)
    if limit is not None and header.size is not None and header.size > view.size * limit + 1024:
        yield Finding.of(
            "member-size",
            f"its header states {header.size} bytes, more than {view.size} bytes of {kind} can be",
        )


def _measure(view: View, kind: str) -> tuple[Unpacking, bytes]:
    """How it unpacks within the bounds, and the head of what comes out."""
    slow = _SLOW.get(kind)
    unpacking = Unpacking(view, kind, limit=_SLOW_IN if slow else _MAX_IN)
    unpacking.enough = slow or _MAX_OUT
    head = bytearray()
    end = process_time() + _SECONDS
    for piece in unpacking:
        head += piece[: _HEAD - len(head)]
        if unpacking.made >= unpacking.enough or process_time() >= end:
            break
    return unpacking, bytes(head)


def _vet_data(unpacking: Unpacking) -> Iterator[Finding]:
    taken = unpacking.taken
    if unpacking.state == "corrupt":
        code = {"size": "member-size", "checksum": "checksum-wrong"}.get(
            unpacking.lies, "malformed"
        )
        yield Finding.of(code, f"the {unpacking.kind} data is {unpacking.problem}")
    elif unpacking.state == "cut-off":
        yield Finding.of("truncated", f"the {unpacking.kind} data is {unpacking.problem}")
    elif unpacking.state == "memory":
        yield Finding.of("unsupported", f"it has {unpacking.problem}")
    elif unpacking.state != "whole":
        yield Finding.of(
            "unfinished",
            f"only {taken} bytes of the {unpacking.kind} data were unpacked, to {unpacking.made}",
            severity=Severity.NOTE,
        )


def _vet_ratio(view: View, header: StreamHeader, unpacking: Unpacking) -> Iterator[Finding]:
    if unpacking.state in ("going", "unseen"):
        stated = header.size
        if stated is None and unpacking.kind == "gzip":
            stated = _gzip_size(view)
        if stated is not None:
            if stated >= _HARMLESS and stated >= RATIO * view.size:
                yield _expands(stated, view.size, "it states that it")
            return
    if unpacking.made >= _HARMLESS and unpacking.made >= RATIO * unpacking.taken:
        words = "it" if unpacking.state == "whole" else "as far as it was unpacked, it"
        yield _expands(unpacking.made, unpacking.taken, words)


def _gzip_size(view: View) -> int | None:
    """The size at the end of the file, where it can be the whole truth: it is counted modulo 4 GiB,
    and of the last member only.
    """
    if view.size * _LIMITS["gzip"] >= 1 << 32:
        return None
    try:
        size = int.from_bytes(view.read(-4, 4), "little")
    except NotHeld:
        return None
    # Less than a thousandth of what it takes is more likely one member of many.
    return size if view.size <= size <= view.size * _LIMITS["gzip"] else None


def _expands(made: int, taken: int, words: str) -> Finding:
    return Finding.of(
        "expands",
        f"{words} makes {format_size(made)} of {format_size(taken)}, "
        f"{made // max(1, taken)} bytes of each",
    )


def _vet_rest(view: View, kind: str, unpacking: Unpacking) -> Iterator[Finding]:
    if unpacking.trailing is not None:
        count = view.size - unpacking.trailing
        yield Finding.of(
            "hidden-data",
            f"{count} bytes that are no {kind} data follow the {kind} data",
            offset=unpacking.trailing,
            evidence=view.read(unpacking.trailing, 16).hex(" "),
        )
    if unpacking.skipped > _SKIPPED:
        yield Finding.of(
            "hidden-data", f"{unpacking.skipped} bytes are in frames that every reader skips"
        )
    if kind == "xz" and unpacking.state in ("going", "unseen"):
        try:
            index = read_xz_index(view)
            footer = view.read(-64, 64).rstrip(b"\0")[-2:]
        except NotHeld:
            return
        if index is not None and index.problem:
            yield Finding.of("member-size", index.problem)
        elif footer != b"YZ":
            yield Finding.of(
                "truncated", "the xz data has no footer at the end of the file", offset=view.size
            )


def _vet_layers(head: bytes) -> Iterator[Finding]:
    """Streams in streams: each layer multiplies what the ones around it expand to."""
    kinds = []
    for _ in range(_LAYERS):
        kind = stream_kind(head[:16])
        if not kind or kind == "lzma":
            break
        kinds.append(kind)
        held = Held("layer")
        held.feed(head)
        held.end()
        unpacking = Unpacking(View(held, 0, held.size), kind, limit=_HEAD)
        unpacking.enough = _HEAD
        inner = bytearray()
        for piece in unpacking:
            inner += piece[: _HEAD - len(inner)]
            if len(inner) >= _HEAD or unpacking.members > 1000:
                break
        head = bytes(inner)
    if kinds:
        yield Finding.of(
            "nested-archive",
            f"what it holds is compressed again: {' in '.join(reversed(kinds))}",
            severity=Severity.WARNING if len(kinds) > 1 else Severity.NOTE,
        )


VETTERS: Final = dict.fromkeys(TITLES, vet_compressed)
