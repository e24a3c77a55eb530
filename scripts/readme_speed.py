"""The table of measured speed in README.md, generated from the figures of a run of the bench.

`make bench BENCH_ARGS="--json docs/bench.json"` measures and `make readme` writes the table: no
figure in the README was typed by hand, and a row that misses its target says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import GIB, conditions
from readme_formats import update

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "bench.json"


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description="Write the table of speed in README.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is fresh")
    parser.add_argument("figures", nargs="?", type=Path, default=FIGURES, help="from bench --json")
    options = parser.parse_args()
    if not options.figures.exists():
        print(f"no figures at {options.figures.name}: run the bench first", file=sys.stderr)
        return 0
    report = json.loads(options.figures.read_text(encoding="utf-8"))
    return update("speed", table(report), check=options.check)


def table(report: Mapping[str, Any]) -> str:
    """The figures as a Markdown table, and a sentence on how they came about."""
    head = ("case", "vmimg", "qemu-img", "ratio", "size", "target", "peak memory", "met")
    align = ("---", "--:", "--:", "--:", "--:", "---", "--:", "---")
    size = report["image"]["bytes"]
    lines = [head, align, *(row(figures, size) for figures in report["rows"])]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\nMeasured by `make bench`: {conditions(report)}"


def row(figures: Mapping[str, Any], usual: int) -> tuple[str, ...]:
    """One case's cells. ``usual``: bytes of the image in most cases; another size is told."""
    own = figures.get("image_bytes", usual)
    size = f"{figures['size_ratio']:.3f}" if "size_ratio" in figures else ""
    return (
        figures["case"] + ("" if own == usual else f" ({own / GIB:g} GiB)"),
        f"{figures['vmimg_s']:.2f} s",
        _peer(figures),
        "" if figures["ratio"] is None else f"{figures['ratio']:.2f}",
        size,
        figures["target"],
        f"{figures['vmimg_mib_rss']:.0f} MiB",
        _met(figures),
    )


def _met(figures: Mapping[str, Any]) -> str:
    """Nothing where nothing was promised."""
    if figures["misses"]:
        return "**no**: " + ", ".join(figures["misses"])
    return "yes" if figures["target"] else ""


def _peer(figures: Mapping[str, Any]) -> str:
    if figures["peer_s"] is None:
        return ""
    # The column is qemu-img's.
    name = figures.get("peer", "qemu-img")
    return f"{figures['peer_s']:.2f} s" + ("" if name == "qemu-img" else f" ({name})")


if __name__ == "__main__":
    sys.exit(main())
