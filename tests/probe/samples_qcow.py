"""qcow images of version 1, QED and COW images to vet: good ones, and one for each thing that is
wrong. PLACES says where in the file it is.

OpenStack's inspector refuses all of them, whatever is in them; the policy of that name does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peers
from formats import cow_by_hand as cow
from formats import qcow_by_hand as qcow
from formats import qed_by_hand as qed
from probe.making import by_qemu, by_vmimg
from probe.sample import Sample

__all__ = ["BAD", "GOOD", "PLACES"]

PLACES: dict[str, int] = {}
"""Where in the file what is wrong with a bad image is said to be."""

Change = Callable[[bytearray], None]
Build = Callable[[], bytes]
C = 4096


def _set(offset: int, value: int, width: int = 8) -> Change:
    def change(file: bytearray) -> None:
        file[offset : offset + width] = value.to_bytes(width, "big")

    return change


def _little(offset: int, value: int, width: int = 8) -> Change:
    def change(file: bytearray) -> None:
        file[offset : offset + width] = value.to_bytes(width, "little")

    return change


def _cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def _all(*changes: Change) -> Change:
    def change(file: bytearray) -> None:
        for each in changes:
            each(file)

    return change


def _sample(format: str, build: Build) -> Callable[..., Sample]:
    def bad(
        name: str,
        code: str,
        place: int | None,
        change: Change | None = None,
        other: Build | None = None,
    ) -> Sample:
        def make(folder: Path) -> Path:
            file = bytearray((other or build)())
            if change is not None:
                change(file)
            path = folder / f"disk.{format}"
            path.write_bytes(file)
            return path

        if place is not None:
            PLACES[f"{format}-{name}"] = place
        return Sample(f"{format}-{name}", make, format, (code,))

    return bad


def _good(format: str, name: str, build: Build) -> Sample:
    def make(folder: Path) -> Path:
        path = folder / f"disk.{format}"
        path.write_bytes(build())
        return path

    return Sample(f"by-hand-{format}-{name}", make, format)


def _child(format: str) -> Sample:
    def make(folder: Path) -> Path:
        (folder / "base.raw").write_bytes(bytes(3 << 20))
        name = f"disk.{format}"
        given = ("-f", format, "-b", "base.raw", "-F", "raw", name)
        peers.run("qemu-img", "create", "-q", *given, cwd=folder)
        peers.run("qemu-io", "-f", format, "-c", "write 512 1M", name, cwd=folder)
        return folder / name

    return Sample(f"qemu-{format}-child", make, format, peers=("qemu-img", "qemu-io"))


# qcow: header | L1 at 48, of 2 entries | the rest in order: plain clusters, compressed, tables

OLD = qcow.Image(600 * C, "pp.c", shuffle=False)
OLD_FILE = OLD.build()[0]
OLD_L1, OLD_L2, OLD_ENTRY = 48, OLD.l2[0], OLD.entries
_first = int.from_bytes(OLD_FILE[OLD_ENTRY[0] : OLD_ENTRY[0] + 8], "big")
_packed = int.from_bytes(OLD_FILE[OLD_ENTRY[3] : OLD_ENTRY[3] + 8], "big")
_old = _sample("qcow", lambda: OLD_FILE)

QCOW_BAD = (
    _old("cut", "truncated", 40, _cut(40)),
    _old("cluster-bits", "impossible-size", qcow.CLUSTER_BITS, _set(qcow.CLUSTER_BITS, 40, 1)),
    _old("l2-bits", "impossible-size", qcow.L2_BITS, _set(qcow.L2_BITS, 40, 1)),
    _old("crypt-method", "unknown-features", qcow.CRYPT_METHOD, _set(qcow.CRYPT_METHOD, 2, 4)),
    _old("size-nothing", "impossible-size", qcow.SIZE, _set(qcow.SIZE, 100)),
    _old("size-absurd", "impossible-size", qcow.SIZE, _set(qcow.SIZE, 1 << 62)),
    _old("size-odd", "odd-field", qcow.SIZE, _set(qcow.SIZE, 600 * C - 100)),
    _old("l1-outside", "table-outside", qcow.L1_OFFSET, _set(qcow.L1_OFFSET, 1 << 30)),
    _old("l1-over-header", "tables-overlap", qcow.L1_OFFSET, _set(qcow.L1_OFFSET, 40)),
    _old("l2-outside", "table-outside", OLD_L1, _set(OLD_L1, 1 << 30)),
    _old("l2-twice", "tables-overlap", OLD_L1 + 8, _set(OLD_L1 + 8, OLD_L2)),
    _old("l2-over-header", "tables-overlap", OLD_L1 + 8, _set(OLD_L1 + 8, 8)),
    _old("cluster-outside", "truncated", OLD_ENTRY[0], _set(OLD_ENTRY[0], 1 << 40)),
    _old("cluster-twice", "tables-overlap", OLD_ENTRY[1], _set(OLD_ENTRY[1], _first)),
    _old("cluster-over-cluster", "tables-overlap", OLD_ENTRY[1], _set(OLD_ENTRY[1], _first + 512)),
    _old("cluster-over-l1", "tables-overlap", OLD_ENTRY[0], _set(OLD_ENTRY[0], 8)),
    _old("cluster-over-l2", "tables-overlap", OLD_ENTRY[0], _set(OLD_ENTRY[0], OLD_L2)),
    _old("packed-outside", "truncated", OLD_ENTRY[3], _set(OLD_ENTRY[3], _packed | 1 << 40)),
    _old("bomb", "expands", OLD_L2 + 8 * 203,
         _all(*(_set(OLD_L2 + 8 * n, _packed) for n in range(4, 204)))),
    _old("backing-file", "backing-file", None, None,
         lambda: qcow.Image(C, "p", backing=b"base").build()[0]),
    _old("backing-outside", "backing-file-outside", None, None,
         lambda: qcow.Image(C, "p", backing=b"/etc/passwd").build()[0]),
    _old("backing-nameless", "backing-file", qcow.BACKING_OFFSET, _set(qcow.BACKING_OFFSET, 100)),
    _old("backing-long", "impossible-size", qcow.BACKING_SIZE,
         _all(_set(qcow.BACKING_OFFSET, 100), _set(qcow.BACKING_SIZE, 2000, 4))),
    _old("backing-far", "table-outside", qcow.BACKING_OFFSET,
         _all(_set(qcow.BACKING_OFFSET, 1 << 40), _set(qcow.BACKING_SIZE, 4, 4))),
    _old("backing-over-header", "tables-overlap", qcow.BACKING_OFFSET,
         _all(_set(qcow.BACKING_OFFSET, 16), _set(qcow.BACKING_SIZE, 4, 4))),
)  # fmt: skip

# QED: header | L1, 2 clusters | L2, 2 clusters | data

PLAIN = qed.Image(1024 * 2 * C, {0: 3}, {0: 5, 1: 6, 3: qed.ZERO})
QED_L1, QED_L2 = C, 3 * C
_bad = _sample("qed", lambda: PLAIN.build()[0])

QED_BAD = (
    _bad("cut", "truncated", 50, _cut(50)),
    _bad("features", "unknown-features", qed.FEATURES, _little(qed.FEATURES, 8)),
    _bad("no-probe", "odd-field", qed.FEATURES, _little(qed.FEATURES, qed.NO_PROBE)),
    _bad("dirty", "dirty", None, _little(qed.FEATURES, qed.NEED_CHECK)),
    _bad("cluster-size", "impossible-size", qed.CLUSTER_SIZE, _little(qed.CLUSTER_SIZE, 5000, 4)),
    _bad("table-size", "impossible-size", qed.TABLE_SIZE, _little(qed.TABLE_SIZE, 3, 4)),
    _bad("header-none", "impossible-size", qed.HEADER_SIZE, _little(qed.HEADER_SIZE, 0, 4)),
    _bad("header-large", "impossible-size", qed.HEADER_SIZE, _little(qed.HEADER_SIZE, 9000, 4)),
    _bad("size-odd", "impossible-size", qed.IMAGE_SIZE, _little(qed.IMAGE_SIZE, C + 1)),
    _bad("size-absurd", "impossible-size", qed.IMAGE_SIZE, _little(qed.IMAGE_SIZE, 1 << 62)),
    _bad("l1-over-header", "tables-overlap", qed.L1_OFFSET, _little(qed.L1_OFFSET, 0)),
    _bad("l1-outside", "table-outside", qed.L1_OFFSET, _little(qed.L1_OFFSET, 100 * C)),
    _bad("l1-unaligned", "table-outside", qed.L1_OFFSET, _little(qed.L1_OFFSET, C + 8)),
    _bad("l2-outside", "table-outside", QED_L1, _little(QED_L1, 100 * C)),
    _bad("l2-over-l1", "tables-overlap", QED_L1, _little(QED_L1, 2 * C)),
    _bad("l2-twice", "tables-overlap", QED_L1 + 8, _little(QED_L1 + 8, QED_L2)),
    _bad("cluster-outside", "truncated", QED_L2, _little(QED_L2, 100 * C)),
    _bad("cluster-unaligned", "malformed", QED_L2, _little(QED_L2, 5 * C + 8)),
    _bad("cluster-twice", "tables-overlap", QED_L2 + 8, _little(QED_L2 + 8, 5 * C)),
    _bad("cluster-over-l1", "tables-overlap", QED_L2, _little(QED_L2, 2 * C)),
    _bad("cluster-over-l2", "tables-overlap", QED_L2, _little(QED_L2, 4 * C)),
    _bad("bomb", "expands", QED_L2 + 8 * 203,
         _all(*(_little(QED_L2 + 8 * n, 5 * C) for n in range(4, 204)))),
    _bad("hidden-in-header", "hidden-data", 1000, _set(1000, 1, 1)),
    _bad("name-unused", "odd-field", qed.NAME_SIZE, _little(qed.NAME_SIZE, 4, 4)),
    _bad("backing-file", "backing-file", None, None,
         lambda: qed.Image(C, backing=b"base", features=qed.NO_PROBE).build()[0]),
    _bad("backing-outside", "backing-file-outside", None, None,
         lambda: qed.Image(C, backing=b"../../x", features=qed.NO_PROBE).build()[0]),
    _bad("backing-long", "impossible-size", qed.NAME_SIZE, _little(qed.NAME_SIZE, 2000, 4),
         lambda: qed.Image(C, backing=b"base", features=qed.NO_PROBE).build()[0]),
    _bad("backing-far", "table-outside", qed.NAME_OFFSET, _little(qed.NAME_OFFSET, C, 4),
         lambda: qed.Image(C, backing=b"base", features=qed.NO_PROBE).build()[0]),
    _bad("backing-over-header", "tables-overlap", qed.NAME_OFFSET, _little(qed.NAME_OFFSET, 8, 4),
         lambda: qed.Image(C, backing=b"base", features=qed.NO_PROBE).build()[0]),
)  # fmt: skip

# COW: header, 1056 bytes | a bit per sector | sectors

COW = cow.Image(100 * 512, (0, 1, 7, 20))
COW_BITMAP = cow.HEADER_64
_cow = _sample("cow", COW.build)


def _behind(file: bytearray) -> None:
    file.extend(bytes(COW.data + COW.size - len(file)) + b"\0\0behind")


COW_BAD = (
    _cow("version", "unknown-version", 4, _set(4, 3, 4)),
    _cow("size-nothing", "impossible-size", cow.SIZE_64, _set(cow.SIZE_64, 0)),
    _cow("size-odd", "odd-field", cow.SIZE_64, _set(cow.SIZE_64, 100 * 512 - 100)),
    _cow("bitmap-outside", "table-outside", cow.SIZE_64, _set(cow.SIZE_64, 1 << 40)),
    _cow("sector-outside", "truncated", COW_BITMAP + 5, _set(COW_BITMAP + 5, 1, 1)),
    _cow("backing-file", "backing-file", None, None, cow.Image(C, backing=b"base").build),
    _cow("backing-outside", "backing-file-outside", None, None,
         cow.Image(C, backing=b"/dev/sda").build),
    _cow("name-endless", "odd-field", cow.NAME, None, cow.Image(C, backing=b"x" * 1024).build),
    _cow("hidden-behind-name", "hidden-data", cow.NAME + 9, None,
         cow.Image(C, backing=b"base\0\0\0\0\0more").build),
    _cow("hidden-behind-disk", "hidden-data", COW.data + COW.size + 2, _behind),
)  # fmt: skip

BAD = (*QCOW_BAD, *QED_BAD, *COW_BAD)

GOOD = (
    by_qemu("qcow", "disk.qcow", "qcow", claim="qcow"),
    by_qemu("qed", "disk.qed", "qed", claim="qed"),
    by_vmimg("qcow", "disk.qcow1", "qcow", "qcow"),
    by_vmimg("qed", "disk.qed", "qed", "qed"),
    by_vmimg("cow", "disk.cow", "cow", "cow"),
    _child("qcow"),
    _child("qed"),
    _good("qcow", "mixed", lambda: OLD_FILE),
    _good("qcow", "shuffled", lambda: qcow.Image(40 * C, "pc.pcpc..ppp").build()[0]),
    _good("qed", "plain", lambda: PLAIN.build()[0]),
    _good("cow", "64", COW.build),
    _good("cow", "32", cow.Image(100 * 512, (0, 1, 99), bits=32).build),
)
