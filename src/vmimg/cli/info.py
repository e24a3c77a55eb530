"""``vmimg info``: what an image file says of itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from vmimg.bundles.naming import may_be_bundle, named
from vmimg.cli.human import bold, echo, exact_size, fields, json_text, paint, printable, table
from vmimg.cli.options import (
    PATH,
    chain_options,
    output_option,
    parent_policy,
    share_option,
    source_format,
)
from vmimg.cli.sandbox import (
    confined_info,
    confinement,
    sandbox_options,
    sandboxed,
    say_confinement,
)
from vmimg.cli.verb import Verb, examples
from vmimg.errors import OptionError
from vmimg.formats.info import DiskInfo
from vmimg.units import format_size

if TYPE_CHECKING:
    from vmimg.bundles.bundle import BundleDisk
    from vmimg.bundles.info import BundleInfo
    from vmimg.disk.policy import ParentPolicy
    from vmimg.formats.driver import Snapshot

__all__ = ["command"]


@click.command(
    "info",
    cls=Verb,
    epilog=examples(
        "vmimg info disk.qcow2",
        "vmimg info --backing-chain overlay.qcow2",
        "vmimg info appliance.ova",
        "vmimg info --output json disk.qcow2 | jq '.\"virtual-size\"'",
    ),
)
@source_format()
@output_option
@click.option("--backing-chain", "chain", is_flag=True, help="Show the backing files too.")
@share_option
@chain_options
@sandbox_options
@click.argument("files", type=PATH, metavar="FILE...", nargs=-1, required=True)
def command(
    source_format: str | None,
    output: str,
    chain: bool,
    share: bool,
    allow_dirs: tuple[str, ...],
    backing_format: str | None,
    files: tuple[str, ...],
) -> None:
    """Show format, sizes, backing file, snapshots; on a raw disk, what is on it.

    FILE may be a bundle (an OVA, a Vagrant box), or name a disk in one: appliance.ova:disk2. Opens
    nothing but FILE; with --backing-chain, what FILE is stacked on.
    """
    policy = parent_policy(allow_dirs, backing_format)
    found: list[DiskInfo | BundleInfo] = []
    for file in files:
        found += _inspect(file, source_format, policy, share, chain)
    held = confinement()
    if output == "json":
        objects = [info.to_json() for info in found]
        if held is not None:
            objects = [facts | {"sandbox": held.to_json()} for facts in objects]
        echo(json_text(objects if chain or len(files) > 1 else objects[0]))
        return
    say_confinement()
    for number, info in enumerate(found):
        if number:
            echo()
        if isinstance(info, DiskInfo):
            _print(info)
        else:
            _print_bundle(info)


def _inspect(
    file: str, format: str | None, policy: ParentPolicy, share: bool, chain: bool
) -> Sequence[DiskInfo | BundleInfo]:
    """``file`` and, with ``chain``, what it is stacked on."""
    if sandboxed():
        if chain:
            raise OptionError("--backing-chain opens what the image names, and --sandbox nothing")
        if format is None and _is_packed(file):
            raise OptionError(
                f"{file}: is packed, and --sandbox shows images of disks; `vmimg vet --sandbox` "
                "looks into it"
            )
        return [confined_info(file, format=format, share=share)]
    name = named(file)
    if format is None and (name.disk is not None or may_be_bundle(name.path)):
        from vmimg.bundles.info import bundle_info, disk_info
        from vmimg.bundles.opening import is_bundle

        if name.disk is not None:
            return [disk_info(file, policy=policy)]
        if is_bundle(name.path):
            return [bundle_info(file, policy=policy)]
    from vmimg.formats.info import image_info

    return image_info(file, format=format, policy=policy, share=share, chain=chain)


def _is_packed(file: str) -> bool:
    """Whether it is, or names a disk in, an archive or a compressed stream, by its first bytes."""
    name = named(file)
    return name.disk is not None or (not os.path.isdir(file) and may_be_bundle(file))


def _print_bundle(info: BundleInfo) -> None:
    rows = [
        ("bundle", bold(printable(info.filename))),
        ("kind", f"{bold(info.kind)} ({info.title})"),
        ("file size", exact_size(info.file_size)),
        ("files", str(info.files)),
    ]
    fields([*rows, *_flat(info.facts)])
    if info.disks:
        echo(bold("Disks:"))
        table(
            ("NAME", "FORMAT", "VIRTUAL SIZE", "FILE SIZE", "FILE"),
            (_disk_row(disk, told) for disk, told in info.disks),
            right=(2, 3),
            indent=2,
        )
    from vmimg.machines.showing import lines

    for machine in info.machines:
        echo(bold("Machine:"))
        fields(((label, printable(text)) for label, text in lines(machine)), indent=2)


def _disk_row(disk: BundleDisk, told: DiskInfo | str) -> tuple[str, ...]:
    name, member = printable(disk.name), printable(disk.member) or "none: it is empty"
    if isinstance(told, str):
        size = format_size(disk.size) if disk.size else "?"
        return name, disk.format or "?", size, "", f"{member} {printable(told)}".rstrip()
    image = told.image
    return (
        name,
        image.format,
        format_size(image.virtual_size),
        format_size(told.file_size),
        member,
    )


def _print(info: DiskInfo) -> None:
    """The labels are qemu-img's: scripts look for them."""
    image = info.image
    details = {key: value for key, value in image.details.items() if key not in _IN_NOTES}
    fields([*_facts(info), *_flat(details)])
    if image.snapshots:
        echo(bold("Snapshots:"))
        table(
            ("ID", "NAME", "VM STATE", "DATE", "VM CLOCK", "DISK"),
            (_snapshot_row(snapshot) for snapshot in image.snapshots),
            right=(2, 5),
            indent=2,
        )
    if image.notes:
        echo(bold("Contents:" if _IN_NOTES & image.details.keys() else "Notes:"))
        for note in image.notes:
            echo(f"  {printable(note)}")


# What is on a raw disk is told by the notes, in words.
_IN_NOTES = frozenset({"contents"})


def _facts(info: DiskInfo) -> Iterator[tuple[str, str]]:
    from vmimg.formats import find

    image = info.image
    yield "image", bold(printable(info.filename))
    yield "file format", f"{bold(image.format)} ({find(image.format).title})"
    yield "virtual size", exact_size(image.virtual_size)
    yield "disk size", exact_size(info.actual_size)
    if info.file_size not in (info.actual_size, image.virtual_size):
        yield "file size", exact_size(info.file_size)
    if image.encrypted:
        yield "encrypted", paint("yes", "yellow")
    if image.compressed:
        yield "compressed", "yes"
    if image.dirty:
        yield "cleanly shut down", paint("no", "yellow")
    if image.cluster_size is not None:
        yield "cluster_size", exact_size(image.cluster_size)
    if image.parent is not None:
        path = info.backing_path
        actual = "" if path in (None, image.parent.path) else f" (actual path: {path})"
        yield "backing file", printable(f"{image.parent.path}{actual}")
        if image.parent.format is not None:
            yield "backing file format", printable(image.parent.format)
    others = [claim.format.name for claim in info.claims if claim.confidence > 1]
    if others not in ([], [image.format]):
        yield "detected formats", paint(", ".join(others), "yellow")


def _flat(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Labels and values; what is nested gets the label of what it lies in, too."""
    for key, value in details.items():
        label = key.replace("-", " ")
        if isinstance(value, Mapping):
            yield from ((f"{label} {name}", text) for name, text in _flat(value))
        elif isinstance(value, list | tuple):
            for item in value:
                # One of "extents" or "bitmaps" is an extent, a bitmap.
                one = label.removesuffix("s") if isinstance(item, Mapping) else label
                yield one, _text(item)
        else:
            yield label, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {format_size(inner) if key.endswith('size') else _text(inner)}"
            for key, inner in value.items()
            if inner != ""
        )
    if isinstance(value, list | tuple):
        return "+".join(map(_text, value)) or "none"
    return printable(str(value))


def _snapshot_row(snapshot: Snapshot) -> tuple[str, ...]:
    try:
        date = datetime.fromtimestamp(snapshot.date_sec).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):  # a number from a file may be anything
        date = str(snapshot.date_sec)
    milliseconds = snapshot.vm_clock_nsec // 10**6
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return (
        printable(snapshot.id),
        printable(snapshot.name),
        format_size(snapshot.vm_state_size),
        date,
        f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}",
        format_size(snapshot.disk_size),
    )
