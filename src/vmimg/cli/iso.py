"""``vmimg iso``: optical discs, made of a directory or as a seed for cloud-init."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vmimg.cli.human import bold, echo, exact_size, json_text, paint, printable
from vmimg.cli.options import PATH, force_option, quiet_option
from vmimg.cli.progress import Progress, progress_options
from vmimg.cli.verb import Verb, examples

if TYPE_CHECKING:
    from vmimg.formats.iso.making import IsoResult
    from vmimg.formats.iso.seed import SeedResult

__all__ = ["command"]

# Letters of the image's name beside the bar.
_LABEL = 24

_CREATE = (
    "vmimg iso create files/ -o files.iso --label FILES",
    "vmimg iso create tree/ -o boot.iso --boot-bios isolinux/isolinux.bin --boot-efi efi.img",
)
_SEED = (
    "vmimg iso seed --user-data user.yaml -o seed.iso",
    "vmimg iso seed --user-data user.yaml --hostname web1 --network-config net.yaml -o seed.iso",
)

_target = click.option(
    "-o", "target", type=PATH, required=True, metavar="FILE", help="The image to make."
)
_output = click.option(
    "--output",
    type=click.Choice(["human", "json"]),
    default="human",
    help="How to say what was made.",
)


@click.group("iso", invoke_without_command=True, epilog=examples(*_CREATE, *_SEED))
@click.pass_context
def command(context: click.Context) -> int:
    """Make ISO images: of a directory, or a seed for cloud-init.

    What an image holds is shown by `vmimg info`.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return 2
    return 0


@command.command("create", cls=Verb, epilog=examples(*_CREATE))
@_target
@click.option("--label", default="CDROM", show_default=True, help="Name of the volume.")
@click.option(
    "--boot-bios",
    type=PATH,
    metavar="FILE",
    help="Boot loader for BIOS: a file of DIR, or any other, which is added in /boot.",
)
@click.option(
    "--boot-efi",
    type=PATH,
    metavar="FILE",
    help="FAT image with the boot loader for EFI: likewise.",
)
@click.option(
    "--boot-info-table/--no-boot-info-table",
    default=True,
    help="Write into the loader of --boot-bios where it lies: isolinux and GRUB want it (default).",
)
@click.option(
    "--hybrid",
    is_flag=True,
    help="Bootable from a USB stick too; --boot-bios is an isolinux.bin then.",
)
@click.option("--publisher", default="", help="Who publishes the volume.")
@click.option("--application", default="VMIMG", help="What the volume was made with or for.")
@progress_options
@_output
@force_option
@click.argument("directory", type=PATH, metavar="DIR")
def create(
    target: str,
    label: str,
    boot_bios: str | None,
    boot_efi: str | None,
    boot_info_table: bool,
    hybrid: bool,
    publisher: str,
    application: str,
    progress_mode: str | None,
    show_progress: bool,
    quiet: bool,
    output: str,
    force: bool,
    directory: str,
) -> None:
    """Make an ISO image of everything in DIR.

    ISO 9660 with Rock Ridge and Joliet: names, permissions, times and symbolic links stay; all
    belongs to root. Equal directories make equal images; SOURCE_DATE_EPOCH in the environment is
    the latest time that is stored.
    """
    from vmimg.formats.iso.making import create_iso

    name = printable(os.path.basename(target)[-_LABEL:])
    with Progress.wanted(progress_mode, show=show_progress, quiet=quiet, label=name) as progress:
        result = create_iso(
            directory,
            target,
            label=label,
            boot_bios=boot_bios,
            boot_efi=boot_efi,
            boot_info_table=boot_info_table,
            hybrid=hybrid,
            publisher=publisher,
            application=application,
            replace=force,
            progress=progress.callback,
        )
    _warn(result.skipped, quiet)
    _say(result, f"{result.files} files, {result.directories} directories", output, quiet)


@command.command("seed", cls=Verb, epilog=examples(*_SEED))
@_target
@click.option(
    "--user-data", type=PATH, required=True, metavar="FILE", help="user-data; - is standard input."
)
@click.option("--meta-data", type=PATH, metavar="FILE", help="meta-data; made where missing.")
@click.option("--network-config", type=PATH, metavar="FILE", help="network-config.")
@click.option("--vendor-data", type=PATH, metavar="FILE", help="vendor-data.")
@click.option(
    "--instance-id",
    metavar="ID",
    help="The instance, for meta-data; a hash of the files where missing.",
)
@click.option("--hostname", metavar="NAME", help="The machine's name, for meta-data.")
@quiet_option
@_output
@force_option
def seed(
    target: str,
    user_data: str,
    meta_data: str | None,
    network_config: str | None,
    vendor_data: str | None,
    instance_id: str | None,
    hostname: str | None,
    quiet: bool,
    output: str,
    force: bool,
) -> None:
    """Make a seed image for cloud-init (NoCloud): attached as a disc, it configures a machine when
    it boots first.

    Equal files make equal images. What is in the files is not checked, only how they begin.
    """
    from vmimg.formats.iso.seed import create_seed

    result = create_seed(
        target,
        _content(user_data),
        meta_data=None if meta_data is None else _content(meta_data),
        network_config=None if network_config is None else _content(network_config),
        vendor_data=None if vendor_data is None else _content(vendor_data),
        instance_id=instance_id,
        hostname=hostname,
        replace=force,
    )
    _warn(result.warnings, quiet)
    identity = "" if result.instance_id is None else f", instance {result.instance_id}"
    _say(result, f"{', '.join(result.files)}{identity}", output, quiet)


def _content(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return file.read()


def _warn(lines: tuple[str, ...], quiet: bool) -> None:
    for line in () if quiet else lines:
        echo(paint(f"Warning: {printable(line)}", "yellow"), err=True)


def _say(result: IsoResult | SeedResult, what: str, output: str, quiet: bool) -> None:
    if output == "json":
        facts = {name.replace("_", "-"): value for name, value in asdict(result).items()}
        echo(json_text({"filename": facts.pop("path")} | facts))
    elif not quiet:
        label = printable(result.label)
        echo(
            f'{bold(printable(result.path))}: iso "{label}", {exact_size(result.size)}, '
            f"{printable(what)}"
        )
