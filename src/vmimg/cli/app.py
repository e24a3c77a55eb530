"""The group ``vmimg``: knows where its verbs are and loads the one that is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from vmimg import __version__
from vmimg.cli.verb import examples

__all__ = ["VERBS", "vmimg"]

VERBS = {
    name: f"vmimg.cli.{name}"
    for name in (
        "convert",
        "info",
        "detect",
        "vet",
        "create",
        "map",
        "check",
        "compare",
        "measure",
        "dd",
        "pack",
        "unpack",
        "repack",
        "verify",
        "sign",
        "machine",
        "serve",
        "iso",
        "formats",
    )
}
"""Modules by verb, in the order of the help; each has the verb as ``command``."""


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(VERBS[cmd_name]).command
        return command


@click.group(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "vmimg info disk.qcow2",
        "vmimg vet upload.qcow2",
        "vmimg repack appliance.ova -o appliance.box",
        "vmimg convert disk.qcow2 disk.raw",
        "vmimg convert -c -o compression_type=zstd disk.raw disk.qcow2",
        "",
        "`vmimg VERB --help` explains a verb. Completion of verbs, options, formats and files:",
        '  eval "$(_VMIMG_COMPLETE=bash_source vmimg)"    (also zsh_source, fish_source)',
    ),
)
@click.version_option(
    __version__, "-V", "--version", prog_name="vmimg", message="%(prog)s %(version)s"
)
@click.pass_context
def vmimg(context: click.Context) -> int:
    """Virtual machine images: look at them, convert, check and compare them.

    Verbs and flags are those of qemu-img.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0
