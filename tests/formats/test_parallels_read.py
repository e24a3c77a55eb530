"""Reading Parallels images: those that QEMU makes, those made by hand, and bundles of them."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest

import parallels_by_hand as by_hand
import peers
from parallels_by_hand import BRANCH, FIRST, NONE, NULL, SECOND, TOP, Bundle, Image, flat, tree
from samples import awkward_disk, write_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, FormatError, OptionError, UnsafeImage, UnsupportedFeature
from vmimg.formats.detect import identify
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
from vmimg.storage import open as open_storage
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create

MIB = 1 << 20
SIZE = 6 * MIB - 1536
PLACES = (1, NONE, 0, 3, NONE, 2)


def content_of(path: Path, snapshot: str | None = None) -> bytes:
    with open_disk(path, snapshot=snapshot) as disk:
        return disk.read(0, disk.size)


def by_dissect(bundle: Path, guid: str | None = None) -> bytes:
    from dissect.hypervisor.disk.hdd import HDD  # type: ignore[import-untyped]

    stream = HDD(bundle).open(guid)
    pieces = []
    while piece := stream.read(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def by_phdi(bundle: Path) -> bytes:
    import pyphdi

    handle = pyphdi.handle()
    handle.open(str(bundle / "DiskDescriptor.xml"))
    handle.open_extent_data_files()
    data: bytes = handle.read_buffer(handle.get_media_size())
    handle.close()
    return data


# Single files


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("cluster", ["4k", "32256", "64k", "1M", "4M"])
def test_what_qemu_makes_is_read(tmp_path: Path, cluster: str) -> None:
    content = awkward_disk(5 * MIB + 512 * 7)
    raw, image = write_sparse(tmp_path / "raw", content), tmp_path / "a.hds"
    peers.run(
        *("qemu-img", "convert", "-O", "parallels", "-o", f"cluster_size={cluster}", raw, image)
    )
    assert content_of(image) == content
    info = image_info(image)[0].image
    assert (info.format, info.virtual_size, info.dirty) == ("parallels", len(content), False)
    mapped = peers.run_json("qemu-img", "map", "--output=json", image)
    theirs = [(e["start"], e["length"], e["offset"]) for e in mapped if e["data"]]
    with open_disk(image) as disk:
        ours = [(e.start, e.length, e.offset) for e in disk.map() if e.kind == Kind.DATA]
    assert ours == theirs


@pytest.mark.peer("qemu-img", "dissect.hypervisor")
@pytest.mark.parametrize(
    "image",
    [
        Image(SIZE, PLACES),
        Image(SIZE, PLACES, in_use=by_hand.CLOSED),
        Image(SIZE, PLACES, in_use=0x32326470),  # "pd22": Parallels Desktop
        Image(SIZE, PLACES, data_off=4 * 2048),
        Image(SIZE, PLACES, flags=1),
        Image(SIZE, PLACES, old=True),
        Image(SIZE, PLACES, old=True, data_off=0),
        Image(SIZE, PLACES, old=True, data_off=77),
        Image(6 * 63 * 512 - 512, PLACES, cluster=63 * 512, old=True, data_off=0),
        Image(6 * 63 * 512 - 512, PLACES, cluster=63 * 512, data_off=63 * 9),
        Image(6 * 252 * 1024, PLACES, cluster=252 * 1024, old=True),
        Image(4 * MIB, PLACES),  # more entries than clusters
    ],
    ids=str,
)
def test_every_kind_of_header(tmp_path: Path, image: Image) -> None:
    file, blocks = image.build()
    bundle = Bundle(
        image.size, [(0, image.size, TOP, "Compressed", "a.hds")], names={"a.hds": file}
    ).write(tmp_path / "b.hdd")
    wanted = flat(image.size, blocks, image.cluster)
    path = bundle / "a.hds"
    assert content_of(path) == wanted == content_of(bundle) == by_dissect(bundle)
    raw = tmp_path / "raw"
    raw.write_bytes(wanted)
    peers.run("qemu-img", "compare", "-f", "raw", "-F", "parallels", raw, path)
    info = image_info(path)[0].image
    assert (info.virtual_size, info.cluster_size) == (image.size, image.cluster)
    assert info.details["data-offset"] == image.data_start
    assert not info.dirty and not info.notes


@pytest.mark.peer("pyphdi")
@pytest.mark.parametrize("places", [PLACES, (NONE,) * 6], ids=["some", "empty"])
def test_libphdi_reads_the_same(tmp_path: Path, places: tuple[int, ...]) -> None:
    # libphdi 20260902 knows the old signature only.
    image = Image(6 * MIB, places, old=True)
    file, blocks = image.build()
    bundle = Bundle(
        image.size, [(0, image.size, TOP, "Compressed", "a.hds")], names={"a.hds": file}
    ).write(tmp_path / "b.hdd")
    assert content_of(bundle) == by_phdi(bundle) == flat(image.size, blocks, MIB)


def test_the_upper_half_of_an_old_size_is_passed_over(tmp_path: Path) -> None:
    file = bytearray(Image(4 * MIB, (0, NONE, 1, NONE), old=True).build()[0])
    file[by_hand.SECTORS + 4] = 0xFF
    (tmp_path / "a.hds").write_bytes(file)
    assert len(content_of(tmp_path / "a.hds")) == 4 * MIB


def test_an_image_in_use_is_read_and_said_to_be_dirty(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    file, blocks = Image(SIZE, PLACES, in_use=by_hand.IN_USE).build()
    path.write_bytes(file)
    info = image_info(path)[0].image
    assert info.dirty and "in use" in info.notes[0]
    assert content_of(path) == flat(SIZE, blocks, MIB)
    with pytest.raises(FormatError, match="in use"):
        open_disk(path, writable=True)


# The format extension

IDS = [UUID(int=n << 100 | 5) for n in (1, 2)]


def with_bitmaps(**changes: object) -> Image:
    """Clusters of 4 KiB; two bitmaps in places 2 and 3, the extension in place 4."""
    image = Image(8 * 4096, (0, NONE, 1) + (NONE,) * 5, cluster=4096, in_use=by_hand.CLOSED)
    image.extension = 4
    places = [(image.data_start + place * 4096) // 512 for place in (2, 3)]
    image.features = b"".join(
        by_hand.bitmap(id, 64, 1 << n, [place])
        for n, (id, place) in enumerate(zip(IDS, places, strict=True), 3)
    )
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.peer("qemu-img")
def test_dirty_bitmaps_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    file, blocks = with_bitmaps().build()
    path.write_bytes(file)
    info = image_info(path)[0].image
    assert info.details["bitmaps"] == [
        {"id": str(IDS[0]), "granularity": 4096},
        {"id": str(IDS[1]), "granularity": 8192},
    ]
    assert info.details["extension"]["valid"]
    assert "2 dirty bitmaps; they are lost" in info.notes[0]
    assert content_of(path) == flat(8 * 4096, blocks, 4096)
    peers.run("qemu-img", "info", path)  # QEMU loads them, and would say what is wrong with them
    path.write_bytes(with_bitmaps(in_use=0).build()[0])
    assert "stale" in image_info(path)[0].image.notes[0]


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    ("features", "says"),
    [
        (by_hand.feature(by_hand.BITMAP, 0, b"short"), "a dirty bitmap of 5 bytes"),
        (by_hand.bitmap(IDS[0], 63, 8, [0]), "63 sectors"),
        (by_hand.bitmap(IDS[0], 64, 8, [0, 0]), "2 clusters"),
        (by_hand.bitmap(IDS[0], 64, 0, [0]), "granularity of 0"),
        (struct.pack("<QQII", by_hand.BITMAP, 0, 5000, 0), "more than the cluster"),
        (by_hand.feature(by_hand.BITMAP, 0, b"\0" * 4040), "granularity of 0"),
    ],
    ids=["short", "size", "table", "granularity", "too large", "zeros"],
)
def test_a_damaged_extension_is_said_and_does_not_keep_from_reading(
    tmp_path: Path, features: bytes, says: str
) -> None:
    path = tmp_path / "a.hds"
    file, blocks = with_bitmaps(features=features).build()
    path.write_bytes(file)
    info = image_info(path)[0].image
    assert says in info.details["extension"]["error"] and not info.details["bitmaps"]
    assert "damaged" in info.notes[0]
    assert content_of(path) == flat(8 * 4096, blocks, 4096)
    # QEMU 7.2 aborts on a granularity of 0, and opens none of the others.
    peers.run("qemu-img", "info", path, ok=(1, -6))


def test_the_checksum_of_the_extension_is_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.hds"
    file = bytearray(with_bitmaps().build()[0])
    file[-1] ^= 1
    path.write_bytes(file)
    assert image_info(path)[0].image.details["extension"]["error"] == "its checksum is wrong"
    file[-4096] ^= 1
    path.write_bytes(file)
    assert image_info(path)[0].image.details["extension"]["error"] == "its magic is wrong"


# Bundles


@pytest.mark.peer("dissect.hypervisor")
@pytest.mark.parametrize("root", ["Compressed", "Plain"])
@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("cluster", [4096, 63 * 512])
def test_every_snapshot_of_a_tree_is_a_disk(
    tmp_path: Path, root: str, pieces: int, cluster: int
) -> None:
    bundle, contents = tree(cluster=cluster, root=root, pieces=pieces)
    path = bundle.write(tmp_path / "disk.hdd")
    assert content_of(path) == contents[TOP] == by_dissect(path)
    assert len(set(contents.values())) == 4
    for guid in (FIRST, SECOND, BRANCH, TOP):
        assert content_of(path, guid) == contents[guid]
        assert by_dissect(path, guid) == contents[guid]
    for name in (BRANCH.strip("{}"), BRANCH.upper()):
        assert content_of(path, name) == contents[BRANCH]
    info = image_info(path)[0].image
    assert {snapshot.id for snapshot in info.snapshots} == {FIRST, SECOND, BRANCH}
    assert info.details["top-guid"] == TOP
    assert {"guid": BRANCH, "parent": FIRST} in info.details["states"]
    assert {"guid": FIRST} in info.details["states"]
    assert len(info.details["extents"]) == 4 * pieces
    assert info.details["extents"][-1]["virtual-offset"] == 6 * cluster * (pieces - 1)
    with open_disk(path) as disk:
        assert len(disk.layers) == 3
        files = {extent.file for extent in disk.map() if extent.offset is not None}
    assert len(files) == 3 * pieces
    with pytest.raises(OptionError, match="no snapshot"):
        open_disk(path, snapshot="{99999999-9999-4999-8999-999999999999}")
    with pytest.raises(OptionError, match="no snapshot"):
        open_disk(path, snapshot="1")


@pytest.mark.peer("qemu-img")
def test_a_chain_reads_as_qemu_puts_it_together(tmp_path: Path) -> None:
    bundle, contents = tree()
    path = bundle.write(tmp_path / "disk.hdd")

    def node(*guids: str) -> str:
        file = path / f"disk.hdd.0.{guids[0]}.hds"
        backing = f',"backing":{node(*guids[1:])}' if guids[1:] else ""
        return f'{{"driver":"parallels","file":{{"driver":"file","filename":"{file}"}}{backing}}}'

    raw = tmp_path / "raw"
    for guids in ((TOP, SECOND, FIRST), (BRANCH, FIRST)):
        peers.run("qemu-img", "convert", "-O", "raw", f"json:{node(*guids)}", raw)
        assert raw.read_bytes() == contents[guids[0]] == content_of(path, guids[0])


def test_the_directory_and_its_descriptor_are_the_same_image(tmp_path: Path) -> None:
    bundle, contents = tree()
    path = bundle.write(tmp_path / "disk.hdd")
    assert content_of(path / "DiskDescriptor.xml") == contents[TOP]
    one = path / f"disk.hdd.0.{FIRST}.hds"
    assert content_of(one) == contents[FIRST]
    with pytest.raises(OptionError, match="through the bundle"):
        open_disk(one, snapshot=FIRST)
    convert(path, tmp_path / "out.raw")
    assert (tmp_path / "out.raw").read_bytes() == contents[TOP]


def test_top_guid_names_the_present_state(tmp_path: Path) -> None:
    bundle, contents = tree()
    bundle.top = BRANCH
    path = bundle.write(tmp_path / "disk.hdd")
    assert content_of(path) == contents[BRANCH]
    assert {one.id for one in image_info(path)[0].image.snapshots} == {FIRST, SECOND, TOP}


def test_a_bundle_without_snapshots_elements_is_its_one_image(tmp_path: Path) -> None:
    file, blocks = Image(SIZE, PLACES).build()
    bundle = Bundle(SIZE, [(0, SIZE, FIRST, "Compressed", "a")], (), names={"a": file})
    path = bundle.write(tmp_path / "disk.hdd")
    assert content_of(path) == flat(SIZE, blocks, MIB)
    xml = path / "DiskDescriptor.xml"
    text = xml.read_text()
    xml.write_text(text[: text.index("<Snapshots>")] + "</Parallels_disk_image>")
    assert content_of(path) == flat(SIZE, blocks, MIB)


def test_a_snapshot_from_before_the_disk_grew_has_its_old_size(tmp_path: Path) -> None:
    old, blocks = Image(3 * MIB, (0, NONE, 1)).build()
    new, added = Image(5 * MIB, (NONE, 1, NONE, 0, NONE), seed=2).build()
    bundle = Bundle(
        5 * MIB,
        [(0, 5 * MIB, FIRST, "Compressed", "old"), (0, 5 * MIB, TOP, "Compressed", "new")],
        [(FIRST, NULL), (TOP, FIRST)],
        names={"old": old, "new": new},
    )
    path = bundle.write(tmp_path / "disk.hdd")
    before = flat(3 * MIB, blocks, MIB)
    assert content_of(path, FIRST) == before
    assert content_of(path) == flat(5 * MIB, added, MIB, before)


def test_loops_and_missing_ancestors_are_errors_of_the_chain(tmp_path: Path) -> None:
    for number, (shots, says) in enumerate(
        [
            (((FIRST, TOP), (TOP, FIRST)), "loops"),
            (((TOP, TOP),), "loops"),
            (((TOP, FIRST),), "missing"),
            (((FIRST, NULL),), "no image is named for|present state"),
            (((FIRST, NULL), (SECOND, FIRST)), "present state"),
        ]
    ):
        bundle, _ = tree()
        bundle.shots = shots
        path = bundle.write(tmp_path / f"{number}.hdd")
        if number == 3:
            continue  # one state only: that is the present one
        with pytest.raises(ChainError, match=says):
            open_disk(path)


def test_a_missing_file_or_image_is_an_error_of_the_chain(tmp_path: Path) -> None:
    bundle, _ = tree()
    path = bundle.write(tmp_path / "disk.hdd")
    (path / f"disk.hdd.0.{SECOND}.hds").unlink()
    with pytest.raises(ChainError, match=r"22222222.*cannot be opened"):
        open_disk(path)
    assert content_of(path, BRANCH)
    bundle.files = [file for file in bundle.files if file[2] != SECOND]
    path = bundle.write(tmp_path / "other.hdd")
    with pytest.raises(ChainError, match="no image is named"):
        open_disk(path)


def test_files_outside_of_the_bundle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * MIB)
    bundle = Bundle(MIB, [(0, MIB, TOP, "Plain", "../secret")])
    path = bundle.write(tmp_path / "disk.hdd")
    with pytest.raises(UnsafeImage, match="--allow-dir"):
        open_disk(path)
    with open_disk(path, policy=ParentPolicy(allowed=(tmp_path,))) as disk:
        assert disk.read(0, MIB) == b"x" * MIB
    for number, name in enumerate(("/etc/passwd", str(tmp_path / "secret"), "nbd://host/x")):
        bundle = Bundle(512, [(0, 512, TOP, "Plain", name)])
        path = bundle.write(tmp_path / f"{number}.hdd")
        with pytest.raises(UnsafeImage):
            open_disk(path)
    link = tmp_path / "0.hdd" / "inside"
    link.symlink_to(tmp_path / "secret")
    (tmp_path / "0.hdd" / "DiskDescriptor.xml").write_text(
        Bundle(MIB, [(0, MIB, TOP, "Plain", "inside")]).xml()
    )
    with pytest.raises(UnsafeImage):
        open_disk(tmp_path / "0.hdd")


def test_a_bundle_that_was_moved_finds_its_images_beside_it(tmp_path: Path) -> None:
    file, blocks = Image(SIZE, PLACES).build()
    name = "/vz/private/101/root.hdd/root.hds"
    bundle = Bundle(SIZE, [(0, SIZE, TOP, "Compressed", name)], names={"root.hds": file})
    assert content_of(bundle.write(tmp_path / "root.hdd")) == flat(SIZE, blocks, MIB)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("<Padding>0", "<Padding>1"), "padded"),
        (
            ("<Padding>", f"<Encryption><Engine>{FIRST}</Engine></Encryption><Padding>"),
            "encrypted",
        ),
        (("<StorageData>", "<StorageData><Volume><Parent>x</Parent></Volume>"), "volume"),
    ],
    ids=["padding", "encryption", "volume"],
)
def test_what_cannot_be_read_is_named_and_described(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    path = tree()[0].write(tmp_path / "disk.hdd")
    xml = path / "DiskDescriptor.xml"
    xml.write_text(xml.read_text().replace(*change))
    with pytest.raises(UnsupportedFeature, match=says):
        open_disk(path)
    info = image_info(path)[0].image
    assert any(says in note for note in info.notes)
    assert info.encrypted == (says == "encrypted")


def test_the_empty_encryption_element_of_parallels_desktop_means_none(tmp_path: Path) -> None:
    bundle, contents = tree()
    bundle.parameters = f"<Encryption><Engine>{NULL}</Engine><Data></Data></Encryption>"
    assert content_of(bundle.write(tmp_path / "disk.hdd")) == contents[TOP]


def test_a_descriptor_is_known_by_its_root(tmp_path: Path) -> None:
    text = tree()[0].xml()
    body = text[text.index("<Parallels") :]
    path = tmp_path / "a"
    for head in ("", "\ufeff", "<?xml version='1.0'?>", "<?xml version='1.0'?>\n<!-- x -->\n"):
        path.write_text(head + body)
        with open_storage(path) as storage:
            assert identify(storage).name == "parallels", head
    for other in (
        "<?xml version='1.0'?><domain/>",
        "<?xml version='1.0'?><Parallels_disk_images/>",
    ):
        path.write_text(other.ljust(512))
        with open_storage(path) as storage:
            assert identify(storage).name == "raw"


# Size


def test_an_empty_image_of_64_tib_is_opened_mapped_and_converted_at_once(tmp_path: Path) -> None:
    path, out = tmp_path / "a.hds", tmp_path / "b.hds"
    create(path, 64 << 40, format="parallels")
    with open_disk(path) as disk:
        assert list(disk.spans()) == [(0, 64 << 40, Kind.ABSENT)]
        assert disk.read((64 << 40) - 512, 512) == bytes(512)
    convert(path, out)
    assert out.stat().st_size == path.stat().st_size
    assert out.stat().st_blocks * 512 < MIB


def test_a_few_clusters_in_a_bat_of_many_pages_are_found(tmp_path: Path) -> None:
    path, raw = tmp_path / "a.hds", tmp_path / "raw"
    marks = {0: b"a", 255 * MIB: b"b", 256 * MIB: b"c", 700 * MIB: b"d", 900 * MIB - 1: b"e"}
    with raw.open("wb") as file:
        file.truncate(900 * MIB)
        for offset, mark in marks.items():
            file.seek(offset)
            file.write(mark)
    convert(raw, path, options={"cluster_size": "4k"})
    with open_disk(path) as disk:
        data = [start for start, _, kind in disk.spans() if kind == Kind.DATA]
        assert data == [offset // 4096 * 4096 for offset in marks]
        assert [disk.read(offset, 1) for offset in marks] == list(marks.values())


def test_the_size_of_a_bundle_is_that_of_its_files(tmp_path: Path) -> None:
    path = tree()[0].write(tmp_path / "disk.hdd")
    (info,) = image_info(path)
    assert info.file_size == sum(file.stat().st_size for file in path.iterdir())
    assert info.actual_size == sum(file.stat().st_blocks * 512 for file in path.iterdir())
