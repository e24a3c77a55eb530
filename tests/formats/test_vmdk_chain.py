"""Chains of VMDK deltas: parents named, found, checked by their CID, and refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import peers
from samples import awkward_disk, write_sparse
from vmdk_by_hand import cowd, descriptor, hosted, se_sparse
from vmimg.disk.extent import Kind
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import ChainError, UnsafeImage
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")

MIB = 1 << 20
SIZE = 3 * MIB + 512


def make_base(folder: Path, subformat: str = "monolithicSparse") -> bytes:
    content = awkward_disk(SIZE, 11)
    write_sparse(folder / "raw", content)
    options = f"subformat={subformat}"
    command = ("convert", "-O", "vmdk", "-o", options, folder / "raw", folder / "base.vmdk")
    peers.run("qemu-img", *command)
    return content


def make_child(folder: Path, name: str, parent: str, *options: str) -> Path:
    given = [word for option in options for word in ("-o", option)]
    command = ("create", "-q", "-f", "vmdk", *given, "-F", "vmdk", "-b", parent, name)
    peers.run("qemu-img", *command, cwd=folder)
    return folder / name


def cid_of(path: Path) -> int:
    cid: int = image_info(path)[0].image.details["cid"]
    return cid


def by_qemu(image: Path) -> bytes:
    raw = image.with_suffix(".out")
    peers.run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, raw)
    return raw.read_bytes()


def read_all(path: Path, policy: ParentPolicy | None = None) -> bytes:
    with open_disk(path, policy=policy or ParentPolicy()) as disk:
        return disk.read(0, disk.size)


@pytest.mark.parametrize("subformat", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_a_chain_of_three_reads_as_qemu_reads_it(tmp_path: Path, subformat: str) -> None:
    content = bytearray(make_base(tmp_path, "monolithicFlat"))
    noise = random.Random(12)
    parent = "base.vmdk"
    for number in range(2):
        image = make_child(tmp_path, f"{number}.vmdk", parent, f"subformat={subformat}")
        with open_disk(image, writable=True) as disk:
            assert disk.read(0, SIZE) == content
            for _ in range(6):
                start = noise.randrange(SIZE)
                data = noise.randbytes(min(SIZE - start, noise.choice([1, 5000, 100_000])))
                disk.write(start, data)
                content[start : start + len(data)] = data
        parent = f"{number}.vmdk"
        assert read_all(image) == content == by_qemu(image)
        assert check(image).exit_code == 0
    depths = []
    with open_disk(tmp_path / "1.vmdk") as disk:
        depths = sorted({extent.depth for extent in disk.map()})
    assert depths == [0, 1, 2]
    infos = image_info(tmp_path / "1.vmdk", chain=True)
    assert [info.image.format for info in infos] == ["vmdk"] * 3
    assert infos[0].image.parent is not None
    assert (infos[0].image.parent.path, infos[0].image.parent.format) == ("0.vmdk", "vmdk")


def test_zeros_hide_the_parent(tmp_path: Path) -> None:
    content = bytearray(make_base(tmp_path))
    for name, option in (("flag.vmdk", "zeroed_grain=on"), ("plain.vmdk", "zeroed_grain=off")):
        image = make_child(tmp_path, name, "base.vmdk", option)
        with open_disk(image, writable=True) as disk:
            disk.zero(1000, 300_000)
            disk.discard(MIB, MIB)
            kinds = {kind for _, _, kind in disk.spans(65536, 131072)}
            assert kinds == ({Kind.ZERO} if "on" in option else {Kind.DATA})
        expected = bytearray(content)
        expected[1000:301_000] = bytes(300_000)
        expected[MIB : 2 * MIB] = bytes(MIB)
        assert read_all(image) == expected == by_qemu(image)


def test_a_parent_that_changed_is_refused(tmp_path: Path) -> None:
    content = make_base(tmp_path)
    image = make_child(tmp_path, "child.vmdk", "base.vmdk")
    made_for = cid_of(tmp_path / "base.vmdk")
    assert read_all(image) == content
    with open_disk(tmp_path / "base.vmdk", writable=True) as disk:
        disk.write(0, b"changed")
    now = cid_of(tmp_path / "base.vmdk")
    with pytest.raises(ChainError, match=f"{now:08x}.*{made_for:08x}"):
        open_disk(image)
    assert read_all(image, ParentPolicy(allow_changed=True)) == b"changed" + content[7:]


def test_a_write_that_qemu_made_is_noticed_too(tmp_path: Path) -> None:
    make_base(tmp_path)
    image = make_child(tmp_path, "child.vmdk", "base.vmdk")
    peers.run("qemu-io", "-f", "vmdk", "-c", "write -P 1 0 512", tmp_path / "base.vmdk")
    with pytest.raises(ChainError, match="CID"):
        open_disk(image)


def test_writing_to_the_child_leaves_the_parent_its_cid(tmp_path: Path) -> None:
    make_base(tmp_path)
    before = (tmp_path / "base.vmdk").read_bytes()
    image = make_child(tmp_path, "child.vmdk", "base.vmdk")
    with open_disk(image, writable=True) as disk:
        disk.write(5, b"x")
    assert (tmp_path / "base.vmdk").read_bytes() == before
    assert image_info(image)[0].image.details["parent-cid"] == cid_of(tmp_path / "base.vmdk")
    peers.run("qemu-io", "-r", "-f", "vmdk", "-c", "read -P 0x78 5 1", image)


@pytest.mark.parametrize("kind", ["vmfsSparse", "seSparse"])
def test_snapshots_of_esx(tmp_path: Path, kind: str) -> None:
    below = awkward_disk(SIZE, 13)
    write_sparse(tmp_path / "vm-flat.vmdk", below)
    flat = descriptor(f'RW {SIZE // 512} VMFS "vm-flat.vmdk"', kind="vmfs", cid="deadbeef")
    (tmp_path / "vm.vmdk").write_bytes(flat)
    above = bytearray(SIZE)
    above[65536 : 65536 + 8192] = b"z" * 8192
    extent = cowd(bytes(above)) if kind == "vmfsSparse" else se_sparse(bytes(above))
    (tmp_path / "vm-000001-delta.vmdk").write_bytes(extent)
    line = {"vmfsSparse": "VMFSSPARSE", "seSparse": "SESPARSE"}[kind]
    text = descriptor(
        f'RW {SIZE // 512} {line} "vm-000001-delta.vmdk"', kind=kind, parent="deadbeef",
        hint="vm.vmdk",
    )  # fmt: skip
    image = tmp_path / "vm-000001.vmdk"
    image.write_bytes(text)
    expected = bytearray(below)
    expected[65536 : 65536 + 8192] = b"z" * 8192
    assert read_all(image) == expected == by_qemu(image)
    if kind == "vmfsSparse":
        with open_disk(image, writable=True) as disk:
            disk.write(MIB + 7, b"written")
        expected[MIB + 7 : MIB + 14] = b"written"
        assert read_all(image) == expected == by_qemu(image)
        assert check(image).exit_code == 0


@pytest.mark.parametrize(
    "hint", [r"C:\VMs\My Disk\base.vmdk", "/vmfs/volumes/4a1b/vm/base.vmdk", "./base.vmdk"]
)
def test_a_parent_named_where_it_was_once_is_found_beside_the_child(
    tmp_path: Path, hint: str
) -> None:
    content = make_base(tmp_path)
    text = descriptor(
        f'RW {SIZE // 512} SPARSE "child.vmdk"', parent=f"{cid_of(tmp_path / 'base.vmdk'):08x}",
        hint=hint,
    )  # fmt: skip
    (tmp_path / "child.vmdk").write_bytes(hosted(bytes(SIZE), text=text))
    assert read_all(tmp_path / "child.vmdk") == content


def test_a_parent_outside_is_refused_and_so_is_a_loop(tmp_path: Path) -> None:
    line = f'RW {SIZE // 512} SPARSE "x.vmdk"'
    outside = descriptor(line, hint="/etc/passwd", parent="1")
    (tmp_path / "outside.vmdk").write_bytes(hosted(bytes(SIZE), text=outside))
    with pytest.raises((UnsafeImage, ChainError)):
        open_disk(tmp_path / "outside.vmdk")
    for name, other in (("a", "b"), ("b", "a")):
        text = descriptor(line, hint=f"{other}.vmdk", parent="0123abcd")
        (tmp_path / f"{name}.vmdk").write_bytes(hosted(bytes(SIZE), text=text))
    with pytest.raises(ChainError, match="loops"):
        open_disk(tmp_path / "a.vmdk")


def test_a_parent_that_is_no_vmdk_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(bytes(SIZE))
    text = descriptor(f'RW {SIZE // 512} SPARSE "x.vmdk"', hint="base.raw", parent="1")
    (tmp_path / "child.vmdk").write_bytes(hosted(bytes(SIZE), text=text))
    with pytest.raises(Exception, match="not a VMDK"):
        open_disk(tmp_path / "child.vmdk")


def test_a_parent_may_be_shorter_than_its_child(tmp_path: Path) -> None:
    content = make_base(tmp_path)
    cid = f"{cid_of(tmp_path / 'base.vmdk'):08x}"
    text = descriptor(f'RW {4 * MIB // 512} SPARSE "x.vmdk"', hint="base.vmdk", parent=cid)
    (tmp_path / "child.vmdk").write_bytes(hosted(bytes(4 * MIB), text=text))
    assert read_all(tmp_path / "child.vmdk") == content.ljust(4 * MIB, b"\0")
