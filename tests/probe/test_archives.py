"""Archives and bundles: what they are by what is in them, as files and as streams, and what vetting
finds in them.

Every sample goes through detect and vet in test_corpus.py as well.
"""

from __future__ import annotations

import json
import random
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from probe import samples_archives, samples_bundles
from probe.archive_making import (
    LXD,
    box,
    by_hand,
    docker,
    header,
    member,
    octal,
    ova,
    ovf,
    pax,
    qcow2,
    tar,
    tar_of,
    vmdk,
    xva,
    zip_of,
)
from probe.corpus import made
from probe.sample import Sample
from vmimg.formats.raw.findings import View
from vmimg.formats.vetting import Finding, Severity
from vmimg.probe.claims import Claim
from vmimg.probe.detecting import detect_storage
from vmimg.probe.held import Held
from vmimg.probe.recognisers.archives import RECOGNISERS, WATCHERS
from vmimg.probe.sevenzip import read_7z
from vmimg.probe.tar import read_tar
from vmimg.probe.vetters import archives, bundles
from vmimg.probe.vetters.inside import disks_inside
from vmimg.probe.xml import root_of, scan, vet_xml
from vmimg.probe.zip import read_zip
from vmimg.storage.memory import MemoryStorage
from vmimg.storage.slice import SliceStorage

GOOD = (*samples_archives.GOOD, *samples_bundles.GOOD)
BAD = (*samples_archives.BAD, *samples_bundles.BAD)
VETTERS = archives.VETTERS | bundles.VETTERS
LIMIT = 4096


def view_of(data: bytes) -> View:
    return View(MemoryStorage(data), 0, len(data))


def claims_on(view: View) -> dict[str, Claim]:
    return {claim.name: claim for recognise in RECOGNISERS for claim in recognise(view)}


def claims(data: bytes) -> dict[str, Claim]:
    return claims_on(view_of(data))


def vetted(data: bytes) -> list[Finding]:
    view = view_of(data)
    return [f for name in claims_on(view) if name in VETTERS for f in VETTERS[name](view)]


def codes(data: bytes, severity: Severity = Severity.ERROR) -> set[str]:
    return {finding.code for finding in vetted(data) if finding.severity >= severity}


def streamed(pieces: Iterator[bytes]) -> View:
    """What is held of a stream, with what our watcher wants of it."""
    held = Held("stream")
    (watch,) = WATCHERS
    steps = watch()
    wanted: tuple[int, int] | None = next(steps)
    collected = bytearray()
    for piece in pieces:
        start = held.come
        held.feed(piece)
        while wanted is not None:
            offset, length = wanted
            at = offset + len(collected) - start
            assert at >= 0, "it asks for what has gone by"
            collected += piece[at : at + length - len(collected)]
            if len(collected) < length:
                break
            assert held.keep(offset, bytes(collected))
            try:
                wanted = steps.send(bytes(collected))
            except StopIteration:
                wanted = None
            collected.clear()
    held.end()
    return View(held, 0, held.size)


# What it is


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_bundle_refines_the_archive_that_it_is(sample: Sample, tmp_path: Path) -> None:
    found = claims(made(sample, tmp_path).read_bytes())
    if not sample.claim:
        return
    best = found[sample.claim]
    assert best.confidence >= 50
    outer = set(found) - {sample.claim}
    assert outer <= set(best.refines), "two claims that contradict each other"


@pytest.mark.parametrize("sample", GOOD, ids=str)
def test_a_good_archive_has_no_error(sample: Sample, tmp_path: Path) -> None:
    assert codes(made(sample, tmp_path).read_bytes()) == set()


@pytest.mark.parametrize("sample", BAD, ids=str)
def test_a_bad_archive_is_found_out(sample: Sample, tmp_path: Path) -> None:
    found = codes(made(sample, tmp_path).read_bytes(), Severity.WARNING)
    # Two claims at once are for detect to see.
    assert set(sample.codes) - {"several-formats"} <= found


@pytest.mark.parametrize("order", [("ovf", "vmdk"), ("vmdk", "ovf"), ("vmdk", "ovf", "mf")])
def test_an_ova_is_one_wherever_its_descriptor_stands(order: tuple[str, ...]) -> None:
    claim = claims(tar_of(ova(order)))["ova"]
    assert claim.container_format == "ova"
    assert claim.confidence == 100
    assert claim.details["disks"] == ["disk.vmdk"]
    assert claim.details["descriptor-first"] == (order[0] == "ovf")
    assert any("machine.ovf" in evidence.meaning for evidence in claim.evidence)


def test_a_member_called_ovf_with_something_else_in_it_makes_no_ova() -> None:
    assert "ova" not in claims(tar_of({"a.ovf": b"<html/>", "disk.vmdk": vmdk()}))


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("libvirt", "libvirt"),
        ("virtualbox", "virtualbox"),
        ("vmware", "vmware_desktop"),
        ("hyperv", "hyperv"),
        ("parallels", "parallels"),
    ],
)
def test_a_box_says_which_provider_it_is_for(name: str, provider: str) -> None:
    found = claims(tar_of(box(name)))
    assert found["vagrant"].details["provider"] == provider


def test_an_lxd_image_says_what_it_is_for() -> None:
    details = claims(tar_of({"metadata.yaml": LXD, "rootfs.img": b"x" * 600}))["lxd"].details
    assert details["architecture"] == "x86_64"
    assert details["type"] == "virtual-machine"
    split = claims(tar_of({"metadata.yaml": LXD}))["lxd"].details
    assert split["kind"] == "metadata only"


def test_a_docker_archive_says_its_tags_and_its_container_format() -> None:
    claim = claims(tar_of(docker()))["docker"]
    assert claim.container_format == "docker"
    assert claim.details["tags"] == ["hello:latest"]


def test_an_xva_counts_its_disks() -> None:
    assert claims(xva())["xva"].details == {"disks": ["Ref:4"], "blocks-seen": 3}


def test_the_disk_in_an_archive_of_one_is_known_by_its_first_bytes() -> None:
    found = claims(tar_of({"disk.bin": vmdk(), "README": b"!"}))
    assert found["disk-archive"].details["kind"] == "vmdk"


def test_an_archive_of_two_kinds_is_claimed_for_both() -> None:
    found = claims(tar_of(ova() | {"metadata.yaml": LXD, "rootfs/x": b""}))
    assert {"ova", "lxd"} <= set(found)
    assert "lxd" not in found["ova"].refines and "ova" not in found["lxd"].refines


def test_names_for_a_terminal_are_harmless() -> None:
    found = claims(tar_of({"\x1b]0;x\x07.ovf": ovf(), "\x1b[2J.vmdk": vmdk()}))
    assert found["tar"].details["names"] == ["?]0;x?.ovf", "?[2J.vmdk"]
    assert json.dumps(found["ova"].to_json()).isprintable()


@pytest.mark.parametrize("size", [512, 1023, 1024, 20_000])
def test_a_tar_that_is_cut_off_is_still_claimed(size: int) -> None:
    found = claims(tar_of(ova())[:size])
    assert found["tar"].details["complete"] is False
    # By the name of its first member; beyond doubt once the descriptor has begun.
    assert found["ova"].confidence == (100 if size > 1000 else 80)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(512), bytes(10240), b"PK", b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"ustar" * 500],
)
def test_what_only_begins_like_an_archive_is_none_beyond_doubt(data: bytes) -> None:
    assert all(claim.confidence <= 60 for claim in claims(data).values())


def test_a_zip_behind_something_else_says_so() -> None:
    claim = claims(b"MZ" + bytes(1022) + zip_of({"a": b"x"}))["zip"]
    assert claim.confidence >= 50
    assert claim.details["prefix"] == 1024


# As a stream


@pytest.mark.parametrize("chunk", [997, 1 << 20])
def test_an_ova_with_its_descriptor_behind_the_disks_is_known_as_a_stream(chunk: int) -> None:
    disk = random.Random(1).randbytes(3 << 20)
    data = tar_of({"a.vmdk": disk, "b.ovf": ovf("a.vmdk"), "c.vmdk": disk})
    view = streamed(data[i : i + chunk] for i in range(0, len(data), chunk))
    found = claims_on(view)
    assert found["ova"].confidence == 100, "the descriptor itself was kept"
    assert found["tar"].details == claims(data)["tar"].details


def test_a_stream_keeps_little_of_a_tar_with_many_members() -> None:
    (watch,) = WATCHERS
    data = b"".join(header(b"%d.ovf" % n, octal(512)) + bytes(512) for n in range(3000))
    kept = 0
    steps = watch()
    offset, length = next(steps)
    try:
        while True:
            kept += length
            offset, length = steps.send(data[offset : offset + length])
    except StopIteration:
        pass
    assert kept <= 256 << 10


def test_a_stream_of_something_else_is_let_go_at_once() -> None:
    (watch,) = WATCHERS
    steps = watch()
    assert next(steps) == (0, 512)
    with pytest.raises(StopIteration):
        steps.send(b"QFI\xfb".ljust(512, b"\0"))


# The readers


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_what_python_sees(format: int, tmp_path: Path) -> None:
    files = {"a": b"x" * 512, "folder/" + "n" * 90: b"", "b/" * 20 + "c": b"y"}
    if format != tarfile.USTAR_FORMAT:
        files |= {"m" * 300: b"z" * 70, "grün": b"w"}
    data = tar_of(files, format)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    walk = read_tar(view_of(data), LIMIT)
    with tarfile.open(path) as archive:
        theirs = [(info.name, info.size, info.offset_data) for info in archive]
    assert [(entry.name, entry.size, entry.data) for entry in walk.entries] == theirs
    assert walk.complete and not walk.problems


def test_members_of_a_zip_are_what_python_sees(tmp_path: Path) -> None:
    data = b"prefix" + zip_of({"a": b"x" * 512, "b/c": b"", "grün": b"y"})
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    found = read_zip(view_of(data), LIMIT)
    with zipfile.ZipFile(path) as archive:
        theirs = [(i.filename, i.file_size, i.compress_size, i.header_offset) for i in
                  archive.infolist()]  # fmt: skip
    ours = [(entry.name, entry.size, entry.stored, entry.offset) for entry in found.entries]
    assert ours == theirs
    assert found.content(found.entries[0], 100) == b"x" * 100


@pytest.mark.peer("7z")
@pytest.mark.parametrize("options", [(), ("-ms=off",), ("-mhc=off",), ("-m0=BCJ", "-m1=LZMA2")])
def test_members_of_a_7z_are_what_was_put_in(options: tuple[str, ...], tmp_path: Path) -> None:
    files = {"a.vmdk": b"x" * 5000, "folder/b": b"yz", "empty": b"", "grün": b"w"}
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "a.7z"
    peers.run("7z", "a", *options, path, "a.vmdk", "folder", "empty", "grün", cwd=tmp_path)
    found = read_7z(view_of(path.read_bytes()), LIMIT)
    assert found.complete and found.header_is_right
    seen = {e.name: e.size for e in found.entries if e.kind == "file"}
    assert seen == {name: len(data) for name, data in files.items()}
    assert [e.name for e in found.entries if e.kind == "directory"] == ["folder"]


@pytest.mark.peer("7z")
def test_a_7z_with_secret_names_is_encrypted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    path = tmp_path / "a.7z"
    peers.run("7z", "a", "-psecret", "-mhe=on", path, "a", cwd=tmp_path)
    data = path.read_bytes()
    assert claims(data)["7z"].details["encrypted"] is True
    assert "encrypted" in codes(data, Severity.WARNING)


def test_disks_in_a_bundle_are_found_in_their_place() -> None:
    data = tar_of(ova() | {"seed.iso": b"i" * 2048})
    view = view_of(data)
    found = dict(disks_inside(view, claim_of(data)))
    assert list(found) == ["disk.vmdk", "seed.iso"]
    disk = found["disk.vmdk"]
    assert isinstance(disk, SliceStorage) and disk.read(0, disk.size) == vmdk()


def test_a_disk_is_found_by_its_first_bytes_whatever_its_name() -> None:
    for files in (tar_of, zip_of):
        data = files({"README": b"hello" * 200, "a.dat": qcow2()})
        ((name, disk),) = disks_inside(view_of(data), claim_of(data))
        assert name == "a.dat" and disk is not None and disk.read(0, disk.size) == qcow2()


def test_of_a_disk_that_the_archive_cuts_off_nothing_is_to_be_had() -> None:
    data = tar_of({"disk.raw": bytes(4096)})[:2048]
    assert list(disks_inside(view_of(data), claim_of(data))) == [("disk.raw", None)]


def test_the_files_of_a_system_are_not_taken_for_disks() -> None:
    folders = [member(name, kind=tarfile.DIRTYPE) for name in ("etc", "usr", "bin")]
    whole = tar(*folders, member("usr/share/a.img", qcow2()))
    lxd = tar_of({"metadata.yaml": LXD, "rootfs/usr/share/a.img": qcow2()})
    for data, name in ((whole, "rootfs"), (lxd, "lxd")):
        assert claim_of(data).name == name
        assert list(disks_inside(view_of(data), claim_of(data))) == []


def claim_of(data: bytes) -> Claim:
    """The best claim on an archive."""
    return detect_storage(MemoryStorage(data)).best


# What vetting says


def test_findings_say_where_they_are() -> None:
    data = tar(member("a", b"content"), member("../x", b"x"))
    (finding,) = [f for f in vetted(data) if f.code == "member-escapes"]
    assert finding.offset == 1024
    assert finding.evidence == "../x"


def test_a_thousand_links_make_a_few_findings() -> None:
    links = [member(f"l{n}", kind=tarfile.SYMTYPE, link="a") for n in range(1000)]
    found = [f for f in vetted(tar(member("a", b"x"), *links)) if f.code == "member-link"]
    assert len(found) <= 5
    assert "996 more" in found[-1].message


def test_a_file_of_more_than_eight_gib_may_have_its_size_in_a_pax_header() -> None:
    size = 9 << 30
    start = pax(size=str(size)) + header(b"disk.raw", octal(0))
    storage = MemoryStorage(start)
    storage.resize(len(start))
    walk = read_tar(View(storage, 0, storage.size), LIMIT)
    assert walk.entries[0].size == size
    assert not walk.problems


def test_a_tree_may_have_links_that_a_bundle_may_not() -> None:
    link = member("rootfs/etc/mtab", kind=tarfile.SYMTYPE, link="/proc/mounts")
    image = tar(member("metadata.yaml", LXD), link)
    assert codes(image) == set()
    assert "member-escapes" in codes(tar(member("README", b"x"), link))


def test_an_ovf_by_itself_has_parts_that_fit_together() -> None:
    def found(data: bytes) -> set[str]:
        return {finding.code for finding in bundles.vet_envelope(view_of(data))}

    assert found(ovf()) == set()
    assert found(ovf().replace(b'fileRef="file1"', b'fileRef="file2"')) == {"manifest-lies"}


def test_json_that_is_too_deep_is_malformed() -> None:
    files = docker() | {"manifest.json": b'[{"Config":"a","Layers":[]}]'}
    files["manifest.json"] = b"[" * 100_000
    assert "docker" in claims(tar_of(files)) or "tar" in claims(tar_of(files))
    view = view_of(tar_of(files))
    assert [finding.code for finding in bundles.vet_docker(view)] == ["malformed"]


# XML


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "xml-entities"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "xml-entities"),
        (b'<!DOCTYPE a [<!ENTITY % b SYSTEM "http://192.0.2.1/">%b;]><a/>', "xml-entities"),
        (b"<a>" * 65 + b"</a>" * 65, "xml-oversize"),
        (b"<a>" + b"<b/>" * 100_001 + b"</a>", "xml-oversize"),
        (b"<a>" + b" " * (4 << 20) + b"</a>", "xml-oversize"),
        (b"<a><b></a>", "malformed"),
        (b"<a>&undeclared;</a>", "malformed"),
        (b"", "malformed"),
        (b'<?xml version="1.0" encoding="utf-7"?><a/>', "malformed"),
    ],
)
def test_xml_that_harms_its_reader_is_refused(data: bytes, code: str) -> None:
    assert [finding.code for finding in vet_xml(data)] == [code]


@pytest.mark.parametrize(
    "data",
    [
        b"<a/>",
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n<a b="c">&amp;&#65;</a>',
        "<?xml version='1.0' encoding='UTF-16'?><a>ü</a>".encode("utf-16"),
        b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/'
        b'DTDs/PropertyList-1.0.dtd"><plist version="1.0"/>',
        b"<a>" * 64 + b"</a>" * 64,
    ],
)
def test_xml_as_programs_write_it_is_fine(data: bytes) -> None:
    assert list(vet_xml(data)) == []


def test_the_root_is_known_from_the_first_bytes() -> None:
    assert root_of(ovf()[:600]) is not None
    assert root_of(b"<o:Envelope o:x='1' xmlns:o='u'><o:Ref") == (
        "Envelope",
        {"o:x": "1", "xmlns:o": "u"},
    )
    assert root_of(b"\0" * 100) is None
    assert root_of(b'<!DOCTYPE a [<!ENTITY b "c">]><a b="&b;"/>') == ("a", {})


def test_elements_are_found_with_their_text_and_place() -> None:
    found = scan(b"<a><n:b n:c='1'> t <x>no</x>u</n:b></a>", ("b",))
    (element,) = found.elements
    assert (element.attributes, element.within, element.text) == ({"c": "1"}, ("a",), " t u")


# Whatever is in it


def deep_links() -> bytes:
    """As many links as there may be, each behind a long path."""
    path = "/".join("d" * 120)
    return tar(
        *(member(f"{n}/{path}"[:200], kind=tarfile.SYMTYPE, link=path[:99]) for n in range(1500)),
        format=tarfile.GNU_FORMAT,
    )


def pax_names() -> bytes:
    """Names of 60 KiB each."""
    return b"".join(pax(path=f"{n}/" + "a/" * 30_000) + header(b"x", octal(0)) for n in range(60))


def sparse_maps() -> bytes:
    """Maps of holes that go on and on."""
    first = bytearray(header(b"disk.raw", octal(0), b"S", magic=b"ustar  \0"))
    first[482] = 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    return bytes(first) + (bytes(504) + b"\1" + bytes(7)) * 40_000


def zip_of_many() -> bytes:
    """Members that all are the same one."""
    data = zip_of({"a": b"content"})
    at = data.index(b"PK\x01\x02")
    entry, end = data[at : data.index(b"PK\x05\x06")], data[-22:]
    return (
        data[:at]
        + entry * 40_000
        + end[:8]
        + (40_000).to_bytes(2, "little") * 2
        + (len(entry) * 40_000).to_bytes(4, "little")
        + end[16:]
    )


def many_ends() -> bytes:
    return zip_of({"a": b"x"}) + b"PK\x05\x06" * 20_000


def empty_lines() -> bytes:
    """In which the lines of an LXD image's description are searched for."""
    return tar_of({"metadata.yaml": b"\n" * 100_000, "rootfs/x": b""})


def empty_lines_behind_others() -> bytes:
    return tar_of({"metadata.yaml": LXD + b"\n" * 100_000, "rootfs/x": b""})


@pytest.mark.parametrize(
    "build",
    [
        deep_links,
        pax_names,
        sparse_maps,
        zip_of_many,
        many_ends,
        empty_lines,
        empty_lines_behind_others,
    ],
)
def test_what_is_made_to_take_long_does_not(build: object) -> None:
    data = build()  # type: ignore[operator]
    before = time.process_time()
    vetted(data)
    assert time.process_time() - before < 2


def test_damaged_archives_raise_nothing(tmp_path: Path) -> None:
    rng = random.Random(7)
    small = [s for s in (*GOOD, *BAD) if all(peers.has(name) for name in s.peers)]
    seeds = [made(sample, tmp_path).read_bytes() for sample in small]
    for data in [seed for seed in seeds if len(seed) < 100_000] * 2:
        damaged = bytearray(data)
        for _ in range(4):
            at = rng.randrange(len(damaged))
            damaged[at : at + rng.choice((1, 1, 8))] = rng.choice((b"\xff", b"\0", b"\x80" * 8))
        del damaged[rng.randrange(1, 2 * len(damaged)) :]
        for block in range(0, len(damaged) - 511, 512):  # else nothing is read behind a checksum
            if damaged[block + 257 : block + 262] == b"ustar":
                damaged[block + 148 : block + 156] = b" " * 8
                total = sum(damaged[block : block + 512])
                damaged[block + 148 : block + 156] = b"%06o\0 " % total
        view = view_of(bytes(damaged))
        for vetter in VETTERS.values():
            assert all(finding.message.isprintable() for finding in vetter(view))
        assert all(0 < claim.confidence <= 100 for claim in claims_on(view).values())


def test_a_zero_block_in_the_middle_hides_what_follows() -> None:
    data = by_hand(header(b"a", octal(1)), b"a", bytes(512), header(b"evil.ovf", octal(0)))
    assert "ova" not in claims(data), "no program reads on there"
    assert "hidden-data" in codes(data, Severity.WARNING)
