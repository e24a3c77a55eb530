"""``vmimg compare``: do two images hold the same disk."""

from __future__ import annotations

import click

from vmimg.cli.human import echo, paint
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.options import (
    FORMAT,
    PATH,
    chain_options,
    ignored,
    parent_policy,
    share_option,
    source_format,
    threads_option,
)
from vmimg.cli.progress import Progress, progress_options
from vmimg.cli.verb import Verb, examples, exit_codes

__all__ = ["command"]


@click.command(
    "compare",
    cls=Verb,
    error_exit=2,
    epilog=exit_codes({0: "identical", 1: "different", 2: "the comparison failed"})
    + examples("vmimg compare disk.raw disk.qcow2", "vmimg compare -s a.qcow2 b.qcow2"),
)
@source_format("Format of A; detected where missing.")
@click.option("-F", "second_format", type=FORMAT, metavar="FMT", help="Format of B.")
@click.option(
    "-s",
    "--strict",
    is_flag=True,
    help="Sizes, and what is allocated, must be the same too.",
)
@progress_options
@threads_option
@share_option
@key_option
@chain_options
@ignored("-T")
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
def command(
    source_format: str | None,
    second_format: str | None,
    strict: bool,
    progress_mode: str | None,
    show_progress: bool,
    quiet: bool,
    threads: int,
    share: bool,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    a: str,
    b: str,
) -> int:
    """Compare what the guest would see in images A and B; their formats may differ.

    Where one is larger, the rest of it must be zeros.
    """
    from vmimg.bundles.verbs import compare

    with Progress.wanted(
        progress_mode, show=show_progress, quiet=quiet, label="compare"
    ) as progress:
        result = compare(
            a,
            b,
            format_a=source_format,
            format_b=second_format,
            strict=strict,
            share=share,
            policy=parent_policy(allow_dirs, backing_format),
            keys=passphrases(key_file),
            threads=threads,
            progress=progress.callback,
        )
    if not quiet:
        if result.warning:
            echo(paint(f"Warning: {result.warning}", "yellow"))
        echo(paint(result.message, "green" if result.identical else "red"))
    return 0 if result.identical else 1
