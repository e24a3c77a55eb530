"""``vmimg create``: a new, empty image, or an overlay over an existing one."""

from __future__ import annotations

import click

from vmimg.cli.human import bold, echo, exact_size, printable
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.options import (
    FORMAT,
    PATH,
    align_option,
    chain_options,
    creation_options,
    force_option,
    grown,
    parent_policy,
    parse_options,
    print_options,
    quiet_option,
    target_format,
    wants_help,
)
from vmimg.cli.verb import Verb, examples
from vmimg.errors import OptionError
from vmimg.units import parse_size

__all__ = ["command"]


@click.command(
    "create",
    cls=Verb,
    epilog=examples(
        "vmimg create disk.qcow2 20G",
        "vmimg create -b base.qcow2 -F qcow2 overlay.qcow2",
        "vmimg create -b base.vhdx child.avhdx",
        "vmimg create -f qcow2 -o cluster_size=1M,preallocation=metadata disk.img 20G",
        "vmimg create -f qcow2 -o help",
    ),
)
@click.option(
    "-f",
    "--format",
    "format",
    type=FORMAT,
    metavar="FMT",
    help="Format of FILE; by its extension where missing.",
)
@creation_options
@click.option("-b", "--backing", type=PATH, metavar="FILE", help="Make an overlay over this image.")
@click.option("-F", "backing_fmt", type=FORMAT, metavar="FMT", help="Format of the file of -b.")
@click.option("-u", "unsafe", is_flag=True, help="Do not open the file of -b; SIZE is needed then.")
@align_option
@quiet_option
@force_option
@key_option
@chain_options
@click.argument("arguments", nargs=-1, type=PATH, metavar="FILE [SIZE]")
def command(
    format: str | None,
    options: tuple[str, ...],
    backing: str | None,
    backing_fmt: str | None,
    unsafe: bool,
    align: int,
    quiet: bool,
    force: bool,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Create an image FILE of SIZE bytes; k, M, G, T may follow the number.

    An overlay has the size of its backing file where SIZE is missing.
    """
    file = arguments[0] if arguments else None
    if wants_help(options):
        print_options(target_format(file, format, "-f"))
        return
    if file is None or len(arguments) > 2:
        raise click.UsageError(f"Expected FILE and SIZE, got {len(arguments)} arguments")
    values = parse_options(options)
    text = values.pop("size", None)
    if len(arguments) == 2:
        text = arguments[1]
    size = None if text is None else parse_size(text)
    chosen = target_format(file, format, "-f")
    if size is None and (unsafe or not (backing or values.get("backing_file"))):
        raise click.UsageError("Expected the SIZE of the disk")
    if unsafe and not (backing or values.get("backing_file")):
        raise OptionError("-u is about a backing file; name it with -b")

    from vmimg.transfer.create import create

    made = create(
        file,
        size,
        format=chosen.name,
        options=values,
        backing=backing,
        backing_format=backing_fmt,
        check_backing=not unsafe,
        align=align,
        replace=force,
        policy=parent_policy(allow_dirs, backing_format),
        keys=passphrases(key_file, new=True),
    )
    if not quiet:
        if size is not None and align > 512 and size != made:
            echo(grown(file, size, made), err=True)
        echo(f"{bold(printable(file))}: {chosen.name}, {exact_size(made)}")
