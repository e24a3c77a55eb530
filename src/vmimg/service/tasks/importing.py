"""Imports: bytes from somewhere become an image's, in one or more stores.

    fetch      what a user gave the address of, or another Glance has, into the staging area
    judge      what lies there, as uploads are judged
    reshape    another format, unpacked, or decompressed, where the deployment wants that
    store      a copy in each store; active with the first, or with the last if all must succeed
    clear      the staging area

Each step that is done is kept with the task, so that it goes on where it was cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection

from vmimg.errors import StorageError
from vmimg.service import quota
from vmimg.service.catalogue import images, journal
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.catalogue.tasks import TaskRecord
from vmimg.service.data.arriving import Arrived
from vmimg.service.data.copying import copy, pieces_of
from vmimg.service.data.judging import Judgement
from vmimg.service.data.removal import discard
from vmimg.service.data.uploading import writing
from vmimg.service.http.errors import HTTPError
from vmimg.service.service import Service
from vmimg.service.stores.base import StoreUnreachable
from vmimg.service.tasks.reshaping import reshape
from vmimg.service.tasks.running import Control
from vmimg.service.web.fetching import Fetched, fetch
from vmimg.storage.base import Storage

__all__ = ["FAILED", "IMPORTING", "TASK", "put_right", "run"]

IMPORTING: Final = "os_glance_importing_to_stores"
FAILED: Final = "os_glance_failed_import"
TASK: Final = "os_glance_import_task"
"""Properties by which an image tells of its import, as Glance's do."""

# What of another service's image comes along with its data, as in Glance.
_TAKEN_OVER: Final = ("hw_", "trait:", "os_distro", "os_secure_boot", "os_type")
_MOST_JSON: Final = 1 << 20


def run(service: Service, task: TaskRecord, control: Control) -> Mapping[str, Any]:
    """Do the import that ``task`` describes.

    Raises HTTPError and VmimgError, with the reason for the user.
    """
    said = task.input or {}
    method = said["import_req"]["method"]["name"]
    record = _record(service, task)
    if method == "copy-image":
        _copy(service, task, control, record)
    elif "stored" not in control.step:
        if "staged" not in control.step:
            if method == "glance-download":
                _take_over(service, task, record)
            control.save(staged=_fetched(service, task, control, record, method))
        _judged(service, control, record)
        if "reshaped" not in control.step:
            changed = reshape(service, record, control.step["staged"], control)
            control.save(reshaped=True, **changed)
        record = _record(service, task)
        _store(service, task, control, record, _judged(service, control, record))
        control.save(stored=True)
    _clear(service, record.id)
    with service.database.begin() as connection:
        images.remove_property(connection, record.id, TASK)
    return {"image_id": record.id}


def _record(service: Service, task: TaskRecord) -> ImageRecord:
    with service.database.read() as connection:
        record = images.find(connection, task.image_id or "")
    if record is None:
        raise HTTPError(410, f"Image {task.image_id} was deleted during the import.")
    return record


# Fetching


def _fetched(
    service: Service, task: TaskRecord, control: Control, record: ImageRecord, method: str
) -> str:
    """The key of the bytes in the staging area."""
    if method == "glance-direct":
        with service.database.read() as connection:
            staged = journal.staged(connection, record.id)
        if not staged:
            raise HTTPError(409, "Nothing was staged for this image, or it is gone.")
        return staged[0].key
    judge = service.judge(record)
    allowed = quota.of_owner(service, record.id, kept=True)
    with service.database.begin() as connection:
        left = quota.check_staging(allowed, connection, record.owner)
    with writing(service, record.id, service.staging.name) as key:
        with _source(service, task, method) as fetched:
            copy(
                service, fetched.pieces, service.staging, key, size=fetched.length, most=left,
                look=judge.look, progress=control.progress,
            )  # fmt: skip
        with service.database.begin() as connection:
            _keep(connection, service, record.id, key)
    return key


def _keep(connection: Connection, service: Service, image_id: str, key: str) -> None:
    gone = images.find(connection, image_id, lock=True) is None
    if gone or not journal.keep(connection, service.staging.name, key):
        raise HTTPError(410, f"Image {image_id} was deleted during the import.")


@contextmanager
def _source(service: Service, task: TaskRecord, method: str) -> Iterator[Fetched]:
    asked = (task.input or {})["import_req"]["method"]
    rules = service.settings.imports
    if method == "web-download":
        with fetch(asked["uri"], rules) as fetched:
            yield fetched
        return
    with _remote(service, task, "/file") as fetched:
        yield fetched


@contextmanager
def _remote(service: Service, task: TaskRecord, path: str = "") -> Iterator[Fetched]:
    """The image of another service, or a part of it, in the name of who asked for the import."""
    asked = (task.input or {})["import_req"]["method"]
    region = asked["glance_region"]
    rules = service.settings.imports
    base = rules.regions.get(region)
    if base is None:
        raise HTTPError(400, f"No image service of region {region} is in the settings.")
    token = service.tokens.get(task.id)
    headers = {"accept": "application/json"} | ({"x-auth-token": token} if token else {})
    url = f"{base.rstrip('/')}/v2/images/{asked['glance_image_id']}{path}"
    with fetch(url, rules, headers=headers, trusted=True) as fetched:
        yield fetched


def _take_over(service: Service, task: TaskRecord, record: ImageRecord) -> None:
    """What the other service's image says of the machine that it is for."""
    gathered = bytearray()
    with _remote(service, task) as fetched:
        for piece in fetched.pieces:
            gathered += piece
            if len(gathered) > _MOST_JSON:
                raise HTTPError(502, "What the other service says of the image has no end.")
    try:
        said = json.loads(gathered)
    except (ValueError, RecursionError):
        raise HTTPError(502, "The other service does not answer in JSON.") from None
    if not isinstance(said, dict):
        raise HTTPError(502, "The other service says something else than an image.")
    taken = {
        name: value
        for name, value in said.items()
        if name.startswith(_TAKEN_OVER) and isinstance(value, str)
    }
    with service.database.begin() as connection:
        images.add_properties(connection, record.id, taken)


# Judging


def _judged(service: Service, control: Control, record: ImageRecord) -> Judgement:
    if "judged" in control.step:
        kept = control.step["judged"]
        return Judgement(kept["virtual_size"], kept["properties"])
    with service.staging.open(control.step["staged"]) as storage:
        judgement = service.judge(record).judge(storage)
    control.save(
        judged={
            "virtual_size": judgement.virtual_size,
            "properties": dict(judgement.properties),
        }
    )
    return judgement


# Storing


def _store(
    service: Service,
    task: TaskRecord,
    control: Control,
    record: ImageRecord,
    judgement: Judgement,
) -> None:
    said = task.input or {}
    all_must = bool(said["import_req"].get("all_stores_must_succeed", True))
    with service.staging.open(control.step["staged"]) as staged:
        came = _to_stores(service, control, record, said["backend"], staged, judgement, all_must)
    with service.database.begin() as connection:
        done = images.transition(
            connection, record.id, ("importing", "active"), "active", message=None
        )
        if not done or came is None:
            raise HTTPError(410, f"Image {record.id} was deleted during the import.")


def _to_stores(
    service: Service,
    control: Control,
    record: ImageRecord,
    stores: list[str],
    source: Storage,
    judgement: Judgement,
    all_must: bool,
) -> Arrived | None:
    """A copy in each of ``stores``; raises HTTPError where it is in too few of them."""
    came: Arrived | None = None
    if "before" not in control.step:
        control.save(before=[location.id for location in record.locations])
    there = {location.store for location in record.locations}
    failed: dict[str, str] = {}
    for number, name in enumerate(stores):
        _tell(service, record.id, stores[number:], failed)
        if name in there:
            came = _of_record(service, record)
            continue
        try:
            came = _to_store(service, control, record, name, source, judgement, not all_must)
        except (StoreUnreachable, quota.QuotasUnknown):
            raise
        except (StorageError, HTTPError) as error:
            if all_must:
                _take_back(service, record, stores, control.step["before"])
                raise
            failed[name] = str(error)
    _tell(service, record.id, [], failed)
    if len(failed) == len(stores):
        raise HTTPError(503, "; ".join(f"{name}: {why}" for name, why in failed.items()))
    return came


def _to_store(
    service: Service,
    control: Control,
    record: ImageRecord,
    name: str,
    source: Storage,
    judgement: Judgement,
    active: bool,
) -> Arrived:
    store = service.stores.get(name)
    if store is None:
        raise HTTPError(409, f"Store for identifier {name} not found")
    allowed = quota.of_owner(service, record.id, kept=True)
    with writing(service, record.id, name) as key:
        came = copy(
            service, pieces_of(source), store, key, size=source.size, progress=control.progress
        )
        _check_same(record, came)
        with service.database.begin() as connection:
            now = images.find(connection, record.id, lock=True)
            if now is None:
                raise HTTPError(410, f"Image {record.id} was deleted during the import.")
            quota.check_size(allowed, connection, now.owner, came.size)
            there = any(location.store == name for location in now.locations)
            if there or not journal.settle(connection, name, key):
                raise StoreUnreachable("the import was given up: it had no database for too long")
            images.add_location(connection, record.id, name, key)
            if now.status == "importing":
                images.add_properties(connection, record.id, judgement.properties)
                images.transition(
                    connection, record.id, ("importing",), "active" if active else "importing",
                    size=came.size, virtual_size=judgement.virtual_size, checksum=came.checksum,
                    os_hash_algo=came.hash_algorithm, os_hash_value=came.hash_value,
                )  # fmt: skip
    return came


def _check_same(record: ImageRecord, came: Arrived) -> None:
    """What is copied again must be what it was."""
    known = record.os_hash_value if record.os_hash_algo == came.hash_algorithm else None
    if known and known != came.hash_value:
        raise HTTPError(409, "The data in the store is not what the image's hash says.")


def _of_record(service: Service, record: ImageRecord) -> Arrived:
    return Arrived(
        record.size or 0,
        record.checksum or "",
        record.os_hash_algo or service.settings.vetting.hash,
        record.os_hash_value or "",
    )


def _copy(service: Service, task: TaskRecord, control: Control, record: ImageRecord) -> None:
    """An active image, to more stores."""
    said = task.input or {}
    all_must = bool(said["import_req"].get("all_stores_must_succeed", True))
    with service.presenter.stored(record) as source:
        _to_stores(service, control, record, said["backend"], source, Judgement(), all_must)


def _take_back(service: Service, record: ImageRecord, stores: list[str], before: list[int]) -> None:
    """One of all stores failed: the image is in none of them, but in those where it was before."""
    with service.database.begin() as connection:
        now = images.find(connection, record.id)
        for location in now.locations if now is not None else ():
            if location.id not in before and location.store in stores:
                images.remove_location(connection, location.id)
                journal.open(
                    connection,
                    journal.Entry(
                        location.store or "", location.key or "", record.id,
                        journal.DELETING, service.node,
                    ),
                )  # fmt: skip
    discard(service, record.id)


# What the image says of it


def _tell(service: Service, image_id: str, importing: list[str], failed: Mapping[str, str]) -> None:
    with service.database.begin() as connection:
        images.set_property(connection, image_id, IMPORTING, ",".join(importing))
        images.set_property(connection, image_id, FAILED, ",".join(failed))


def _clear(service: Service, image_id: str) -> None:
    """The staging area has nothing of the image any more."""
    with service.database.begin() as connection:
        for entry in journal.staged(connection, image_id):
            journal.to_delete(connection, entry.store, entry.key)
    discard(service, image_id)


def put_right(service: Service, task: TaskRecord, reason: str) -> None:
    """After a failure: nothing staged, the image ``queued`` as before, and it says why."""
    if task.image_id is None:
        return
    service.tokens.pop(task.id, None)
    method = ((task.input or {}).get("import_req") or {}).get("method", {}).get("name")
    stores = (task.input or {}).get("backend") or []
    with service.database.begin() as connection:
        if images.find(connection, task.image_id, lock=True) is not None:
            if method != "copy-image":
                images.transition(
                    connection, task.image_id, ("importing", "uploading"), "queued",
                    size=None, checksum=None, os_hash_algo=None, os_hash_value=None,
                    virtual_size=None, message=reason,
                )  # fmt: skip
            images.set_property(connection, task.image_id, IMPORTING, "")
            images.set_property(connection, task.image_id, FAILED, ",".join(stores))
        images.remove_property(connection, task.image_id, TASK)
    # Also of an image that was deleted.
    if method != "copy-image":
        _clear(service, task.image_id)
