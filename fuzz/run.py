"""Repeats inputs: ``python -m fuzz.run HARNESS FILE...``. Needs no fuzzer, only vmimg.

Prints a traceback and ends with 1 for an input that still breaks something.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from fuzz.harnesses import HARNESSES

# For all steps together, and without the fuzzer's instruments.
_MAX_SECONDS = 4.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz.run", description=__doc__)
    parser.add_argument("harness", choices=HARNESSES, metavar="HARNESS")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="FILE")
    arguments = parser.parse_args()
    broken = 0
    for path in arguments.inputs:
        began = time.process_time()
        try:
            HARNESSES[arguments.harness].run(path.read_bytes())
        except Exception:
            broken += 1
            traceback.print_exc()
        spent = time.process_time() - began
        print(f"{path}: {spent:.2f} s")
        broken += spent > _MAX_SECONDS
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
