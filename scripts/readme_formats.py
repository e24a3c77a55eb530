"""The table of formats in README.md, generated from the registry so that it cannot be wrong.

Without an argument it writes the table between its markers; with --check it only says whether what
is there is what the registry says, which a test and the pre-commit hook ask.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vmimg.formats import FORMATS, Format
from vmimg.units import format_exact

README = Path(__file__).resolve().parent.parent / "README.md"

_NO = "–"
_ENCRYPTION = {"": _NO, "read": "read", "option": "yes", "always": "always"}


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description="Write the table of formats in README.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is fresh")
    return update("formats", table(), check=parser.parse_args().check)


def table() -> str:
    """The registry as a Markdown table, one line for each format."""
    head = (
        *(
            "format",
            "`-O`",
            "extensions",
            "kinds",
            "read",
            "write in place",
            "create",
            "convert to",
        ),
        *("parents", "check", "snapshots", "compression", "encryption", "largest disk", "blocks"),
    )
    lines = [head, ("---",) * len(head), *(row(format) for format in FORMATS.values())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row(format: Format) -> tuple[str, ...]:
    """One format's cells."""
    can, limits = format.capabilities, format.limits
    blocks = _NO
    if limits.block_sizes is not None:
        smallest, largest = limits.block_sizes
        blocks = short_size(smallest)
        if smallest != largest:
            blocks += f" to {short_size(largest)}"
    return (
        format.title,
        ", ".join(f"`{name}`" for name in (format.name, *format.aliases)),
        ", ".join(f"`{extension}`" for extension in format.extensions),
        ", ".join(format.subformats) or _NO,
        yes(can.read),
        yes(can.write),
        yes(can.create),
        yes(can.convert),
        yes(can.parent),
        yes(can.check),
        can.snapshots or _NO,
        ", ".join(can.compression) or _NO,
        _ENCRYPTION[can.encryption],
        short_size(limits.max_size),
        blocks,
    )


def yes(capability: bool) -> str:
    """A capability as a cell."""
    return "yes" if capability else _NO


def short_size(size: int) -> str:
    """A size for people: 2^63 - 1, the largest that a file offset can say, is 8 EiB to them."""
    return format_exact(size + 1 if size % 2 else size)


def update(name: str, text: str, *, check: bool, page: Path = README) -> int:
    """Put text between the markers called name in page; with check, only compare.

    Returns the exit code.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before = page.read_text(encoding="utf-8")
    head, found_begin, rest = before.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        print(f"{page.name} has no {begin} and {end}", file=sys.stderr)
        return 1
    fresh = f"{head}{begin}\n\n{text}\n\n{end}{tail}"
    if fresh == before:
        return 0
    if check:
        print(f"{page.name}: the table of {name} is stale; run `make readme`", file=sys.stderr)
        return 1
    page.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
