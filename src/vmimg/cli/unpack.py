"""``vmimg unpack``: what is in a bundle becomes files."""

from __future__ import annotations

import os

import click

from vmimg.cli.human import bold, echo, json_text, printable, table
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.losses import say_losses
from vmimg.cli.machine import DIALECT
from vmimg.cli.options import (
    FORMAT,
    PATH,
    chain_options,
    creation_options,
    output_option,
    parent_policy,
    parse_options,
    print_options,
    threads_option,
    wants_help,
)
from vmimg.cli.progress import Progress, progress_options
from vmimg.cli.verb import Verb, examples
from vmimg.formats import find
from vmimg.units import format_size

__all__ = ["command"]

_LABEL = 24


@click.command(
    "unpack",
    cls=Verb,
    epilog=examples(
        "vmimg unpack appliance.ova files/",
        "vmimg unpack appliance.ova -O qcow2 --machine libvirt web/",
        "vmimg unpack appliance.ova:disk2 -O raw disks/",
    ),
)
@click.option(
    "-O",
    "--target-format",
    "target_fmt",
    type=FORMAT,
    metavar="FMT",
    help="Convert the disks to FMT; without it all files are unpacked as they are.",
)
@creation_options
@click.option("-c", "--compress", is_flag=True, help="Compress the disks.")
@click.option(
    "--machine", "dialect", type=DIALECT, metavar="DIALECT", help="Describe the machine, too."
)
@progress_options
@threads_option
@output_option
@key_option
@chain_options
@click.argument("source", type=PATH, metavar="BUNDLE")
@click.argument("folder", type=PATH, metavar="DIR")
def command(
    target_fmt: str | None,
    options: tuple[str, ...],
    compress: bool,
    dialect: str | None,
    progress_mode: str | None,
    show_progress: bool,
    quiet: bool,
    threads: int,
    output: str,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    source: str,
    folder: str,
) -> None:
    """Unpack BUNDLE into DIR, which must be new or empty.

    DIR appears when everything in it is complete. Names that would lead out of it are refused.
    """
    if wants_help(options):
        _print_options(source, target_fmt)
        return
    from vmimg.bundles.unpacking import unpack

    label = printable(os.path.basename(os.path.normpath(folder))[-_LABEL:])
    with Progress.wanted(progress_mode, show=show_progress, quiet=quiet, label=label) as progress:
        done = unpack(
            source,
            folder,
            format=target_fmt,
            options=parse_options(options),
            compress=compress,
            dialect=dialect,
            threads=threads,
            policy=parent_policy(allow_dirs, backing_format),
            keys=passphrases(key_file),
            progress=progress.callback,
        )
    if output == "json":
        echo(json_text(done.to_json()))
        return
    if quiet:
        return
    say_losses(done.losses, dialect or "the directory")
    echo(f"{bold(printable(done.path))}: {len(done.files)} files of {done.kind}")
    table(
        ("FILE", "SIZE"),
        ((printable(name), format_size(size)) for name, size in done.files.items()),
        right=(1,),
        indent=2,
    )


def _print_options(source: str, format: str | None) -> None:
    """What -o takes: options of the format, or of the bundle where it is unpacked as it is."""
    if format is not None:
        print_options(find(format))
        return
    from vmimg.bundles.naming import named
    from vmimg.bundles.opening import open_bundle

    with open_bundle(named(source).path) as bundle:
        kind, options = bundle.kind, bundle.unpack_options
    if not options:
        echo(f"{kind} has no options; -O FMT has those of FMT.")
        return
    table(("OPTION", "MEANING"), ((f"{each.name}={each.kind}", each.help) for each in options))
