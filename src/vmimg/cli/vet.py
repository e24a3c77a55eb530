"""``vmimg vet``: may this image from a stranger be taken?"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from vmimg.cli.human import bold, dim, echo, json_text, paint, printable
from vmimg.cli.options import PATH, output_option, quiet_option
from vmimg.cli.sandbox import (
    confined_vet,
    confinement,
    sandbox_options,
    sandboxed,
    say_confinement,
)
from vmimg.cli.verb import CommandError, Verb, examples, exit_codes
from vmimg.errors import Interrupted, OptionError, VmimgError

if TYPE_CHECKING:
    from vmimg.probe.vetting import Report

__all__ = ["command"]

_COLOURS: Final = {"error": "red", "warning": "yellow", "note": "cyan"}
_FINDINGS = 1
_NOT_READABLE = 2


@click.command(
    "vet",
    cls=Verb,
    error_exit=_NOT_READABLE,
    epilog=exit_codes(
        {
            0: "clean: nothing, or notes only",
            _FINDINGS: "findings: warnings or errors",
            _NOT_READABLE: "a file cannot be read",
        }
    )
    + examples(
        "vmimg vet upload.qcow2",
        "vmimg vet --policy openstack --declared qcow2 --output json upload",
        "vmimg vet --sandbox --policy ./our-uploads.toml *.vmdk",
    ),
)
@click.option(
    "--policy",
    default="strict",
    metavar="POLICY",
    help="strict (the default), openstack, desktop, or a TOML file.",
)
@click.option(
    "--declared", metavar="FORMAT", help="What its sender says it is; an error if it is not."
)
@sandbox_options
@output_option
@quiet_option
@click.argument("files", type=PATH, metavar="FILE...", nargs=-1, required=True)
def command(
    policy: str, declared: str | None, output: str, quiet: bool, files: tuple[str, ...]
) -> int:
    """Look for what an image from a stranger could make its reader do.

    Opens nothing but FILE, follows no name in it, and takes a bounded time whatever it holds. With
    --quiet only the exit code says what was found.
    """
    from vmimg.probe.policy import Policy
    from vmimg.probe.vetting import vet

    judge = Policy.load(policy)
    look = confined_vet if sandboxed() else vet
    reports, failed = [], None
    for file in files:
        try:
            _refuse_streams(file)
            reports.append(look(file, policy=judge, declared=declared))
        except Interrupted:
            raise
        except VmimgError as error:
            if len(files) == 1:
                raise
            echo(printable(f"vmimg: error: {error}"), err=True)
            failed = CommandError(f"{file} and perhaps others were not vetted", _NOT_READABLE)
    held = confinement()
    if output == "json":
        objects = [report.to_json() for report in reports]
        if held is not None:
            objects = [facts | {"sandbox": held.to_json()} for facts in objects]
        echo(json_text(objects if len(files) > 1 else objects[0]))
    elif not quiet:
        say_confinement()
        for report in reports:
            for line in _lines(report):
                echo(line)
    if failed is not None:
        raise failed
    return 0 if all(report.clean for report in reports) else _FINDINGS


def _refuse_streams(file: str) -> None:
    """Vetting looks at tables wherever they are, and more than once."""
    try:
        stream = file == "-" or stat.S_ISFIFO(os.stat(file).st_mode)
    except (OSError, ValueError):
        return  # opening it says what is wrong
    if stream:
        raise OptionError(
            f"{file}: is a stream, and vetting reads at any position: save it to a file first"
        )


def _lines(report: Report) -> Iterator[str]:
    best = report.detection.best
    counts = [
        f"{count} {severity}{'' if count == 1 else 's'}"
        for severity in _COLOURS
        if (count := sum(str(f.severity) == severity for f in report.findings))
    ]
    verdict = ", ".join(counts) or "clean"
    yield (
        f"{bold(printable(report.filename))}: {best.name} ({printable(best.title)}), "
        f"policy {printable(report.policy)}: {bold(verdict)}"
    )
    for finding in report.findings:
        severity = str(finding.severity)
        where = f"{finding.within}: " if finding.within else ""
        place = f" (at {finding.offset})" if finding.offset is not None else ""
        yield (
            f"  {paint(f'{severity:<7}', _COLOURS[severity])}  {bold(finding.code)}: "
            f"{printable(where + finding.message)}{place}"
        )
        if finding.evidence and finding.evidence not in finding.message:
            yield "           " + dim(f"evidence: {printable(finding.evidence)}")
        if severity != "note":
            yield "           " + dim(f"to do: {finding.remedy}")
