"""convert, create, compare and dd do with their flags what qemu-img does with the same ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import peers
from run_vmimg import vmimg, vmimg_json

pytestmark = pytest.mark.peer("qemu-img", "qemu-io")


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ((), "out.raw"),
        ((), "out.qcow2"),
        (("-c",), "out.qcow2"),
        (("-c", "--level", "best", "-o", "compression_type=zstd"), "out.qcow2"),
        (("-O", "qcow2", "-o", "cluster_size=4k", "-o", "compat=0.10"), "out.img"),
        (("-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k,lazy_refcounts"), "out"),
        (("-S", "0"), "out.raw"),
        (("-t", "none", "-T", "none", "-W", "-m", "4", "-C", "-p"), "out.raw"),
    ],
)
def test_the_target_holds_the_same_disk(
    images: Path, tmp_path: Path, options: tuple[str, ...], target: str
) -> None:
    out = vmimg("convert", *options, images / "top.qcow2", tmp_path / target)
    assert out.raw == b""
    peers.run("qemu-img", "compare", images / "top.qcow2", tmp_path / target)
    if "-O" in options or target.endswith("qcow2"):
        peers.run("qemu-img", "check", "-f", "qcow2", tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == [target]


def test_options_arrive_in_the_image(images: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.qcow2"
    vmimg("convert", "-o", "cluster_size=128k,refcount_bits=8", images / "base.qcow2", target)
    info = peers.run_json("qemu-img", "info", "--output", "json", target)
    assert info["cluster-size"] == 128 << 10
    assert info["format-specific"]["data"]["refcount-bits"] == 8


def test_two_commas_are_one_in_a_value(tmp_path: Path) -> None:
    vmimg("create", "-q", "-o", "data_file=a,,b.raw,lazy_refcounts=on", tmp_path / "x.qcow2", "1M")
    assert (tmp_path / "a,b.raw").exists()
    data = vmimg_json("info", tmp_path / "x.qcow2")["format-specific"]["data"]
    assert (data["data-file"], data["lazy-refcounts"]) == ("a,b.raw", True)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("before", "before"),
        ("snapshot.id=1", "before"),
        ("snapshot.name=1", "1"),
        ("snapshot.id=2,snapshot.name=1", "1"),
    ],
)
def test_l_takes_ids_and_names_as_qemu_img_does(
    images: Path, tmp_path: Path, option: str, name: str
) -> None:
    ours, theirs = tmp_path / "ours.raw", tmp_path / "theirs.raw"
    vmimg("convert", "-l", option, images / "base.qcow2", ours)
    snapshot = f"snapshot.name={name}"
    peers.run("qemu-img", "convert", "-O", "raw", "-l", snapshot, images / "base.qcow2", theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_snapshot_that_is_not_there_is_named(images: Path, tmp_path: Path) -> None:
    for option in ("after", "snapshot.id=2,snapshot.name=before"):
        done = vmimg("convert", "-l", option, images / "base.qcow2", tmp_path / "x.raw", ok=(1,))
        assert option in done.err


def test_an_existing_target_is_replaced_only_by_force(images: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.raw"
    target.write_bytes(b"mine")
    done = vmimg("convert", images / "sparse.raw", target, ok=(1,))
    assert "--force" in done.err
    assert target.read_bytes() == b"mine"
    vmimg("convert", "--force", images / "sparse.raw", target)
    peers.run("qemu-img", "compare", "-f", "raw", images / "sparse.raw", target)


def test_n_writes_into_the_image_that_is_there(images: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.qcow2"
    peers.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "refcount_bits=32", target, "12M")
    peers.run("qemu-io", "-c", "write -P 99 4M 64k", target)
    vmimg("convert", "-n", "-O", "qcow2", images / "top.qcow2", target)
    peers.run("qemu-img", "compare", images / "top.qcow2", target)
    peers.run("qemu-img", "check", target)
    data = vmimg_json("info", target)["format-specific"]["data"]
    assert data["refcount-bits"] == 32


def test_b_stores_only_what_differs(copies: Path) -> None:
    target = copies / "thin.qcow2"
    base = ("-B", "base.qcow2", "-F", "qcow2")
    vmimg("convert", *base, copies / "overlay.qcow2", target, cwd=copies)
    peers.run("qemu-img", "compare", copies / "overlay.qcow2", target)
    depths = {row["depth"] for row in vmimg_json("map", target) if row["data"]}
    assert depths == {0, 1}
    assert target.stat().st_size < (copies / "base.qcow2").stat().st_size


@pytest.mark.parametrize("options", [("-O", "raw"), ("-O", "qcow2"), ("-O", "qcow2", "-c")])
def test_the_stream_equals_the_file(images: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    vmimg("convert", *options, images / "top.qcow2", tmp_path / "file")
    stream = vmimg("convert", *options, "-p", images / "top.qcow2", "-")
    assert stream.raw == (tmp_path / "file").read_bytes()


def test_standard_input_is_a_raw_disk(images: Path, tmp_path: Path) -> None:
    disk = (images / "sparse.raw").read_bytes()
    vmimg("convert", "-", tmp_path / "out.qcow2", input=disk)
    peers.run("qemu-img", "compare", images / "sparse.raw", tmp_path / "out.qcow2")


@pytest.mark.parametrize("verb", [("convert", "-O"), ("create", "-f"), ("measure", "-O")])
@pytest.mark.parametrize("question", ["help", "?", "cluster_size=4k,help"])
def test_o_help_lists_what_the_format_takes(verb: tuple[str, str], question: str) -> None:
    from vmimg.formats import FORMATS

    out = vmimg(*verb, "qcow2", "-o", question).out
    for option in FORMATS["qcow2"].options:
        assert f"{option.name}=" in out
        assert option.help in out


def test_create_makes_what_qemu_img_reads(tmp_path: Path) -> None:
    vmimg("create", "-f", "qcow2", "-o", "cluster_size=1M", tmp_path / "a.img", "1.5G")
    info = peers.run_json("qemu-img", "info", "--output", "json", tmp_path / "a.img")
    assert (info["virtual-size"], info["cluster-size"]) == (3 << 29, 1 << 20)
    vmimg("create", "-o", "size=1M", tmp_path / "b.raw")
    assert (tmp_path / "b.raw").stat().st_size == 1 << 20


def test_an_overlay_is_as_large_as_its_backing_file(copies: Path) -> None:
    vmimg("create", "-b", "top.qcow2", "-F", "qcow2", "new.qcow2", cwd=copies)
    peers.run("qemu-img", "compare", copies / "top.qcow2", copies / "new.qcow2")
    assert vmimg_json("info", copies / "new.qcow2")["backing-filename"] == "top.qcow2"


def test_u_names_a_backing_file_that_is_not_there(tmp_path: Path) -> None:
    target = tmp_path / "new.qcow2"
    options = ("-b", "later.raw", "-F", "raw")
    vmimg("create", *options, target, "1M", ok=(1,))
    assert not target.exists()
    vmimg("create", "-u", *options, target, ok=(2,))
    vmimg("create", "-u", *options, target, "1M")
    assert vmimg_json("info", target)["backing-filename"] == "later.raw"


@pytest.mark.parametrize(
    ("options", "a", "b"),
    [
        ((), "top.qcow2", "top.qcow2"),
        ((), "base.qcow2", "compressed.qcow2"),
        ((), "base.qcow2", "overlay.qcow2"),
        ((), "sparse.raw", "over-raw.qcow2"),
        ((), "bitmap.qcow2", "empty.qcow2"),
        (("-s",), "bitmap.qcow2", "empty.qcow2"),
        (("-s",), "base.qcow2", "compressed.qcow2"),
        (("-q",), "base.qcow2", "overlay.qcow2"),
        (("-f", "raw", "-F", "qcow2"), "sparse.raw", "over-raw.qcow2"),
    ],
)
def test_compare_says_and_exits_as_qemu_img_does(
    images: Path, options: tuple[str, ...], a: str, b: str
) -> None:
    theirs = peers.run("qemu-img", "compare", *options, a, b, cwd=images, ok=(0, 1))
    ours = vmimg("compare", *options, a, b, cwd=images, ok=(0, 1))
    assert ours.code == theirs.returncode
    if "-s" in options and "size" not in ours.out and ours.code:
        # Which offset is named depends on how a range of zeros is stored.
        assert ours.out.startswith("Strict mode: Offset ")
        return
    assert ours.out == theirs.stdout.decode()


def test_a_comparison_that_fails_exits_with_2(images: Path) -> None:
    vmimg("compare", images / "base.qcow2", images / "nothing", ok=(2,))
    vmimg("compare", images / "base.qcow2", ok=(2,))


@pytest.mark.parametrize("operands", [("bs=1M", "count=2"), ("bs=3M", "skip=1"), (), ("count=10",)])
def test_dd_copies_what_qemu_img_copies(
    images: Path, tmp_path: Path, operands: tuple[str, ...]
) -> None:
    source, ours, theirs = images / "overlay.qcow2", tmp_path / "a.raw", tmp_path / "b.raw"
    vmimg("dd", f"if={source}", f"of={ours}", *operands)
    peers.run("qemu-img", "dd", "-O", "raw", f"if={source}", f"of={theirs}", *operands)
    assert ours.read_bytes() == theirs.read_bytes()


def test_dd_counts_from_where_skip_ends(images: Path, tmp_path: Path) -> None:
    # As its manual and every other dd say; qemu-img 7.2 itself counts what it skips.
    source, part = images / "sparse.raw", tmp_path / "part.raw"
    vmimg("dd", f"if={source}", f"of={part}", "bs=64k", "skip=1", "count=2")
    assert part.read_bytes() == source.read_bytes()[64 << 10 : 192 << 10]


def test_progress_for_programs_ends_with_everything_done(images: Path, tmp_path: Path) -> None:
    done = vmimg("convert", "--progress", "json", images / "top.qcow2", tmp_path / "x.raw")
    steps = [json.loads(line) for line in done.err.splitlines()]
    assert steps[-1] == {"done": 12 << 20, "total": 12 << 20}
    assert [step["done"] for step in steps] == sorted(step["done"] for step in steps)


def test_p_without_a_terminal_prints_percent_as_qemu_img_does(images: Path, tmp_path: Path) -> None:
    done = vmimg("convert", "-p", images / "top.qcow2", tmp_path / "x.raw")
    assert done.err.endswith("    (100.00/100%)\r\n")
    assert vmimg("convert", "--force", images / "top.qcow2", tmp_path / "x.raw").err == ""
    quiet = ("-p", "-q", "--force")
    assert vmimg("convert", *quiet, images / "top.qcow2", tmp_path / "x.raw").err == ""


def test_an_image_in_use_is_refused_and_shared_by_u(copies: Path) -> None:
    import subprocess

    image = copies / "base.qcow2"
    held = subprocess.Popen(
        [str(peers.find("qemu-io")), str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert held.stdin is not None and held.stdout is not None
        held.stdin.write(b"read 0 512\n")
        held.stdin.flush()
        held.stdout.readline()  # it has the image open by now
        for verb in ("map", "info"):
            assert "lock" in vmimg(verb, image, ok=(1,)).err
            vmimg(verb, "-U", image)
    finally:
        held.communicate(b"quit\n", timeout=30)
