"""detect and vet as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from pathlib import Path

import pytest

from run_vmimg import vmimg, vmimg_json
from vmimg.transfer.create import create

MIB = 1 << 20


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    path = tmp_path / "clean.qcow2"
    create(path, MIB, format="qcow2")
    return path


@pytest.fixture
def child(tmp_path: Path, clean: Path) -> Path:
    path = tmp_path / "child.qcow2"
    create(path, MIB, format="qcow2", backing="clean.qcow2", backing_format="qcow2")
    return path


def test_a_clean_file_is_0_findings_are_1_and_no_file_is_2(
    clean: Path, child: Path, tmp_path: Path
) -> None:
    assert vmimg("vet", clean).out.rstrip().endswith("policy strict: clean")
    found = vmimg("vet", child, ok=[1])
    assert "error" in found.out and "backing-file" in found.out and "to do:" in found.out
    gone = vmimg("vet", tmp_path / "gone", ok=[2])
    assert gone.err.count("\n") == 1 and "gone" in gone.err
    assert vmimg("vet", clean, "--policy", "lenient", ok=[2]).err.count("\n") == 1
    assert vmimg("vet", clean, child, ok=[1]).out.count("policy strict") == 2


def test_one_file_that_cannot_be_vetted_does_not_hide_the_others(
    clean: Path, child: Path, tmp_path: Path
) -> None:
    done = vmimg("vet", tmp_path / "gone", child, clean, ok=[2])
    assert done.out.count("policy strict") == 2 and "backing-file" in done.out
    assert "gone" in done.err
    reports = json.loads(vmimg("vet", "--output", "json", clean, tmp_path / "gone", ok=[2]).out)
    assert [report["clean"] for report in reports] == [True]


@pytest.mark.parametrize("verb", ["detect", "vet"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "endless", "folder", "loop", "long"])
def test_what_is_no_image_is_one_line_at_once(verb: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as server:
            server.bind(kind)  # the whole path may be too long for one
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "long":
        path = tmp_path / ("x" * 5000)
    else:
        path = Path("/dev/null" if kind == "device" else "/dev/zero")
    done = vmimg(verb, path, ok=[2 if verb == "vet" else 1], timeout=20)
    assert done.out == "" and done.err.count("\n") == 1
    assert done.err.startswith("vmimg: error: ")


def test_a_stream_cannot_be_vetted_and_says_so(clean: Path) -> None:
    for name in ("-", "/dev/stdin"):
        done = vmimg("vet", name, input=clean.read_bytes(), ok=[2])
        assert "save it to a file" in done.err


@pytest.mark.parametrize("verb", ["detect", "vet"])
def test_a_name_does_not_steer_the_terminal(verb: str, tmp_path: Path) -> None:
    for name in (b"two\nlines\x1b[31m", b"no \xff\xfe text", "right\u202eleft".encode()):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(bytes(512))
        out = vmimg(verb, path).out
        assert "\x1b" not in out and "\u202e" not in out
        assert out.splitlines()[0].endswith("raw (Raw disk)" if verb == "detect" else "1 note")
        told = json.loads(vmimg(verb, "--output", "json", path).out)
        assert told["format"] == "raw"


@pytest.mark.parametrize("verb", ["detect", "vet"])
def test_a_file_of_8_exabytes_takes_no_time(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "huge.raw"
    with open(path, "wb") as file:
        for shift in range(62, 40, -1):  # as large as this file system takes
            with contextlib.suppress(OSError):
                file.truncate(1 << shift)
                break
    done = vmimg(verb, path, ok=[0, 1], timeout=20)
    assert "raw" in done.out
    if verb == "vet" and path.stat().st_size > 64 << 40:
        assert "too-large" in done.out


def test_a_file_that_may_not_be_read_is_2(clean: Path) -> None:
    clean.chmod(0)
    if os.access(clean, os.R_OK):  # root reads everything
        vmimg("vet", clean)
        return
    assert "clean.qcow2" in vmimg("vet", clean, ok=[2]).err


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="a system without /proc")
def test_a_file_that_the_system_makes_up_is_not_called_clean() -> None:
    """Its size is said to be 0, so that nobody knows what was read of it."""
    found = vmimg("vet", "/proc/self/maps", ok=[1])
    assert "odd-field" in found.out


def test_quiet_says_it_by_the_exit_code_only(clean: Path, child: Path) -> None:
    assert vmimg("vet", "-q", clean).out == ""
    assert vmimg("vet", "-q", child, ok=[1]).out == ""


def test_ones_own_overlay_is_fine_on_the_desktop(child: Path) -> None:
    done = vmimg("vet", "--policy", "desktop", child)
    assert "note" in done.out and "backing-file" in done.out


def test_the_json_of_vet_has_all_of_it(child: Path) -> None:
    report = vmimg_json("vet", "--output", "json", "--declared", "raw", child, ok=[1])
    assert (report["format"], report["declared"], report["policy"]) == ("qcow2", "raw", "strict")
    assert report["virtual-size"] == MIB and not report["clean"] and not report["safe"]
    codes = {finding["code"]: finding for finding in report["findings"]}
    assert {"declared-wrong", "backing-file"} <= set(codes)
    for finding in report["findings"]:
        assert {"code", "severity", "message", "remedy"} <= set(finding)


def test_detect_says_what_a_file_is_and_why(clean: Path, child: Path) -> None:
    out = vmimg("detect", clean).out
    assert out.startswith(f"{clean}: qcow2 (QEMU copy-on-write 2)")
    assert re.search(r"^  at +0  the magic", out, re.MULTILINE)
    found = vmimg_json("detect", "--output", "json", clean, child)
    assert [each["format"] for each in found] == ["qcow2", "qcow2"]
    assert found[0]["claims"][0]["evidence"][0]["offset"] == 0
    assert found[0]["disk-format"] == "qcow2" and found[0]["container-format"] == "bare"


def test_detect_reads_a_stream(clean: Path) -> None:
    done = vmimg("detect", "--output", "json", "-", input=clean.read_bytes())
    found = json.loads(done.out)
    assert found["format"] == "qcow2" and found["file-size"] == clean.stat().st_size


def test_detect_goes_on_after_a_file_that_it_cannot_read(clean: Path, tmp_path: Path) -> None:
    done = vmimg("detect", tmp_path / "gone", clean, ok=[1])
    assert "qcow2" in done.out and "gone" in done.err


def test_a_disk_of_a_petabyte_is_not_converted_without_being_told(tmp_path: Path) -> None:
    huge, out = tmp_path / "huge.qcow2", tmp_path / "out.qcow2"
    create(huge, 1 << 50, format="qcow2", options={"cluster_size": 2 * MIB})
    refused = vmimg("convert", huge, out, ok=[1])
    assert "--max-size" in refused.err and refused.err.count("\n") == 1 and not out.exists()
    options = ("-o", "cluster_size=2M", "--max-size", "1P")
    vmimg("convert", *options, huge, out)
    assert vmimg_json("info", "--output", "json", out)["virtual-size"] == 1 << 50


def test_a_stream_that_unpacks_to_more_than_is_allowed_is_refused(tmp_path: Path) -> None:
    import gzip

    bomb, out = tmp_path / "bomb.raw.gz", tmp_path / "out.raw"
    bomb.write_bytes(gzip.compress(bytes(range(256)) * (8 * MIB // 256)))
    refused = vmimg("convert", "-O", "raw", "--max-size", "1M", bomb, out, ok=[1])
    assert "more than the 1048576 bytes" in refused.err and not out.exists()
    vmimg("convert", "-O", "raw", "--max-size", "8M", bomb, out)
    assert out.stat().st_size == 8 * MIB


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "HUGE", "out.raw"),
        ("compare", "HUGE", "HUGE"),
        ("map", "HUGE"),
        ("measure", "-O", "qcow2", "HUGE"),
        ("dd", "if=HUGE", "of=out.raw", "bs=512", "count=1"),
        ("create", "-f", "qcow2", "-b", "HUGE", "-F", "qcow2", "out.qcow2"),
    ],
    ids=lambda words: words[0],
)
def test_every_verb_that_reads_a_disk_has_the_limit(words: tuple[str, ...], tmp_path: Path) -> None:
    huge = tmp_path / "huge.qcow2"
    create(huge, 1 << 50, format="qcow2", options={"cluster_size": 2 * MIB})
    arguments = [word.replace("HUGE", "huge.qcow2") for word in words]
    refused = vmimg(*arguments, ok=[1, 2], cwd=tmp_path)
    assert "1125899906842624 bytes" in refused.err and "--max-size" in refused.err
    assert os.listdir(tmp_path) == ["huge.qcow2"]
    assert "--max-size" in vmimg(words[0], "--help").out
    # What is only looked at is not limited: that is bounded whatever the size.
    vmimg("info", huge)
    assert "too-large" in vmimg("vet", huge, ok=[1]).out
