"""Tasks: made, listed, shown, by administrators. They go by themselves, some time after they ended.

The only type that can be made by itself is ``import``, the one of before there was an import call:
it makes the image too.
"""

from __future__ import annotations

import uuid
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from starlette.responses import JSONResponse, Response

from vmimg.errors import UnsafeImage
from vmimg.service.api.showing import stamp
from vmimg.service.catalogue import tasks
from vmimg.service.catalogue.tasks import TaskRecord
from vmimg.service.http.errors import HTTPError, bad_request, forbidden, not_found
from vmimg.service.http.operation import JSON, Call, Operation, Parameter
from vmimg.service.web.fetching import check_url

__all__ = ["OPERATIONS"]

_STATUSES: Final = ("pending", "processing", "success", "failure")
_TYPES: Final = ("import",)
_SORT_KEYS: Final = ("id", "type", "status", "created_at", "updated_at", "expires_at")


def _require_access(call: Call) -> None:
    if not call.allows("tasks_api_access"):
        raise forbidden("You are not authorized to complete tasks_api_access action.")


def shown(task: TaskRecord, *, brief: bool = False) -> dict[str, Any]:
    """The task's JSON."""
    told: dict[str, Any] = {
        "id": task.id,
        "type": task.type,
        "status": task.status,
        "owner": task.owner,
        "created_at": stamp(task.created_at),
        "updated_at": stamp(task.updated_at),
        "self": f"/v2/tasks/{task.id}",
        "schema": "/v2/schemas/task",
    }
    if task.expires_at is not None:
        told["expires_at"] = stamp(task.expires_at)
    if brief:
        return told
    told |= {"input": task.input, "message": task.message or "", "result": task.result}
    for name in ("image_id", "request_id", "user_id"):
        if (value := getattr(task, name)) is not None:
            told[name] = value
    return told


def create(call: Call) -> Response:
    """Begin a task."""
    _require_access(call)
    body = call.json()
    if not isinstance(body, dict):
        raise bad_request("Body expected in request.")
    for name in ("type", "input"):
        if name not in body:
            raise bad_request(f"Task '{name}' is required")
    if body["type"] not in _TYPES:
        raise bad_request(f"Invalid type value: {body['type']}")
    said = body["input"]
    if not isinstance(said, dict) or not isinstance(said.get("image_properties", {}), dict):
        raise bad_request("Task 'input' is required")
    _check_address(call, said)
    if not isinstance(said.get("import_from_format", ""), str):
        raise bad_request("Input does not contain 'import_from_format' field")
    with call.service.database.begin() as connection:
        task_id = tasks.create(
            connection,
            body["type"],
            owner=call.caller.project,
            user_id=call.caller.user,
            request_id=call.request_id,
            input=said,
        )
        task = tasks.find(connection, task_id)
    assert task is not None
    with call.service.bell:
        call.service.bell.notify_all()
    location = f"{call.base_url()}/v2/tasks/{task_id}"
    return JSONResponse(shown(task), 201, headers={"location": location})


def _check_address(call: Call, said: dict[str, Any]) -> None:
    address = said.get("import_from")
    scheme = urlsplit(address).scheme if isinstance(address, str) else ""
    if scheme in ("file", "filesystem"):
        raise bad_request(
            "File based imports are not allowed. Please use a non-local source of image data."
        )
    if scheme not in ("http", "https"):
        raise bad_request(f"Invalid location: {address}")
    try:
        check_url(str(address), call.service.settings.imports)
    except UnsafeImage:
        raise bad_request(
            f"URI for legacy import task does not pass filtering: {address}"
        ) from None


def listing(call: Call) -> Response:
    """Tasks, a page at a time, newest first."""
    _require_access(call)
    asked = dict(call.query)
    if asked.get("status", "pending") not in _STATUSES:
        raise bad_request(f"Invalid status value: {asked['status']}")
    if asked.get("type", "import") not in _TYPES:
        raise bad_request(f"Invalid type value: {asked['type']}")
    if asked.get("sort_dir", "desc") not in ("asc", "desc"):
        raise bad_request(f"Invalid sort direction: {asked['sort_dir']}")
    if asked.get("sort_key", "created_at") not in _SORT_KEYS:
        raise bad_request("Sort key supplied was not valid.")
    limit = _limit(call, asked)
    with call.service.database.read() as connection:
        found = tasks.page(
            connection,
            status=asked.get("status"),
            type=asked.get("type"),
            sort_key=asked.get("sort_key", "created_at"),
            descending=asked.get("sort_dir", "desc") == "desc",
            after=_marker(asked.get("marker")),
            limit=limit,
        )
    if found is None:
        raise bad_request(f"Could not find task {asked['marker']}")
    first = {name: value for name, value in asked.items() if name != "marker"}
    told: dict[str, Any] = {
        "tasks": [shown(task, brief=True) for task in found],
        "first": _address(first),
        "schema": "/v2/schemas/tasks",
    }
    if limit and len(found) == limit:
        told["next"] = _address(first | {"marker": found[-1].id})
    return JSONResponse(told)


def _address(query: dict[str, str]) -> str:
    return "/v2/tasks" + (f"?{urlencode(query)}" if query else "")


def _limit(call: Call, asked: dict[str, str]) -> int:
    limits = call.service.settings.limits
    said = asked.get("limit", str(limits.list_default))
    if not said.removeprefix("-").isascii() or not said.removeprefix("-").isdigit():
        raise bad_request("limit param must be an integer")
    if said.startswith("-"):
        raise bad_request("limit param must be positive")
    return min(int(said[:10]), limits.list_max)


def _marker(said: str | None) -> str | None:
    if said is None:
        return None
    try:
        return str(uuid.UUID(said))
    except ValueError:
        raise bad_request("Invalid marker format") from None


def show(call: Call) -> Response:
    """A task."""
    _require_access(call)
    with call.service.database.read() as connection:
        task = tasks.find(connection, call.path["task_id"])
    if task is None:
        raise not_found(f"Could not find task {call.path['task_id']}")
    return JSONResponse(shown(task))


def remove(call: Call) -> Response:
    """Refuse: they go by themselves."""
    _require_access(call)
    raise HTTPError(
        405,
        "Tasks cannot be deleted: they go by themselves at the time that expires_at says.",
        {"allow": "GET"},
    )


OPERATIONS = (
    Operation(
        "POST", "/v2/tasks", create, "Begin a task", {201: "begun", 400: "wrong"}, answer="task",
        media=(JSON,),
    ),
    Operation(
        "GET", "/v2/tasks", listing, "List tasks", answer="tasks", ignores_body=True,
        parameters=tuple(
            Parameter(name, text)
            for name, text in (
                ("status", "one of pending, processing, success, failure"),
                ("type", "import"),
                ("sort_key", "a field of tasks"),
                ("sort_dir", "asc or desc"),
                ("marker", "the last task of the page before"),
                ("limit", "how many"),
            )
        ),
    ),
    Operation("GET", "/v2/tasks/{task_id}", show, "Show a task", answer="task"),
    Operation("DELETE", "/v2/tasks/{task_id}", remove, "Refuse", {405: "they go by themselves"}),
)  # fmt: skip
