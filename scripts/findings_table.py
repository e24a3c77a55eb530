"""The table of findings in docs/findings.md, generated from the codes and the built-in policies."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from readme_formats import update
from vmimg.formats.vetting import CODES, Finding
from vmimg.probe.policy import BUILT_IN, Policy

PAGE = Path(__file__).resolve().parent.parent / "docs" / "findings.md"


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description="Write the table of docs/findings.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is fresh")
    return update("findings", table(), check=parser.parse_args().check, page=PAGE)


def table() -> str:
    """A line for each code: how bad each policy finds it, what it means, what to do."""
    policies = [Policy.load(name) for name in BUILT_IN]
    lines: list[tuple[str, ...]] = [("code", *BUILT_IN, "what is so", "what to do")]
    lines.append(("---",) * len(lines[0]))
    for code, kind in CODES.items():
        judged = (str(policy.judge(Finding.of(code)).severity) for policy in policies)
        lines.append((f"`{code}`", *judged, kind.title, kind.remedy))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
