"""``python -m fuzz [HARNESS...] [--minutes N] [--jobs N]``: fuzzes, and says what broke.

Several harnesses share the minutes. Everything that breaks something is kept in
fuzz/crashes/HARNESS/, with the command that repeats it; the exit code is 1 if there is anything.
What was kept before and is mended now is removed first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from fuzz.harnesses import HARNESSES
from fuzz.seeds import CORPUS, fill

_ROOT: Final = Path(__file__).parent.parent
_CRASHES: Final = Path(__file__).with_name("crashes")
# Of the clock, when libFuzzer ends an input that seems to hang. What is slow is found earlier, by
# the processor time of its steps (fuzz.steps), which does not depend on what else runs.
_TIMEOUT: Final = 20
_said = threading.Lock()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("harnesses", nargs="*", metavar="HARNESS", help=", ".join(HARNESSES))
    parser.add_argument("--minutes", type=float, default=5, help="for all together (5)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="all processors")
    arguments = parser.parse_args()
    unknown = set(arguments.harnesses) - HARNESSES.keys()
    if unknown:
        parser.error(f"there is no harness {', '.join(sorted(unknown))}; see --help")
    names = arguments.harnesses or list(HARNESSES)
    for name in names:
        fill(name)
    _forget([path for name in names for path in _kept(name)])
    # One harness on all processors, or as many harnesses as there are processors.
    runs = names if len(names) >= arguments.jobs else names * arguments.jobs
    seconds = max(5, round(arguments.minutes * 60 * arguments.jobs / len(runs)))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda name: _fuzz(name, seconds), runs))
    # Where much else runs, what ran out of time may take little by itself.
    _forget([path for name in names for path in _kept(name) if path.name.startswith("timeout-")])
    kept = [path for name in names for path in _kept(name)]
    for path in kept:
        print(f"python -m fuzz.run {path.parent.name} {path.relative_to(_ROOT)}")
    print(f"{len(kept)} inputs break something" if kept else "nothing broke")
    return 1 if kept else 0


def _fuzz(name: str, seconds: int) -> None:
    """Run the engine for so long, again where an input or a lack of memory ended it."""
    end = time.monotonic() + seconds
    total, coverage = 0, ""
    while (left := int(end - time.monotonic())) > 0:
        done = subprocess.run(
            [sys.executable, "-m", "fuzz.engine", name, str(CORPUS / name),
             f"-max_total_time={left}", f"-timeout={_TIMEOUT}", "-reload=1"],
            cwd=_ROOT, capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        said = done.stdout + done.stderr
        counts = re.findall(r"^#(\d+)\t.* (cov: \d+)", said, re.MULTILINE)
        if not counts:
            raise SystemExit(f"{name} does not start:\n{said[-3000:]}")
        total += int(counts[-1][0])
        coverage = counts[-1][1]
    with _said:
        print(f"{name}: {total} inputs in {seconds} s, {coverage}", flush=True)


def _forget(paths: list[Path]) -> None:
    """Remove those that break nothing."""
    for path in paths:
        command = [sys.executable, "-m", "fuzz.run", path.parent.name, str(path)]
        try:
            done = subprocess.run(command, cwd=_ROOT, capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            path.unlink()


def _kept(name: str) -> list[Path]:
    return sorted((_CRASHES / name).glob("*"))


if __name__ == "__main__":
    sys.exit(main())
