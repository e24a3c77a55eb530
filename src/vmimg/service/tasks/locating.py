"""The task ``location_import``: bytes that a service put into a store become an image's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from vmimg.service.catalogue import images
from vmimg.service.catalogue.tasks import TaskRecord
from vmimg.service.data.copying import pieces_of
from vmimg.service.http.errors import HTTPError
from vmimg.service.service import Service
from vmimg.service.tasks.running import Control

__all__ = ["run"]


def run(service: Service, task: TaskRecord, control: Control) -> Mapping[str, Any]:
    """Read them, compare them with what was said of them, judge them."""
    said = task.input or {}
    store = service.stores.get(said["store"])
    if store is None or task.image_id is None:
        raise HTTPError(409, f"Store for identifier {said['store']} not found")
    with service.database.read() as connection:
        record = images.find(connection, task.image_id)
    if record is None:
        raise HTTPError(410, f"Image {task.image_id} was deleted meanwhile.")
    expected = said["validation_data"]
    algorithm = service.settings.vetting.hash
    md5 = hashlib.md5(usedforsecurity=False)
    sums = {name: hashlib.new(name) for name in {algorithm, expected["os_hash_algo"]} - {""}}
    with store.open(said["key"]) as storage:
        done = 0
        for piece in pieces_of(storage):
            for each in (md5, *sums.values()):
                each.update(piece)
            done += len(piece)
            control.progress(done, storage.size)
        if expected["os_hash_algo"]:
            found = sums[expected["os_hash_algo"]].hexdigest()
            if found != expected["os_hash_value"].lower():
                raise HTTPError(409, "The data is not what its hash says.")
        judgement = service.judge(record).judge(storage)
        size = storage.size
    with service.database.begin() as connection:
        images.add_location(connection, record.id, said["store"], said["key"])
        missing = {n: v for n, v in judgement.properties.items() if n not in record.properties}
        images.add_properties(connection, record.id, missing)
        done_so = images.transition(
            connection, record.id, ("importing",), "active",
            size=size, virtual_size=judgement.virtual_size, checksum=md5.hexdigest(),
            os_hash_algo=algorithm, os_hash_value=sums[algorithm].hexdigest(), message=None,
        )  # fmt: skip
        if not done_so:
            raise HTTPError(410, f"Image {record.id} was deleted meanwhile.")
    return {"image_id": record.id}
