"""``vmimg formats``: the registry as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from vmimg.cli.human import echo, json_text, table
from vmimg.cli.options import output_option
from vmimg.cli.verb import Verb, examples
from vmimg.formats import Format
from vmimg.formats.registry import all_formats

__all__ = ["command"]


@click.command(
    "formats",
    cls=Verb,
    epilog=examples("vmimg formats", "vmimg formats --output json | jq '.[].name'"),
)
@output_option
def command(output: str) -> None:
    """List the formats, and what can be done with each.

    `vmimg create -f FMT -o help` lists the options of one.
    """
    if output == "json":
        echo(json_text([_as_json(format) for format in all_formats()]))
        return
    table(
        ("FORMAT", "NAME", "FILES", "CAN"),
        (
            (format.name, format.title, " ".join(format.extensions), ", ".join(_abilities(format)))
            for format in all_formats()
        ),
    )


def _abilities(format: Format) -> Iterator[str]:
    can = format.capabilities
    for name in ("read", "write", "create", "convert", "check"):
        if getattr(can, name):
            yield name
    if can.parent:
        yield "backing files"
    if can.snapshots:
        yield f"{can.snapshots} snapshots"
    if can.compression:
        yield f"compression ({', '.join(can.compression)})"
    if can.encryption:
        yield "decrypt" if can.encryption == "read" else "encryption"


def _as_json(format: Format) -> dict[str, Any]:
    can, limits = format.capabilities, format.limits
    return {
        "name": format.name,
        "title": format.title,
        "aliases": list(format.aliases),
        "extensions": list(format.extensions),
        "subformats": list(format.subformats),
        "specification": format.spec,
        "capabilities": {
            "read": can.read,
            "write": can.write,
            "create": can.create,
            "convert": can.convert,
            "check": can.check,
            "backing-files": can.parent,
            "snapshots": can.snapshots,
            "compression": list(can.compression),
            "encryption": can.encryption,
        },
        "max-size": limits.max_size,
        "block-sizes": list(limits.block_sizes) if limits.block_sizes else None,
        "options": [
            {
                "name": option.name,
                "type": option.kind,
                "default": option.default,
                "choices": list(option.choices),
                "help": option.help,
            }
            for option in format.options
        ],
    }
