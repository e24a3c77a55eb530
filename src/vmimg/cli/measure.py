"""``vmimg measure``: how large will the file be."""

from __future__ import annotations

import click

from vmimg.cli.human import echo, exact_size, fields, json_text
from vmimg.cli.keys import key_option, passphrases
from vmimg.cli.options import (
    FORMAT,
    PATH,
    SIZE,
    chain_options,
    creation_options,
    find_snapshot,
    level_option,
    output_option,
    parent_policy,
    parse_options,
    print_options,
    share_option,
    source_format,
    target_format,
    threads_option,
    wants_help,
)
from vmimg.cli.verb import Verb, examples

__all__ = ["command"]


@click.command(
    "measure",
    cls=Verb,
    epilog=examples(
        "vmimg measure -O qcow2 disk.raw",
        "vmimg measure -O qcow2 --size 20G -o cluster_size=1M",
        "lvcreate -n vm -L $(vmimg measure -O qcow2 --output json disk.raw | jq .required)B vg",
    ),
)
@source_format("Format of SRC; detected where missing.")
@click.option(
    "-O",
    "--target-format",
    "target_fmt",
    type=FORMAT,
    default="raw",
    metavar="FMT",
    help="Format of the file to be (default raw).",
)
@creation_options
@click.option("--size", type=SIZE, metavar="SIZE", help="Measure an empty disk of this size.")
@click.option("-l", "--snapshot", metavar="SNAPSHOT", help="Measure this internal snapshot of SRC.")
@click.option("-c", "--compress", is_flag=True, help="Measure a compressed image.")
@level_option
@click.option(
    "--estimate",
    is_flag=True,
    help="Do not read SRC, only its map: fast, and never too small.",
)
@threads_option
@output_option
@share_option
@key_option
@chain_options
@click.argument("source", type=PATH, metavar="SRC", required=False)
def command(
    source_format: str | None,
    target_fmt: str,
    options: tuple[str, ...],
    size: int | None,
    snapshot: str | None,
    compress: bool,
    level: str,
    estimate: bool,
    threads: int,
    output: str,
    share: bool,
    key_file: str | None,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    source: str | None,
) -> None:
    """Tell how large a file the disk in SRC, or an empty one, takes in another format.

    "required" is what convert would write now, to the byte; "fully allocated" what the file takes
    once every byte of the disk was written.
    """
    if wants_help(options):
        print_options(target_format(None, target_fmt, "-O"))
        return
    if (source is None) == (size is None):
        raise click.UsageError("Expected either SRC or --size")
    if snapshot is not None and source is not None:
        snapshot = find_snapshot(source, snapshot, format=source_format, share=share)

    from vmimg.bundles.verbs import measure

    result = measure(
        source,
        size=size,
        format=target_fmt,
        options=parse_options(options),
        source_format=source_format,
        snapshot=snapshot,
        compress=compress,
        level=level,
        estimate=estimate,
        share=share,
        policy=parent_policy(allow_dirs, backing_format),
        keys=passphrases(key_file),
        threads=threads,
    )
    if output == "json":
        echo(json_text(result.to_json()))
        return
    fields(
        [
            ("required size", exact_size(result.required)),
            ("fully allocated size", exact_size(result.fully_allocated)),
        ]
    )
