"""Output for people and for programs: aligned fields, tables, colours on a terminal, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import click

from vmimg.units import format_size

__all__ = [
    "bold",
    "dim",
    "echo",
    "exact_size",
    "fields",
    "json_text",
    "paint",
    "printable",
    "table",
]


def printable(text: str) -> str:
    """``text`` in one line, with what could steer a terminal escaped."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def exact_size(size: int) -> str:
    """``"1.5 GiB (1610612736 bytes)"``, as qemu-img writes sizes."""
    return f"{format_size(size)} ({size} bytes)"


def echo(text: str = "", *, err: bool = False) -> None:
    """Print a line; colours are dropped where they do not belong."""
    # click drops them for what is no terminal; https://no-color.org and dumb terminals come on top.
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    click.echo(text, err=err, color=False if plain else None)


def bold(text: str) -> str:
    """``text`` that matters."""
    return click.style(text, bold=True)


def dim(text: str) -> str:
    """``text`` that repeats itself: labels, headers."""
    return click.style(text, dim=True)


def paint(text: str, colour: str) -> str:
    """``text`` in one of click's colours."""
    return click.style(text, fg=colour)


def fields(rows: Iterable[tuple[str, str]], *, indent: int = 0) -> None:
    """Print ``label: value`` lines with the values in one column."""
    rows = list(rows)
    width = max((len(label) for label, _ in rows), default=0) + 1
    for label, value in rows:
        echo(" " * indent + dim(f"{label}:".ljust(width)) + f"  {value}")


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[int] = (),
    indent: int = 0,
) -> None:
    """Print a table. ``right`` are the columns to align right. Cells are plain text."""
    rows = [list(map(str, row)) for row in rows]
    flush = set(right)
    widths = [max(len(row[i]) for row in [list(header), *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i in flush else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return (" " * indent + "  ".join(padded)).rstrip()

    echo(dim(line(header)))
    for row in rows:
        echo(line(row))


def json_text(value: Any) -> str:
    """``value`` as qemu-img prints JSON. Names that are no text survive as lone surrogates."""
    return json.dumps(value, indent=4)
