"""Archives to recognise and to vet: good ones of several programs, and one bad one for each rule.

The bad ones are good ones with one thing changed, by hand where no program would do it.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import peers
from probe.archive_making import (
    Member,
    by_hand,
    by_program,
    deb,
    files_in,
    header,
    member,
    octal,
    pax,
    tar,
    tar_of,
    with_links,
    zip64,
    zip_of,
    zip_stream,
)
from probe.making import of_bytes
from probe.sample import Sample

__all__ = ["BAD", "GOOD"]

LONG = "folder/" + "n" * 120 + ".txt"


def static_library() -> bytes:
    """Of one object, with the same header of a member that a package begins with."""
    return deb().replace(b"debian-binary", b"hello.o/     ")


GOOD: tuple[Sample, ...] = (
    of_bytes("tar-v7-by-hand", "a.tar", lambda: by_hand(
        header(b"a", octal(1), b"\0", magic=b""), b"a", header(b"b/", octal(0), b"\0", magic=b""),
    ), "tar"),
    of_bytes("tar-gnu-long-name", "a.tar",
             lambda: tar_of({LONG: b"x", "b": b"y"}, tarfile.GNU_FORMAT), "tar"),
    of_bytes("tar-pax-long-name", "a.tar",
             lambda: tar_of({LONG: b"x", "b": b"y", "ü": b"z"}, tarfile.PAX_FORMAT), "tar"),
    of_bytes("tar-base-256", "a.tar", lambda: by_hand(
        header(b"a", b"\x80" + (5).to_bytes(11, "big"), magic=b"ustar  \0"), b"12345"), "tar"),
    Sample("tar-with-links", with_links, "tar", peers=("tar",)),
    *(by_program(f"tar-{format}-of-gnu-tar", "a.tar", "tar",
                 lambda: {LONG: b"x" * 700, "b": b"y", "grün": b"z"}, "tar", f"--format={format}",
                 "-cf") for format in ("gnu", "oldgnu", "pax")),
    *(by_program(f"tar-{format}-of-bsdtar", "a.tar", "tar",
                 lambda: {LONG: b"x" * 700, "b": b"y", "grün": b"z"}, "bsdtar",
                 f"--format={format}", "-cf") for format in ("gnutar", "pax")),
    of_bytes("zip", "a.zip", lambda: zip_of({"a": b"content", "b/c": b"more"}), "zip"),
    of_bytes("zip-64", "a.zip", zip64, "zip"),
    of_bytes("zip-stream", "a.zip", zip_stream, "zip"),
    by_program("zip-of-7z", "a.zip", "zip", lambda: {"a": b"x" * 700, "b/c": b"y"}, "7z", "a"),
    by_program("7z", "a.7z", "7z", lambda: {"a": b"x" * 700, "b/c": b"y"}, "7z", "a"),
    of_bytes("deb", "a.deb", deb, "deb"),
    of_bytes("ar", "a.a", static_library, "ar"),
)  # fmt: skip


# Bad ones

SMALL = {"a": b"content", "b": b"more"}
HARMLESS = member("b", b"more")


def in_tar(name: str, code: str, *members: Member) -> Sample:
    return of_bytes(
        f"tar-{name}", "a.tar", lambda: tar(member("a", b"content"), *members), "tar", code
    )


def of_tar(name: str, code: str, *parts: bytes) -> Sample:
    """The parts behind a first, harmless member."""
    first = header(b"a", octal(7)), b"content"
    return of_bytes(f"tar-{name}", "a.tar", lambda: by_hand(*first, *parts), "tar", code)


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1 and len(old) == len(new)
    return data.replace(old, new, 1)


def in_zip(name: str, code: str, build: Callable[[], bytes]) -> Sample:
    return of_bytes(f"zip-{name}", "a.zip", build, "zip", code)


def _zip_link(target: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"content")
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, target)
    return file.getvalue()


def _directory_at(data: bytes) -> int:
    return struct.unpack_from("<I", data, len(data) - 6)[0]  # type: ignore[no-any-return]


def _in_directory(data: bytes, number: int, field: int, value: bytes) -> bytes:
    """Change a field of the entry ``number`` in the central directory of a zip."""
    at = _directory_at(data)
    for _ in range(number):
        at = data.index(b"PK\x01\x02", at + 4)
    return data[: at + field] + value + data[at + field + len(value) :]


def _overlapping() -> bytes:
    """Two members that are one and the same data, as in a bomb."""
    data = zip_of({"a": b"content", "b": b"content"}, zipfile.ZIP_STORED)
    return _in_directory(data, 1, 42, struct.pack("<I", 0))


def _prefixed() -> bytes:
    return b"#!/bin/sh\nexec unzip $0\n" + zip_of(SMALL)


def _between() -> bytes:
    """Bytes between the last member and the directory that belong to nothing."""
    data = zip_of(SMALL)
    at = _directory_at(data)
    return data[:at] + b"hidden" * 20 + data[at:-6] + struct.pack("<I", at + 120) + data[-2:]


def _two_directories() -> bytes:
    """One zip in the comment of another."""
    inner = zip_of({"evil": b"x"})
    outer = zip_of(SMALL)
    return outer[:-2] + struct.pack("<H", len(inner)) + inner


def _zip_bomb() -> bytes:
    return zip_of({"a": bytes(80 << 20)})


def _patched_7z(name: str, code: str, change: Callable[[bytearray], None]) -> Sample:
    def make(folder: Path) -> Path:
        place = folder / "members"
        place.mkdir()
        files_in(place, SMALL)
        path = folder / "a.7z"
        peers.run("7z", "a", path, *SMALL, cwd=place)
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return Sample(f"7z-{name}", make, "7z", (code,), peers=("7z",))


def _flip(offset: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[offset] ^= 0xFF

    return change


def _cut(data: bytearray) -> None:
    del data[-4:]


def _extend(data: bytearray) -> None:
    data += b"hidden"


def many(count: int) -> bytes:
    block = header(b"a", octal(0))
    return (
        b"".join(header(b"%06d" % number, octal(0)) for number in range(count))
        + block
        + bytes(1024)
    )


def _many(folder: Path) -> Path:
    """A million members of which each is a header and nothing else."""
    path = folder / "a.tar"
    with open(path, "wb") as file:
        file.write(many(9_000))
        file.truncate(file.tell() - 1024 + (1 << 20))
    return path


OUT = "../../etc/cron.d/x"

BAD: tuple[Sample, ...] = (
    of_bytes("ar-cut-off", "a.a", lambda: static_library()[:-1], "ar", "truncated"),
    # Where members go
    in_tar("name-goes-up", "member-escapes", member(OUT, b"x")),
    in_tar("name-goes-up-and-back", "member-escapes", member("b/../../c", b"x")),
    in_tar("name-absolute", "member-escapes", member("/etc/cron.d/x", b"x")),
    in_tar("name-with-drive", "member-escapes", member("C:/Windows/x", b"x")),
    in_tar("name-up-by-backslash", "member-escapes", member("b\\..\\..\\x", b"x")),
    in_tar("name-of-share", "member-escapes", member("\\\\host\\share\\x", b"x")),
    in_tar("name-with-backslash", "odd-field", member("b\\x", b"x")),
    in_tar("name-with-escape", "odd-field", member("b\x1b[2J", b"x")),
    in_tar("name-empty", "malformed", member("", b"x")),
    in_tar("behind-link", "member-escapes", member("b", kind=tarfile.SYMTYPE, link="c"),
           member("b/x", b"x")),
    in_tar("behind-link-by-case", "member-escapes", member("B", kind=tarfile.SYMTYPE, link="c"),
           member("b/x", b"x")),
    in_tar("link-up", "member-escapes", member("b", kind=tarfile.SYMTYPE, link="../x")),
    in_tar("link-absolute", "member-escapes", member("b", kind=tarfile.SYMTYPE, link="/etc")),
    in_tar("link-through-link", "member-escapes",
           member("b/c/d", kind=tarfile.SYMTYPE, link="../.."),
           member("e", kind=tarfile.SYMTYPE, link="b/c/d/..")),
    in_tar("hard-link-up", "member-escapes", member("b", kind=tarfile.LNKTYPE, link="../x")),
    in_tar("link", "member-link", member("b", kind=tarfile.SYMTYPE, link="a")),
    in_tar("device", "member-device", member("b", kind=tarfile.BLKTYPE)),
    in_tar("fifo", "member-device", member("b", kind=tarfile.FIFOTYPE)),
    in_tar("twice", "member-duplicate", member("a", b"other")),
    in_tar("twice-with-dot", "member-duplicate", member("./a", b"other")),
    in_tar("twice-by-case", "member-duplicate", member("A", b"other")),
    in_tar("nested-by-name", "nested-archive", member("b.tar.gz", b"x")),
    in_tar("nested-by-content", "nested-archive", member("b", zip_of(SMALL))),
    # What two readers of a tar see differently
    of_tar("pax-other-name", "copies-disagree", pax(path="evil.vmdk"), header(b"b", octal(4)),
           b"more"),
    of_tar("pax-other-name-not-ascii", "copies-disagree", pax(path="grün.sh"),
           header(b"b.vmdk", octal(4)), b"more"),
    of_tar("pax-other-size", "member-size", pax(size="4"), header(b"b", octal(0)), b"more"),
    of_tar("pax-two-names", "copies-disagree", pax(path="ü" * 60), pax(path="ö" * 60),
           header(b"b", octal(4)), b"more"),
    of_tar("pax-not-records", "malformed", header(b"x", octal(5), b"x"), b"99 ab",
           header(b"b", octal(4)), b"more"),
    of_tar("pax-global-name", "copies-disagree", pax(b"g", path="n" * 120), header(b"b", octal(4)),
           b"more"),
    of_tar("gnu-other-name", "copies-disagree", header(b"././@LongLink", octal(9), b"L"),
           b"evil.vmdk", header(b"b", octal(4)), b"more"),
    of_tar("size-no-number", "member-size", header(b"b", b"0000000+004\0"), b"more"),
    of_tar("size-negative", "member-size", header(b"b", b"\xff" * 12), b"more"),
    of_tar("link-with-size", "member-size", header(b"b", octal(512), b"2", link=b"a"),
           header(b"c", octal(0))),
    of_tar("kind-unknown", "odd-field", header(b"b", octal(4), b"Q"), b"more"),
    of_tar("header-broken", "malformed", b"\x01" * 512),
    # Where a tar ends
    of_bytes("tar-cut", "a.tar", lambda: tar_of({"a": bytes(4000)})[:2048], "tar", "truncated"),
    of_bytes("tar-without-end", "a.tar", lambda: tar_of(SMALL)[:2048], "tar", "odd-field"),
    of_bytes("tar-then-tar", "a.tar", lambda: tar_of(SMALL) + tar_of({"evil": b"x"}), "tar",
             "hidden-data"),
    of_tar("zero-block-then-member", "hidden-data", bytes(512), header(b"evil", octal(0))),
    Sample("tar-many-members", _many, "tar", ("too-many-members",)),
    # Zip
    in_zip("name-goes-up", "member-escapes", lambda: zip_of(SMALL | {OUT: b"x"})),
    in_zip("link-up", "member-escapes", lambda: _zip_link("/etc")),
    in_zip("link", "member-link", lambda: _zip_link("a")),
    in_zip("other-name", "copies-disagree", lambda: changed(
        zip_of({"aaaa": b"x", "b": b"y"}), b"aaaa", b"evil")),
    in_zip("other-size", "member-size", lambda: _in_directory(
        zip_of(SMALL), 0, 24, struct.pack("<I", 70))),
    in_zip("past-end", "member-size", lambda: _in_directory(
        zip_of(SMALL), 1, 20, struct.pack("<I", 0x7FFFFFFF))),
    in_zip("other-method", "copies-disagree", lambda: _in_directory(
        zip_of(SMALL), 0, 10, struct.pack("<H", 0))),
    in_zip("member-elsewhere", "malformed", lambda: _in_directory(
        zip_of(SMALL), 1, 42, struct.pack("<I", 5))),
    in_zip("overlapping", "tables-overlap", _overlapping),
    in_zip("prefix", "hidden-data", _prefixed),
    in_zip("between", "hidden-data", _between),
    in_zip("behind", "hidden-data", lambda: zip_of(SMALL) + b"hidden"),
    in_zip("two-directories", "copies-disagree", _two_directories),
    in_zip("count", "copies-disagree", lambda: (
        data := zip_of(SMALL))[:-14] + struct.pack("<HH", 1, 1) + data[-10:]),
    in_zip("bomb", "expands", _zip_bomb),
    in_zip("without-directory", "truncated", lambda: zip_of(SMALL)[:60]),
    in_zip("encrypted", "encrypted", lambda: _in_directory(
        zip_of(SMALL), 0, 8, struct.pack("<H", 1))),
    # 7z
    _patched_7z("start-header", "checksum-wrong", _flip(20)),
    _patched_7z("header", "checksum-wrong", _flip(-3)),
    _patched_7z("cut", "truncated", _cut),
    _patched_7z("behind", "hidden-data", _extend),
)  # fmt: skip
