"""The bench: vmimg and qemu-img (or dmg2img, or a pipeline of qemu-img, tar and pigz), in turn, on
the same images, whole processes.

An ext4 image is filled with real files of this machine, in memory where there is room, so that the
programs are measured and not the disk. Each case runs A B A B, because a machine's speed drifts;
outputs are removed between runs; the first output of each case is checked with `qemu-img compare`
against its source. qemu-img runs with 16 coroutines (`-m 16`) and, whichever a trial run finds
faster for the case, with or without `-W`.

Only the standard library: the bench must not share code with what it measures.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

GIB = 2**30
MIB = 2**20

# Of the image's size, how much is files: 4 GiB hold 1.68 GiB, the rest is free space as in life.
FILLED = 0.42
# No case may need more memory than this, at any size.
MEMORY_MIB = 300
# Both open files of one case, and the raw image that the sources are made from, with some air.
ROOM = 3.4

QEMU_CHOICES = (("-m", "16", "-W"), ("-m", "16"))


# Between the end of one run and the start of the next. A virtual machine gives the memory of a
# deleted output back to its host within this time, and the next to touch it pays for that, three
# times what the conversion takes: without a pause only the program that starts later.
SETTLE_S = 1.5


@dataclass(frozen=True, slots=True)
class Target:
    """What a case is to reach; None where nothing was promised."""

    ratio: float | None = None
    """vmimg's wall time over qemu-img's, at most."""
    seconds: float | None = None
    """vmimg's wall time, at most."""
    size_ratio: float | None = None
    """The output's size over qemu-img's, at most."""
    smaller: bool = False
    """The output is smaller than qemu-img's."""
    mib: float = MEMORY_MIB
    """vmimg's peak memory, at most."""

    def text(self) -> str:
        """The target for people, without the memory that is the same for all."""
        parts = []
        if self.ratio is not None:
            parts.append(f"≤ {self.ratio:.2f}")
        if self.seconds is not None:
            parts.append(f"≤ {self.seconds:.2f} s")
        if self.size_ratio is not None:
            parts.append(f"size ≤ {self.size_ratio:.2f}")
        if self.smaller:
            parts.append("size < 1")
        if self.mib != MEMORY_MIB:
            parts.append(f"≤ {self.mib:.0f} MiB")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that both programs do."""

    name: str
    source: str
    """A key of `Images.make`, or "" where no image is needed."""
    target: Target
    vmimg: tuple[str, ...] = ()
    peer: tuple[str, ...] = ()
    formats: tuple[str, str] | None = None
    """Of source and output, for a conversion; None where nothing is written."""
    compressed: bool = False
    rival: str = "qemu-img"
    """The program to compare with: a key of RIVALS or PIPELINES, or qemu-img."""
    alone: bool = False
    """vmimg only: qemu-img would take minutes, and the target is seconds."""


CASES = (
    Case("raw to qcow2", "raw", Target(ratio=0.95), formats=("raw", "qcow2")),
    Case(
        "raw to qcow2, zlib",
        "raw",
        Target(ratio=0.20, size_ratio=1.06),
        vmimg=("-c",),
        peer=("-c",),
        formats=("raw", "qcow2"),
        compressed=True,
    ),
    Case(
        "raw to qcow2, zlib, --level best",
        "raw",
        Target(ratio=0.50, smaller=True),
        vmimg=("-c", "--level", "best"),
        peer=("-c",),
        formats=("raw", "qcow2"),
        compressed=True,
    ),
    Case(
        "raw to qcow2, zstd",
        "raw",
        Target(ratio=0.60),
        vmimg=("-c", "-o", "compression_type=zstd"),
        peer=("-c", "-o", "compression_type=zstd"),
        formats=("raw", "qcow2"),
        compressed=True,
    ),
    Case("qcow2 to raw", "qcow2", Target(ratio=0.95), formats=("qcow2", "raw")),
    Case("qcow2 to qcow2", "qcow2", Target(ratio=0.95), formats=("qcow2", "qcow2")),
    Case("zlib qcow2 to raw", "zlib", Target(ratio=0.80), formats=("qcow2", "raw")),
    Case("zstd qcow2 to raw", "zstd", Target(), formats=("qcow2", "raw")),
    Case(
        "empty 8 TiB qcow2 to qcow2",
        "empty",
        Target(seconds=0.5, mib=150),
        formats=("qcow2", "qcow2"),
    ),
    Case("raw to VMDK", "raw", Target(ratio=0.5), formats=("raw", "vmdk")),
    Case(
        "raw to VMDK, streamOptimized",
        "raw",
        Target(ratio=0.15, size_ratio=1.06),
        vmimg=("-o", "subformat=streamOptimized"),
        peer=("-o", "subformat=streamOptimized"),
        formats=("raw", "vmdk"),
        compressed=True,
    ),
    Case("raw to VHD", "raw", Target(ratio=0.9), formats=("raw", "vpc")),
    Case("raw to VHDX", "raw", Target(ratio=0.95), formats=("raw", "vhdx")),
    Case("raw to VDI", "raw", Target(ratio=0.95), formats=("raw", "vdi")),
    Case("VMDK to raw", "vmdk", Target(ratio=0.95), formats=("vmdk", "raw")),
    Case("streamOptimized VMDK to raw", "stream", Target(ratio=0.95), formats=("vmdk", "raw")),
    Case("VHD to raw", "vpc", Target(ratio=0.95), formats=("vpc", "raw")),
    Case("VHDX to raw", "vhdx", Target(ratio=0.95), formats=("vhdx", "raw")),
    Case("VDI to raw", "vdi", Target(ratio=0.95), formats=("vdi", "raw")),
    Case("DMG, zlib, to raw", "udzo", Target(ratio=0.5), formats=("dmg", "raw")),
    Case("DMG, zlib, to raw", "udzo", Target(), formats=("dmg", "raw"), rival="dmg2img"),
    # QEMU's coders for these two are not among Debian's packages.
    Case("DMG, bzip2, to raw", "udbz", Target(), formats=("dmg", "raw"), rival="dmg2img"),
    Case("DMG, LZFSE, to raw", "ulfo", Target(), formats=("dmg", "raw"), alone=True),
    Case("cloop to raw", "cloop", Target(ratio=0.5), formats=("cloop", "raw")),
    Case(
        "empty 64 TiB VHDX to VHDX",
        "empty-vhdx",
        Target(seconds=1.0, mib=300),
        formats=("vhdx", "vhdx"),
        alone=True,
    ),
    Case(
        "map of an empty 64 TiB VHDX",
        "empty-vhdx",
        Target(seconds=1.0, mib=300),
        vmimg=("map",),
        alone=True,
    ),
    # Bundles: in one step, against what people type; the steps between go to a folder of their own.
    Case(
        "qcow2 to OVA",
        "qcow2",
        Target(ratio=0.15, size_ratio=1.06),
        vmimg=("pack", "-q", "-O", "ova", "-o"),
        formats=("qcow2", "ova"),
        compressed=True,
        rival="qemu-img + tar",
    ),
    Case(
        "OVA to qcow2",
        "ova",
        Target(ratio=0.7),
        formats=("ova", "qcow2"),
        rival="tar + qemu-img",
    ),
    Case(
        "qcow2 to box (libvirt)",
        "qcow2",
        Target(),
        vmimg=("pack", "-q", "-O", "vagrant", "-o"),
        formats=("qcow2", "box"),
        compressed=True,
        rival="qemu-img + tar + pigz",
    ),
    Case(
        "box (libvirt) to qcow2",
        "box",
        Target(),
        formats=("box", "qcow2"),
        rival="pigz + tar + qemu-img",
    ),
    Case(
        "raw to GCE tar.gz",
        "raw",
        Target(),
        vmimg=("pack", "-q", "-O", "gce", "-o"),
        formats=("raw", "gce"),
        compressed=True,
        rival="tar -Sz (GNU)",
    ),
    Case("--version", "", Target(seconds=0.15), vmimg=("--version",), peer=("--version",)),
    Case("info", "qcow2", Target(seconds=0.25), vmimg=("info",), peer=("info",)),
)


# What other programs are called with.
RIVALS: Mapping[str, tuple[str, ...]] = {"dmg2img": ("dmg2img", "-s")}

# What people type where there is no vmimg: {s} is the source, {o} the output, {w} a folder for what
# is between them. Descriptions and checksums, which vmimg makes as well, are left out.
PIPELINES: Mapping[str, str] = {
    "qemu-img + tar": "qemu-img convert -m 16 -W -f qcow2 -O vmdk -o subformat=streamOptimized {s}"
    " {w}/disk.vmdk && tar -cf {o} -C {w} disk.vmdk && rm {w}/disk.vmdk",
    "tar + qemu-img": "tar -xf {s} -C {w} && qemu-img convert -m 16 -W -f vmdk -O qcow2"
    " {w}/*.vmdk {o} && rm {w}/*",
    "qemu-img + tar + pigz": "qemu-img convert -m 16 -W -f qcow2 -O qcow2 {s} {w}/box.img"
    " && tar -cf - -C {w} box.img | pigz > {o} && rm {w}/box.img",
    "pigz + tar + qemu-img": "pigz -dc {s} | tar -xf - -C {w} && qemu-img convert -m 16 -W -f qcow2"
    " -O qcow2 {w}/box.img {o} && rm {w}/*",
    "tar -Sz (GNU)": "ln {s} {w}/disk.raw && tar --format=oldgnu -Sczf {o} -C {w} disk.raw"
    " && rm {w}/disk.raw",
}
TOOLS = ("tar", "pigz")
# Where in a bundle its disk is, and in which format: how an output is checked without vmimg.
MEMBERS: Mapping[str, tuple[str, str]] = {
    "ova": ("*.vmdk", "vmdk"),
    "box": ("box.img", "qcow2"),
    "gce": ("disk.raw", "raw"),
}

# How qemu-img makes the images that cases start from.
EMPTY = {"empty": ("qcow2", "8T"), "empty-vhdx": ("vhdx", "64T")}
SOURCES = {
    "qcow2": ("-O", "qcow2"),
    "zlib": ("-O", "qcow2", "-c"),
    "zstd": ("-O", "qcow2", "-c", "-o", "compression_type=zstd"),
    "vmdk": ("-O", "vmdk"),
    "stream": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "vpc": ("-O", "vpc"),
    "vhdx": ("-O", "vhdx"),
    "vdi": ("-O", "vdi"),
}
# What it cannot make, vmimg does.
OWN_SOURCES = {
    "udzo": ("-O", "dmg"),
    "udbz": ("-O", "dmg", "-o", "subformat=UDBZ"),
    "ulfo": ("-O", "dmg", "-o", "subformat=ULFO"),
    "cloop": ("-O", "cloop"),
}
PACKED_SOURCES = {"ova": ("-O", "ova"), "box": ("-O", "vagrant", "-b", "compression=gzip")}


@dataclass(frozen=True, slots=True)
class Run:
    """What one process took."""

    seconds: float
    mib: float


@dataclass(slots=True)
class Runs:
    """All runs of one program in one case."""

    runs: list[Run] = field(default_factory=list)
    size: int = 0
    """Bytes of the output file, as `ls` says it."""

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(run.seconds for run in self.runs)

    @property
    def mib(self) -> float:
        """The highest peak of memory."""
        return max(run.mib for run in self.runs)


class Images:
    """The images to convert, made when first wanted and dropped as soon as no case needs them."""

    def __init__(self, folder: Path, size: int, vmimg: str) -> None:
        self.folder = folder
        self.size = size
        self._vmimg = vmimg
        self.payload = 0
        self._made: dict[str, Path] = {}

    def get(self, key: str) -> Path:
        """The image of that kind."""
        if key not in self._made:
            self._made[key] = self.make(key)
        return self._made[key]

    def keep_only(self, keys: set[str]) -> None:
        """Drop the others: memory is what they fill."""
        for key in set(self._made) - keys - {"raw"}:
            self._made.pop(key).unlink()

    def make(self, key: str) -> Path:
        """Make one image, for both to read: by qemu-img where it can make it."""
        path = self.folder / f"source-{key}"
        if key in EMPTY:
            format, size = EMPTY[key]
            run_quietly("qemu-img", "create", "-q", "-f", format, path, size)
            return path
        if key == "raw":
            say(f"making an ext4 image of {self.size / GIB:g} GiB with real files")
            self.payload = make_file_system(path, self.size)
            return path
        raw = self.get("raw")
        say(f"making the source: {key}")
        if key in PACKED_SOURCES:
            run_quietly(self._vmimg, "pack", *PACKED_SOURCES[key], "-o", path, raw)
        elif key in OWN_SOURCES:
            run_quietly(self._vmimg, "convert", "-f", "raw", *OWN_SOURCES[key], raw, path)
        else:
            # In order (no -W), as most images in the world are.
            command = ("convert", "-f", "raw", "-m", "16", *SOURCES[key])
            run_quietly("qemu-img", *command, raw, path)
        return path


def main() -> int:
    """Run the cases; 0 unless something failed. A missed target is shown, and is no failure."""
    options = parse_arguments()
    # Ctrl-C and a polite kill must not leave gigabytes in memory behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cases = [case for case in CASES if not options.case or re.search(options.case, case.name)]
    if not cases:
        stop(f"no case matches {options.case!r}; there are: " + "; ".join(c.name for c in CASES))
    rivals = {case.rival for case in cases}
    named = {
        word for rival in rivals & PIPELINES.keys() for word in ("tar", "pigz") if word in rival
    }
    for program in sorted({"qemu-img", "mke2fs", *named, *(rivals - PIPELINES.keys())}):
        if find_program(program) is None:
            stop(f"{program} is not installed (Debian: qemu-utils, e2fsprogs, dmg2img, pigz)")

    rows: list[dict[str, Any]] = []
    compile_bytecode(options.vmimg)
    with work_folder(options.dir, int(options.size * FILLED * ROOM)) as (folder, storage):
        images = Images(folder, options.size, options.vmimg)
        # Cases of one source together, so that each source is made and dropped once.
        cases.sort(key=lambda case: list(dict.fromkeys(c.source for c in CASES)).index(case.source))
        for case in cases:
            images.keep_only({case.source})
            rows.append(run_case(case, images, options.vmimg, options.runs))
            say(f"{rows[-1]['vmimg_s']} s, {case.rival} {rows[-1]['peer_s']} s")
        payload = images.payload
    order = [(case.name, case.rival) for case in CASES]
    rows.sort(key=lambda row: order.index((row["case"], row["peer"])))

    report = {
        "machine": describe_machine(storage, options.vmimg),
        "image": {"bytes": options.size, "file_bytes": payload},
        "runs": options.runs,
        "rows": rows,
    }
    print()
    print_table(rows)
    print(f"\n{conditions(report)}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure vmimg against qemu-img.")
    parser.add_argument("--vmimg", default=shutil.which("vmimg"), help="the vmimg to measure")
    parser.add_argument("--runs", type=int, default=5, help="of each program and case (default 5)")
    parser.add_argument("--case", metavar="REGEX", help="only the cases whose name matches")
    parser.add_argument(
        "--size", type=parse_size, default=4 * GIB, help="of the image (default 4G)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="256M and 2 runs: does it work at all?"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    parser.add_argument(
        "--dir", type=Path, help="where to work (default: memory, if there is room)"
    )
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(stage_files(Path(options.stage[0]), int(options.stage[1]))))
        sys.exit(0)
    if options.quick:
        options.size, options.runs = 256 * MIB, 2
    if options.vmimg is None:
        stop("vmimg is not on PATH; say where it is with --vmimg")
    options.vmimg = str(Path(options.vmimg).absolute())
    return options


def parse_size(text: str) -> int:
    """256M, 4G: bytes."""
    match = re.fullmatch(r"(\d+)([MG])", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: say 256M or 4G")
    return int(match[1]) * (MIB if match[2] == "M" else GIB)


# Where and on what --------------------------------------------------------------------------------


@contextlib.contextmanager
def work_folder(wanted: Path | None, need: int) -> Iterator[tuple[Path, str]]:
    """A folder with room for `need` bytes that is gone afterwards, and what kind it is."""
    base, storage = wanted or Path(tempfile.gettempdir()), "disk"
    memory = Path("/dev/shm")
    # What lies there is memory: leave some for the programs and their neighbours.
    if (
        wanted is None
        and memory.is_dir()
        and shutil.disk_usage(memory).free >= need
        and available_memory() >= need + 2 * GIB
    ):
        base, storage = memory, "memory"
    if shutil.disk_usage(base).free < need:
        stop(f"{base} lacks room: {need / GIB:.1f} GiB are needed; see --size and --dir")
    with tempfile.TemporaryDirectory(prefix="vmimg-bench-", dir=base) as name:
        yield Path(name), storage


def available_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def make_file_system(path: Path, size: int) -> int:
    """Make an ext4 image holding real files; how many bytes of files went in."""
    budget = int(size * FILLED)
    with tempfile.TemporaryDirectory(prefix="files-", dir=path.parent) as name:
        # In a process of its own: a hundred thousand names would make this one large, and a child
        # inherits its parent's peak of memory, so every figure would start from there.
        staged = subprocess.run(
            [sys.executable, __file__, "--stage", name, str(budget)],
            stdout=subprocess.PIPE,
            check=True,
        )
        copied, files = (int(number) for number in json.loads(staged.stdout))
        mke2fs = find_program("mke2fs")
        assert mke2fs is not None
        run_quietly(
            mke2fs,
            *("-q", "-F", "-t", "ext4", "-d", name),
            # The usual density of inodes, or as many as the files need.
            *("-N", str(max(size // 16384, files + files // 8 + 1024))),
            # The same image from the same files.
            *("-U", "00000000-0000-4000-8000-000000000001"),
            *("-E", "hash_seed=00000000-0000-4000-8000-000000000002,root_owner=0:0"),
            path,
            f"{size // 1024}k",
        )
    if copied < budget * 0.9:
        say(f"only {copied / GIB:.2f} GiB of real files found here")
    return copied


def stage_files(folder: Path, budget: int) -> tuple[int, int]:
    """Copy real files up to `budget` bytes into folder; their bytes, and the inodes to expect.

    In the order of a hash of their names: a mixture of programs, libraries, texts and pictures that
    is the same each time, and not the first directories of the alphabet.
    """
    copied = files = 0
    # Where a small system has too few files they are taken again: duplicates are real life, too,
    # and neither program looks for them.
    for turn in range(8):
        for original in real_files():
            try:
                length = original.stat().st_size
                # One giant must not be the whole image.
                if length > max(budget // 16, MIB) or copied + length > budget:
                    continue
                copy = folder / str(turn) / original.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(original, copy)
            except OSError:
                continue  # not ours to read, or gone since the walk
            copied += length
            files += 1
            if copied > budget * 0.995:
                return copied, files * 2
    return copied, files * 2


def real_files() -> list[Path]:
    """Regular files of this machine, in a mixed order that does not change."""
    found = []
    for root in ("/usr", "/opt", sys.prefix):
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    found.append(path)
    order = sorted(set(found), key=lambda path: hashlib.sha1(os.fsencode(path)).digest())
    return [Path(path) for path in order]


# Measuring ----------------------------------------------------------------------------------------


def run_case(case: Case, images: Images, vmimg: str, count: int) -> dict[str, Any]:
    """Run one case, A B A B; its row."""
    source = images.get(case.source) if case.source else None
    out = images.folder / "output"
    between = images.folder / "between"
    between.mkdir(exist_ok=True)
    say(f"{case.name}")

    def command(program: str, extra: Sequence[str]) -> list[str]:
        if case.formats is None:
            return [program, *extra, *([str(source)] if source else [])]
        if program in PIPELINES:
            line = PIPELINES[program].format(s=source, o=out, w=between)
            return ["sh", "-c", line]
        if case.vmimg[:1] == ("pack",):
            return [program, *extra, str(out), str(source)]
        if program in RIVALS:
            return [*RIVALS[program], *extra, str(source), str(out)]
        before, after = case.formats
        given = () if before in MEMBERS else ("-f", before)
        return [program, "convert", *given, "-O", after, *extra, str(source), str(out)]

    # A trial of each: warms what can be warm, checks the output, and finds qemu-img's better side.
    measure(command(vmimg, case.vmimg))
    if case.formats is not None and not case.alone:
        if case.source in EMPTY:
            verify(case, source, case.formats[0], out)
        else:
            verify(case, images.get("raw"), "raw", out)
    choices: tuple[tuple[str, ...], ...] = ((),)
    if case.alone:
        choices = ()
    elif case.rival == "qemu-img" and case.formats is not None:
        choices = QEMU_CHOICES
    trials = dict[tuple[str, ...], float]()
    for choice in choices:
        out.unlink(missing_ok=True)
        trials[choice] = measure(command(case.rival, (*choice, *case.peer))).seconds
    ours, theirs = Runs(), Runs()
    lines = [(ours, command(vmimg, case.vmimg))]
    best: tuple[str, ...] = ()
    if trials:
        best = min(trials, key=lambda choice: trials[choice])
        lines.append((theirs, command(case.rival, (*best, *case.peer))))
    # Processes of a few milliseconds are cheap to repeat, and noisier.
    for turn in range(count if case.formats is not None else max(count, 10)):
        # A B, B A: whatever the one leaves behind for the other, both get it.
        for runs, line in lines if turn % 2 == 0 else reversed(lines):
            out.unlink(missing_ok=True)
            if case.formats is not None:
                time.sleep(SETTLE_S)
            runs.runs.append(measure(line))
            if out.exists():
                runs.size = out.stat().st_size
    out.unlink(missing_ok=True)

    row: dict[str, Any] = {
        "case": case.name,
        "peer": case.rival,
        "image_bytes": images.size,
        "vmimg_s": round(ours.seconds, 4),
        "peer_s": None,
        "ratio": None,
        "vmimg_mib_rss": round(ours.mib, 1),
        "peer_mib_rss": None,
        "target": case.target.text(),
        "peer_options": " ".join((*best, *case.peer)),
        "vmimg_runs_s": [round(run.seconds, 4) for run in ours.runs],
        "peer_runs_s": [round(run.seconds, 4) for run in theirs.runs],
    }
    if not case.alone:
        row["peer_s"] = round(theirs.seconds, 4)
        row["ratio"] = round(ours.seconds / theirs.seconds, 3)
        row["peer_mib_rss"] = round(theirs.mib, 1)
    if case.compressed:
        row["vmimg_bytes"] = ours.size
        row["peer_bytes"] = theirs.size
        row["size_ratio"] = round(ours.size / theirs.size, 4)
    row["misses"] = misses(case.target, ours, theirs)
    return row


def compile_bytecode(vmimg: str) -> None:
    """As an installation does; an editable one leaves it to the first run, or to each run."""
    python = Path(vmimg).parent / "python"
    if python.exists():
        where = "import compileall, pathlib, vmimg as v; p = pathlib.Path(v.__file__).parent"
        run_quietly(python, "-c", f"{where}; compileall.compile_dir(p, quiet=2)")


def measure(command: Sequence[str]) -> Run:
    """Run a whole process: wall time, and the peak of its memory as the kernel saw it."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
        )
        # wait4, for the usage of this child alone.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            message = said.read().decode(errors="replace").strip()
            stop(f"exit code {process.returncode}: {' '.join(command)}\n{message}")
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_maxrss * unit / MIB)


def verify(case: Case, source: Path | None, before: str, out: Path) -> None:
    """Stop unless qemu-img finds the output equal to ``source``, whose format is ``before``."""
    assert case.formats is not None and source is not None
    after = case.formats[1]
    if after in MEMBERS:
        member, after = MEMBERS[after]
        bundle, out = out, out.with_name("between") / "disk"
        with open(out, "wb") as file:
            line = ("tar", "-xOf", bundle, "--wildcards", member)
            subprocess.run(line, stdout=file, check=True)
    compare = ["qemu-img", "compare", "-q", "-f", before, "-F", after, str(source), str(out)]
    if subprocess.run(compare, check=False).returncode != 0:
        stop(f"{case.name}: the output differs from its source, as qemu-img compare sees it")
    if out.parent.name == "between":
        out.unlink()


def misses(target: Target, ours: Runs, theirs: Runs) -> list[str]:
    """What of the target was missed, in words; empty when it was reached."""
    found = []
    if target.ratio is not None and ours.seconds > target.ratio * theirs.seconds:
        found.append("ratio")
    if target.seconds is not None and ours.seconds > target.seconds:
        found.append("seconds")
    if target.size_ratio is not None and ours.size > target.size_ratio * theirs.size:
        found.append("size")
    if target.smaller and ours.size >= theirs.size:
        found.append("size")
    if ours.mib > target.mib:
        found.append("memory")
    return found


# Saying it ----------------------------------------------------------------------------------------


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The figures for people; a row that misses its target says what it missed."""
    head = ("case", "vmimg", "qemu-img", "ratio", "size", "target", "MiB", "qemu MiB", "")
    lines = [
        (
            row["case"],
            f"{row['vmimg_s']:.3f} s",
            "" if row["peer_s"] is None else f"{row['peer_s']:.3f} s",
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{row['size_ratio']:.3f}" if "size_ratio" in row else "",
            row["target"],
            f"{row['vmimg_mib_rss']:.0f}",
            "" if row["peer_mib_rss"] is None else f"{row['peer_mib_rss']:.0f}",
            "MISSES " + ", ".join(row["misses"]) if row["misses"] else "ok",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head))]
    for line in itertools.chain((head, tuple("-" * width for width in widths)), lines):
        cells = (
            cell.ljust(width) if i in (0, 5, 8) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def conditions(report: Mapping[str, Any]) -> str:
    """One sentence: on what, with what, how often."""
    machine, image = report["machine"], report["image"]
    text = (
        f"{machine['cores']} cores, Python {machine['python']}, {machine['qemu_img']}; "
        f"medians of {report['runs']} runs, images in {machine['storage']}"
    )
    # Where only cases without it ran, there is no file system to tell of.
    if image["file_bytes"]:
        text += (
            f"; ext4 of {image['bytes'] / GIB:g} GiB"
            f" with {image['file_bytes'] / GIB:.2f} GiB of real files"
        )
    return text + f"; memory: {MEMORY_MIB} MiB or less in every case."


def describe_machine(storage: str, vmimg: str) -> dict[str, Any]:
    """What the figures depend on, without anything that names this machine."""
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True)
    version = subprocess.run([vmimg, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"version (\S+)", qemu.stdout)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "vmimg": version.stdout.split()[-1] if version.stdout.split() else "",
        "qemu_img": f"qemu-img {match[1]}" if match else "qemu-img",
        "storage": storage,
    }


def find_program(name: str) -> str | None:
    """Where it is; a regular user's PATH on Debian leaves out where mke2fs lives."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return shutil.which(name, path=path)


def run_quietly(*command: str | Path) -> None:
    """Run what prepares; stop with its message where it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        stop(f"{command[0]} failed: {done.stderr.strip()}")


def say(message: str) -> None:
    """Progress, beside the figures."""
    print(f"bench: {message}", file=sys.stderr, flush=True)


def stop(message: str) -> NoReturn:
    """End with one line."""
    raise SystemExit(f"bench: {message}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
