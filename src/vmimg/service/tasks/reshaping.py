"""What is imported, made into what this deployment keeps: unpacked, decompressed, converted.

    compressed    the stream in it, for as long as it is no larger than images may be
    ova           its only disk; what it says of its machine becomes properties
    any disk      ``imports.output_format``

The result lies in the staging area instead of the original. Imports bundles, transfer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from vmimg.bundles.opening import open_bundle
from vmimg.errors import OptionError
from vmimg.formats.opening import open_storage_disk
from vmimg.formats.registry import find
from vmimg.machines.model import Machine
from vmimg.service.catalogue import images, journal
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.data.copying import copy, pieces_of
from vmimg.service.data.describing import of_machine
from vmimg.service.data.removal import discard
from vmimg.service.data.uploading import writing
from vmimg.service.http.errors import HTTPError
from vmimg.service.service import Service
from vmimg.service.tasks.running import Control
from vmimg.storage.stream import HEAD_SIZE, outer_compression, unpacked

__all__ = ["reshape"]

# Glance's words where they are others, both ways.
_GLANCE: Final[Mapping[str, str]] = {"parallels": "ploop"}
_OURS: Final[Mapping[str, str]] = {"ploop": "parallels", "ami": "raw"}
_NO_DISKS: Final = ("aki", "ari", "iso")


@dataclass(frozen=True, slots=True)
class _Reshaped:
    """New bytes, and what the image is afterwards."""

    pieces: Iterator[bytes]
    size: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


def reshape(
    service: Service, record: ImageRecord, staged: str, control: Control
) -> Mapping[str, Any]:
    """What changes in the task's step: ``staged``, the key of the new bytes; nothing if they stay.

    Raises HTTPError for what cannot be unpacked or converted, and what reading raises.
    """
    with ExitStack() as stack:
        reshaped = _reshaped(service, record, staged, stack)
        if reshaped is None:
            return {}
        key = stack.enter_context(writing(service, record.id, service.staging.name))
        copy(
            service, reshaped.pieces, service.staging, key,
            size=reshaped.size, progress=control.progress,
        )  # fmt: skip
        with service.staging.open(key) as storage:
            columns = dict(reshaped.columns)
            judged = service.judge_as(columns.get("disk_format", record.disk_format), "bare").judge(
                storage
            )
        with service.database.begin() as connection:
            now = images.find(connection, record.id, lock=True)
            if now is None or not journal.keep(connection, service.staging.name, key):
                raise HTTPError(410, f"Image {record.id} was deleted during the import.")
            images.change(connection, record.id, **columns)
            learned = {**judged.properties, **reshaped.properties}
            images.add_properties(connection, record.id, learned)
            journal.to_delete(connection, service.staging.name, staged)
    discard(service, record.id)
    return {
        "staged": key,
        "judged": {"virtual_size": judged.virtual_size, "properties": {}},
    }


def _reshaped(
    service: Service, record: ImageRecord, staged: str, stack: ExitStack
) -> _Reshaped | None:
    rules = service.settings.imports
    output = find(rules.output_format).name if rules.output_format else ""
    disk_format = record.disk_format or ""
    if record.container_format == "compressed" and rules.decompress:
        storage = stack.enter_context(service.staging.open(staged))
        kind = outer_compression(storage.read(0, min(storage.size, HEAD_SIZE)))
        if kind is None:
            raise HTTPError(415, "The image is refused: it is not compressed.")
        pieces = unpacked(kind, pieces_of(storage), "the image")
        return _Reshaped(pieces, columns={"container_format": "bare"})
    if record.container_format == "ova" and rules.unpack:
        return stack.enter_context(_out_of_ova(service, staged, output or "qcow2"))
    if record.container_format == "bare" and output and disk_format not in _NO_DISKS:
        stored = find(_OURS.get(disk_format, disk_format)).name
        if stored != output:
            from vmimg.transfer.virtual import virtual_image

            disk = open_storage_disk(service.staging.open(staged), format=stored)
            stack.callback(disk.close)
            image = virtual_image(disk, output, zeros="data")
            name = _GLANCE.get(output, output)
            return _Reshaped(pieces_of(image), image.size, {"disk_format": name})
    return None


@contextmanager
def _out_of_ova(service: Service, staged: str, output: str) -> Iterator[_Reshaped]:
    from vmimg.transfer.virtual import virtual_image

    path = service.staging.path(staged)
    with open_bundle(path, near=path) as bundle:
        try:
            disk = bundle.open_disk(None)
        except OptionError as error:
            raise HTTPError(
                409, f"The appliance has {len(bundle.disks)} disks; an image is one."
            ) from error
        with disk:
            image = virtual_image(disk, output, zeros="data")
            columns = {"disk_format": _GLANCE.get(output, output), "container_format": "bare"}
            machine = bundle.machines[0] if bundle.machines else Machine()
            yield _Reshaped(pieces_of(image), image.size, columns, of_machine(machine))
