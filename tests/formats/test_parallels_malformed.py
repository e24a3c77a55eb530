"""Malformed Parallels images: one clear error of the vmimg tree, at once, in little memory.

Every case is an image or a bundle made by hand with one thing made wrong. It goes through
everything that reads images (`ordeal.py`), in a process with limits. ``says``: words of the error
that the steps named in ``steps`` must raise; the others may raise it as well, and never anything
but a VmimgError.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

import parallels_by_hand as by_hand
from damaged import (
    MAX_MIB,
    MAX_SECONDS,
    Outcome,
    any_value,
    complaints,
    missed,
    objections,
    put_cases,
    put_through,
)
from parallels_by_hand import (
    BAT,
    DATA_OFF,
    ENTRIES,
    EXT_OFF,
    FIRST,
    NONE,
    NULL,
    SECOND,
    SECTORS,
    TOP,
    TRACKS,
    VERSION,
    Image,
    tree,
)
from rounds import rounds

MIB = 1 << 20
CLUSTER = 65536
PLACES = (2, 0, NONE, 1, NONE, 3)

Change = Callable[[bytearray], None]

OPENING = ("read", "read_data", "walk", "convert", "write")
ALL = (*OPENING, "info", "chain", "examine")
READING = ("read", "walk", "convert")


@dataclass(frozen=True)
class Case:
    name: str
    change: Change
    says: str = ""
    steps: tuple[str, ...] = ALL
    base: str = "ext"


def put(offset: int, *values: int) -> Change:
    return lambda file: struct.pack_into(f"<{len(values)}I", file, offset, *values)


def put64(offset: int, value: int) -> Change:
    return lambda file: struct.pack_into("<Q", file, offset, value)


def cut(size: int) -> Change:
    def change(file: bytearray) -> None:
        del file[size:]

    return change


def field(
    name: str, offset: int, value: int, says: str = "", *steps: str, base: str = "ext"
) -> Case:
    shown = f"{name} {value:#x}" + (f", {base}" if base != "ext" else "")
    return Case(shown, put(offset, value), says, steps or ALL, base)


CASES = [
    Case("empty file", cut(0), "", ()),
    Case("half a signature", cut(9), "", ()),
    Case("only the signature", cut(16), "", ()),
    Case("half a header", cut(63), "", ()),
    Case("nothing behind the header", cut(64), "behind the end of the file"),
    Case("cut in the BAT", cut(BAT + 13), "behind the end of the file"),
    Case("no data", cut(CLUSTER), "ends at", (*READING, "examine", "write")),
    Case("cut in the data", cut(3 * CLUSTER + 100), "ends at", (*READING, "examine", "write")),
    Case("wrong signature", put(0, 0), "", ()),
    field("version", VERSION, 0, "version 0"),
    field("version", VERSION, 1, "version 1"),
    field("version", VERSION, 0xFFFFFFFF, "version 4294967295"),
    field("heads", 20, 0xFFFFFFFF, "", "snapshot"),
    field("cylinders", 24, 0xFFFFFFFF, "", "snapshot"),
    field("tracks", TRACKS, 0, "no sectors"),
    field("tracks", TRACKS, 1, "no room"),
    field("tracks", TRACKS, 127, "no room"),
    field("tracks", TRACKS, 0xFFFFFFFF, "said to have"),
    field("tracks", TRACKS, 0x7FFFFFFF // 513, "ends at", "read", "walk", "examine"),
    field("tracks", TRACKS, 0x7FFFFFFF // 513, "", "write", base="empty"),
    field("tracks", TRACKS, 129, "data area", "write", "examine"),
    field("entries", ENTRIES, 0, "no room"),
    field("entries", ENTRIES, 5, "no room"),
    field("entries", ENTRIES, 0xFFFFFFFF, "entries"),
    field("entries", ENTRIES, 0x1FFFFFFF, "behind the end"),
    field("entries", ENTRIES, 200_000, "", "write", "examine"),
    Case("size 2^64-1", put64(SECTORS, 2**64 - 1), "no room"),
    Case("size 2^55", put64(SECTORS, 2**55), "no room"),
    Case("size beyond the BAT", put64(SECTORS, 6 * 128 + 1), "no room"),
    Case("size 0", put64(SECTORS, 0), "", ()),
    field("size", SECTORS, 0xFFFFFFFF, "no room", base="old"),
    field("in use", by_hand.USED, by_hand.IN_USE, "in use", "write"),
    field("in use", by_hand.USED, 0xFFFFFFFF, "", "snapshot"),
    field("data_off", DATA_OFF, 0, "data area", "write", "examine"),
    field("data_off", DATA_OFF, 1, "data area", "write", "examine"),
    field("data_off", DATA_OFF, 0xFFFFFFFF, "data area", "write", "examine"),
    field("data_off", DATA_OFF, 0xFFFFFF80, "clusters", "write", "examine"),
    field("data_off", DATA_OFF, 1, "", "snapshot", base="old"),
    field("data_off", DATA_OFF, 0xFFFFFFFF, "clusters", "write", "examine", base="old"),
    field("flags", by_hand.FLAGS, 0xFFFFFFFF, "", "snapshot"),
    field("entry", BAT, 5, "ends at", *READING, "write", "examine"),
    field("entry", BAT, 0x7FFFFFFF, "ends at", *READING, "write", "examine"),
    field("entry", BAT, 0xFFFFFFFF, "ends at", *READING, "write", "examine"),
    field("entry", BAT, 4, "share", "write", "examine"),
    field("entry", BAT, 1, "share", "write", "examine"),
    field("entry in the header", BAT, 1, "", "snapshot", base="old"),
    field("entry in the BAT", BAT, 0, "", "snapshot", base="old"),
    field("entry between places", BAT, 130, "cluster", "write", "examine", base="old"),
    Case("every entry the same", put(BAT, *[3] * 6), "share", ("write", "examine")),
    Case("every entry outside", put(BAT, *range(100, 106)), "ends at", READING),
    Case("entries that wrap", put(BAT, *[0xFFFFFFFF] * 6), "ends at", READING, "old"),
    Case("extension in the header", put64(EXT_OFF, 1), "damaged", ("examine",)),
    Case("extension behind the end", put64(EXT_OFF, 2**40), "damaged", ("examine",)),
    Case("extension at 2^64", put64(EXT_OFF, 2**64 - 1), "damaged", ("examine",)),
    Case("extension over the guest's data", put64(EXT_OFF, 128), "damaged", ("examine",)),
    Case("extension cut off", cut(6 * CLUSTER - 1), "damaged", ("examine",), "bitmap"),
    Case("extension with features without end", lambda f: extend(f, b"\1" * 24 * 3000), "damaged",
         ("examine",), "bitmap"),
    Case("more features than anybody has",
         lambda f: extend(f, b"".join(by_hand.feature(n, 0, b"") for n in range(1, 2000))),
         "more than 1000", ("examine",), "bitmap"),
    Case("bitmap with a cluster behind the end",
         lambda f: extend(f, by_hand.bitmap(UUID(int=1), 768, 8, [2**50])), "damaged",
         ("examine",), "bitmap"),
    Case("bitmap with a cluster in the header",
         lambda f: extend(f, by_hand.bitmap(UUID(int=1), 768, 8, [2])), "", (), "bitmap"),
    Case("bitmap with a table of 2^32",
         lambda f: extend(f, by_hand.feature(by_hand.BITMAP, 0,
             struct.pack("<Q16sII", 768, bytes(16), 8, 0xFFFFFFFF))), "damaged",
         ("examine",), "bitmap"),
]  # fmt: skip


def extend(file: bytearray, features: bytes) -> None:
    """Put other features into the extension, which is the last cluster."""
    file[-CLUSTER:] = by_hand.extension(features[: CLUSTER - 24], CLUSTER)


def bases() -> dict[str, bytes]:
    images = {
        "ext": Image(6 * CLUSTER, PLACES, cluster=CLUSTER),
        "old": Image(6 * CLUSTER, PLACES, cluster=CLUSTER, old=True, data_off=0),
        "empty": Image(6 * CLUSTER, (NONE,) * 6, cluster=CLUSTER),
        "bitmap": Image(6 * CLUSTER, PLACES, cluster=CLUSTER, extension=4),
    }
    return {name: image.build()[0] for name, image in images.items()}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    """All cases in one process: starting one takes longer than a case."""
    folder = tmp_path_factory.mktemp("malformed")
    found = put_cases(folder, CASES, ".hds", lambda case: bases()[case.base])
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_image_is_one_clear_error(
    case: Case, outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = outcomes[case.name]
    assert list(objections(outcome, path)) == []
    assert [*missed(outcome, case.steps, case.says)] == []


def test_the_images_are_fine_before_anything_is_made_wrong(tmp_path: Path) -> None:
    paths = []
    for name, file in bases().items():
        if name != "bitmap":  # an extension of nothing
            paths.append(tmp_path / f"{name}.hds")
            paths[-1].write_bytes(file)
    bundle = tree(cluster=CLUSTER)[0].write(tmp_path / "bundle.hdd")
    split = tree(cluster=CLUSTER, pieces=2, root="Plain")[0].write(tmp_path / "split.hdd")
    for name, outcome in put_through(tmp_path, [*paths, bundle, split]).items():
        # There is no snapshot of that name.
        assert set(outcome.raised) == {"snapshot"}, (name, outcome.raised)


def test_random_damage_to_metadata_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(1)
    paths = []
    for number in range(rounds(100)):
        image = bytearray(bases()[dice.choice(("ext", "old", "bitmap"))])
        for _ in range(dice.choice((1, 1, 2, 5))):
            place = dice.choice((*range(16, BAT + 24, 4), 5 * CLUSTER + 4 * dice.randrange(20)))
            struct.pack_into("<I", image, min(place, len(image) - 4), any_value(dice))
        paths.append(tmp_path / f"{number}.hds")
        paths[-1].write_bytes(image)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}


def test_a_bat_as_large_as_it_can_be_takes_no_memory(tmp_path: Path) -> None:
    for name, cluster, entries in (("a.hds", MIB, 1 << 26), ("b.hds", 64 * MIB, 1 << 25)):
        head = bytearray(Image(cluster, (NONE,), cluster=cluster).build()[0][:64])
        start = -(-(64 + 4 * entries) // cluster) * cluster
        struct.pack_into("<I", head, ENTRIES, entries)
        struct.pack_into("<Q", head, SECTORS, entries * cluster // 512)
        struct.pack_into("<I", head, DATA_OFF, start // 512)
        with (tmp_path / name).open("wb") as file:
            file.write(head)
            file.truncate(start)
    found = put_through(tmp_path, [tmp_path / "a.hds", tmp_path / "b.hds"])
    for outcome in found.values():
        assert set(outcome.raised) == {"snapshot"}, outcome.raised
        assert outcome.seconds < MAX_SECONDS and outcome.mib < MAX_MIB


# Descriptors

Rewrite = Callable[[str], str]


@dataclass(frozen=True)
class XmlCase:
    name: str
    change: Rewrite
    says: str = ""
    steps: tuple[str, ...] = (*OPENING, "examine")


def swap(old: str, new: str) -> Rewrite:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


def once(old: str, new: str) -> Rewrite:
    return lambda text: text.replace(old, new, 1)


ONE_FILE = f"disk.hdd.0.{FIRST}.hds"
LAUGHS = "".join(f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 20}'>" for n in range(8))
LAUGHS = f"<!DOCTYPE a [<!ENTITY a 'ha'>{LAUGHS}]>\n"
ROOT = "<Parallels_disk_image"

XML_CASES = [
    XmlCase("cut in the middle", lambda t: t[: len(t) // 2], "not well-formed", (*ALL,)),
    XmlCase("cut behind the root", lambda t: t[: t.index(ROOT) + 40], "not well-formed", (*ALL,)),
    XmlCase("nothing but the root", lambda t: t[: t.index(ROOT)] + ROOT + "/>", "not a Parallels",
            (*ALL,)),
    XmlCase("entities of entities", once(ROOT, LAUGHS + ROOT), "document type", (*ALL,)),
    XmlCase("an entity that is a file",
            once(ROOT, "<!DOCTYPE a SYSTEM 'file:///etc/passwd'>\n" + ROOT), "document type", ALL),
    XmlCase("an unknown encoding", once("UTF-8", "EBCDIC-9"), "not well-formed", ALL),
    XmlCase("control characters", once("<StorageData>", "<StorageData>\1"), "not well-formed", ALL),
    XmlCase("nested without end", once("<StorageData>", "<StorageData>" + "<a>" * 5000), "deeper",
            ALL),
    XmlCase("too large", once("<StorageData>", "<StorageData>" + " " * MIB), "at most", ALL),
    XmlCase("100000 elements", once("<StorageData>", "<StorageData>" + "<a/>" * 100_000), "", ()),
    XmlCase("half a MiB in one text",
            once("<StorageData>", "<StorageData><a>" + "x" * 500_000 + "</a>"), "", ()),
    XmlCase("no parameters", swap("Disk_Parameters", "Other"), "not a Parallels", ALL),
    XmlCase("no storages", swap("Storage>", "Other>"), "have 0 bytes", ALL),
    XmlCase("no size", swap("Disk_size", "Other"), "Disk_size is ''", ALL),
    XmlCase("size 1e9", once("<Disk_size>", "<Disk_size>1e"), "Disk_size is '1e", ALL),
    XmlCase("a negative size", once("<Disk_size>", "<Disk_size>-"), "Disk_size is '-", ALL),
    XmlCase("a size of 2^60 sectors", once("<Disk_size>", "<Disk_size>1152921504606846976</a"),
            "", ()),
    XmlCase("a size of many digits", once("<Disk_size>", "<Disk_size>" + "9" * 5000), "Disk_size",
            ALL),
    XmlCase("a size of 9e17 sectors", once("<Disk_size>", "<Disk_size>9" + "0" * 14),
            "more than a disk", ALL),
    XmlCase("another size", once("<Disk_size>", "<Disk_size>1"), "and the disk", ALL),
    XmlCase("a storage that begins late", once("<Start>0", "<Start>1"), "does not follow", ALL),
    XmlCase("a storage that ends before it begins", once("<Start>0", "<Start>9999"),
            "does not follow", ALL),
    XmlCase("a storage that is too large for its image", lambda t: t.replace("768<", "7680<"),
            "should be a disk of", OPENING),
    XmlCase("storages that overlap",
            once("<StorageData>", "<StorageData><Storage><Start>0</Start><End>7</End></Storage>"),
            "does not follow", ALL),
    XmlCase("a GUID that is none", once(f"<GUID>{FIRST}", "<GUID>{oops}"), "not a GUID", ALL),
    XmlCase("a GUID of two lines", once(f"<GUID>{FIRST}", "<GUID>{oo\nps}"), "'{oo?ps}' is not",
            ALL),
    XmlCase("a type of two lines", once("<Type>Compressed", "<Type>Com\npressed"), "'Com?pressed'",
            ALL),
    XmlCase("a number of two lines", once("<Start>0", "<Start>0\n0"), "'0?0'", ALL),
    XmlCase("a GUID twice", once(f"<GUID>{FIRST}", f"<GUID>{SECOND}"), "two images", ALL),
    XmlCase("a type that is none", once("Compressed", "Encrypted"), "type 'Encrypted'", ALL),
    XmlCase("a plain overlay",
            lambda t: t.replace(f"{TOP}</GUID><Type>Compressed", f"{TOP}</GUID><Type>Plain"),
            "only expanding", OPENING),
    XmlCase("no file", once(f"<File>{ONE_FILE}", "<File>"), "no file", ALL),
    XmlCase("a file name of 5000 letters", once(f"<File>{ONE_FILE}", "<File>" + "x" * 5000),
            "too long", ALL),
    XmlCase("a file name of 300 letters", once(f"<File>{ONE_FILE}", "<File>" + "x" * 300),
            "cannot be opened", OPENING),
    XmlCase("/etc/passwd", once(f"<File>{ONE_FILE}", "<File>/etc/passwd"), "allow-dir", OPENING),
    XmlCase("a file above", once(f"<File>{ONE_FILE}", "<File>../secret"), "allow-dir", OPENING),
    XmlCase("a device", once(f"<File>{ONE_FILE}", "<File>/dev/zero"), "allow-dir", OPENING),
    XmlCase("an URL", once(f"<File>{ONE_FILE}", "<File>nbd://host/x"), "not a file", OPENING),
    XmlCase("itself", once(f"<File>{ONE_FILE}", "<File>DiskDescriptor.xml"), "again", OPENING),
    XmlCase("a directory", once(f"<File>{ONE_FILE}", "<File>."), "", OPENING),
    XmlCase("one file twice", once(f"<File>{ONE_FILE}", f"<File>disk.hdd.0.{TOP}.hds"), "again",
            OPENING),
    XmlCase("a file that is no image", once(f"<File>{ONE_FILE}", "<File>other"), "not a Parallels",
            OPENING),
    XmlCase("a plain file that is too short",
            once("Compressed</Type><File>" + ONE_FILE, "Plain</Type><File>other"), "truncated",
            OPENING),
    XmlCase("a loop", swap(f"<ParentGUID>{NULL}", f"<ParentGUID>{TOP}"), "loops"),
    XmlCase("its own parent", swap(f"<ParentGUID>{NULL}", f"<ParentGUID>{FIRST}"), "loops"),
    XmlCase("no such parent", swap(f"<ParentGUID>{NULL}", "<ParentGUID>{" + str(UUID(int=7)) + "}"),
            "missing"),
    XmlCase("a parent that is no GUID", swap(f"<ParentGUID>{NULL}", "<ParentGUID>x"), "not a GUID",
            ALL),
    XmlCase("no such top", once("<Snapshots>", f"<Snapshots><TopGUID>{UUID(int=7)}</TopGUID>"),
            "present state", ALL),
    XmlCase("a shot twice", swap(f"<Shot><GUID>{SECOND}", f"<Shot><GUID>{FIRST}"), "cannot be",
            ALL),
    XmlCase("a shot of nothing", swap(f"<Shot><GUID>{SECOND}", f"<Shot><GUID>{NULL}"), "cannot be",
            ALL),
    XmlCase("a chain of 3000",
            once("<Snapshots>", "<Snapshots>" + f"<TopGUID>{UUID(int=3000)}</TopGUID>" + "".join(
                f"<Shot><GUID>{UUID(int=n)}</GUID><ParentGUID>{UUID(int=n - 1)}</ParentGUID></Shot>"
                for n in range(1, 3001)
            )), "more than 512", OPENING),
    XmlCase("13999 images",
            once("<Image>", "".join(
                f"<Image><GUID>{n:032x}</GUID><Type>Plain</Type><File>x</File></Image>"
                for n in range(1, 14000)
            ) + "<Image>"), "", ("examine",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def xml_outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Outcome]]:
    folder = tmp_path_factory.mktemp("bundles")
    paths = []
    for number, case in enumerate(XML_CASES):
        bundle, _ = tree(cluster=CLUSTER)
        bundle.names["other"] = b"x" * CLUSTER
        path = bundle.write(folder / f"{number}.hdd")
        (path / "DiskDescriptor.xml").write_text(case.change(bundle.xml()))
        paths.append(path)
    found = put_through(folder, paths)
    return {c.name: (path, found[path.name]) for c, path in zip(XML_CASES, paths, strict=True)}


@pytest.mark.parametrize("case", XML_CASES, ids=lambda case: case.name)
def test_a_malformed_descriptor_is_one_clear_error(
    case: XmlCase, xml_outcomes: dict[str, tuple[Path, Outcome]]
) -> None:
    path, outcome = xml_outcomes[case.name]
    assert list(objections(outcome, path)) == []
    assert [*missed(outcome, case.steps, case.says)] == []


def test_random_damage_to_a_descriptor_never_ends_otherwise(tmp_path: Path) -> None:
    dice = random.Random(2)
    paths = []
    for number in range(rounds(100)):
        bundle, _ = tree(cluster=4096)
        text = bytearray(bundle.xml().encode())
        for _ in range(dice.choice((1, 2, 5))):
            at = dice.randrange(80, len(text))
            what = dice.choice((b"", b"9", b"<", b">", b"&", b"/", b"\xff", b"{", b"\0", b"<a>"))
            text[at : at + dice.choice((0, 1, 1, 10))] = what
        path = bundle.write(tmp_path / f"{number}.hdd")
        (path / "DiskDescriptor.xml").write_bytes(text)
        paths.append(path)
    found = put_through(tmp_path, paths)
    assert complaints(found, paths) == {}
