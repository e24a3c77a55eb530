"""What a person sees: bars and colours on a terminal only."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from run_vmimg import start, vmimg


def _on_terminal(
    *arguments: str | Path, stream: str, changes: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code of vmimg, and what it wrote to ``stream`` ("stdout" or "stderr"), a terminal."""
    ours, theirs = pty.openpty()
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    changes = {"TERM": "xterm", "COLUMNS": "100", "PYTHONUTF8": "1"} | (changes or {})
    pipes = {stream: theirs, other: subprocess.PIPE}
    process = start(*arguments, changes=changes, stdin=subprocess.DEVNULL, **pipes)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody has the other side open
            break
        if not piece:
            break
        seen += piece
    rest = process.communicate(timeout=60)
    assert not any(rest), rest
    os.close(ours)
    return process.returncode, seen.decode()


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long work: bytes that cannot be compressed."""
    path = tmp_path_factory.mktemp("noise") / "noise.raw"
    with path.open("wb") as file:
        for _ in range(6):
            file.write(os.urandom(8 << 20))
    return path


HARD = ("convert", "-c", "--level", "best", "--threads", "1", "--force")


def test_long_work_draws_a_bar_and_then_a_summary(noise: Path, tmp_path: Path) -> None:
    code, seen = _on_terminal(*HARD, noise, tmp_path / "y.qcow2", stream="stderr")
    assert code == 0
    assert "━" in seen and "MiB" in seen
    assert "qcow2, 48 MiB disk" in seen.splitlines()[-1]
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h"), "the cursor is shown again"


def test_quiet_and_dumb_terminals_see_no_bar(noise: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.qcow2"
    assert _on_terminal(*HARD, "-q", noise, target, stream="stderr") == (0, "")
    dumb = {"TERM": "dumb"}
    assert _on_terminal(*HARD, noise, target, stream="stderr", changes=dumb) == (0, "")


def test_colours_are_for_terminals_and_can_be_refused(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(1 << 20))
    arguments = ("info", tmp_path / "x.raw")
    code, seen = _on_terminal(*arguments, stream="stdout")
    assert code == 0 and "\x1b[" in seen
    code, seen = _on_terminal(*arguments, stream="stdout", changes={"NO_COLOR": "1"})
    assert code == 0 and "\x1b[" not in seen
    assert "\x1b" not in vmimg(*arguments).out


@pytest.mark.peer("qemu-img", "qemu-io")
def test_info_shows_sizes_snapshots_and_backing_file(images: Path) -> None:
    out = vmimg("info", images / "overlay.qcow2").out
    assert "virtual size:         10 MiB (10485760 bytes)\n" in out
    assert "backing file:         base.qcow2 (actual path: " in out
    out = vmimg("info", images / "base.qcow2").out
    header, first, second = out.partition("Snapshots:\n")[2].splitlines()[:3]
    assert header.split() == ["ID", "NAME", "VM", "STATE", "DATE", "VM", "CLOCK", "DISK"]
    assert first.split()[:2] == ["1", "before"]
    assert second.split()[:2] == ["2", "1"]
    chain = vmimg("info", "--backing-chain", images / "top.qcow2").out
    assert [
        line.split()[1].rpartition("/")[2] for line in chain.splitlines() if "image:" in line
    ] == [
        "top.qcow2",
        "overlay.qcow2",
        "base.qcow2",
    ]


@pytest.mark.peer("qemu-img", "qemu-io")
def test_map_shows_every_kind_of_range_and_its_file(images: Path) -> None:
    rows = [line.split() for line in vmimg("map", images / "overlay.qcow2").out.splitlines()]
    kinds = {row[4] for row in rows[1:-1]}
    assert kinds == {"data", "zeros", "-"}
    files = {row[5].rstrip(",").rpartition("/")[2] for row in rows[1:-1] if row[4] == "data"}
    assert files == {"base.qcow2", "overlay.qcow2"}
    assert "compressed" in vmimg("map", images / "compressed.qcow2").out


def test_formats_lists_all_of_them() -> None:
    from vmimg.formats import FORMATS

    out = vmimg("formats").out
    for format in FORMATS.values():
        assert format.name in out and format.title in out
