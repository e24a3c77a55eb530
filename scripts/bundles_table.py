"""The tables of docs/bundles.md and docs/machines.md, generated from the registries."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from readme_formats import update
from vmimg.bundles.registry import BUNDLES
from vmimg.machines.registry import DIALECTS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description="Write the tables of bundles and dialects.")
    parser.add_argument("--check", action="store_true", help="only say whether they are fresh")
    check = parser.parse_args().check
    return update("kinds", kinds(), check=check, page=DOCS / "bundles.md") | update(
        "dialects", dialects(), check=check, page=DOCS / "machines.md"
    )


def kinds() -> str:
    """A line for each kind of bundle."""
    lines: list[tuple[str, ...]] = [
        ("kind", "what it is", "opened", "made", "disks, when it is made", "options"),
    ]
    lines.append(("---",) * len(lines[0]))
    for kind in BUNDLES.values():
        names = ", ".join(f"`{name}`" for name in (kind.name, *kind.aliases))
        form = "as a directory" if kind.folder else "yes"
        options = ", ".join(f"`{option.name}`" for option in kind.options)
        formats = ", ".join(kind.formats) if kind.makes else ""
        lines.append((names, kind.title, "yes", form if kind.makes else "no", formats, options))
    return _table(lines)


def dialects() -> str:
    """A line for each dialect."""
    lines: list[tuple[str, ...]] = [("dialect", "what it is", "read", "written", "files")]
    lines.append(("---",) * len(lines[0]))
    lines += [
        (
            f"`{dialect.name}`",
            dialect.title,
            "yes" if dialect.reads else "no",
            "yes" if dialect.writes else "no",
            ", ".join(f"`{each}`" for each in dialect.extensions),
        )
        for dialect in DIALECTS.values()
    ]
    return _table(lines)


def _table(lines: list[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
