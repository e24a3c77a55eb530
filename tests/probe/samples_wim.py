"""WIM archives to recognise and to vet: good ones of wimlib, and one bad one for each rule."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import peers
from probe.making import of_bytes
from probe.sample import Sample
from probe.wim_by_hand import ENTRY, HEADER, wim_of

__all__ = ["BAD", "GOOD"]


def files(folder: Path) -> Path:
    """A directory to capture: text, noise, a folder in it."""
    source = folder / "files"
    (source / "inner").mkdir(parents=True)
    (source / "text").write_bytes(b"a line of text\n" * 3000)
    (source / "inner" / "noise").write_bytes(random.Random(4).randbytes(150_000))
    (source / "inner" / "more").write_bytes(random.Random(6).randbytes(150_000))
    return source


def _by_wimlib(name: str, claim: str, *options: str) -> Sample:
    def make(folder: Path) -> Path:
        path = folder / "archive.wim"
        peers.run("wimlib-imagex", "capture", files(folder), path, "First image", *options)
        return path

    return Sample(f"wim-{name}", make, claim, peers=("wimlib-imagex",))


def _split(number: int) -> Sample:
    def make(folder: Path) -> Path:
        path = folder / "archive.wim"
        peers.run("wimlib-imagex", "capture", files(folder), path, "--compress=none")
        peers.run("wimlib-imagex", "split", path, folder / "part.swm", "0.2")
        path.unlink()
        return folder / ("part.swm" if number == 1 else f"part{number}.swm")

    return Sample(f"wim-part-{number}", make, "swm", peers=("wimlib-imagex",))


def _xml(text: str) -> bytes:
    return b"\xff\xfe" + text.encode("utf-16-le")


_BOMB = (
    '<!DOCTYPE WIM [<!ENTITY a "aaaaaaaa">]><WIM><IMAGE INDEX="1"><NAME>&a;</NAME></IMAGE></WIM>'
)
_ESD = '<WIM><IMAGE INDEX="1"><NAME>x</NAME></IMAGE><ESD><ENCRYPTED>1</ENCRYPTED></ESD></WIM>'
_ZEROS = {"size": 40, "flags": 4, "original": 1 << 40}


def _wrong_header(**fields: int) -> bytes:
    """A pipable file whose two headers differ in ``fields``."""
    body = wim_of(magic=b"WLPWM\0\0\0")
    front = bytearray(body[:HEADER])
    front[48:96] = bytes(48)
    for offset, value in ((int(key[1:]), value) for key, value in fields.items()):
        struct.pack_into("<I", front, offset, value)
    return bytes(front) + body[HEADER:] + body[:HEADER]


GOOD: tuple[Sample, ...] = (
    _by_wimlib("none", "wim", "--compress=none"),
    _by_wimlib("xpress", "wim", "--compress=xpress"),
    _by_wimlib("lzx", "wim", "--compress=lzx", "--check", "--boot"),
    _by_wimlib("lzms", "wim", "--compress=lzms"),
    _by_wimlib("solid", "esd", "--solid"),
    _by_wimlib("pipable", "wim", "--pipable", "--check"),
    of_bytes("wim-by-hand", "a.wim", wim_of, "wim"),
    of_bytes("wim-pipable-by-hand", "a.wim", _wrong_header, "wim"),
    *(_split(number) for number in (1, 2)),
)

BAD: tuple[Sample, ...] = (
    of_bytes(
        "wim-table-outside", "a", lambda: wim_of(table_offset=1 << 40), "wim", "table-outside"
    ),
    of_bytes("wim-xml-outside", "a", lambda: wim_of(xml_offset=1 << 50), "wim", "table-outside"),
    of_bytes("wim-cut-off", "a", lambda: wim_of()[:-40], "wim", "table-outside"),
    of_bytes(
        "wim-tables-overlap",
        "a",
        lambda: wim_of(table_offset=600 + HEADER),
        "wim",
        "tables-overlap",
    ),
    of_bytes("wim-table-of-a-piece", "a", lambda: wim_of(table_size=ENTRY - 7), "wim", "malformed"),
    of_bytes("wim-version", "a", lambda: wim_of(version=0x20000), "wim", "unknown-version"),
    of_bytes("wim-flags", "a", lambda: wim_of(flags=0x1000080), "wim", "unknown-features"),
    of_bytes(
        "wim-compression",
        "a",
        lambda: wim_of(flags=0x60082, chunk=32768),
        "wim",
        "unknown-features",
    ),
    of_bytes("wim-chunk", "a", lambda: wim_of(flags=0x40082, chunk=12345), "wim", "odd-field"),
    of_bytes("wim-part-of-none", "a", lambda: wim_of(part=5), "wim", "odd-field"),
    of_bytes("wim-boots-nothing", "a", lambda: wim_of(boot=9), "wim", "odd-field"),
    of_bytes("wim-unused-used", "a", lambda: wim_of(unused=b"hidden"), "wim", "hidden-data"),
    of_bytes("wim-written-to", "a", lambda: wim_of(flags=0xC0), "wim", "dirty"),
    of_bytes("wim-count-of-images", "a", lambda: wim_of(images=4), "wim", "copies-disagree"),
    of_bytes("wim-without-metadata", "a", lambda: wim_of(metadata=False), "wim", "malformed"),
    of_bytes("wim-entities", "a", lambda: wim_of(xml=_xml(_BOMB)), "wim", "xml-entities"),
    of_bytes("wim-other-xml", "a", lambda: wim_of(xml=_xml("<SVG/>")), "wim", "malformed"),
    of_bytes(
        "wim-xml-oversize",
        "a",
        lambda: wim_of(xml=_xml("<WIM>" + " " * 700_000 + "</WIM>")),
        "wim",
        "xml-oversize",
    ),
    of_bytes(
        "wim-encrypted",
        "a",
        lambda: wim_of(xml=_xml(_ESD)),
        "wim",
        "encrypted",
    ),
    of_bytes(
        "wim-blob-outside", "a", lambda: wim_of(blobs=[{"offset": 1 << 40}]), "wim", "table-outside"
    ),
    of_bytes("wim-blob-lies", "a", lambda: wim_of(blobs=[{"original": 7}]), "wim", "member-size"),
    of_bytes("wim-blob-twice", "a", lambda: wim_of(blobs=[{}, {}]), "wim", "odd-field"),
    of_bytes("wim-blob-in-part-9", "a", lambda: wim_of(blobs=[{"part": 9}]), "wim", "odd-field"),
    of_bytes(
        "wim-expands",
        "a",
        lambda: wim_of(flags=0x40082, chunk=32768, blobs=[_ZEROS]),
        "wim",
        "expands",
    ),
    of_bytes(
        "wim-checksums-lie",
        "a",
        lambda: wim_of(checksums=struct.pack("<III", 32, 9, 10 << 20) + bytes(20)),
        "wim",
        "malformed",
    ),
    of_bytes("wim-headers-differ", "a", lambda: _wrong_header(_44=7), "wim", "copies-disagree"),
    of_bytes("wim-pipable-cut-off", "a", lambda: _wrong_header()[:-HEADER], "wim", "truncated"),
)
