"""What pack and repack have in common: options of the bundle, and what is said of the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from vmimg.cli.human import bold, echo, exact_size, json_text, printable, table
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.losses import say_losses
from vmimg.cli.options import (
    FORMAT,
    PATH,
    chain_options,
    force_option,
    level_option,
    output_option,
    parent_policy,
    parse_options,
    threads_option,
    wants_help,
)
from vmimg.cli.progress import Progress, progress_options

if TYPE_CHECKING:
    from vmimg.bundles.packing import Packed

__all__ = ["Making", "bundle_options", "making_options"]

_LABEL: Final = 24


class _KindName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    name = "kind"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from vmimg.bundles.registry import BUNDLES

        return [
            CompletionItem(kind.name, help=kind.title)
            for kind in BUNDLES.values()
            if kind.makes and kind.name.startswith(incomplete)
        ]


@dataclass(frozen=True, slots=True)
class Making:
    """What the shared options say. ``target`` is None where nobody said it; ``settings``: the rest
    of what `vmimg.pack` and `vmimg.repack` take alike; ``output``, ``quiet``, ``mode`` and ``bar``:
    what is shown meanwhile and in the end.
    """

    target: str | None
    settings: Mapping[str, Any]
    output: str
    quiet: bool
    mode: str | None
    bar: bool

    def run(self, make: Callable[..., Packed], source: Any, target: str, **own: Any) -> None:
        """Make ``target`` of ``source``; say what it is, and what it does not say."""
        label = printable(os.path.basename(os.path.normpath(target))[-_LABEL:])
        with Progress.wanted(self.mode, show=self.bar, quiet=self.quiet, label=label) as progress:
            packed = make(source, target, **self.settings, **own, progress=progress.callback)
        _say(packed, self.output, self.quiet)


def making_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a bundle that is made; ``function`` gets them as ``making``. Lists of kinds
    and options that somebody asks for are printed before it is called.
    """

    @wraps(function)
    def run(
        kind: str | None,
        target: str | None,
        bundle_settings: tuple[str, ...],
        disk_format: str | None,
        disk_options: tuple[str, ...],
        level: str,
        threads: int,
        force: bool,
        key_file: str | None,
        allow_dirs: tuple[str, ...],
        backing_format: str | None,
        output: str,
        quiet: bool,
        progress_mode: str | None,
        show_progress: bool,
        files: tuple[str, ...],
        **own: Any,
    ) -> None:
        if kind == "help":
            _print_kinds()
            return
        if wants_help(bundle_settings):
            _print_options(kind, target)
            return
        settings = {
            "kind": kind,
            "options": parse_options(bundle_settings),
            "files": dict(map(_file, files)),
            "format": disk_format,
            "disk_options": parse_options(disk_options),
            "level": level,
            "threads": threads,
            "replace": force,
            "policy": parent_policy(allow_dirs, backing_format),
            "keys": passphrases(key_file),
        }
        function(
            making=Making(target, settings, output, quiet, progress_mode, show_progress), **own
        )

    command: Callable[..., None] = run
    for option in (
        chain_options,
        key_option,
        force_option,
        output_option,
        threads_option,
        progress_options,
        level_option,
        click.option(
            "--file",
            "files",
            multiple=True,
            metavar="[NAME=]FILE",
            help="Carry FILE along: a variable store, a kernel, a licence.",
        ),
    ):
        command = option(command)
    return command


def _file(text: str) -> tuple[str, str]:
    """(name in the bundle, path) of a --file."""
    name, equals, path = text.partition("=")
    return (name, path) if equals else (os.path.basename(text), text)


def bundle_options(function: Callable[..., None]) -> Callable[..., None]:
    """-O, -o, -b, --disk-format and -d: what is made. They are listed first."""
    for option in (
        click.option(
            "-d",
            "disk_options",
            multiple=True,
            metavar="K=V,...",
            help="Options of the disks in it, as -o of convert.",
        ),
        click.option(
            "--disk-format",
            type=FORMAT,
            metavar="FMT",
            help="Format of the disks in it; the usual one of the kind where missing.",
        ),
        click.option(
            "-b",
            "bundle_settings",
            multiple=True,
            metavar="K=V,...",
            help="Options of the bundle; `-b help` lists them.",
        ),
        click.option("-o", "target", type=PATH, metavar="FILE", help="The bundle to make."),
        click.option(
            "-O",
            "--kind",
            "kind",
            type=_KindName(),
            metavar="KIND",
            help="Kind of bundle (`-O help` lists them); by the extension of FILE where missing.",
        ),
    ):
        function = option(function)
    return function


def _print_kinds() -> None:
    """The kinds that can be made."""
    from vmimg.bundles.registry import BUNDLES

    table(
        ("KIND", "FILES", "DISKS", "WHAT IT IS"),
        (
            (
                ", ".join((each.name, *each.aliases)),
                " ".join(each.extensions) or ("a directory" if each.folder else ""),
                " ".join(each.formats) or "",
                each.title,
            )
            for each in BUNDLES.values()
            if each.makes
        ),
    )


def _print_options(kind: str | None, target: str | None) -> None:
    """The options of one kind."""
    from vmimg.bundles.registry import by_extension, find

    found = find(kind) if kind is not None else by_extension(target or "")
    if found is None:
        raise click.UsageError("Say which kind of bundle: -O KIND")
    if not found.options:
        echo(f"{found.title}: has no options")
        return
    table(
        ("OPTION", "DEFAULT", "WHAT IT DOES"),
        (
            (
                f"{o.name}={'|'.join(map(str, o.choices)) or o.kind}",
                "" if o.default is None else str(o.default),
                o.help,
            )
            for o in found.options
        ),
    )


def _say(packed: Packed, output: str, quiet: bool) -> None:
    """What was made, and on standard error what it does not say of the machine."""
    if output == "json":
        echo(json_text(packed.to_json()))
        return
    if quiet:
        return
    say_losses(packed.losses, packed.kind)
    count = len(packed.disks)
    disks = f", {count} disk{'s' if count != 1 else ''}" if count else ""
    echo(f"{bold(printable(packed.path))}: {packed.kind}, {exact_size(packed.size)}{disks}")
