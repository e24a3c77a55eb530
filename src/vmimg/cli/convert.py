"""``vmimg convert``: the same disk in another format."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from vmimg.cli.human import bold, echo, printable
from vmimg.cli.keys import key_option, passphrases, target_key_option, target_passphrases
from vmimg.cli.options import (
    FORMAT,
    PATH,
    SIZE,
    align_option,
    chain_options,
    creation_options,
    find_snapshot,
    force_option,
    grown,
    ignored,
    level_option,
    parent_policy,
    parse_options,
    print_options,
    share_option,
    source_format,
    target_format,
    threads_option,
    wants_help,
)
from vmimg.cli.progress import Progress, progress_options
from vmimg.cli.verb import Verb, examples
from vmimg.units import format_size

if TYPE_CHECKING:
    from vmimg.transfer.convert import ConvertResult

__all__ = ["command"]

# Letters of the target's name beside the bar.
_LABEL = 24


@click.command(
    "convert",
    cls=Verb,
    epilog=examples(
        "vmimg convert disk.qcow2 disk.raw",
        "vmimg convert appliance.ova:disk2 data.qcow2",
        "vmimg convert -c -o compression_type=zstd disk.raw small.qcow2",
        "vmimg convert -O qcow2 -o cluster_size=1M,lazy_refcounts=on /dev/vg/lv disk.qcow2",
        "vmimg convert -o subformat=streamOptimized disk.qcow2 for-vsphere.vmdk",
        "vmimg convert --align 1M -o subformat=fixed disk.qcow2 for-azure.vhd",
        "vmimg convert -B base.qcow2 -F qcow2 full.raw overlay.qcow2",
        "vmimg convert -O qcow2 disk.raw - | ssh host 'cat > disk.qcow2'",
        "xz -dc disk.raw.xz | vmimg convert - disk.qcow2",
    ),
)
@source_format("Format of SRC; detected where missing.")
@click.option(
    "-O",
    "--target-format",
    "target_fmt",
    type=FORMAT,
    metavar="FMT",
    help="Format of DST; by its extension where missing.",
)
@creation_options
@click.option("-c", "--compress", is_flag=True, help="Compress.")
@level_option
@click.option(
    "-B", "--backing", type=PATH, metavar="FILE", help="Store only what differs from FILE."
)
@click.option("-F", "backing_fmt", type=FORMAT, metavar="FMT", help="Format of the file of -B.")
@click.option(
    "-S",
    "--sparse",
    type=SIZE,
    default=4096,
    metavar="SIZE",
    help="Leave out zeros in runs of SIZE (default 4k); 0 stores all of them.",
)
@align_option
@click.option("-n", "--existing", is_flag=True, help="Write into DST, which exists.")
@click.option("--target-is-zero", is_flag=True, help="With -n: DST reads as zeros by now.")
@click.option(
    "-l",
    "--snapshot",
    metavar="SNAPSHOT",
    help="Convert this internal snapshot: its id or name, or snapshot.id=ID,snapshot.name=NAME.",
)
@progress_options
@threads_option
@share_option
@force_option
@key_option
@target_key_option
@chain_options
@ignored("-t", "-T", "-m", "--cache")
@ignored("-W", "-C", value=False)
@click.argument("files", nargs=-1, type=PATH, metavar="SRC DST")
def command(
    source_format: str | None,
    target_fmt: str | None,
    options: tuple[str, ...],
    compress: bool,
    level: str,
    backing: str | None,
    backing_fmt: str | None,
    sparse: int,
    align: int,
    existing: bool,
    target_is_zero: bool,
    snapshot: str | None,
    progress_mode: str | None,
    show_progress: bool,
    quiet: bool,
    threads: int,
    share: bool,
    force: bool,
    key_file: str | None,
    target_key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    files: tuple[str, ...],
) -> None:
    """Write the disk in SRC to a new image DST.

    DST appears when it is complete and safely stored; interrupted, nothing is left behind. - is
    standard input (raw) or standard output (any format). SRC may be compressed (.gz, .xz, .zst,
    .bz2); a bundle (an OVA, a Vagrant box), or a disk in one: appliance.ova:disk2.

    qemu-img's -m, -W, -C, -t and -T are accepted and have no effect: work is always parallel.
    """
    if wants_help(options):
        print_options(target_format(files[1] if len(files) > 1 else None, target_fmt, "-O"))
        return
    if len(files) != 2:
        raise click.UsageError(f"Expected SRC and DST, got {len(files)} names")
    source, target = files
    if target_is_zero and not existing:
        raise click.UsageError("--target-is-zero goes with -n")
    if snapshot is not None:
        snapshot = find_snapshot(source, snapshot, format=source_format, share=share)

    from vmimg.bundles.verbs import convert

    label = printable(os.path.basename(target)[-_LABEL:])
    with Progress.wanted(progress_mode, show=show_progress, quiet=quiet, label=label) as progress:
        result = convert(
            source,
            target,
            format=target_fmt,
            source_format=source_format,
            options=parse_options(options),
            compress=compress,
            level=level,
            backing=backing,
            backing_format=backing_fmt,
            sparse=sparse,
            align=align,
            existing=existing,
            target_is_zero=target_is_zero,
            snapshot=snapshot,
            threads=threads,
            replace=force,
            share=share,
            policy=parent_policy(allow_dirs, backing_format),
            keys=passphrases(key_file),
            target_keys=target_passphrases(target_key_file, key_file, new=not existing),
            progress=progress.callback,
        )
    if result.virtual_size != result.source_size and not quiet:
        echo(grown(target, result.source_size, result.virtual_size), err=True)
    if progress.mode == "bar":
        echo(_summary(target, result), err=True)


def _summary(target: str, result: ConvertResult) -> str:
    size = "" if result.file_size is None else f", {format_size(result.file_size)} file"
    return (
        f"{bold(printable(target))}: {result.format}, {format_size(result.virtual_size)} disk"
        f"{size}, {result.seconds:.1f} s"
    )
