"""open_disk follows what images name, as far as the policy goes and no further."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import peers
from vmimg import storage as storages
from vmimg.disk.policy import ParentPolicy
from vmimg.errors import (
    ChainError,
    FormatError,
    InUseError,
    OptionError,
    StorageError,
    UnsafeImage,
    VmimgError,
)
from vmimg.formats.detect import detect, identify
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk, open_storage_disk
from vmimg.formats.qcow2 import structures as s
from vmimg.formats.qcow2.header import pack_header, read_header
from vmimg.storage import MemoryStorage

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")

MIB = 1 << 20


def make(path: Path, size: str = "1M", *options: str) -> Path:
    """An empty qcow2 image."""
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", *options, path, size)
    return path


def fill(path: Path, pattern: int, where: str = "0 1M", format: str = "qcow2") -> None:
    peers.run("qemu-io", "-f", format, "-c", f"write -P {pattern} {where}", path)


def overlay(path: Path, named: str, format: str | None = "qcow2", size: str = "1M") -> Path:
    """An image that names a parent, which need not be there."""
    return rename_parent(make(path, size), named, format)


def rename_parent(path: Path, named: str, format: str | None) -> Path:
    """Rewrite the header: another parent, another format."""
    with storages.open(path, "rw") as storage:
        header = read_header(storage)
        header.backing_file, header.backing_format = named, format
        storage.write(0, pack_header(header))
    return path


def set_incompatible(path: Path, bits: int) -> Path:
    with storages.open(path, "rw") as storage:
        header = read_header(storage)
        header.incompatible_features |= bits
        storage.write(0, pack_header(header))
    return path


def test_a_chain_is_read_through_all_of_its_layers(tmp_path: Path) -> None:
    fill(make(tmp_path / "base.qcow2"), 1)
    fill(overlay(tmp_path / "middle.qcow2", "base.qcow2"), 2, "64k 64k")
    top = overlay(tmp_path / "top.qcow2", "middle.qcow2")
    fill(top, 3, "128k 64k")
    with open_disk(top) as disk:
        assert [layer.format for layer in disk.layers] == ["qcow2"] * 3
        assert [disk.read(n << 16, 1)[0] for n in range(4)] == [1, 2, 3, 1]


def test_a_parent_is_looked_for_beside_its_child_not_beside_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    fill(make(tmp_path / "images/base.qcow2"), 5)
    overlay(tmp_path / "images/top.qcow2", "base.qcow2")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with open_disk("../images/top.qcow2") as disk:
        assert disk.read(0, 1) == b"\5"


def test_a_linked_image_has_its_parent_where_the_real_file_is(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    fill(make(tmp_path / "images/base.qcow2"), 5)
    overlay(tmp_path / "images/top.qcow2", "base.qcow2")
    (tmp_path / "link.qcow2").symlink_to("images/top.qcow2")
    with open_disk(tmp_path / "link.qcow2") as disk:
        assert disk.read(0, 1) == b"\5"


@pytest.mark.parametrize("named", ["../base.qcow2", "sub/../../base.qcow2", "{absolute}", "link"])
def test_a_parent_outside_is_refused_until_its_directory_is_allowed(
    tmp_path: Path, named: str
) -> None:
    fill(make(tmp_path / "base.qcow2"), 9)
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    (home / "link").symlink_to("../base.qcow2")
    top = overlay(home / "top.qcow2", named.format(absolute=tmp_path / "base.qcow2"))
    with pytest.raises(UnsafeImage, match=f"--allow-dir {tmp_path}"):
        open_disk(top)
    with open_disk(top, policy=ParentPolicy(allowed=(tmp_path,))) as disk:
        assert disk.read(0, 1) == b"\t"


def test_a_directory_is_not_allowed_because_its_name_begins_alike(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home-of-others").mkdir()
    make(tmp_path / "home-of-others/base.qcow2")
    top = overlay(tmp_path / "home/top.qcow2", "../home-of-others/base.qcow2")
    with pytest.raises(UnsafeImage):
        open_disk(top)


@pytest.mark.parametrize(
    "named",
    [
        'json:{"driver":"raw","file":{"filename":"/etc/passwd"}}',
        "nbd://localhost/x",
        "nbd:localhost:10809",
        "https://example.com/base.qcow2",
        "rbd:pool/image",
        "ssh://host/base",
        "iscsi://host/target/0",
        "fat:rw:/etc",
        "host_device:/dev/sda",
    ],
)
def test_a_parent_that_is_no_plain_file_is_refused(tmp_path: Path, named: str) -> None:
    with pytest.raises(VmimgError) as caught:
        open_disk(overlay(tmp_path / "top.qcow2", named))
    assert isinstance(caught.value, (UnsafeImage, ChainError))
    assert "top.qcow2" in str(caught.value)


AUDITED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
from vmimg.errors import VmimgError
from vmimg.formats.checking import check
from vmimg.formats.info import image_info
from vmimg.formats.opening import open_disk
for use in (
    lambda path: open_disk(path).read(0, 512),
    lambda path: open_disk(path, writable=True).write(0, bytes(512)),
    lambda path: image_info(path),
    lambda path: image_info(path, chain=True),
    lambda path: check(path),
):
    try:
        use(sys.argv[1])
        print("done")
    except VmimgError as error:
        print(type(error).__name__)
sys.exit(any("passwd" in str(path) for path in opened))
"""


@pytest.mark.parametrize("how", ["/etc/passwd", "../../../../../../../../etc/passwd", "link"])
@pytest.mark.parametrize("role", ["backing file", "data file"])
def test_a_file_that_is_none_of_the_images_business_is_never_opened(
    tmp_path: Path, how: str, role: str
) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    image = tmp_path / "image.qcow2"
    if role == "backing file":
        overlay(image, how, "raw")
    else:
        make(image, "1M", "-o", f"data_file={tmp_path / 'data'}")
        with storages.open(image, "rw") as storage:
            header = read_header(storage)
            header.data_file = how
            storage.write(0, pack_header(header))
    traced = tmp_path / "traced"
    command = [sys.executable, "-c", AUDITED, str(image)]
    strace = "/usr/bin/strace"
    if os.access(strace, os.X_OK):  # the kernel's word where it is to be had, not only Python's
        command = [strace, "-f", "-o", str(traced), "-e", "trace=openat,open", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    assert said[:2] == ["UnsafeImage"] * 2
    assert said[2] == "done"  # info names what it was told, and opens nothing
    if traced.exists():
        assert "passwd" not in traced.read_text()
    if role == "data file":
        assert image_info(image)[0].image.data_file == how


def test_a_missing_parent_is_said_with_the_name_of_its_child(tmp_path: Path) -> None:
    top = overlay(tmp_path / "top.qcow2", "gone.qcow2")
    with pytest.raises(ChainError, match=r"top\.qcow2.*backing file.*gone\.qcow2"):
        open_disk(top)
    assert image_info(top)[0].image.parent is not None
    with pytest.raises(ChainError, match="gone"):
        image_info(top, chain=True)


def test_a_missing_data_file_is_said(tmp_path: Path) -> None:
    image = make(tmp_path / "a.qcow2", "1M", "-o", f"data_file={tmp_path / 'data'}")
    (tmp_path / "data").unlink()
    with pytest.raises(ChainError, match="data file"):
        open_disk(image)


@pytest.mark.parametrize("writable", [False, True])
def test_an_image_that_is_its_own_parent_is_a_loop(tmp_path: Path, writable: bool) -> None:
    top = overlay(tmp_path / "a.qcow2", "a.qcow2")
    with pytest.raises(ChainError, match="loops"):
        open_disk(top, writable=writable)


@pytest.mark.parametrize("writable", [False, True])
def test_a_loop_over_three_images_is_found(tmp_path: Path, writable: bool) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        overlay(tmp_path / f"{name}.qcow2", f"{parent}.qcow2")
    with pytest.raises(ChainError, match="loops"):
        open_disk(tmp_path / "a.qcow2", writable=writable)
    with pytest.raises(ChainError, match="loops"):
        image_info(tmp_path / "a.qcow2", chain=True)


def test_a_loop_through_a_hard_link_is_found(tmp_path: Path) -> None:
    os.link(overlay(tmp_path / "a.qcow2", "b.qcow2"), tmp_path / "b.qcow2")
    with pytest.raises(ChainError, match="loops"):
        open_disk(tmp_path / "a.qcow2")


def test_an_image_is_not_its_own_data_file(tmp_path: Path) -> None:
    image = make(tmp_path / "a.qcow2", "1M", "-o", f"data_file={tmp_path / 'data'}")
    with storages.open(image, "rw") as storage:
        header = read_header(storage)
        header.data_file = "a.qcow2"
        storage.write(0, pack_header(header))
    for writable in (False, True):
        with pytest.raises(ChainError, match="data file"):
            open_disk(image, writable=writable)


def test_a_chain_deeper_than_allowed_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "0.qcow2")
    for depth in range(1, 5):
        overlay(tmp_path / f"{depth}.qcow2", f"{depth - 1}.qcow2")
    with open_disk(tmp_path / "4.qcow2", policy=ParentPolicy(max_depth=5)) as disk:
        assert len(disk.layers) == 5
    with pytest.raises(ChainError, match="more than 4 layers"):
        open_disk(tmp_path / "4.qcow2", policy=ParentPolicy(max_depth=4))
    with pytest.raises(ChainError, match="more than 4 layers"):
        image_info(tmp_path / "4.qcow2", policy=ParentPolicy(max_depth=4), chain=True)


def test_a_chain_of_the_greatest_depth_is_read(tmp_path: Path) -> None:
    fill(make(tmp_path / "0.qcow2", "1M", "-o", "cluster_size=4k"), 7)
    make(tmp_path / "1.qcow2", "1M", "-o", "cluster_size=4k")
    rename_parent(tmp_path / "1.qcow2", "0.qcow2", "qcow2")
    template = (tmp_path / "1.qcow2").read_bytes()
    with storages.open(tmp_path / "1.qcow2") as storage:
        header = read_header(storage)
    depth = ParentPolicy().max_depth
    for number in range(2, depth + 1):
        header.backing_file = f"{number - 1}.qcow2"
        head = pack_header(header).ljust(4096, b"\0")
        (tmp_path / f"{number}.qcow2").write_bytes(head + template[4096:])
    with open_disk(tmp_path / f"{depth - 1}.qcow2") as disk:
        assert disk.read(5000, 3) == b"\7\7\7"
        assert [extent.depth for extent in disk.map()] == [depth - 1]
    with pytest.raises(ChainError, match="layers"):
        open_disk(tmp_path / f"{depth}.qcow2")


def test_the_format_of_a_parent_is_never_guessed(tmp_path: Path) -> None:
    fill(make(tmp_path / "base.qcow2"), 3)
    top = overlay(tmp_path / "top.qcow2", "base.qcow2", None)
    with pytest.raises(ChainError, match="--backing-format"):
        open_disk(top)
    with open_disk(top, policy=ParentPolicy(parent_format="qcow2")) as disk:
        assert disk.read(0, 1) == b"\3"


def test_a_declared_format_is_believed_over_the_bytes_and_the_user(tmp_path: Path) -> None:
    # CVE-2008-2004: a guest that owns a raw disk writes a qcow2 header into it.
    base = make(tmp_path / "base.raw")
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw")
    with open_disk(top, policy=ParentPolicy(parent_format="qcow2")) as disk:
        assert disk.read(0, 512) == base.read_bytes()[:512]


def test_an_unknown_declared_format_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "base.qcow2")
    with pytest.raises(ChainError, match="'sheepdog'"):
        open_disk(overlay(tmp_path / "top.qcow2", "base.qcow2", "sheepdog"))


def test_following_can_be_switched_off(tmp_path: Path) -> None:
    top = overlay(tmp_path / "top.qcow2", "/etc/passwd", "raw")
    with open_disk(top, policy=ParentPolicy(follow=False)) as disk:
        assert len(disk.layers) == 1


def test_the_parents_of_an_image_without_a_directory_are_not_looked_for(tmp_path: Path) -> None:
    top = overlay(tmp_path / "top.qcow2", "base.qcow2")
    with pytest.raises(UnsafeImage, match="no directory"):
        open_storage_disk(MemoryStorage(top.read_bytes()))
    plain = make(tmp_path / "plain.qcow2").read_bytes()
    with open_storage_disk(MemoryStorage(plain)) as disk:
        assert disk.size == MIB


@pytest.mark.parametrize("bits", [s.DIRTY, s.CORRUPT])
def test_a_damaged_image_is_read_but_not_written(tmp_path: Path, bits: int) -> None:
    image = make(tmp_path / "a.qcow2")
    fill(image, 4)
    set_incompatible(image, bits)
    with open_disk(image) as disk:
        assert disk.read(0, 1) == b"\4"
    with pytest.raises(FormatError, match="check --repair"):
        open_disk(image, writable=True)


def test_nothing_stays_open_when_opening_fails(tmp_path: Path) -> None:
    make(tmp_path / "base.qcow2")
    overlay(tmp_path / "middle.qcow2", "base.qcow2")
    top = overlay(tmp_path / "top.qcow2", "middle.qcow2")
    os.truncate(tmp_path / "base.qcow2", 100)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FormatError):
        open_disk(top)
    assert os.listdir("/proc/self/fd") == before
    with storages.open(top, "rw"):  # and no lock is left
        pass


def test_a_snapshot_is_opened_by_id_and_by_name_and_never_written(tmp_path: Path) -> None:
    image = make(tmp_path / "a.qcow2")
    fill(image, 1)
    peers.run("qemu-img", "snapshot", "-c", "first", image)
    fill(image, 2)
    peers.run("qemu-img", "snapshot", "-c", "1st", image)
    fill(image, 3)
    for wanted, pattern in (("1", 1), ("first", 1), ("2", 2), ("1st", 2), (None, 3)):
        with open_disk(image, snapshot=wanted) as disk:
            assert set(disk.read(0, MIB)) == {pattern}
    with pytest.raises(OptionError, match=r"no snapshot 'third'.*1 \(first\), 2 \(1st\)"):
        open_disk(image, snapshot="third")
    with pytest.raises(OptionError, match="not written"):
        open_disk(image, snapshot="1", writable=True)


def test_an_id_comes_before_a_name(tmp_path: Path) -> None:
    image = make(tmp_path / "a.qcow2")
    fill(image, 1)
    peers.run("qemu-img", "snapshot", "-c", "2", image)
    fill(image, 2)
    peers.run("qemu-img", "snapshot", "-c", "other", image)
    with open_disk(image, snapshot="2") as disk:
        assert disk.read(0, 1) == b"\2"


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "a.qcow2")
    with pytest.raises(OptionError, match="no format 'nonsense'"):
        open_disk(tmp_path / "not there", format="nonsense")
    with pytest.raises(OptionError, match="-U"):
        open_disk(image, writable=True, share=True)
    with pytest.raises(OptionError, match="no snapshots"):
        open_disk(image, format="raw", snapshot="1")
    with pytest.raises(StorageError):
        open_disk(tmp_path / "not there")


def test_a_disk_that_is_written_is_not_shared_unless_asked(tmp_path: Path) -> None:
    image = make(tmp_path / "a.qcow2")
    with storages.open(image, "rw"):
        with pytest.raises(InUseError):
            open_disk(image)
        with open_disk(image, share=True) as disk:
            assert disk.size == MIB


def test_formats_are_found_by_structure_not_by_name(tmp_path: Path) -> None:
    image = make(tmp_path / "a.raw")
    with storages.open(image) as storage:
        assert [claim.format.name for claim in detect(storage)] == ["qcow2", "raw"]
        assert identify(storage).name == "qcow2"
    (tmp_path / "b.qcow2").write_bytes(b"QFI nonsense")
    with storages.open(tmp_path / "b.qcow2") as storage:
        assert [claim.format.name for claim in detect(storage)] == ["raw"]


def test_a_file_that_two_formats_claim_is_reported_as_both_and_opened_as_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from vmimg.formats import detect as module
    from vmimg.formats.registry import all_formats, find

    image = make(tmp_path / "a.qcow2")
    twin = replace(find("qcow2"), name="twin")
    monkeypatch.setattr(module, "all_formats", lambda: (*all_formats(), twin))
    with storages.open(image) as storage:
        assert [claim.format.name for claim in detect(storage)] == ["qcow2", "twin", "raw"]
    with pytest.raises(UnsafeImage, match="qcow2 and twin"):
        open_disk(image)
    with open_disk(image, format="qcow2") as disk:
        assert disk.size == MIB


def test_a_qcow_image_is_claimed_by_its_version_alone(tmp_path: Path) -> None:
    peers.run("qemu-img", "create", "-q", "-f", "qcow", tmp_path / "a.qcow", "1M")
    with storages.open(tmp_path / "a.qcow") as storage:
        assert [claim.format.name for claim in detect(storage)] == ["qcow", "raw"]
    with pytest.raises(VmimgError, match="version 1"):
        open_disk(tmp_path / "a.qcow", format="qcow2")


def test_no_implementation_is_imported_for_a_format_whose_magic_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.img").write_bytes(bytes(4096))
    program = f"""
    import sys
    from vmimg.formats.opening import open_disk
    open_disk({str(tmp_path / "a.img")!r}).read(0, 512)
    wrong = {{"numpy", "vmimg.formats.qcow2.driver", "rich"}} & set(sys.modules)
    sys.exit(str(wrong) if wrong else 0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
