"""The task ``import``, of before there was an import call: it makes the image, too.

    input: import_from (an address), import_from_format (of the disk), image_properties

Only what any member could say of an image counts among the properties. Imports importing.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from vmimg.service.catalogue import images, tasks
from vmimg.service.catalogue.tasks import TaskRecord
from vmimg.service.http.errors import HTTPError
from vmimg.service.service import Service
from vmimg.service.tasks import importing
from vmimg.service.tasks.running import Control

__all__ = ["run"]

_COLUMNS: Final[Mapping[str, type]] = {
    "name": str,
    "disk_format": str,
    "container_format": str,
    "min_disk": int,
    "min_ram": int,
    "protected": bool,
}


def run(service: Service, task: TaskRecord, control: Control) -> Mapping[str, Any]:
    """Do what the input says; the result names the image."""
    said = task.input or {}
    if task.image_id is None:
        task = replace(task, image_id=_made(service, task, said))
    request = {"method": {"name": "web-download", "uri": said["import_from"]}}
    whole = {"import_req": request, "backend": [service.settings.first_store]}
    return importing.run(service, replace(task, input=whole), control)


def _made(service: Service, task: TaskRecord, said: Mapping[str, Any]) -> str:
    given = dict(said.get("image_properties") or {})
    values: dict[str, Any] = {"container_format": "bare"}
    for name, kind in _COLUMNS.items():
        if name in given:
            value = given.pop(name)
            if not isinstance(value, kind):
                raise HTTPError(400, f"'{name}' of the image is not what it should be.")
            values[name] = value
    values.setdefault("disk_format", said.get("import_from_format"))
    formats = service.settings.formats
    if values["disk_format"] not in formats.disk or (
        values["container_format"] not in formats.container
    ):
        raise HTTPError(400, "The image's disk_format or container_format is not one of those set.")
    image_id = str(uuid.uuid4())
    properties = {
        name: value
        for name, value in given.items()
        if isinstance(value, str) and name.isidentifier() and not name.startswith("os_glance")
    }
    with service.database.begin() as connection:
        images.create(
            connection,
            {
                **values, "id": image_id, "owner": task.owner, "visibility": "private",
                "status": "importing",
            },
            properties,
            (),
        )  # fmt: skip
        tasks.save(connection, task.id, image_id=image_id)
    return image_id
