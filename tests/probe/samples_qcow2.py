"""qcow2 images to vet: good ones of QEMU, of vmimg and by hand, and one for each thing that is
wrong.

The bad ones are one and the same image by hand, with one thing changed. Their names begin with
"oslo" where OpenStack's inspector has a rule for it. PLACES says where in the file it is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import peers
from formats import qcow2_by_hand as q
from formats.luks1_by_hand import Volume
from formats.qcow2_by_hand import Image, put
from probe.making import DISK, by_qemu, by_vmimg, child_by_vmimg
from probe.sample import Sample
from samples import write_sparse

__all__ = ["BAD", "GOOD", "PLACES", "WORDS"]

C = 4096
PLACES: dict[str, int] = {}
"""Where in the file what is wrong with a bad image is said to be."""
WORDS: dict[str, str] = {}
"""Words of the message."""

Change = Callable[[bytearray, Image], None]


def _bad(
    name: str,
    code: str,
    place: int | None,
    change: Change | None = None,
    image: Image | None = None,
    words: str = "",
) -> Sample:
    """``place`` None: what is wrong is found by reading the header, which says no place."""
    image = image or Image()
    full = name if name.startswith("oslo-") else f"qcow2-{name}"

    def make(folder: Path) -> Path:
        file = image.build()
        if change is not None:
            change(file, image)
        path = folder / "disk.qcow2"
        path.write_bytes(file)
        return path

    if place is not None:
        PLACES[full] = place
    if words:
        WORDS[full] = words
    return Sample(full, make, "qcow2", (code,))


def _set(offset: int, value: int, width: int = 8) -> Change:
    return lambda file, image: put(file, offset, value, width)


def _each(*changes: Change) -> Change:
    def change(file: bytearray, image: Image) -> None:
        for each in changes:
            each(file, image)

    return change


def _entry(number: int, value: int) -> Change:
    return lambda file, image: put(file, image.entry(number), value)


def _cut(size: int) -> Change:
    def change(file: bytearray, image: Image) -> None:
        del file[size:]

    return change


def _tail(file: bytearray, image: Image) -> None:
    file += bytes(2 * C) + b"what is behind"


def _bomb(file: bytearray, image: Image) -> None:
    for number in range(200):
        put(file, image.entry(number), image.at["data"] | q.COPIED)


def _counted_bomb(file: bytearray, image: Image) -> None:
    for number in range(200):
        put(file, image.entry(number), image.at["data"])
    image.count(file, image.at["data"] // C, 200)


def _packed_bomb(file: bytearray, image: Image) -> None:
    entry = file[image.entry(3) : image.entry(3) + 8]
    for number in range(6, 206):
        file[image.entry(number) : image.entry(number) + 8] = entry


def _l1_bomb(file: bytearray, image: Image) -> None:
    put(file, q.L1_SIZE, 100, 4)
    put(file, q.SIZE, 100 * 512 * C)
    for number in range(100):
        put(file, image.at["l1"] + 8 * number, image.at["l2"] | q.COPIED)


def _l1_twice(file: bytearray, image: Image) -> None:
    put(file, q.L1_SIZE, 2, 4)
    put(file, q.SIZE, 600 * C)
    put(file, image.at["l1"] + 8, image.at["l2"] | q.COPIED)


def _names(name: tuple[int, int, bytes]) -> tuple[int, bytes]:
    return q.FEATURE_NAMES, struct.pack("BB46s", *name)


def _directory(at: int, table: int, size: int = 32) -> tuple[int, bytes]:
    return q.BITMAPS, struct.pack(">IIQQ", 1, 0, size, at)


# Behind the data of the image by hand, which has 4 clusters of it.
MORE = 9 * C
ENTRY = struct.pack(">QIIBBHI", MORE + C, 1, 0, 1, 16, 4, 0) + b"bits" + bytes(4)
BITMAP = Image(
    features=(0, 0, 1), extensions=(_directory(MORE, 0, len(ENTRY)),),
    more=ENTRY.ljust(2 * C, b"\0"),
)  # fmt: skip
LUKS = Volume()
LOCKED = Image(
    crypt_method=2,
    extensions=((q.ENCRYPTION, struct.pack(">QQ", MORE, LUKS.payload)),),
    more=bytes(LUKS.build()),
)
SNAPSHOT = Image(snapshot=True)
SNAPSHOTS, SNAPSHOT_L1 = MORE, 10 * C
L1, L2, DATA = 3 * C, 4 * C, 5 * C
EXTENDED = Image(clusters="pp", bits=14, extended=True)

HEADER = (
    _bad("cut", "truncated", 60, _cut(60)),
    _bad("oslo-qcow2-version", "unknown-version", q.VERSION, _set(q.VERSION, 4, 4)),
    _bad("cluster-bits", "impossible-size", q.CLUSTER_BITS, _set(q.CLUSTER_BITS, 22, 4)),
    _bad("cluster-bits-low", "impossible-size", q.CLUSTER_BITS, _set(q.CLUSTER_BITS, 8, 4)),
    _bad("header-length", "impossible-size", q.HEADER_LENGTH, _set(q.HEADER_LENGTH, 4104, 4)),
    _bad("refcount-order", "impossible-size", q.REFCOUNT_ORDER, _set(q.REFCOUNT_ORDER, 7, 4)),
    _bad(
        "oslo-qcow2-features", "unknown-features", q.INCOMPATIBLE, _set(q.INCOMPATIBLE, 1 << 5),
        Image(extensions=(_names((0, 5, b"time travel")),),), "bit 5 ('time travel')",
    ),
    _bad(
        "features-high", "unknown-features", q.INCOMPATIBLE, _set(q.INCOMPATIBLE, 1 << 63),
        words="bit 63",
    ),
    _bad("corrupt", "corrupt", q.INCOMPATIBLE, _set(q.INCOMPATIBLE, 2)),
    _bad("raw-data-file", "odd-field", q.AUTOCLEAR, _set(q.AUTOCLEAR, 2)),
    _bad(
        "compression", "unknown-features", q.COMPRESSION_TYPE,
        _each(_set(q.INCOMPATIBLE, 8), _set(q.COMPRESSION_TYPE, 2, 1)),
    ),
    _bad("compression-without-bit", "malformed", None, _set(q.COMPRESSION_TYPE, 1, 1)),
    _bad("crypt-method", "unknown-features", q.CRYPT_METHOD, _set(q.CRYPT_METHOD, 3, 4)),
    _bad("size-beyond-l1", "impossible-size", q.SIZE, _set(q.SIZE, 513 * C)),
    _bad("size-absurd", "impossible-size", q.SIZE, _set(q.SIZE, 1 << 63)),
    _bad("size-odd", "odd-field", q.SIZE, _set(q.SIZE, 6 * C - 100)),
    _bad("extension-long", "table-outside", 112, _set(112, 0x11111111 << 32 | 5000)),
    _bad(
        "extension-differs", "copies-disagree", 128, None,
        Image(
            backing=b"base.raw",
            extensions=((q.BACKING_FORMAT, b"raw"), (q.BACKING_FORMAT, b"qcow2")),
        ),
    ),
    _bad(
        "extension-twice", "odd-field", 128, None,
        Image(
            backing=b"base.raw",
            extensions=((q.BACKING_FORMAT, b"raw"), (q.BACKING_FORMAT, b"raw")),
        ),
    ),
    _bad("hidden-in-header", "hidden-data", 1000, _set(1000, 7, 1)),
    _bad("extended-small", "malformed", None, _set(q.INCOMPATIBLE, 16)),
)  # fmt: skip

NAMES = (
    _bad("oslo-backing-file", "backing-file", None, None,
         Image(backing=b"base.raw", extensions=((q.BACKING_FORMAT, b"raw"),))),
    _bad("backing-outside", "backing-file-outside", None, None,
         Image(backing=b"/etc/passwd", extensions=((q.BACKING_FORMAT, b"raw"),))),
    _bad("backing-up", "backing-file-outside", None, None,
         Image(backing=b"../../etc/passwd", extensions=((q.BACKING_FORMAT, b"raw"),))),
    _bad("backing-json", "backing-file-outside", None, None,
         Image(backing=b'json:{"driver":"host_device","filename":"/dev/sda"}',
               extensions=((q.BACKING_FORMAT, b"raw"),))),
    _bad("backing-nbd", "backing-file-outside", None, None,
         Image(backing=b"nbd://10.0.0.1/disk", extensions=((q.BACKING_FORMAT, b"raw"),))),
    _bad("backing-undeclared", "backing-file-undeclared", None, None, Image(backing=b"base")),
    _bad("backing-protocol", "odd-field", 112, None,
         Image(backing=b"base", extensions=((q.BACKING_FORMAT, b"nbd"),))),
    _bad("backing-nameless", "backing-file", q.BACKING_OFFSET, _set(q.BACKING_OFFSET, 200)),
    _bad("backing-long", "impossible-size", q.BACKING_SIZE,
         _each(_set(8, 200), _set(16, 1024, 4))),
    _bad("backing-far", "table-outside", q.BACKING_OFFSET,
         _each(_set(8, 8 * C), _set(16, 9, 4))),
    _bad("backing-over-header", "tables-overlap", q.BACKING_OFFSET,
         _each(_set(8, 64), _set(16, 9, 4))),
    _bad("oslo-data-file", "data-file", None, None,
         Image(clusters="...", features=(4, 0, 0), extensions=((q.DATA_FILE, b"data.raw"),))),
    _bad("data-file-outside", "data-file-outside", None, None,
         Image(clusters="...", features=(4, 0, 0), extensions=((q.DATA_FILE, b"/etc/passwd"),))),
    _bad("data-file-nameless", "data-file", q.INCOMPATIBLE, None,
         Image(clusters="...", features=(4, 0, 0))),
    _bad("data-file-unused", "data-file-outside", None, None,
         Image(extensions=((q.DATA_FILE, b"/etc/passwd"),))),
    _bad("data-file-differs", "copies-disagree", 128, None,
         Image(clusters="...", features=(4, 0, 0),
               extensions=((q.DATA_FILE, b"data"), (q.DATA_FILE, b"atad")))),
    _bad("data-file-place", "malformed", L2, _entry(0, 8 * C),
         Image(clusters="...", features=(4, 0, 0), extensions=((q.DATA_FILE, b"data"),))),
)  # fmt: skip

TABLES = (
    _bad("l1-outside", "table-outside", q.L1_OFFSET, _set(q.L1_OFFSET, 100 * C)),
    _bad("l1-unaligned", "table-outside", q.L1_OFFSET, _set(q.L1_OFFSET, L1 + 8)),
    _bad("l1-over-header", "tables-overlap", q.L1_OFFSET, _set(q.L1_OFFSET, 0)),
    _bad("l1-over-reftable", "tables-overlap", q.L1_OFFSET, _set(q.L1_OFFSET, C)),
    _bad("l1-huge", "impossible-size", q.L1_SIZE, _set(q.L1_SIZE, 5 << 20, 4)),
    _bad("l1-entry-outside", "table-outside", L1, _set(L1, 100 * C | q.COPIED)),
    _bad("l1-entry-unaligned", "table-outside", L1, _set(L1, (L2 + 512) | q.COPIED)),
    _bad("l1-entry-reserved", "odd-field", L1, _set(L1, L2 | q.COPIED | 2)),
    _bad("l1-entry-twice", "tables-overlap", L1 + 8, _l1_twice),
    _bad("l1-entries-to-one-table", "expands", L1 + 8, _l1_bomb),
    _bad("l2-over-refblock", "tables-overlap", L1, _set(L1, 2 * C | q.COPIED)),
    _bad("l2-over-l1", "tables-overlap", L1, _set(L1, L1 | q.COPIED)),
    _bad("reftable-outside", "table-outside", q.REFTABLE_OFFSET, _set(q.REFTABLE_OFFSET, 90 * C)),
    _bad("reftable-huge", "impossible-size", q.REFTABLE_CLUSTERS,
         _set(q.REFTABLE_CLUSTERS, 4096, 4)),
    _bad("reftable-none", "impossible-size", q.REFTABLE_CLUSTERS, _set(q.REFTABLE_CLUSTERS, 0, 4)),
    _bad("refblock-outside", "table-outside", C, _set(C, 90 * C)),
    _bad("refblock-reserved", "odd-field", C, _set(C, 2 * C | 1)),
    _bad("refblock-over-l1", "tables-overlap", C, _set(C, L1)),
    _bad("snapshots-many", "impossible-size", q.SNAPSHOTS, _set(q.SNAPSHOTS, 70000, 4)),
    _bad("snapshots-outside", "table-outside", q.SNAPSHOTS_OFFSET,
         _set(q.SNAPSHOTS_OFFSET, 90 * C), SNAPSHOT),
    _bad("snapshots-cut", "table-outside", q.SNAPSHOTS_OFFSET,
         _set(q.SNAPSHOTS, 2000, 4), SNAPSHOT),
    _bad("snapshot-l1-outside", "table-outside", SNAPSHOTS, _set(SNAPSHOTS, 90 * C), SNAPSHOT),
    _bad("snapshot-l1-over-refblock", "tables-overlap", SNAPSHOTS,
         _set(SNAPSHOTS, 2 * C), SNAPSHOT),
    _bad("snapshot-disk", "impossible-size", SNAPSHOTS, _set(SNAPSHOTS + 48, 1 << 40), SNAPSHOT),
    _bad("snapshot-memory", "impossible-size", SNAPSHOTS, _set(SNAPSHOTS + 40, 1 << 40), SNAPSHOT),
    _bad("bitmaps-outside", "table-outside", q.EXTENSIONS, _set(q.EXTENSIONS + 24, 90 * C), BITMAP),
    _bad("bitmap-outside", "table-outside", MORE, _set(MORE, 90 * C), BITMAP),
    _bad("bitmap-over-l2", "tables-overlap", L1, _set(MORE, L2), BITMAP),
    _bad("luks-outside", "table-outside", q.EXTENSIONS, _set(q.EXTENSIONS + 8, 900 * C), LOCKED),
    _bad("luks-over-l1", "tables-overlap", q.EXTENSIONS, _set(q.EXTENSIONS + 8, 0x2000), LOCKED),
    _bad("luks-unused", "odd-field", q.EXTENSIONS, _set(q.CRYPT_METHOD, 0, 4), LOCKED),
    _bad("luks-costly", "costly-key", MORE + 212, _set(MORE + 212, 2_000_000_000, 4), LOCKED),
)  # fmt: skip

CLUSTERS = (
    _bad("cluster-outside", "truncated", L2 + 16, _entry(2, 90 * C | q.COPIED)),
    _bad("cluster-cut", "truncated", L2 + 16, _cut(DATA + 100)),
    _bad("cluster-unaligned", "malformed", L2, _entry(0, (DATA + 512) | q.COPIED)),
    _bad("cluster-reserved", "odd-field", L2, _entry(0, DATA | q.COPIED | 4)),
    _bad("cluster-twice", "tables-overlap", L2 + 16, _entry(2, DATA | q.COPIED)),
    _bad("cluster-in-header", "malformed", None, _entry(0, 1 << 9 | q.COPIED)),
    _bad("cluster-over-l2", "tables-overlap", L2 + 16, _entry(2, L2 | q.COPIED)),
    _bad("cluster-over-refblock", "tables-overlap", L2 + 16, _entry(2, 2 * C | q.COPIED)),
    _bad("cluster-over-l1", "tables-overlap", L2 + 16, _entry(2, L1 | q.COPIED)),
    _bad("zeros-in-version-2", "odd-field", L2 + 40, None, Image(version=2)),
    _bad("packed-outside", "truncated", L2 + 24, _entry(3, 90 * C | q.COMPRESSED)),
    _bad("packed-long", "truncated", L2 + 24,
         _entry(3, 7 * C | 15 << 58 | q.COMPRESSED), Image(clusters="p.pc")),
    _bad("packed-over-l1", "tables-overlap", L2 + 24, _entry(3, (L1 + 9) | q.COMPRESSED)),
    _bad("packed-over-cluster", "tables-overlap", L2 + 24, _entry(3, (DATA + 9) | q.COMPRESSED)),
    _bad("bomb", "expands", L2 + 8 * 199, _bomb, Image(size=200 * C)),
    _bad("bomb-counted", "expands", L2 + 8 * 199, _counted_bomb, Image(size=200 * C)),
    _bad("bomb-packed", "expands", L2 + 8 * 205, _packed_bomb, Image(size=206 * C)),
    _bad("behind-the-disk", "hidden-data", L2 + 32, _set(q.SIZE, 4 * C)),
    _bad("hidden-tail", "hidden-data", 11 * C, _tail),
    _bad("subclusters", "malformed", 4 * 16384 + 8,
         lambda file, image: put(file, image.entry(0) + 8, 1 << 32 | 1), EXTENDED),
)  # fmt: skip

BAD = (*HEADER, *NAMES, *TABLES, *CLUSTERS)


def _qemu(name: str, *commands: str, options: str = "", size: str = "3M") -> Sample:
    """What qemu-img makes, after commands of it (qemu-img) and of qemu-io."""

    def make(folder: Path) -> Path:
        path = folder / "disk.qcow2"
        given = ("-o", options) if options else ()
        peers.run("qemu-img", "create", "-q", "-f", "qcow2", *given, path.name, size, cwd=folder)
        for command in commands:
            if command.startswith("-c"):
                words = [f"{word}".strip() for word in command.split("-c ") if word]
                parts = [part for word in words for part in ("-c", word)]
                # Aborting is a way to leave an image as a crash does.
                peers.run("qemu-io", "-f", "qcow2", *parts, path.name, ok=(0, -6, 134), cwd=folder)
            else:
                peers.run("qemu-img", *command.split(), path.name, cwd=folder)
        return path

    return Sample(f"qemu-qcow2-{name}", make, "qcow2", peers=("qemu-img", "qemu-io"))


def _compressed(kind: str) -> Sample:
    def make(folder: Path) -> Path:
        source = write_sparse(folder / "disk.raw", DISK())
        path = folder / "disk.qcow2"
        given = f"compression_type={kind}"
        peers.run(
            "qemu-img", "convert", "-c", "-O", "qcow2", "-o", given, source.name, path.name,
            cwd=folder,
        )  # fmt: skip
        source.unlink()
        return path

    return Sample(f"qemu-qcow2-{kind}", make, "qcow2", peers=("qemu-img",))


def _good(name: str, image: Image) -> Sample:
    def make(folder: Path) -> Path:
        path = folder / "disk.qcow2"
        path.write_bytes(image.build())
        return path

    return Sample(f"by-hand-qcow2-{name}", make, "qcow2")


WRITES = "-c write 0 1M -c write -z 1M 512k -c write -P 3 2M 99k -c discard 0 64k"

GOOD = (
    by_qemu("qcow2", "disk.qcow2", "qcow2"),
    by_qemu("qcow2-v2", "disk.qcow2", "qcow2", "compat=0.10"),
    by_qemu("qcow2-512", "disk.qcow2", "qcow2", "cluster_size=512"),
    by_qemu("qcow2-2m", "disk.qcow2", "qcow2", "cluster_size=2M"),
    by_qemu("qcow2-refcount-1", "disk.qcow2", "qcow2", "refcount_bits=1"),
    by_qemu("qcow2-extended", "disk.qcow2", "qcow2", "extended_l2=on"),
    _compressed("zlib"),
    _compressed("zstd"),
    _qemu("empty", size="0"),
    _qemu("sparse", size="8T"),
    _qemu("written", WRITES),
    _qemu("prealloc", WRITES, options="preallocation=metadata"),
    _qemu("data-file", WRITES, options="data_file=data.raw,data_file_raw=on"),
    _qemu("unclean", "-c write 0 1M -c flush -c write 2M 1M -c abort", options="lazy_refcounts=on"),
    _qemu("snapshots", WRITES, "snapshot -c one", "-c write 0 2M", "snapshot -c two"),
    _qemu("snapshot-gone", WRITES, "snapshot -c one", "-c write 0 2M", "snapshot -d one"),
    _qemu("amended", WRITES, "amend -f qcow2 -o compat=0.10"),
    by_vmimg("qcow2", "disk.qcow2", "qcow2", "qcow2"),
    child_by_vmimg("qcow2-child", "disk.qcow2", "qcow2", "qcow2"),
    _good("plain", Image()),
    _good("v2", Image(version=2, clusters="p.pc")),
    _good("extended", Image(clusters="p.pz", bits=14, extended=True)),
    _good("snapshot", SNAPSHOT),
    _good("snapshot-memory", Image(snapshot=True, vm_state=C)),
    _good("bitmap", BITMAP),
    _good("luks", LOCKED),
    _good("feature-names", Image(extensions=(_names((0, 0, b"dirty bit")),))),
)
