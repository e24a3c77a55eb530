"""``vmimg machine``: descriptions of machines, shown and translated."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from vmimg.cli.human import bold, echo, exact_size, fields, json_text, printable
from vmimg.cli.losses import say_losses
from vmimg.cli.options import PATH, force_option, output_option, quiet_option
from vmimg.cli.verb import Verb, examples
from vmimg.errors import OptionError

__all__ = ["DIALECT", "command", "machines_in"]

_SHOW = ("vmimg machine show web.vmx", "vmimg machine show --output json appliance.ova")
_VARS = ("vmimg machine vars OVMF_VARS.fd",)
_CONVERT = (
    "vmimg machine convert web.vmx -O libvirt",
    "vmimg machine convert appliance.ova -O proxmox -o 100.conf",
    "virsh dumpxml web | vmimg machine convert -f libvirt - -O qemu",
)


class _DialectName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "dialect"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from vmimg.machines.registry import DIALECTS

        return [
            CompletionItem(each.name, help=each.title)
            for each in DIALECTS.values()
            if each.name.startswith(incomplete)
        ]


DIALECT = _DialectName()

_dialect = click.option(
    "-f", "--dialect", type=DIALECT, metavar="DIALECT", help="Of FILE; detected where missing."
)
_system = click.option("--system", metavar="NAME", help="Which of several machines in FILE.")


@click.group("machine", invoke_without_command=True, epilog=examples(*_SHOW, *_CONVERT, *_VARS))
@click.pass_context
def command(context: click.Context) -> int:
    """Show and translate descriptions of machines: .vmx, .vbox, libvirt, OVF and others.

    FILE may be a bundle too: then the description in it is meant. `vmimg machine dialects` lists
    what there is.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0


@command.command("show", cls=Verb, epilog=examples(*_SHOW))
@_dialect
@output_option
@click.argument("file", type=PATH)
def show(dialect: str | None, output: str, file: str) -> None:
    """Show the machines that FILE describes; - is standard input."""
    from vmimg.machines.showing import lines, to_json

    name, machines = machines_in(file, dialect)
    if output == "json":
        echo(
            json_text(
                {
                    "filename": file,
                    "dialect": name,
                    "machines": [to_json(machine) for machine in machines],
                }
            )
        )
        return
    for number, machine in enumerate(machines):
        if number:
            echo()
        fields([("description in", bold(name)), *((k, printable(v)) for k, v in lines(machine))])


@command.command("convert", cls=Verb, epilog=examples(*_CONVERT))
@_dialect
@click.option("-O", "--target", "target", type=DIALECT, metavar="DIALECT", help="What to write.")
@click.option("-o", "path", type=PATH, metavar="FILE", help="Where to; standard output if missing.")
@_system
@click.option("--strict", is_flag=True, help="Fail where something would be lost.")
@click.option(
    "--losses",
    "losses_output",
    type=click.Choice(["human", "json"]),
    default="human",
    help="How to list, on standard error, what is lost.",
)
@quiet_option
@force_option
@click.argument("file", type=PATH)
def convert(
    dialect: str | None,
    target: str | None,
    path: str | None,
    system: str | None,
    strict: bool,
    losses_output: str,
    quiet: bool,
    force: bool,
    file: str,
) -> None:
    """Write the machine that FILE describes in another dialect.

    What that cannot say is listed on standard error, by its place in the model.
    """
    from vmimg.machines.reading import anchored, dialect_for, write_machine

    if target is None and path is None:
        raise click.UsageError("Say which dialect: -O, or -o with a name whose extension tells")
    _, machines = machines_in(file, dialect)
    machine = _one(machines, system, file)
    if dialect_for(target, path or "").absolute:
        machine = anchored(machine, os.path.dirname(file) if file != "-" else "")
    found, written = write_machine(machine, target, path=path or "")
    if losses_output == "json":
        echo(json_text([loss.to_json() for loss in written.losses]), err=True)
    elif not quiet:
        say_losses(written.losses, found.name)
    lost = [loss for loss in written.losses if not loss.said_by]
    if strict and lost:
        raise OptionError(f"{file}: {len(lost)} things would be lost in {found.name}")
    if path is None:
        sys.stdout.buffer.write(written.data)
        if written.files and not quiet:
            names = ", ".join(written.files)
            echo(f"Left out, since they go beside a file (-o): {names}", err=True)
        return
    _write(path, written.data, written.files, force)


@command.command("vars", cls=Verb, epilog=examples(*_VARS))
@output_option
@click.option("--all", "deleted", is_flag=True, help="Those that were deleted too.")
@click.argument("file", type=PATH)
def variables(output: str, deleted: bool, file: str) -> None:
    """List the variables in a UEFI variable store: OVMF_VARS.fd, a libvirt NVRAM file."""
    from vmimg.cli.human import table
    from vmimg.machines.variables import variable_store

    store = variable_store(file)
    found = [each for each in store.variables if each.live or deleted]
    if output == "json":
        rows = [
            {
                "name": each.name,
                "guid": each.guid,
                "size": each.data_size,
                "attributes": each.attributes,
                "offset": each.offset,
                "live": each.live,
            }
            for each in found
        ]
        facts = {"filename": file, "store": store.kind, "store-size": store.size}
        facts |= {"complete": store.all_seen and not store.problem, "problem": store.problem}
        echo(json_text(facts | {"variables": rows}))
        return
    fields(
        [
            ("variable store", bold(printable(file))),
            ("kind", store.kind),
            ("store size", exact_size(store.size)),
            ("variables", f"{sum(each.live for each in store.variables)}"),
        ]
    )
    table(
        ("NAME", "BYTES", "ATTRIBUTES", "GUID"),
        (
            (
                printable(each.name) + ("" if each.live else " (deleted)"),
                str(each.data_size),
                f"{each.attributes:#x}",
                each.guid,
            )
            for each in found
        ),
        right=(1,),
        indent=2,
    )
    if store.problem:
        echo(f"The list ends early: {printable(store.problem)}", err=True)


@command.command("dialects", cls=Verb)
@output_option
def dialects(output: str) -> None:
    """List the dialects: what is read and written, and the extensions of their files."""
    from vmimg.cli.human import table
    from vmimg.machines.registry import DIALECTS

    if output == "json":
        rows = [
            {
                "name": each.name,
                "title": each.title,
                "reads": each.reads,
                "writes": each.writes,
                "extensions": list(each.extensions),
                "spec": each.spec,
            }
            for each in DIALECTS.values()
        ]
        echo(json_text(rows))
        return
    table(
        ("DIALECT", "READS", "WRITES", "FILES", "WHAT IT IS"),
        (
            (
                each.name,
                "yes" if each.reads else "no",
                "yes" if each.writes else "no",
                " ".join(each.extensions),
                each.title,
            )
            for each in DIALECTS.values()
        ),
    )


def machines_in(file: str, dialect: str | None) -> tuple[str, tuple[Any, ...]]:
    """(name of the dialect or bundle, machines) of a description or of a bundle."""
    from vmimg.bundles.opening import is_bundle, open_bundle
    from vmimg.machines.reading import read_machines
    from vmimg.machines.registry import find

    if file == "-":
        if dialect is None:
            raise OptionError("standard input: say which dialect it is in, with -f")
        return dialect, find(dialect).read(sys.stdin.buffer.read(), "standard input")
    if dialect is None and (is_bundle(file, descriptions=False) or os.path.isdir(file)):
        with open_bundle(file) as bundle:
            return bundle.kind, bundle.machines
    found = read_machines(file, dialect=dialect)
    return found.dialect.name, found.machines


def _one(machines: tuple[Any, ...], system: str | None, file: str) -> Any:
    names = [machine.name for machine in machines]
    if system is not None:
        if system not in names:
            raise OptionError(f"{file}: there is no machine '{system}': {', '.join(names)}")
        return machines[names.index(system)]
    if len(machines) != 1:
        count = len(machines) or "no"
        raise OptionError(f"{file}: describes {count} machines; pick one with --system: "
                          f"{', '.join(names)}")  # fmt: skip
    return machines[0]


def _write(path: str, data: bytes, files: dict[str, bytes], force: bool) -> None:
    from vmimg.storage.output import OutputSet

    with OutputSet() as outputs:
        for name, content in files.items():
            beside = os.path.join(os.path.dirname(path), name)
            outputs.add(beside, replace=force).write(0, content)
        outputs.add(path, replace=force).write(0, data)
