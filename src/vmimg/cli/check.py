"""``vmimg check``: is the metadata of an image consistent, and mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vmimg.cli.human import echo, json_text, paint, printable
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.options import (
    PATH,
    chain_options,
    ignored,
    output_option,
    parent_policy,
    quiet_option,
    share_option,
    source_format,
)
from vmimg.cli.verb import CommandError, Verb, examples, exit_codes

if TYPE_CHECKING:
    from vmimg.formats.driver import CheckReport

__all__ = ["command"]

_NOT_SUPPORTED = 63


@click.command(
    "check",
    cls=Verb,
    # 2 and 3 say what was found, so that a mistake in the command line must not be 2.
    usage_exit=1,
    epilog=exit_codes(
        {
            0: "nothing is wrong, or all of it was repaired",
            1: "the check failed",
            2: "corruptions: data is at risk",
            3: "leaks: space is wasted, no data is at risk",
            _NOT_SUPPORTED: "this format has nothing to check",
        }
    )
    + examples("vmimg check disk.qcow2", "vmimg check --repair leaks disk.qcow2"),
)
@source_format()
@click.option(
    "-r",
    "--repair",
    type=click.Choice(["leaks", "all"]),
    help="Mend leaked clusters, or everything. Not while a machine uses the image.",
)
@output_option
@quiet_option
@share_option
@key_option
@chain_options
@ignored("-T")
@click.argument("file", type=PATH)
def command(
    source_format: str | None,
    repair: str | None,
    output: str,
    quiet: bool,
    share: bool,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    file: str,
) -> int:
    """Check the metadata of an image: reference counts, tables, snapshots."""
    from vmimg.formats.checking import NothingToCheck, check

    try:
        report = check(
            file,
            format=source_format,
            repair=repair or "",
            share=share,
            policy=parent_policy(allow_dirs, backing_format),
            keys=passphrases(key_file),
        )
    except NothingToCheck as error:
        raise CommandError(str(error), _NOT_SUPPORTED) from error
    for problem in report.problems:
        echo(printable(problem), err=True)
    if output == "json":
        echo(json_text(report.to_json(file)))
    elif not quiet:
        _print(report)
    return report.exit_code


def _print(report: CheckReport) -> None:
    """In qemu-img's words: scripts look for them."""
    fixed = report.fixed_leaks + report.fixed_corruptions
    if fixed:
        echo(paint("Repaired:", "green"))
        echo(f"    {_count(report.fixed_leaks, 'leaked cluster')}")
        echo(f"    {_count(report.fixed_corruptions, 'corruption')}")
    if not (report.errors or report.corruptions or report.leaks):
        echo(paint("No errors were found on the image.", "green"))
    if report.corruptions:
        echo(paint(f"{_count(report.corruptions, 'error')} were found on the image.", "red"))
        echo("Data may be corrupted, or further writes to the image may corrupt it.")
    if report.leaks:
        echo(paint(f"{report.leaks} leaked clusters were found on the image.", "yellow"))
        echo("This means waste of disk space, but no harm to data.")
    if report.errors:
        echo(paint(f"{_count(report.errors, 'internal error')} during the check.", "red"))
    if report.total_clusters:
        allocated = report.allocated_clusters
        echo(
            f"{allocated}/{report.total_clusters} = "
            f"{100 * allocated / report.total_clusters:.2f}% allocated, "
            f"{100 * report.fragmented_clusters / max(allocated, 1):.2f}% fragmented, "
            f"{100 * report.compressed_clusters / max(allocated, 1):.2f}% compressed clusters"
        )
    if report.image_end_offset:
        echo(f"Image end offset: {report.image_end_offset}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
