"""``vmimg dd``: copy a part of a disk into a new image."""

from __future__ import annotations

import click

from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.options import (
    FORMAT,
    chain_options,
    force_option,
    parent_policy,
    share_option,
    source_format,
    target_format,
)
from vmimg.cli.verb import Verb, examples
from vmimg.units import parse_size

__all__ = ["command"]

_OPERANDS = ("if", "of", "bs", "count", "skip")


@click.command(
    "dd",
    cls=Verb,
    epilog=examples(
        "vmimg dd if=disk.qcow2 of=mbr.raw bs=512 count=1",
        "vmimg dd -O qcow2 bs=1M skip=1 if=disk.raw of=part.qcow2",
    ),
)
@source_format("Format of the input; detected where missing.")
@click.option(
    "-O",
    "--target-format",
    "target_fmt",
    type=FORMAT,
    metavar="FMT",
    help="Format of the output; by its extension where missing.",
)
@share_option
@force_option
@key_option
@chain_options
@click.argument("operands", nargs=-1, metavar="if=SRC of=DST [bs=SIZE] [count=N] [skip=N]")
def command(
    source_format: str | None,
    target_fmt: str | None,
    share: bool,
    force: bool,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    operands: tuple[str, ...],
) -> None:
    """Copy COUNT blocks of BS bytes (512 where missing) of a disk, after the first SKIP of them.

    The new image is as large as what was copied.
    """
    values: dict[str, str] = {}
    for operand in operands:
        name, equals, value = operand.partition("=")
        if name not in _OPERANDS or not equals or not value:
            names = ", ".join(f"{name}=" for name in _OPERANDS)
            raise click.UsageError(f"'{operand}' is not one of {names}")
        values[name] = value
    for name in ("if", "of"):
        if name not in values:
            raise click.UsageError(f"Missing {name}=")
    sizes = {name: parse_size(values[name]) for name in ("bs", "count", "skip") if name in values}
    if not sizes.get("bs", 1):
        raise click.UsageError("bs=0 copies nothing")

    from vmimg.bundles.verbs import dd

    dd(
        values["if"],
        values["of"],
        format=target_format(values["of"], target_fmt, "-O").name,
        source_format=source_format,
        bs=sizes.get("bs", 512),
        count=sizes.get("count"),
        skip=sizes.get("skip", 0),
        replace=force,
        share=share,
        policy=parent_policy(allow_dirs, backing_format),
        keys=passphrases(key_file),
    )
