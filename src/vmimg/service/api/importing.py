"""Imports: the request that begins one, and what a deployment offers."""

from __future__ import annotations

import uuid
from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import JSONResponse, Response

from vmimg.errors import UnsafeImage
from vmimg.service import quota
from vmimg.service.api.finding import image_for, require
from vmimg.service.catalogue import images, tasks
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.http.errors import bad_request, conflict
from vmimg.service.http.operation import JSON, Call, Operation
from vmimg.service.tasks.importing import FAILED, IMPORTING, TASK
from vmimg.service.web.fetching import check_url

__all__ = ["OPERATIONS"]

_METHODS: Final = ("glance-direct", "web-download", "copy-image", "glance-download")


def begin(call: Call) -> Response:
    """Begin an import; a task does it."""
    body = _checked(call, call.json())
    method: dict[str, Any] = body["method"]
    name = method["name"]
    service = call.service
    allowed = quota.of_owner(service, call.path["image_id"])
    with service.database.begin() as connection:
        record, target = image_for(call, connection, lock=True)
        _check_state(record, method)
        require(call, "copy_image" if name == "copy-image" else "modify_image", target)
        if tasks.of_image(connection, record.id, running=True):
            raise conflict("Image has active task")
        stores = _stores(call, body, record)
        if not stores:
            return Response(status_code=202)
        if name == "web-download":
            _check_address(call, str(method.get("uri")))
        _check_quota(allowed, connection, record, name, len(stores))
        task_id = _note(call, connection, record, body, stores)
    if name == "glance-download" and call.caller.token:
        service.tokens[task_id] = call.caller.token
    with service.bell:
        service.bell.notify_all()
    return Response(status_code=202)


def _check_quota(
    allowed: quota.Allowed, connection: Connection, record: ImageRecord, name: str, stores: int
) -> None:
    quota.check_size(allowed, connection, record.owner, (record.size or 1) * stores)
    if name != "glance-direct":
        # What is copied counts as staged and coming, as in Glance, though it comes from a store.
        quota.check_uploads(allowed, connection, record.owner)
        quota.check_staging(allowed, connection, record.owner, record.size or 1)


def _note(
    call: Call, connection: Connection, record: ImageRecord, body: dict[str, Any], stores: list[str]
) -> str:
    if body["method"]["name"] != "copy-image":
        before = ("uploading",) if body["method"]["name"] == "glance-direct" else ("queued",)
        if not images.transition(connection, record.id, before, "importing", message=None):
            raise conflict("The image is not in the state for this import any more.")
    images.set_property(connection, record.id, IMPORTING, ",".join(stores))
    images.set_property(connection, record.id, FAILED, "")
    task_id = tasks.create(
        connection,
        "api_image_import",
        owner=call.caller.project,
        user_id=call.caller.user,
        request_id=call.request_id,
        image_id=record.id,
        input={"image_id": record.id, "import_req": body, "backend": stores},
    )
    images.set_property(connection, record.id, TASK, task_id)
    return task_id


def _checked(call: Call, body: Any) -> dict[str, Any]:
    """The request, as far as it can be judged without the image."""
    if not isinstance(body, dict) or not isinstance(body.get("method"), dict):
        raise bad_request("Import request requires a 'method' field.")
    name = body["method"].get("name")
    if name is None:
        raise bad_request("Import request requires a 'name' field.")
    if name not in call.service.settings.imports.methods or name not in _METHODS:
        raise bad_request(f"Unknown import method name '{name}'.")
    for flag in ("all_stores_must_succeed", "all_stores"):
        if not isinstance(body.get(flag, True), bool):
            raise bad_request(f"'{flag}' must be boolean value only")
    stores = body.get("stores", [])
    if not isinstance(stores, list) or not all(isinstance(each, str) for each in stores):
        raise bad_request("'stores' must be a list of store identifiers.")
    return body


def _check_state(record: ImageRecord, method: dict[str, Any]) -> None:
    name = method["name"]
    if record.status == "active" and name != "copy-image":
        raise conflict("Image with status active cannot be target for import")
    if record.status != "active" and name == "copy-image":
        raise conflict("Only images with status active can be targeted for copying")
    if record.status != "queued" and name in ("web-download", "glance-download"):
        raise conflict(f"Image needs to be in 'queued' state to use '{name}' method")
    if record.status != "uploading" and name == "glance-direct":
        raise conflict("Image needs to be staged before 'glance-direct' method can be used")
    for column in ("container_format", "disk_format"):
        if not getattr(record, column):
            raise conflict(f"'{column}' needs to be set before import")
    if name == "glance-download":
        for key in ("glance_region", "glance_image_id"):
            if not isinstance(method.get(key), str):
                raise bad_request(f"'{key}' needs to be set for glance-download import method")
        try:
            method["glance_image_id"] = str(uuid.UUID(method["glance_image_id"]))
        except ValueError:
            wrong = method["glance_image_id"]
            raise bad_request(f"Remote image id does not look like a UUID: {wrong}") from None


def _stores(call: Call, body: dict[str, Any], record: ImageRecord) -> list[str]:
    known = call.service.stores
    header = call.headers.get("x-image-meta-store")
    named = list(dict.fromkeys(body.get("stores") or ([header] if header else [])))
    there = {location.store for location in record.locations}
    copying = body["method"]["name"] == "copy-image"
    if body.get("all_stores"):
        if named:
            raise bad_request(
                "All_stores parameter can't be used with x-image-meta-store header or stores "
                "parameter"
            )
        writable = [name for name, store in known.items() if not store.read_only]
        return [name for name in writable if not (copying and name in there)]
    for name in named:
        if name not in known:
            raise conflict(f"Store for identifier {name} not found")
        if known[name].read_only:
            raise conflict(f"Store {name} is read-only")
        if copying and name in there:
            raise bad_request(f"Image is already present at store '{name}'")
    return named or [call.service.settings.first_store]


def _check_address(call: Call, url: str) -> None:
    try:
        check_url(url, call.service.settings.imports)
    except UnsafeImage as error:
        raise bad_request(str(error)) from error


def methods(call: Call) -> Response:
    """The ways of importing that this deployment has."""
    value = {
        "description": "Import methods available.",
        "type": "array",
        "value": list(call.service.settings.imports.methods),
    }
    return JSONResponse({"import-methods": value})


def of_image(call: Call) -> Response:
    """The image's tasks."""
    with call.service.database.read() as connection:
        record, _ = image_for(call, connection)
        found = tasks.of_image(connection, record.id)
    return JSONResponse(
        {
            "tasks": [
                {
                    "id": task.id,
                    "type": task.type,
                    "status": task.status,
                    "owner": task.owner,
                    "user_id": task.user_id,
                    "request_id": task.request_id,
                    "image_id": task.image_id,
                    "input": task.input,
                    "result": task.result,
                    "message": task.message or "",
                    "progress": {"done": task.done, "total": task.total},
                    "created_at": task.created_at.isoformat(),
                    "updated_at": task.updated_at.isoformat(),
                    "expires_at": task.expires_at.isoformat() if task.expires_at else None,
                    "deleted": False,
                    "deleted_at": None,
                }
                for task in found
            ]
        }
    )


OPERATIONS = (
    Operation(
        "POST", "/v2/images/{image_id}/import", begin, "Begin an import",
        {202: "a task does it", 400: "wrong", 409: "the image is in no state for it"},
        media=(JSON,),
    ),
    Operation("GET", "/v2/images/{image_id}/tasks", of_image, "List an image's tasks"),
    Operation("GET", "/v2/info/import", methods, "Which import methods there are"),
)  # fmt: skip
