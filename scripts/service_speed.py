"""The table of the service's speed in docs/service.md, from the figures of a run of its bench.

`make bench-service` measures and writes docs/bench-service.json; `make readme` writes the table:
no figure in it was typed by hand, and a row that misses its target says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import GIB
from readme_formats import update

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "bench-service.json"


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description="Write the table of speed in docs/service.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is fresh")
    options = parser.parse_args()
    report = json.loads(FIGURES.read_text(encoding="utf-8"))
    return update("speed", table(report), check=options.check, page=DOCS / "service.md")


def table(report: Mapping[str, Any]) -> str:
    """The figures as a Markdown table, and a sentence on how they came about."""
    head = ("case", "vmimg", "Glance", "ratio", "CPU s/GiB", "target", "met")
    align = ("---", "--:", "--:", "--:", "--:", "---", "---")
    lines = [head, align, *(row(figures) for figures in report["rows"])]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\nMeasured by `make bench-service`: {conditions(report)}"


def row(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """One case's cells."""
    processor = ""
    if "glance_cpu_s_per_gib" in figures:
        processor = f"{figures['vmimg_cpu_s_per_gib']} / {figures['glance_cpu_s_per_gib']}"
    met = {True: "yes", False: "**no**", None: ""}[figures["met"]]
    ratio = f"{figures['ratio']:.2f}" if "ratio" in figures else ""
    return (
        figures["case"], figures["vmimg"], figures.get("glance", ""), ratio, processor,
        figures["target"], met,
    )  # fmt: skip


def conditions(report: Mapping[str, Any]) -> str:
    """One sentence: on what, with what, how often."""
    machine = report["machine"]
    return (
        f"{machine['cores']} cores with a load of {report['load_before']} to"
        f" {report['load_after']}, Python {machine['python']}; Glance 33 under gunicorn (one worker"
        f" of 8 threads), both with files and SQLite in {machine['storage']}; one image of"
        f" {report['image']['bytes'] / GIB:g} GiB, medians of {report['runs']} runs in turn."
        " CPU seconds are the servers' own, ours / Glance's; the ratio is of the time that clients"
        " waited, Glance's over ours."
    )


if __name__ == "__main__":
    sys.exit(main())
