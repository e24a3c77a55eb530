"""``vmimg repack``: one bundle becomes another kind of bundle."""

from __future__ import annotations

import click

from vmimg.cli.options import PATH
from vmimg.cli.packing import Making, bundle_options, making_options
from vmimg.cli.verb import Verb, examples

__all__ = ["command"]


@click.command(
    "repack",
    cls=Verb,
    epilog=examples(
        "vmimg repack appliance.ova appliance.box",
        "vmimg repack appliance.box -O ova appliance.ova",
        "vmimg repack appliance.ova -O vmware -o machine/",
        "vmimg repack appliance.ova -O box -b provider=virtualbox appliance.box",
        "vmimg repack -O help",
    ),
)
@bundle_options
@click.option("--system", metavar="NAME", help="Which of several machines in SRC.")
@making_options
@click.argument("source", type=PATH, metavar="SRC", required=False)
@click.argument("beside", type=PATH, metavar="OUT", required=False)
def command(making: Making, system: str | None, source: str | None, beside: str | None) -> None:
    """Make another kind of bundle of SRC: the same disks, the same machine.

    OUT is what to make, in the second place or after -o. What the new kind cannot say of the
    machine is listed on standard error.
    """
    if making.target is not None and beside is not None:
        raise click.UsageError(f"Say once what to make: {beside}, or -o {making.target}")
    target = making.target or beside
    if source is None or target is None:
        raise click.UsageError("Say what to make of what: SRC OUT")
    from vmimg.bundles.packing import repack

    making.run(repack, source, target, system=system)
