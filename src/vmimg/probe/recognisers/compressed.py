"""Compressed streams, and what the first 256 KiB of what they hold say of the rest.

A stream is nothing by itself: who uploads disk.qcow2.gz uploads a qcow2, so the claims on the
unpacked bytes go into the claim. `streams` unpacks, bounded in bytes taken and made. Sources:
those of `streams`, and OpenStack's name for it all: the container format "compressed".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from vmimg.formats.raw.findings import View
from vmimg.probe.claims import Claim, Evidence
from vmimg.probe.held import Held
from vmimg.probe.stream_headers import StreamHeader, read_stream_header
from vmimg.probe.streams import CONFIRMED, TITLES, Unpacking, stream_kind

__all__ = ["RECOGNISERS", "UnpackedHead", "recognise_compressed", "unpack_head"]

_MAX_IN: Final = 256 << 10
# A block of bzip2 is decoded whole, and may be as long as what it holds: 900 kB. So much of a
# stream is held.
_MAX_IN_BZIP2: Final = 640 << 10
_MAX_OUT: Final = 256 << 10
# Of members or blocks, however little is in them.
_MAX_PIECES: Final = 4000
_MAX_DEPTH: Final = 3


class UnpackedHead(Held):
    """The first bytes of what a stream holds; their end is the end where the stream has one.

    ``depth``: how many streams these bytes were unpacked from.
    """

    def __init__(self, name: str, depth: int) -> None:
        super().__init__(name)
        self.depth = depth


def recognise_compressed(view: View) -> Iterator[Claim]:
    """gzip, xz, zstd, bzip2, lzma, lzip, lz4, lzop and compress, with the claims inside."""
    kind = stream_kind(view.read(0, min(16, view.size)))
    if not kind:
        return
    header = read_stream_header(view, kind)
    depth = getattr(view.storage, "depth", 0)
    unpacking, head = unpack_head(view, kind, depth + 1)
    if kind == "lzma" and unpacking.made < CONFIRMED and unpacking.state != "whole":
        return
    inside: tuple[Claim, ...] = ()
    if head.come and depth < _MAX_DEPTH:
        from vmimg.probe.detecting import claims_on

        inside = tuple(claims_on(head, depth=depth + 1))
    best = inside[0] if inside else None
    title = TITLES[kind]
    if best is not None and best.name != "raw":
        title += f" with: {best.title}"
    yield Claim(
        kind,
        "compressed",
        title,
        _confidence(unpacking, head),
        evidence=tuple(_evidence(unpacking, kind, header)),
        details=_details(unpacking, header),
        inside=inside,
        disk_format=best.disk_format if best is not None else "",
        container_format="compressed",
    )


def unpack_head(view: View, kind: str, depth: int) -> tuple[Unpacking, UnpackedHead]:
    """What comes first out of the stream at the start of ``view``."""
    limit = _MAX_IN_BZIP2 if kind == "bzip2" else _MAX_IN
    unpacking = Unpacking(view, kind, limit=limit)
    unpacking.enough = _MAX_OUT
    head = UnpackedHead(f"what is in {view.storage.name}", depth)
    for number, piece in enumerate(unpacking):
        head.feed(memoryview(piece)[: _MAX_OUT - head.come])
        if unpacking.made >= _MAX_OUT or number >= _MAX_PIECES:
            break
    # Where it cannot go on, this is all that any reader gets.
    if unpacking.state in ("whole", "corrupt", "cut-off") and unpacking.made == head.come:
        head.end()
    return unpacking, head


def _confidence(unpacking: Unpacking, head: UnpackedHead) -> int:
    if unpacking.kind == "lzma":
        return 60
    if head.come or unpacking.members:
        return 100
    # A magic, and nothing behind it that would bear it out (or nothing that was to be seen).
    return 60 if unpacking.kind in ("gzip", "compress") else 80


def _evidence(unpacking: Unpacking, kind: str, header: StreamHeader) -> Iterator[Evidence]:
    what = "a header without a magic" if kind == "lzma" else "the magic and header"
    yield Evidence(0, f"{what} of {kind}")
    if unpacking.state == "whole":
        yield Evidence(0, f"it unpacks to its end: {unpacking.made} bytes")
    elif unpacking.made:
        yield Evidence(0, f"it unpacks: {unpacking.made} bytes from the first {unpacking.taken}")
    if unpacking.problem:
        yield Evidence(0, unpacking.problem)
    if unpacking.skipped:
        yield Evidence(0, f"{unpacking.skipped} bytes of frames that readers skip")
    if header.details:
        yield Evidence(0, header.details)


def _details(unpacking: Unpacking, header: StreamHeader) -> dict[str, Any]:
    facts: dict[str, Any] = {"compression": unpacking.kind}
    size = unpacking.made if unpacking.state == "whole" else header.size
    if size is not None:
        facts["unpacked-size"] = size
    if header.memory is not None:
        facts["window"] = header.memory
    if header.name:
        facts["file-name"] = header.name
    if header.modified:
        facts["modified"] = header.modified
    if unpacking.problem:
        facts["problem"] = unpacking.problem
    if unpacking.trailing is not None:
        facts["trailing-offset"] = unpacking.trailing
    return facts


RECOGNISERS: Final = (recognise_compressed,)
