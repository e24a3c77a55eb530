"""Good images by format, in memory: what vmimg makes of each kind, and what is built by hand of the
others. They are small, and most of them is zeros.

The first inputs of the fuzzers, and what the tests of header fields change. Imports the library,
and the builders of the tests.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from test_iso_malformed import disc

import bochs_by_hand
import cloop_by_hand
import cow_by_hand
import dmg_by_hand
import luks_by_hand
import parallels_by_hand
import peers
import qcow_by_hand
import qed_by_hand
import vdi_by_hand
import vhd_by_hand
import vhdx_by_hand
import vmdk_by_hand
from kinds import KINDS
from vmimg.formats.iso.making import create_iso
from vmimg.formats.iso.seed import create_seed
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import FORMATS
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

__all__ = ["images"]

_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_SIZE: Final = 2 * _MIB


def images(format: str) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of images of ``format``; of an image in several files, each of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _made(format, Path(folder))
    for name, build in _BY_HAND.get(format, {}).items():
        yield name, bytes(build())


def _disk() -> bytes:
    """A disk with a little text where blocks of usual sizes begin and end."""
    disk = bytearray(_SIZE)
    for offset in (0, 4096 - 512, 65536, _MIB - 512, _MIB, _SIZE - 512):
        disk[offset : offset + 512] = (b"%d " % offset * 200)[:512]
    disk[3 * 65536 : 3 * 65536 + 3000] = bytes(range(256)) * 11 + bytes(184)
    disk[510:512] = b"\x55\xaa"
    return bytes(disk)


def _made(format: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    source = folder / "source"
    source.write_bytes(_disk())
    wanted: list[tuple[str, dict[str, Any], bool]] = [
        (str(kind), kind.options, False) for kind in KINDS if kind.format == format
    ]
    wanted += [(f"{format}-{name}", options, packed) for name, options, packed in
               _MORE.get(format, ())]  # fmt: skip
    for name, options, packed in wanted:
        target = folder / name
        target.mkdir()
        path = target / f"disk{FORMATS[format].extensions[0]}"
        convert(source, path, format=format, source_format="raw", options=options, compress=packed)
        yield from _files(name, target)
    if FORMATS[format].capabilities.parent:
        target = folder / "child"
        target.mkdir()
        parent = FORMATS[format].capabilities.parent_format or "raw"
        base = target / f"base{FORMATS[parent].extensions[0]}"
        convert(source, base, format=parent, source_format="raw")
        path = target / f"child{FORMATS[format].extensions[0]}"
        create(path, format=format, backing=str(base), backing_format=parent)
        yield "child", path.read_bytes()
    if format == "raw":
        for number, (program, *arguments) in enumerate(_FILE_SYSTEMS):
            if peers.has(program):
                path = folder / f"{number}.raw"
                path.write_bytes(bytes(4 * _MIB))
                peers.run(program, *arguments, path)
                yield program, path.read_bytes()
    if format == "iso":
        (folder / "tree" / "a").mkdir(parents=True)
        (folder / "tree" / "a" / "file").write_bytes(b"text")
        (folder / "tree" / "boot.bin").write_bytes(b"loader" * 400)
        create_iso(folder / "tree", folder / "made.iso", boot_bios="boot.bin")
        yield "made", (folder / "made.iso").read_bytes()
        create_seed(folder / "seed.iso", b"#cloud-config\n")
        yield "seed", (folder / "seed.iso").read_bytes()
    if format == "qcow2" and peers.has("qemu-img"):
        path = folder / "snapshots.qcow2"
        convert(source, path, format="qcow2", source_format="raw")
        for command in (("snapshot", "-c", "one"), ("bitmap", "--add")):
            peers.run("qemu-img", *command, path, *(["bits"] if command[0] == "bitmap" else []))
        with open_disk(path, writable=True) as disk:
            disk.write(0, b"after the snapshot")
        yield "snapshots", path.read_bytes()


def _files(name: str, folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield f"{name}-{path.name}", path.read_bytes()


_MORE: Final[Mapping[str, tuple[tuple[str, dict[str, Any], bool], ...]]] = {
    "qcow2": (
        ("v2", {"compat": "0.10"}, False),
        ("small", {"cluster_size": "4k", "refcount_bits": 1}, False),
        ("extended", {"extended_l2": "on", "cluster_size": "16k"}, False),
        ("zlib", {"cluster_size": "4k"}, True),
        ("zstd", {"compression_type": "zstd"}, True),
    ),
    "qcow": (("compressed", {}, True),),
}
"""Options that are no subformats: a name, the options, whether to compress."""


_FILE_SYSTEMS: Final = (
    ("mke2fs", "-q", "-F", "-L", "root"),
    ("mkfs.vfat", "-n", "ESP"),
    ("mkswap", "-L", "swap"),
    ("sgdisk", "-n", "1:2048:4095", "-t", "1:ef00", "-n", "2:4096:6143", "-c", "2:root"),
)
"""What makes what there is on raw disks."""

_LINE: Final = 'RW 128 SPARSE "x.vmdk"'
_CONTENT: Final = (b"content " * 64 + bytes(512)).ljust(20 * _KIB, b"\0").ljust(64 * _KIB, b"\3")


def _cloop(ways: tuple[int, ...], **more: Any) -> bytes:
    stored = [(way, cloop_by_hand.pack(way, bytes([n]) * 65536)) for n, way in enumerate(ways)]
    return cloop_by_hand.Image(stored, **more).build()


def _dmg(form: str = "list", front: bool = False) -> bytes:
    kinds = (dmg_by_hand.RAW, dmg_by_hand.ADC, dmg_by_hand.ZLIB, dmg_by_hand.BZIP2,
             dmg_by_hand.LZMA)  # fmt: skip
    chunks = [dmg_by_hand.Chunk(kind, b"guest data" * 410 + bytes(508)) for kind in kinds]
    gaps = [dmg_by_hand.Chunk(dmg_by_hand.ZERO, bytes(1024)),
            dmg_by_hand.Chunk(dmg_by_hand.IGNORE, bytes(512))]  # fmt: skip
    parts = [
        dmg_by_hand.Partition("one", chunks[:2]),
        dmg_by_hand.Partition("two", [*gaps, *chunks[2:]]),
    ]
    return dmg_by_hand.Image(parts, form=form, front=front).build()[0]


def _vhd_child() -> bytes:
    """With both of Windows' locators."""
    locators = [(b"W2ru", "..\\base.vhd".encode("utf-16-le")),
                (b"W2ku", "C:\\base.vhd".encode("utf-16-le"))]  # fmt: skip
    parent = vhd_by_hand.Parent(locators=locators)
    return vhd_by_hand.dynamic(_CONTENT, parent=parent, present={0, 9})


def _vhdx(kind: str) -> bytes:
    full = 6
    if kind == "child-by-hand":
        child = vhdx_by_hand.make(
            4 * _MIB,
            {1: (7, b"partial")},
            bitmaps={0: b"\1"},
            parent={"parent_linkage": "{01234567-89ab-cdef-0123-456789abcdef}",
                    "relative_path": "..\\base.vhdx"},
        )  # fmt: skip
        return bytes(child)
    image = vhdx_by_hand.make(4 * _MIB, {0: (full, b"data" * 128), 2: (2, b"")})
    if kind == "log":
        sector = bytes(image[vhdx_by_hand.BAT : vhdx_by_hand.BAT + 4096])
        image.dirty(
            vhdx_by_hand.log_entry(5, [(vhdx_by_hand.BAT, sector)], file_size=len(image)),
            vhdx_by_hand.log_entry(6, [(len(image) - _MIB, 8192)], file_size=len(image)),
        )
    return bytes(image)


# 4000 of them, as everybody has, take long to put together.
_STRIPES: Final = 40


def _luks1() -> bytes:
    """A header of version 1, with one slot and no more than a name for the rest."""
    head = struct.pack(
        ">6sH32s32s32sII20s32sI40s",
        b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", 4096, 64,
        bytes(20), bytes(32), 1000, b"01234567-89ab-cdef-0123-456789abcdef",
    )  # fmt: skip
    for number in range(8):
        state = 0x00AC71F3 if number == 0 else 0x0000DEAD
        head += struct.pack(">II32sII", state, 1000, bytes(32), 8 + 504 * number, _STRIPES)
    return head.ljust(4096 * 512 + 8192, b"\0")


def _luks2() -> bytes:
    """With a key slot whose material is not there: it would take a quarter of a MiB."""
    _, root = luks_by_hand.volume(b"")
    root["keyslots"]["0"]["af"]["stripes"] = _STRIPES
    return luks_by_hand.headers(root).ljust(luks_by_hand.PAYLOAD + 8192, b"\0")


def _luks2_bare() -> bytes:
    """Without key slots: only what cannot be left out."""
    root = luks_by_hand.metadata()
    return luks_by_hand.headers(json.dumps(root).encode()) + bytes(luks_by_hand.PAYLOAD)


def _parallels(**more: Any) -> bytes:
    none = parallels_by_hand.NONE
    image = parallels_by_hand.Image(5 * 4096, (0, none, 2, 1, none), cluster=4096, **more)
    return image.build()[0]


def _parallels_bitmap() -> bytes:
    bits = parallels_by_hand.bitmap(UUID(int=3), 40, 8, [1])
    features = parallels_by_hand.feature(parallels_by_hand.BITMAP, 0, bits)
    return _parallels(extension=4, features=features)


_BY_HAND: Final[Mapping[str, Mapping[str, Callable[[], bytes | bytearray]]]] = {
    "bochs": {
        "v2": lambda: bochs_by_hand.Image(6 * 4096, (2, 0, bochs_by_hand.FREE, 1)).build()[0],
        "v1": lambda: bochs_by_hand.Image(
            6 * 4096, (1, 0, bochs_by_hand.FREE, 2), version=bochs_by_hand.V1
        ).build()[0],
    },
    "cloop": {
        "v2": lambda: _cloop((0, 0)),
        "v4": lambda: _cloop((0, 1, 2), version=4),
        "end": lambda: _cloop((0, 2), version=4, at_end=True),
        "v3": lambda: _cloop((0, 1, 2), version=3),
    },
    "cow": {
        "64": lambda: cow_by_hand.Image(64 * _KIB, (0, 5, 6)).build(),
        "32": lambda: cow_by_hand.Image(64 * _KIB, (0, 7), backing=b"base.raw", bits=32).build(),
    },
    "dmg": {
        "list": _dmg,
        "fork": lambda: _dmg("fork"),
        "front": lambda: _dmg(front=True),
        "encrypted": lambda: dmg_by_hand.encrypted(_dmg(), b"secret"),
    },
    "iso": {"all": disc},
    "luks": {"v1": _luks1, "v2": _luks2, "bare": _luks2_bare},
    "parallels": {
        "ext": _parallels,
        "old": lambda: _parallels(old=True, data_off=0),
        "closed": lambda: _parallels(in_use=parallels_by_hand.IN_USE),
        "bitmap": _parallels_bitmap,
        "bundle": lambda: parallels_by_hand.tree()[0].xml().encode(),
    },
    "qcow": {
        "mixed": lambda: qcow_by_hand.Image(80 * _KIB, "p.cp").build()[0],
        "child": lambda: qcow_by_hand.Image(80 * _KIB, "c.", backing=b"base.raw").build()[0],
    },
    "qed": {
        "plain": lambda: qed_by_hand.Image(
            5 * _MIB, {0: 3, 1: 5}, {7: 7, 9: qed_by_hand.ZERO, 1030: 8}
        ).build()[0],
        "child": lambda: qed_by_hand.Image(
            _MIB, {0: 3}, {7: 5}, backing=b"base.raw", features=qed_by_hand.NO_PROBE
        ).build()[0],
    },
    "vdi": {
        "plain": lambda: vdi_by_hand.Image(
            5 * 4096, (1, 0, vdi_by_hand.FREE, vdi_by_hand.ZERO, 2), block=4096
        ).build()[0],
        "old": lambda: vdi_by_hand.Image(
            3 * 4096, (1, 0, vdi_by_hand.FREE), block=4096, version=(0, 2)
        ).build()[0],
        "extra": lambda: vdi_by_hand.Image(2 * 4096, (1, 0), block=4096, extra=512).build()[0],
        "child": lambda: vdi_by_hand.Image(
            2 * 4096, (vdi_by_hand.FREE, 0), block=4096, kind=vdi_by_hand.DIFF, linkage=UUID(int=5)
        ).build()[0],
    },
    "vhd": {
        "fixed": lambda: vhd_by_hand.fixed(_CONTENT),
        "old": lambda: vhd_by_hand.fixed(_CONTENT, old=True),
        "dynamic": lambda: vhd_by_hand.dynamic(_CONTENT),
        "child-by-hand": _vhd_child,
    },
    "vhdx": {kind: lambda kind=kind: _vhdx(kind) for kind in ("by-hand", "log", "child-by-hand")},
    "vmdk": {
        "sparse": lambda: vmdk_by_hand.hosted(
            _CONTENT, text=vmdk_by_hand.descriptor(_LINE), grain=8
        ),
        "zeroed": lambda: vmdk_by_hand.hosted(_CONTENT, version=2, grain=8, zeroed={3}, absent={5}),
        "stream": lambda: vmdk_by_hand.stream(
            _CONTENT, text=vmdk_by_hand.descriptor(_LINE, kind="streamOptimized"), grain=8
        ),
        "whole stream": lambda: vmdk_by_hand.stream(_CONTENT, text=None, footer=False, grain=8),
        "cowd": lambda: vmdk_by_hand.cowd(_CONTENT),
        "sesparse": lambda: vmdk_by_hand.se_sparse(_CONTENT),
        "text": lambda: vmdk_by_hand.descriptor('RW 128 FLAT "flat.vmdk" 0').strip(b"\0"),
    },
}
