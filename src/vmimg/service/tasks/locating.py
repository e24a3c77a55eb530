"""The task ``location_import``: bytes that lie somewhere already become an image's.

In a store, where a service put them, or at an address of the web. They are read once, as a whole:
hashed, compared with what was said of them, judged like an upload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from vmimg.service import quota
from vmimg.service.catalogue import images
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.catalogue.tasks import TaskRecord
from vmimg.service.data.copying import pieces_of
from vmimg.service.http.errors import HTTPError
from vmimg.service.service import Service
from vmimg.service.stores.base import StoreUnreachable
from vmimg.service.stores.web import VERSION, WebStorage, WebStore
from vmimg.service.tasks.running import Control
from vmimg.storage.base import Storage

__all__ = ["run"]

# Our own stores come back; the web need not.
_MOST_TRIES: Final = 3


def run(service: Service, task: TaskRecord, control: Control) -> Mapping[str, Any]:
    """Read them, compare them with what was said of them, judge them.

    Raises HTTPError and VmimgError, with the reason for the user.
    """
    said = task.input or {}
    with service.database.read() as connection:
        record = images.find(connection, task.image_id or "")
    if record is None:
        raise HTTPError(410, f"Image {task.image_id} was deleted meanwhile.")
    store = service.stores.get(said["store"])
    if store is None:
        raise HTTPError(409, f"Store for identifier {said['store']} not found")
    is_web = isinstance(store, WebStore)
    try:
        with store.open(said["loc_url"] if is_web else said["key"]) as storage:
            return _located(service, record, said, storage, control)
    except StoreUnreachable as error:
        tries = int(control.step.get("tries", 0)) + 1
        if is_web and tries >= _MOST_TRIES:
            raise HTTPError(502, f"After {tries} tries: {error}") from error
        control.save(tries=tries)
        raise


def _located(
    service: Service,
    record: ImageRecord,
    said: Mapping[str, Any],
    storage: Storage,
    control: Control,
) -> Mapping[str, Any]:
    limits = service.settings.limits
    if limits.image_size and storage.size > limits.image_size:
        raise HTTPError(413, f"The image is larger than the limit of {limits.image_size} bytes.")
    expected = said["validation_data"]
    algorithm = service.settings.vetting.hash
    md5 = hashlib.md5(usedforsecurity=False)
    sums = {name: hashlib.new(name) for name in {algorithm, expected["os_hash_algo"]} - {""}}
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
    allowed = quota.of_owner(service, record.id)
    with service.database.begin() as connection:
        now = images.find(connection, record.id, lock=True)
        if now is None:
            raise HTTPError(410, f"Image {record.id} was deleted meanwhile.")
        quota.check_size(allowed, connection, now.owner, storage.size)
        if isinstance(storage, WebStorage):
            version = {VERSION: str(storage.version)}
            url = said["loc_url"]
            images.add_location(connection, record.id, said["store"], None, url, version)
        else:
            images.add_location(connection, record.id, said["store"], said["key"])
        images.add_properties(connection, record.id, judgement.properties)
        done_so = images.transition(
            connection, record.id, ("importing",), "active",
            size=storage.size, virtual_size=judgement.virtual_size, checksum=md5.hexdigest(),
            os_hash_algo=algorithm, os_hash_value=sums[algorithm].hexdigest(), message=None,
        )  # fmt: skip
        if not done_so:
            raise HTTPError(410, f"Image {record.id} was deleted meanwhile.")
    return {"image_id": record.id}
