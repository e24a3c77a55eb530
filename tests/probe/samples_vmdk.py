"""VMDK images to vet: good ones of QEMU, of vmimg and by hand, and one for each thing that is
wrong.

The bad ones are one of a few images by hand with one thing changed. ``oslo-`` are those that
OpenStack's inspector has a rule for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from formats import vmdk_by_hand as by_hand
from formats.vmdk_by_hand import SECTOR, Sparse
from probe.making import by_qemu, by_vmimg, child_by_vmimg, of_bytes, of_files
from probe.sample import Sample
from samples import awkward_disk

__all__ = ["BAD", "GOOD", "SECTORS", "TEXT", "hosted", "stream", "text"]

SIZE = 1 << 20
SECTORS = SIZE // SECTOR
# Where fields of the header are.
VERSION, FLAGS, CAPACITY, GRAIN, PLACE, LENGTH, GTES, RGD, GD, OVERHEAD = (
    4, 8, 12, 20, 28, 36, 44, 48, 56, 64,
)  # fmt: skip
UNCLEAN, NEWLINES, METHOD = 72, 73, 77
TEXT = SECTOR

Change = Callable[[bytearray], None]
Build = Callable[[], bytes | bytearray]


@cache
def disk() -> bytes:
    return awkward_disk(SIZE, seed=5)


def text(*lines: str, kind: str = "monolithicSparse", extents: tuple[str, ...] = ()) -> bytes:
    """A descriptor; ``lines`` are added in front of the extents."""
    extents = extents or (f'RW {SECTORS} SPARSE "disk.vmdk"',)
    made = by_hand.descriptor(*extents, kind=kind).decode()
    front, mark, rest = made.partition("\n# Extent description")
    return (front + "".join(f"{line}\n" for line in lines) + mark + rest).encode()


def hosted(descriptor: bytes | None = None) -> Sparse:
    return by_hand.hosted(disk(), text=descriptor or text())


def stream(descriptor: bytes | None = None) -> bytes:
    return by_hand.stream(disk(), text=descriptor or text(kind="streamOptimized"))


def put(offset: int, value: int, width: int = 4) -> Change:
    def change(file: bytearray) -> None:
        start = offset if offset >= 0 else len(file) + offset
        file[start : start + width] = value.to_bytes(width, "little")

    return change


def write(offset: int, data: bytes) -> Change:
    def change(file: bytearray) -> None:
        start = offset if offset >= 0 else len(file) + offset
        file[start : start + len(data)] = data

    return change


def nothing(file: bytearray) -> None:
    pass


def _good(name: str, build: Build) -> Sample:
    return of_bytes(f"by-hand-vmdk-{name}", "disk.vmdk", lambda: bytes(build()), "vmdk")


def _bad(
    name: str,
    change: Change,
    *codes: str,
    base: Build = hosted,
    cut: int | None = None,
    tail: bytes = b"",
) -> Sample:
    def build() -> bytes:
        file = bytearray(base())
        change(file)
        return bytes(file[:cut]) + tail

    return of_bytes(f"vmdk-{name}", "disk.vmdk", build, "vmdk", *codes)


def _embedded(name: str, descriptor: Callable[[], bytes], *codes: str) -> Sample:
    return _bad(name, nothing, *codes, base=lambda: hosted(descriptor()))


def _described(name: str, descriptor: Callable[[], bytes], *codes: str) -> Sample:
    return _bad(name, nothing, *codes, base=descriptor)


def replaced(old: str, new: str) -> Callable[[], bytes]:
    """The descriptor with something else in one place."""
    assert old.encode() in text()
    return lambda: text().replace(old.encode(), new.encode(), 1)


def extent(line: str, kind: str = "custom") -> Callable[[], bytes]:
    """A descriptor by itself with one extent."""
    return lambda: text(kind=kind, extents=(line,))


def flat() -> dict[str, bytes]:
    described = text(kind="monolithicFlat", extents=(f'RW {SECTORS} FLAT "disk-flat.vmdk" 0',))
    return {"disk.vmdk": described, "disk-flat.vmdk": disk()}


def cowd() -> bytes:
    return bytes(by_hand.cowd(disk()))


def se_sparse() -> bytes:
    return bytes(by_hand.se_sparse(disk()))


def grains() -> Sparse:
    """Every grain is stored, so that there is something to share."""
    return by_hand.hosted(b"x" * SIZE, text=text())


def shared(file: bytearray) -> None:
    """All grains in the place of the first."""
    image = grains()
    first = image.u32(image.entry(0))
    for number in range(SIZE >> 16):
        for redundant in (False, True):
            where = image.entry(number, redundant=redundant)
            file[where : where + 4] = first.to_bytes(4, "little")


def entry(number: int, value: int) -> Change:
    """The entry of a grain in both grain tables."""

    def change(file: bytearray) -> None:
        image = grains()
        for redundant in (False, True):
            put(image.entry(number, redundant=redundant), value)(file)

    return change


def directory(value: int) -> Change:
    """The first entry of the grain directory, not of the redundant one."""
    return lambda file: put(grains().gd, value)(file)


def marker_moved(file: bytearray) -> None:
    """The first grain of a stream says that it is another."""
    put(128 * SECTOR, 128 * 999, 8)(file)


_EMBEDDED_BAD: tuple[Sample, ...] = (
    _embedded("oslo-line", lambda: text("echo whatever"), "odd-descriptor"),
    _embedded(
        "oslo-extent-path",
        lambda: text(extents=(f'RW {SECTORS} SPARSE "/etc/passwd"',)),
        "extent-outside",
    ),
    _embedded("oslo-no-extents", replaced(f'RW {SECTORS} SPARSE "disk.vmdk"', ""), "malformed"),
    _embedded("oslo-no-type", replaced('createType="monolithicSparse"', ""), "odd-descriptor"),
    _embedded(
        "oslo-type-long", replaced("monolithicSparse", "monolithicSparse" * 5), "odd-descriptor"
    ),
    _embedded("oslo-letters", lambda: text('comment="\u0434\u0438\u0441\u043a"'), "odd-descriptor"),
    _bad("oslo-place", put(PLACE, 2, 8), "odd-descriptor"),
    _bad("oslo-version", put(VERSION, 4), "unknown-version"),
    _bad("oslo-empty", write(TEXT, bytes(20 * SECTOR)), "odd-descriptor"),
    _embedded("type-twice", lambda: text('createType="vmfs"'), "odd-descriptor"),
    _embedded("cid-twice", lambda: text("CID=00000001"), "odd-descriptor"),
    _embedded("type-in-comment", lambda: text('# createType="vmfs"'), "odd-descriptor"),
    _embedded(
        "parent-in-value",
        lambda: text('ddb.comment = "parentFileNameHint=/etc/passwd"'),
        "odd-descriptor",
    ),
    _embedded("type-unknown", replaced("monolithicSparse", "monolithicSparce"), "odd-descriptor"),
    _embedded("version-text", replaced("version=1", "version=9"), "unknown-version"),
    _embedded("version-missing", replaced("version=1", "#"), "odd-descriptor"),
    _embedded("cid-missing", replaced("CID=0123abcd\n", ""), "odd-descriptor"),
    _embedded("cid-wrong", replaced("CID=0123abcd", "CID=whatever"), "odd-descriptor"),
    _embedded("control", lambda: text('ddb.comment = "a\x1b[2Jb"'), "odd-descriptor"),
    _embedded("hidden-line", lambda: text("# comment\rsecret=1"), "odd-descriptor"),
    _embedded("separator", lambda: text('comment="a\u2028secret=1"'), "odd-descriptor"),
    _embedded("extent-unknown", replaced("SPARSE", "SPARCE"), "odd-descriptor"),
    _embedded("parent-cid", replaced("parentCID=ffffffff", "parentCID=12345678"), "odd-descriptor"),
    _embedded("parent-name", lambda: text('parentFileNameHint="base.vmdk"'), "odd-descriptor"),
    _embedded("encrypted", lambda: text('encryptionKeys="vmware:key/list"'), "encrypted"),
    _embedded("tracked", lambda: text('changeTrackPath="disk-ctk.vmdk"'), "external-extent"),
    _embedded("tracked-outside", lambda: text('changeTrackPath="/etc/x"'), "extent-outside"),
    _embedded(
        "sectors-differ",
        lambda: text(extents=(f'RW {2 * SECTORS} SPARSE "disk.vmdk"',)),
        "copies-disagree",
    ),
    _embedded(
        "several-extents",
        lambda: text(extents=(f'RW {SECTORS - 128} SPARSE "a.vmdk"', 'RW 128 SPARSE "b.vmdk"')),
        "odd-descriptor",
    ),
    _bad("behind-text", write(TEXT + 19 * SECTOR, b"secret"), "hidden-data"),
    _bad("text-too-long", put(LENGTH, 4096, 8), "odd-descriptor"),
    _bad("text-outside", put(LENGTH, 2047, 8), "table-outside", cut=400 * SECTOR),
)

_DESCRIBED_BAD: tuple[Sample, ...] = (
    _described("extent-up", extent(f'RW {SECTORS} FLAT "../disk.vmdk" 0'), "extent-outside"),
    _described("extent-windows", extent(f'RW {SECTORS} FLAT "C:\\disk.vmdk" 0'), "extent-outside"),
    _described("extent-sub", extent(f'RW {SECTORS} FLAT "sub/disk.vmdk" 0'), "extent-outside"),
    _described(
        "device-windows", extent(f'RW {SECTORS} FLAT "\\\\.\\PhysicalDrive0" 0'), "device-extent"
    ),
    _described("device-linux", extent(f'RW {SECTORS} FLAT "/dev/sda" 0'), "device-extent"),
    _described(
        "device-type", extent(f'RW {SECTORS} FLAT "disk.raw" 0', "fullDevice"), "device-extent"
    ),
    _described("device-rdm", extent(f'RW {SECTORS} VMFSRDM "disk-rdm.vmdk"'), "device-extent"),
    _described(
        "extent-beside",
        extent(f'RW {SECTORS} FLAT "disk-flat.vmdk" 0', "monolithicFlat"),
        "external-extent",
    ),
    # OpenStack's inspector takes this one for a sparse disk.
    _described(
        "extent-sparse-type",
        extent(f'RW {SECTORS} FLAT "shadow" 0', "monolithicSparse"),
        "external-extent",
    ),
    _described(
        "extents-same",
        lambda: text(kind="custom", extents=('RW 100 FLAT "a" 0', 'RW 100 FLAT "a" 50')),
        "tables-overlap",
    ),
    _described("no-extents", lambda: text(kind="custom", extents=("# none",)), "malformed"),
    _described("text-huge", lambda: text(kind="vmfs").ljust(1 << 20, b"\n"), "odd-descriptor"),
    _described(
        "text-many-lines",
        lambda: text(kind="vmfs", extents=('RW 1 FLAT "a" 0',)) + b"\n" * 50_000,
        "odd-descriptor",
    ),
    _described("text-tail", lambda: text(kind="vmfs") + b"\0secret", "hidden-data"),
)

_SPARSE_BAD: tuple[Sample, ...] = (
    _bad("flags", put(FLAGS, 0x103), "unknown-features"),
    _bad("method", put(METHOD, 7, 2), "unknown-features"),
    _bad("method-without-flag", put(METHOD, 1, 2), "odd-field"),
    _bad("newlines", write(NEWLINES, b"\n \n\n"), "odd-field"),
    _bad("unclean", put(UNCLEAN, 1, 1), "dirty"),
    _bad("unclean-odd", put(UNCLEAN, 7, 1), "odd-field"),
    _bad("grain", put(GRAIN, 100, 8), "impossible-size"),
    _bad("gtes", put(GTES, 0), "impossible-size"),
    _bad("capacity", put(CAPACITY, 1 << 50, 8), "impossible-size"),
    _bad("overhead", put(OVERHEAD, 1 << 30, 8), "truncated"),
    _bad("gd-outside", put(GD, 1 << 30, 8), "table-outside"),
    _bad("rgd-outside", put(RGD, 1 << 30, 8), "table-outside"),
    _bad("gd-over-header", put(GD, 0, 8), "tables-overlap"),
    _bad("gd-over-text", put(GD, 5, 8), "tables-overlap"),
    _bad("gt-outside", directory(1 << 30), "table-outside", base=grains),
    _bad("gt-over-text", directory(5), "tables-overlap", base=grains),
    _bad("gt-missing", directory(0), "copies-disagree", base=grains),
    _bad("gt-twice", lambda file: put(grains().gd, grains().rgts[0] // SECTOR)(file),
         "tables-overlap", base=grains),
    _bad(
        "gt-differs", lambda file: put(grains().entry(3, redundant=True), 0)(file),
        "copies-disagree", base=grains,
    ),
    _bad("grain-outside", entry(3, by_hand.NOWHERE), "truncated", base=grains),
    _bad("grain-over-text", entry(3, 5), "tables-overlap", base=grains),
    _bad("grain-over-gt", lambda file: entry(3, grains().gts[0] // SECTOR)(file),
         "tables-overlap", base=grains),
    _bad("grain-twice", lambda file: entry(3, grains().u32(grains().entry(4)))(file),
         "tables-overlap", base=grains),
    _bad("grains-shared", shared, "expands", base=grains),
    _bad("cut", nothing, "truncated", base=grains, cut=-70000),
    _bad("header-cut", nothing, "truncated", cut=300),
)  # fmt: skip

_STREAM_BAD: tuple[Sample, ...] = (
    _bad("oslo-footer-version", put(-1024 + VERSION, 2), "copies-disagree", base=stream),
    _bad("oslo-footer-text", put(-1024 + LENGTH, 19, 8), "copies-disagree", base=stream),
    _bad("oslo-footer-again", put(-1024 + GD, (1 << 64) - 1, 8), "copies-disagree", base=stream),
    _bad("oslo-footer-signature", write(-1024, b"VMDK"), "truncated", base=stream),
    _bad("oslo-footer-marker", put(-1536 + 100, 1), "odd-field", base=stream),
    _bad("oslo-footer-marker-type", put(-1536 + 12, 9), "truncated", base=stream),
    _bad("oslo-end-marker", put(-512 + 12, 5), "odd-field", base=stream),
    _bad("oslo-end-missing", nothing, "truncated", base=stream, cut=-512),
    _bad("oslo-end-padded", nothing, "odd-field", base=stream, tail=bytes(1024)),
    _bad("footer-capacity", put(-1024 + CAPACITY, 2 * SECTORS, 8), "copies-disagree", base=stream),
    _bad("footer-grain", put(-1024 + GRAIN, 64, 8), "copies-disagree", base=stream),
    _bad("footer-missing", nothing, "truncated", base=stream, cut=-1536),
    _bad("behind-stream", nothing, "hidden-data", base=stream, tail=b"secret".ljust(512)),
    _bad("gd-at-outside", put(-1024 + GD, 1 << 30, 8), "table-outside", base=stream),
    _bad("marker-differs", marker_moved, "copies-disagree", base=stream),
    _bad("marker-size", put(128 * SECTOR + 8, 1 << 30), "truncated", base=stream),
)

_ESX_BAD: tuple[Sample, ...] = (
    _bad("cowd-version", put(4, 2), "unknown-version", base=cowd),
    _bad("cowd-flags", put(8, 0x103), "unknown-features", base=cowd),
    _bad("cowd-grain", put(16, 3), "impossible-size", base=cowd),
    _bad("cowd-directory", put(24, 0), "impossible-size", base=cowd),
    _bad("cowd-outside", put(20, 1 << 24), "table-outside", base=cowd),
    _bad("cowd-over-header", put(20, 1), "tables-overlap", base=cowd),
    _bad("sesparse-version", put(8, 3, 8), "unknown-version", base=se_sparse),
    _bad("sesparse-flags", put(40, 1, 8), "unknown-features", base=se_sparse),
    _bad("sesparse-grain", put(24, 16, 8), "impossible-size", base=se_sparse),
    _bad("sesparse-volatile", put(80, 1 << 30, 8), "table-outside", base=se_sparse),
    _bad("sesparse-journal", put(SECTOR + 24, 1, 8), "log-pending", base=se_sparse),
    _bad("sesparse-entry", put(16 * SECTOR + 4, 0x30000000), "malformed", base=se_sparse),
    _bad("sesparse-grain-outside", put(17 * SECTOR, 0x3FFF << 48, 8), "truncated", base=se_sparse),
)

GOOD: tuple[Sample, ...] = (
    *(
        by_qemu(f"vmdk-{kind}", "disk.vmdk", "vmdk", f"subformat={kind}", claim="vmdk")
        for kind in (
            "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
            "streamOptimized",
        )
    ),
    by_qemu("vmdk-zeroed", "disk.vmdk", "vmdk", "zeroed_grain=on", claim="vmdk"),
    by_qemu("vmdk-compat6", "disk.vmdk", "vmdk", "compat6=on", claim="vmdk"),
    by_qemu(
        "vmdk-options", "disk.vmdk", "vmdk", "hwversion=13", "adapter_type=legacyESX",
        "toolsversion=10", claim="vmdk",
    ),
    *(
        by_vmimg(f"vmdk-{kind}", "disk.vmdk", "vmdk", "vmdk", subformat=kind)
        for kind in (
            "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
            "streamOptimized", "vmfs", "vmfsThin", "vmfsEagerZeroedThick", "vmfsSparse",
        )
    ),
    by_vmimg("vmdk-zeroed", "disk.vmdk", "vmdk", "vmdk", zeroed_grain=True),
    by_vmimg("vmdk-letters", "\u0434\u0438\u0441\u043a.vmdk", "vmdk", "vmdk"),
    by_vmimg("vmdk-large", "disk.vmdk", "vmdk", "vmdk", size=1 << 40),
    child_by_vmimg("vmdk-child", "child.vmdk", "vmdk", "vmdk"),
    child_by_vmimg("vmdk-child-esx", "child.vmdk", "vmdk", "vmdk", subformat="vmfsSparse"),
    of_files("by-hand-vmdk-flat", flat, "vmdk"),
    _good("hosted", hosted),
    _good("grains", grains),
    _good("no-redundant", lambda: by_hand.hosted(disk(), text=text(), redundant=False)),
    _good("backwards", lambda: by_hand.hosted(disk(), text=text(), backwards=True)),
    _good("small-grains", lambda: by_hand.hosted(disk(), text=text(), grain=8, gtes=64)),
    _good("zeroed", lambda: by_hand.hosted(disk(), text=text(), zeroed=(2, 5), version=2)),
    _good("part", lambda: by_hand.hosted(disk(), text=None)),
    _good("stream", stream),
    _good("stream-no-footer", lambda: by_hand.stream(
        disk(), text=text(kind="streamOptimized"), footer=False)),
    _good("windows-lines", lambda: hosted(text().replace(b"\n", b"\r\n"))),
    # QEMU draws a new CID at the first write; this one has fewer digits than the one before.
    _good("shorter-cid", lambda: hosted(text() + b"\0\n")),
    _good("cowd", cowd),
    _good("sesparse", se_sparse),
)  # fmt: skip

BAD: tuple[Sample, ...] = (
    *_EMBEDDED_BAD, *_DESCRIBED_BAD, *_SPARSE_BAD, *_STREAM_BAD, *_ESX_BAD,
)  # fmt: skip
