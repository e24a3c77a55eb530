"""convert: every way in and out is byte-exact, and qemu-img agrees."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import peers
from kinds import KINDS, Kind, qemu_view
from samples import awkward_disk, write_sparse
from vmimg.disk.stack import Disk
from vmimg.disk.views import EmptyLayer
from vmimg.errors import OptionError, StorageError, UnsafeImage, VmimgError
from vmimg.formats.checking import check
from vmimg.formats.opening import open_disk
from vmimg.formats.registry import FORMATS
from vmimg.transfer.compare import compare
from vmimg.transfer.convert import convert
from vmimg.transfer.create import create
from vmimg.transfer.measure import measure

SIZE = 5 * (1 << 20) + 512 * 3

QCOW2_OPTIONS: list[dict[str, Any]] = [
    {"compat": "0.10"},
    {"compat": "0.10", "cluster_size": 512},
    {"cluster_size": 512},
    {"cluster_size": 4096},
    {"cluster_size": 2 << 20},
    {"refcount_bits": 1},
    {"refcount_bits": 2, "cluster_size": 1024},
    {"refcount_bits": 8},
    {"refcount_bits": 64, "cluster_size": 512},
    {"lazy_refcounts": True},
    {"compression_type": "zstd"},
    {"extended_l2": True},
    {"extended_l2": True, "cluster_size": 16384},
    {"preallocation": "metadata"},
    {"preallocation": "falloc"},
    {"preallocation": "full", "extended_l2": True},
]


def label(options: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items())


def content_of(path: Path, **kwargs: Any) -> bytes:
    with open_disk(path, **kwargs) as disk:
        return disk.read(0, disk.size)


@pytest.fixture(scope="module")
def disk_content() -> bytes:
    return awkward_disk(SIZE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, disk_content: bytes) -> Path:
    return write_sparse(tmp_path_factory.mktemp("raw") / "disk.raw", disk_content)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("options", QCOW2_OPTIONS, ids=label)
def test_qemu_reads_what_we_write_with_every_option(
    tmp_path: Path, raw: Path, disk_content: bytes, options: dict[str, Any], compress: bool
) -> None:
    image = tmp_path / "image.qcow2"
    convert(raw, image, options=options, compress=compress)
    peers.run("qemu-img", "check", image)
    peers.run("qemu-img", "compare", raw, image)
    assert content_of(image) == disk_content
    back = tmp_path / "back.raw"
    convert(image, back)
    assert back.read_bytes() == disk_content


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("options", QCOW2_OPTIONS, ids=label)
def test_we_read_what_qemu_writes_with_every_option(
    tmp_path: Path, raw: Path, disk_content: bytes, options: dict[str, Any], compress: bool
) -> None:
    if compress and options.get("preallocation", "off") != "off":
        pytest.skip("qemu-img refuses to compress into a preallocated image")
    image, back = tmp_path / "image.qcow2", tmp_path / "back.raw"
    flags = [f"-o{key}={str(value).replace('True', 'on')}" for key, value in options.items()]
    peers.run("qemu-img", "convert", "-Oqcow2", *flags, *["-c"] * compress, raw, image)
    convert(image, back)
    assert back.read_bytes() == disk_content


@pytest.mark.parametrize("level", ["fast", "default", "best"])
@pytest.mark.parametrize("coder", ["zlib", "zstd"])
@pytest.mark.peer("qemu-img")
def test_every_level_is_read_by_qemu_and_a_harder_one_is_not_larger(
    tmp_path: Path, raw: Path, coder: str, level: str
) -> None:
    image = tmp_path / "image.qcow2"
    made = convert(raw, image, options={"compression_type": coder}, compress=True, level=level)
    peers.run("qemu-img", "check", image)
    peers.run("qemu-img", "compare", raw, image)
    plain = convert(raw, tmp_path / "plain.qcow2")
    assert made.file_size is not None and plain.file_size is not None
    assert made.file_size < plain.file_size


@pytest.mark.peer("7z")
@pytest.mark.parametrize("level", [None, "fast", "default", "best"])
def test_7zip_reads_what_we_write(
    tmp_path: Path, raw: Path, disk_content: bytes, level: str | None
) -> None:
    image = tmp_path / "image.qcow2"
    convert(raw, image, compress=level is not None, level=level or "default")
    assert peers.run("7z", "e", "-so", image).stdout == disk_content


@pytest.mark.peer("pyqcow")
def test_libyal_reads_what_we_write(tmp_path: Path, raw: Path, disk_content: bytes) -> None:
    # Plain clusters only: libqcow 20260703 misreads compressed ones, qemu-img's as well as ours.
    import pyqcow

    image = tmp_path / "image.qcow2"
    convert(raw, image)
    file = pyqcow.file()
    file.open(str(image))
    assert file.get_media_size() == SIZE
    assert file.read_buffer(SIZE) == disk_content
    file.close()


@pytest.mark.parametrize("options", [{}, {"cluster_size": 4096}, {"extended_l2": True}], ids=label)
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, raw: Path, options: dict[str, Any], compress: bool
) -> None:
    images = []
    for threads in (1, 2, 3, 8):
        image = tmp_path / f"{threads}.qcow2"
        convert(raw, image, options=options, compress=compress, threads=threads)
        images.append(image.read_bytes())
    assert all(image == images[0] for image in images)


STREAMED: list[tuple[str, dict[str, Any], bool]] = [
    *((kind.format, kind.options, False) for kind in KINDS),
    ("qcow2", {}, True),
    ("qcow2", {"compression_type": "zstd"}, True),
    ("qcow2", {"cluster_size": 512, "refcount_bits": 64}, True),
    ("qcow2", {"cluster_size": 512, "refcount_bits": 1}, True),
    ("qcow2", {"extended_l2": True, "preallocation": "metadata"}, False),
    ("qcow2", {"cluster_size": 2 << 20}, True),
]


@pytest.mark.parametrize(("format", "options", "compress"), STREAMED, ids=str)
def test_the_stream_equals_the_file(
    tmp_path: Path, raw: Path, format: str, options: dict[str, Any], compress: bool
) -> None:
    image = tmp_path / "disk"  # some formats know their own name; this is that of a stream
    convert(raw, image, format=format, options=options, compress=compress)
    files = sum(path.is_file() for path in tmp_path.rglob("*"))
    code = "import sys; from vmimg.transfer.convert import convert; convert(sys.argv[1], '-', "
    code += f"format={format!r}, options={options!r}, compress={compress!r})"
    done = subprocess.run([sys.executable, "-c", code, str(raw)], capture_output=True)
    if files > 1:
        assert done.returncode and b"be streamed" in done.stderr and not done.stdout
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout == image.read_bytes()


@pytest.mark.parametrize(("format", "options", "compress"), STREAMED, ids=str)
def test_measure_gives_the_exact_size_beforehand(
    tmp_path: Path, raw: Path, format: str, options: dict[str, Any], compress: bool
) -> None:
    image = tmp_path / "disk"
    convert(raw, image, format=format, options=options, compress=compress)
    measured = measure(raw, format=format, options=options, compress=compress)
    files = (path for path in tmp_path.rglob("*") if path.is_file())
    assert measured.required == sum(path.stat().st_size for path in files)
    estimate = measure(raw, format=format, options=options, estimate=True)
    assert measured.required <= estimate.required <= estimate.fully_allocated


@pytest.mark.parametrize("options", QCOW2_OPTIONS, ids=label)
def test_the_fully_allocated_size_is_that_of_a_full_image(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    if options.get("preallocation", "off") != "off":
        options = options | {"preallocation": "off"}
    source = tmp_path / "full.raw"
    source.write_bytes(b"full" * (SIZE // 4))
    image = tmp_path / "image.qcow2"
    convert(source, image, options=options)
    measured = measure(size=SIZE, format="qcow2", options=options)
    assert measured.fully_allocated == image.stat().st_size


def test_zeros_become_holes_unless_told_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "zeros.raw"
    source.write_bytes(bytes(4 << 20) + b"end".ljust(512, b"\0"))
    for sparse, least, most in ((4096, 0, 64 << 10), (0, 4 << 20, 5 << 20)):
        for name in ("out.raw", "out.qcow2"):
            convert(source, tmp_path / name, sparse=sparse, replace=True)
            taken = os.stat(tmp_path / name).st_blocks * 512
            assert least <= taken <= most + 4 * 65536, (sparse, name)
            assert compare(source, tmp_path / name).identical


def test_a_larger_sparse_size_keeps_short_runs_of_zeros(tmp_path: Path) -> None:
    source = tmp_path / "source.raw"
    source.write_bytes((b"x" * 4096 + bytes(4096)) * 64)
    taken = {}
    for sparse in (4096, 65536):
        out = tmp_path / f"{sparse}.raw"
        convert(source, out, sparse=sparse)
        taken[sparse] = out.stat().st_blocks * 512
        assert out.read_bytes() == source.read_bytes()
    assert taken[4096] < 65 * 4096 + 65536 < taken[65536]


# Sizes


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_alignment_grows_the_disk_with_zeros_and_reports_it(
    tmp_path: Path, raw: Path, disk_content: bytes, kind: Kind
) -> None:
    path = kind.path(tmp_path)
    done = convert(raw, path, format=kind.format, options=kind.options, align=1 << 20)
    assert (done.source_size, done.virtual_size) == (SIZE, 6 << 20)
    assert content_of(path) == disk_content.ljust(6 << 20, b"\0")


def test_alignment_is_said_on_the_command_line_unless_quiet(tmp_path: Path, raw: Path) -> None:
    for flags in ([], ["-q"]):
        command = [sys.executable, "-m", "vmimg", "convert", "--align", "1M", *flags, "--force"]
        done = subprocess.run(
            [*command, str(raw), str(tmp_path / "out.vhd")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said = f"grew from {SIZE} to {6 << 20} bytes"
        assert (said in done.stderr) == (not flags)
    with pytest.raises(OptionError, match="multiple of 512"):
        convert(raw, tmp_path / "x.raw", align=1000)
    with pytest.raises(OptionError, match="keeps its size"):
        convert(raw, tmp_path / "out.vhd", align=1 << 20, existing=True)


@pytest.mark.parametrize(
    "name", [f.name for f in FORMATS.values() if f.limits.larger and f.capabilities.create]
)
def test_a_disk_that_is_too_large_is_refused_with_the_name_of_what_holds_it(
    tmp_path: Path, name: str
) -> None:
    size = FORMATS[name].limits.max_size + 512
    with pytest.raises(OptionError, match=f"{FORMATS[name].limits.larger} holds more"):
        create(tmp_path / "x", size, format=name)
    with pytest.raises(OptionError, match="holds more"):
        convert(Disk([EmptyLayer(size)]), tmp_path / "x", format=name)
    assert list(tmp_path.iterdir()) == []


def test_large_blocks_keep_the_holes_in_them(tmp_path: Path) -> None:
    source = tmp_path / "source.raw"
    with open(source, "wb") as file:
        file.truncate(64 << 20)
        for start in range(0, 64 << 20, 2 << 20):
            file.seek(start + (1 << 20) - 100)
            file.write(b"a little" * 100)
    for kind in KINDS:
        path = kind.path(tmp_path / str(kind))
        path.parent.mkdir()
        convert(source, path, format=kind.format, options=kind.options)
        assert compare(source, path).identical
        taken = sum(os.stat(file).st_blocks * 512 for file in path.parent.rglob("*"))
        # Two are thick on purpose, ploop takes no file with holes, and UDRO has whole chunks.
        if kind.subformat not in ("vmfs", "vmfsEagerZeroedThick", "ploop", "UDRO"):
            assert taken < 8 << 20, kind


# Overlays


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("extended", [False, True])
def test_an_overlay_holds_only_what_differs(
    tmp_path: Path, disk_content: bytes, compat: str, extended: bool
) -> None:
    if extended and compat == "0.10":
        pytest.skip("version 2 has no subclusters")
    write_sparse(tmp_path / "base.raw", disk_content[: 3 << 20])
    changed = bytearray(disk_content)
    changed[1 << 20 : (1 << 20) + 70_000] = bytes(70_000)  # zeros over data
    changed[2 << 20 : (2 << 20) + 512] = b"changed!" * 64
    source = write_sparse(tmp_path / "changed.raw", bytes(changed))
    overlay = tmp_path / "overlay.qcow2"
    options = {"compat": compat, "extended_l2": extended}
    convert(source, overlay, options=options, backing="base.raw", backing_format="raw")
    peers.run("qemu-img", "check", overlay)
    peers.run("qemu-img", "compare", source, overlay)
    assert content_of(overlay) == bytes(changed)
    info = peers.run_json("qemu-img", "info", "--output=json", overlay)
    assert (info["backing-filename"], info["backing-filename-format"]) == ("base.raw", "raw")
    with open_disk(overlay) as disk:
        own = [e for e in disk.map() if e.depth == 0 and e.start < 3 << 20]
    assert sum(extent.length for extent in own) < 6 * 65536


@pytest.mark.peer("qemu-img", "qemu-io")
def test_converting_an_overlay_onto_its_own_base_keeps_it_small(tmp_path: Path, raw: Path) -> None:
    peers.run("qemu-img", "convert", "-Oqcow2", raw, tmp_path / "base.qcow2")
    peers.run(
        "qemu-img", "create", "-q", "-fqcow2", "-Fqcow2", "-bbase.qcow2", "top.qcow2", cwd=tmp_path
    )
    top, new = tmp_path / "top.qcow2", tmp_path / "new.qcow2"
    peers.run("qemu-io", "-c", "write -P 7 1M 64k", "-c", "write -z 2M 128k", top)
    convert(top, new, backing="base.qcow2", backing_format="qcow2", compress=True)
    peers.run("qemu-img", "compare", top, new)
    assert new.stat().st_size <= 6 * 65536


def test_a_backing_file_needs_its_format(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(OptionError, match="-F"):
        convert(raw, tmp_path / "x.qcow2", backing=str(raw))
    assert list(tmp_path.iterdir()) == []


# External data files


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("bare", [False, True], ids=["mapped", "raw"])
def test_an_external_data_file(tmp_path: Path, raw: Path, disk_content: bytes, bare: bool) -> None:
    image = tmp_path / "image.qcow2"
    convert(raw, image, options={"data_file": "image.data", "data_file_raw": bare})
    # qemu looks for a relative data file in the working directory, vmimg beside the image.
    peers.run("qemu-img", "check", image, cwd=tmp_path)
    peers.run("qemu-img", "compare", raw, image, cwd=tmp_path)
    assert content_of(image) == disk_content
    assert image.stat().st_size < 1 << 20
    if bare:
        assert (tmp_path / "image.data").read_bytes() == disk_content
    with pytest.raises(OptionError, match="streamed"):
        convert(raw, "-", format="qcow2", options={"data_file": "image.data"})


# Into images that exist


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in KINDS
        if FORMATS[kind.format].capabilities.write and kind.subformat != "streamOptimized"
    ],
    ids=str,
)
def test_writing_into_an_existing_image_replaces_all_of_its_content(
    tmp_path: Path, raw: Path, disk_content: bytes, kind: Kind
) -> None:
    target = kind.path(tmp_path)
    noise = tmp_path / "noise.raw"
    noise.write_bytes(os.urandom(6 << 20))
    convert(noise, target, format=kind.format, options=kind.options)
    convert(raw, target, format=kind.format, existing=True)
    # A longer target keeps its tail, as qemu's does.
    expected = disk_content + noise.read_bytes()[SIZE:]
    assert content_of(target, format=kind.format) == expected
    noise.write_bytes(expected)
    view = qemu_view(kind, target)
    if view is not None:
        peers.run("qemu-img", "compare", "-fraw", "-F", view[0], noise, view[1])
        peers.run("qemu-img", "check", "-f", *view, ok=(0, 63))
    if FORMATS[kind.format].capabilities.check:
        assert check(target, format=kind.format).exit_code == 0


def test_a_source_that_does_not_fit_is_refused(tmp_path: Path, raw: Path) -> None:
    small = tmp_path / "small.qcow2"
    create(small, 1 << 20, format="qcow2")
    before = small.read_bytes()
    with pytest.raises(OptionError, match="does not fit"):
        convert(raw, small, existing=True)
    assert small.read_bytes() == before


# Snapshots


@pytest.mark.peer("qemu-img", "qemu-io")
def test_a_snapshot_is_converted_as_it_was(tmp_path: Path, raw: Path, disk_content: bytes) -> None:
    image = tmp_path / "image.qcow2"
    convert(raw, image, compress=True)
    peers.run("qemu-img", "snapshot", "-c", "before", image)
    peers.run("qemu-io", "-c", "write -P 9 0 2M", image)
    convert(image, tmp_path / "then.raw", snapshot="before")
    convert(image, tmp_path / "now.raw")
    assert (tmp_path / "then.raw").read_bytes() == disk_content
    assert (tmp_path / "now.raw").read_bytes() == b"\x09" * (2 << 20) + disk_content[2 << 20 :]
    with pytest.raises(OptionError, match="after"):
        convert(image, tmp_path / "x.raw", snapshot="after")


# Nothing is lost


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path, raw: Path) -> None:
    target = tmp_path / "precious.qcow2"
    target.write_bytes(b"precious")
    with pytest.raises(OptionError, match="--force"):
        convert(raw, target)
    assert target.read_bytes() == b"precious"
    convert(raw, target, replace=True)
    assert compare(raw, target).identical


def test_the_source_cannot_be_its_own_target(tmp_path: Path, disk_content: bytes) -> None:
    source = write_sparse(tmp_path / "disk.raw", disk_content)
    for target in (source, tmp_path / "." / "disk.raw"):
        with pytest.raises(OptionError, match="destroy"):
            convert(source, target, format="qcow2", replace=True)
    assert source.read_bytes() == disk_content


def test_a_damaged_source_leaves_nothing_behind(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "image.qcow2"
    convert(raw, image)
    with open(image, "r+b") as file:
        file.truncate(1 << 20)
    before = sorted(tmp_path.iterdir())
    target = tmp_path / "target.raw"
    with pytest.raises(VmimgError):
        convert(image, target)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_file_system_leaves_nothing_behind(tmp_path: Path, raw: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from vmimg.errors import StorageError\n"
        "from vmimg.transfer.convert import convert\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: convert(sys.argv[1], sys.argv[2])\n"
        "except StorageError as error: print(error); sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(raw), str(tmp_path / "out.qcow2")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 7, done.stderr
    assert "out.qcow2" in done.stdout and len(done.stdout.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_progress_may_stop_the_work(tmp_path: Path, raw: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Enough(Exception):
        pass

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        raise Enough

    with pytest.raises(Enough):
        convert(raw, tmp_path / "out.qcow2", progress=progress)
    assert list(tmp_path.iterdir()) == []
    assert seen and seen[0][1] == SIZE


def test_progress_ends_at_the_total(tmp_path: Path, raw: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(raw, tmp_path / "out.qcow2", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (SIZE, SIZE)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_data_file_that_is_named_by_a_stranger_is_not_followed(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "image.qcow2"
    convert(raw, image, options={"data_file": "image.data"})
    content = image.read_bytes()
    assert content.count(b"image.data") == 1
    image.write_bytes(content.replace(b"image.data", b"/etc/group"))
    with pytest.raises(UnsafeImage, match="--allow-dir /etc"):
        convert(image, tmp_path / "out.raw")
    assert not (tmp_path / "out.raw").exists()


# create


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("options", QCOW2_OPTIONS, ids=label)
def test_qemu_accepts_what_create_makes(tmp_path: Path, options: dict[str, Any]) -> None:
    image = tmp_path / "image.qcow2"
    assert create(image, SIZE, format="qcow2", options=options) == SIZE
    peers.run("qemu-img", "check", image)
    info = peers.run_json("qemu-img", "info", "--output=json", image)
    assert info["virtual-size"] == SIZE
    assert info["cluster-size"] == options.get("cluster_size", 65536)
    data = info["format-specific"]["data"]
    assert data["refcount-bits"] == options.get("refcount_bits", 16)
    assert data["compat"] == options.get("compat", "1.1")
    assert data.get("extended-l2", False) == options.get("extended_l2", False)
    assert data.get("lazy-refcounts", False) == options.get("lazy_refcounts", False)
    with open_disk(image) as disk:
        assert disk.read(0, SIZE) == bytes(SIZE)


@pytest.mark.peer("qemu-img")
def test_create_takes_the_size_of_its_backing_file(tmp_path: Path, raw: Path) -> None:
    image = tmp_path / "image.qcow2"
    assert create(image, format="qcow2", backing=str(raw), backing_format="raw") == SIZE
    peers.run("qemu-img", "compare", raw, image)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster_size": 3000}, "cluster_size"),
        ({"cluster_size": 4 << 20}, "cluster_size"),
        ({"compat": "0.10", "refcount_bits": 8}, "compat=1.1"),
        ({"compat": "0.10", "extended_l2": True}, "compat=1.1"),
        ({"compat": "0.10", "compression_type": "zstd"}, "compat=1.1"),
        ({"compat": "0.9"}, "0.10"),
        ({"extended_l2": True, "cluster_size": 8192}, "16k"),
        ({"refcount_bits": 3}, "refcount_bits"),
        ({"data_file_raw": True}, "data_file"),
        ({"clustersize": 512}, "cluster_size"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_by_name(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        create(tmp_path / "image.qcow2", 1 << 20, format="qcow2", options=options)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_large_for_its_clusters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="larger clusters"):
        create(tmp_path / "x.qcow2", 1 << 40, format="qcow2", options={"cluster_size": 512})


# compare


def test_compare_finds_the_first_difference(tmp_path: Path, disk_content: bytes, raw: Path) -> None:
    for offset in (0, 511, 65535, 65536, SIZE // 2, SIZE - 1):
        other = bytearray(disk_content)
        other[offset] ^= 1
        other[-1] ^= 128
        path = write_sparse(tmp_path / "other.raw", bytes(other))
        result = compare(raw, path)
        assert (result.identical, result.offset) == (False, offset)


def test_compare_takes_zeros_for_what_one_disk_lacks(tmp_path: Path, disk_content: bytes) -> None:
    short = write_sparse(tmp_path / "short.raw", disk_content)
    long = write_sparse(tmp_path / "long.raw", disk_content + bytes(1 << 20))
    assert compare(short, long).identical and compare(long, short).warning
    assert not compare(short, long, strict=True).identical
    other = write_sparse(tmp_path / "x.raw", disk_content + bytes(1 << 20) + b"\1" * 512)
    result = compare(short, other)
    assert (result.identical, result.offset) == (False, SIZE + (1 << 20))


def test_the_registry_claims_what_it_does() -> None:
    for format in FORMATS.values():
        driver = format.driver()
        options = format.parse_options({})
        kinds = [kind for kind in KINDS if kind.format == format.name]
        if format.capabilities.create and format.capabilities.encryption == "always":
            kinds = [Kind(format.name)]
        writers = [driver.writer(1 << 20, options | kind.options) for kind in kinds]
        assert bool(writers) == format.capabilities.create
        assert any(w.codec for w in writers) == bool(format.capabilities.compression)
        for first, second in itertools.combinations(format.options, 2):
            assert first.name != second.name


def test_a_storage_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        convert(tmp_path / "nowhere.raw", tmp_path / "out.qcow2")


# Sources that cannot seek


@pytest.mark.parametrize(
    ("program", "suffix"), [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst"), ("bzip2", "bz2")]
)
def test_a_source_may_be_compressed_from_outside(
    tmp_path: Path, raw: Path, program: str, suffix: str
) -> None:
    peers.require(program)
    image = tmp_path / "image.qcow2"
    convert(raw, image)
    for source in (raw, image):
        packed = tmp_path / f"{source.name}.{suffix}"
        packed.write_bytes(peers.run(program, "-c", source).stdout)
        out = tmp_path / "out.raw"
        convert(packed, out, replace=True)
        assert compare(raw, out).identical
        before = sorted(tmp_path.iterdir())
        packed.write_bytes(packed.read_bytes()[:-20])
        with pytest.raises(VmimgError, match=packed.name):
            convert(packed, tmp_path / "cut.raw")
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("way", ["pipe", "file"])
def test_a_raw_source_may_come_on_standard_input(
    tmp_path: Path, raw: Path, disk_content: bytes, way: str
) -> None:
    out = tmp_path / "out.qcow2"
    code = "import sys; from vmimg.transfer.convert import convert; convert('-', sys.argv[1])"
    command = [sys.executable, "-c", code, str(out)]
    if way == "pipe":
        subprocess.run(command, input=disk_content, check=True)
    else:
        with open(raw, "rb") as file:
            subprocess.run(command, stdin=file, check=True)
    assert content_of(out) == disk_content
