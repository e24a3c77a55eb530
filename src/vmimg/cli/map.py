"""``vmimg map``: which layer of an image says what of each range of the disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from vmimg.cli.human import bold, dim, echo, paint, printable
from vmimg.cli.keys import given_passphrases, key_option
from vmimg.cli.options import (
    PATH,
    SIZE,
    chain_options,
    output_option,
    parent_policy,
    share_option,
    source_format,
)
from vmimg.cli.verb import Verb, examples
from vmimg.disk.extent import Extent, Kind
from vmimg.units import format_size

if TYPE_CHECKING:
    from vmimg.disk.stack import Disk

__all__ = ["command"]


@click.command(
    "map",
    cls=Verb,
    epilog=examples(
        "vmimg map disk.qcow2",
        "vmimg map --start-offset 1G --max-length 64M disk.qcow2",
        "vmimg map --output json disk.qcow2 | jq 'map(select(.data) | .length) | add'",
    ),
)
@source_format()
@click.option("-s", "--start-offset", type=SIZE, default=0, metavar="SIZE", help="Begin here.")
@click.option("-l", "--max-length", type=SIZE, metavar="SIZE", help="Show no more than this.")
@output_option
@share_option
@key_option
@chain_options
@click.argument("file", type=PATH)
def command(
    source_format: str | None,
    start_offset: int,
    max_length: int | None,
    output: str,
    share: bool,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    file: str,
) -> None:
    """Show where the data of an image is: ranges of data, of zeros, and of nothing at all.

    Depth 0 is FILE itself, 1 its backing file, and so on.
    """
    from vmimg.bundles.sources import open_disk

    policy = parent_policy(allow_dirs, backing_format)
    # Where the tables are not encrypted as well, no key is needed.
    keys = given_passphrases(key_file)
    with open_disk(
        file, format=source_format, policy=policy, share=share, keys=keys, sealed=keys is None
    ) as disk:
        start = min(start_offset, disk.size)
        end = disk.size if max_length is None else min(start + max_length, disk.size)
        rows = _rows(disk, start, end)
        if output == "json":
            _print_json(rows)
        else:
            _print_table(disk, rows)


@dataclass(frozen=True, slots=True)
class _Row:
    """A range as qemu-img describes it. ``present``: some layer decides it, ``depth`` is which;
    ``file``: where ``offset`` is in another file than the layer's own.
    """

    start: int
    length: int
    depth: int
    present: bool
    zero: bool
    data: bool
    compressed: bool
    offset: int | None
    file: str | None = None

    def continues(self, other: _Row) -> bool:
        """Whether ``other`` and this are one range."""
        ours = (self.depth, self.present, self.zero, self.data, self.compressed, self.file)
        theirs = (
            *(other.depth, other.present, other.zero, other.data, other.compressed),
            other.file,
        )
        if ours != theirs or (self.offset is None) != (other.offset is None):
            return False
        if self.offset is None or other.offset is None:
            return True
        return other.offset + other.length == self.offset


def _rows(disk: Disk, start: int, end: int) -> Iterator[_Row]:
    held: _Row | None = None
    for extent in disk.map(start, end):
        for row in _describe(disk, extent):
            if held is not None and row.continues(held):
                held = replace(held, length=held.length + row.length)
                continue
            if held is not None:
                yield held
            held = row
    if held is not None:
        yield held


def _describe(disk: Disk, extent: Extent) -> Iterator[_Row]:
    if extent.kind != Kind.ABSENT:
        yield _Row(
            start=extent.start,
            length=extent.length,
            depth=extent.depth,
            present=True,
            zero=extent.kind == Kind.ZERO,
            data=extent.kind == Kind.DATA,
            compressed=extent.compressed,
            offset=extent.offset,
            file=extent.file,
        )
        return
    # A parent may be shorter than its child. What lies behind its end is credited to the child, as
    # qemu-img does: it is there that a write would land, and the parent has no such place.
    edge = min(max(disk.layers[extent.depth].size, extent.start), extent.end)
    for start, stop, depth in (
        (extent.start, edge, extent.depth),
        (edge, extent.end, max(extent.depth - 1, 0)),
    ):
        if start < stop:
            yield _Row(start, stop - start, depth, False, True, False, False, None)


def _print_json(rows: Iterator[_Row]) -> None:
    # One row a line, each printed as it is known: the map of a large image is large.
    opening = "["
    for row in rows:
        pairs: dict[str, int | str] = {
            "start": row.start,
            "length": row.length,
            "depth": row.depth,
            "present": row.present,
            "zero": row.zero,
            "data": row.data,
            "compressed": row.compressed,
        }
        if row.offset is not None:
            pairs["offset"] = row.offset
        if row.file is not None:
            pairs["filename"] = row.file
        print(opening + "{ " + json.dumps(pairs)[1:], end="")
        opening = ",\n"
    print("[]" if opening == "[" else "]")


def _print_table(disk: Disk, rows: Iterator[_Row]) -> None:
    digits = max(len(f"{disk.size:#x}"), 6)
    files = [printable(layer.name) for layer in disk.layers]
    echo(dim(f"{'START':<{digits}}  {'LENGTH':<{digits}}  {'SIZE':>8}  {'WHAT':<10}  FILE, OFFSET"))
    data = 0
    for row in rows:
        what, colour = _what(row)
        line = f"{row.start:<#{digits}x}  {row.length:<#{digits}x}  {format_size(row.length):>8}  "
        if row.present:
            file = files[row.depth] if row.file is None else printable(row.file)
            line += paint(f"{what:<10}", colour) + f"  {file}"
            line += "" if row.offset is None else f", {row.offset:#x}"
        else:
            line += paint(what, colour)
        echo(line)
        data += row.length if row.data else 0
    echo(f"{bold(format_size(data))} of data in {format_size(disk.size)}")


def _what(row: _Row) -> tuple[str, str]:
    if row.compressed:
        return "compressed", "cyan"
    if row.data:
        return "data", "green"
    return ("zeros", "blue") if row.present else ("-", "bright_black")
