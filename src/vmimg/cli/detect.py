"""``vmimg detect``: what a file is, and what else it could be taken for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from vmimg.cli.human import bold, dim, echo, json_text, paint, printable
from vmimg.cli.options import PATH, output_option
from vmimg.cli.sandbox import (
    confined_detect,
    confinement,
    sandbox_options,
    sandboxed,
    say_confinement,
)
from vmimg.cli.verb import CommandError, Verb, examples, exit_codes
from vmimg.errors import Interrupted, OptionError, VmimgError

if TYPE_CHECKING:
    from vmimg.probe.claims import Claim
    from vmimg.probe.detecting import Detection

__all__ = ["command"]

_CHUNK = 1 << 20


@click.command(
    "detect",
    cls=Verb,
    epilog=exit_codes({0: "said what each file is", 1: "a file cannot be read"})
    + examples(
        "vmimg detect upload.bin",
        "vmimg detect --output json *.img | jq -r '.[].format'",
        "curl -s https://example.org/image | vmimg detect -",
    ),
)
@sandbox_options
@output_option
@click.argument("files", type=PATH, metavar="FILE...", nargs=-1, required=True)
def command(output: str, files: tuple[str, ...]) -> None:
    """Say what files are, by their structure and never by their names, with the evidence.

    FILE is a file, a block device, a directory that is an image or a bundle, or - for standard
    input, which is read to its end. Nothing that is named in it is opened.
    """
    found = []
    failed: CommandError | None = None
    for file in files:
        try:
            found.append(_detect(file))
        except Interrupted:
            raise
        except VmimgError as error:
            if len(files) == 1:
                raise
            echo(printable(f"vmimg: error: {error}"), err=True)
            failed = CommandError(f"{file} and perhaps others could not be read")
    held = confinement()
    if output == "json":
        objects = [detection.to_json() for detection in found]
        if held is not None:
            objects = [facts | {"sandbox": held.to_json()} for facts in objects]
        echo(json_text(objects if len(files) > 1 else objects[0]))
    else:
        say_confinement()
        for detection in found:
            for line in _lines(detection):
                echo(line)
    if failed is not None:
        raise failed


def _detect(file: str) -> Detection:
    from vmimg.probe.detecting import detect as detect_file

    if sandboxed():
        if file == "-":
            raise OptionError("--sandbox hands a file over, and standard input is none; save it")
        return confined_detect(file)
    if file != "-":
        return detect_file(file)
    from vmimg.probe.inspector import Inspector

    inspector = Inspector("standard input")
    while chunk := sys.stdin.buffer.read(_CHUNK):
        inspector.feed(chunk)
    return inspector.finish()


def _lines(detection: Detection) -> Iterator[str]:
    best = detection.best
    yield f"{bold(printable(detection.filename))}: {bold(best.name)} ({printable(best.title)})"
    if detection.polyglot:
        names = ", ".join(detection.contradictions)
        yield "  " + paint(f"contradicts itself: it could be taken for {names}", "red")
    for number, claim in enumerate(detection.claims):
        # Raw fits everything, and says nothing beside another claim.
        if claim.name == "raw" and len(detection.claims) > 1:
            continue
        yield from _claim(claim, 2, named=number > 0)


def _claim(claim: Claim, indent: int, *, named: bool) -> Iterator[str]:
    if named:
        sure = "" if claim.confidence >= 80 else f", {claim.confidence} % sure"
        yield " " * indent + f"also {bold(claim.name)} ({printable(claim.title)}){sure}"
        indent += 2
    width = max((len(str(evidence.offset)) for evidence in claim.evidence), default=0)
    for evidence in claim.evidence:
        place = dim(f"at {evidence.offset:>{width}}")
        yield " " * indent + f"{place}  {printable(evidence.meaning)}"
    for key, value in claim.details.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        yield " " * indent + f"{dim(key.replace('_', '-') + ':')} {printable(shown)}"
    for inner in claim.inside:
        if inner.name == "raw" and len(claim.inside) > 1:
            continue
        yield " " * indent + f"inside: {bold(inner.name)} ({printable(inner.title)})"
        yield from _claim(inner, indent + 2, named=False)
