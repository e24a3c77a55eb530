"""For those who look after the service: is it alive, can it work, what has it done."""

from __future__ import annotations

from sqlalchemy import text
from starlette.responses import JSONResponse, Response

from vmimg.errors import StorageError
from vmimg.service.http.metrics import CONTENT_TYPE
from vmimg.service.http.operation import Call, Operation

__all__ = ["OPERATIONS"]


def alive(call: Call) -> Response:
    """The process answers."""
    return JSONResponse({"status": "alive"})


def ready(call: Call) -> Response:
    """The database and the stores answer; 503 and which of them does not."""
    service = call.service
    problems = {}
    try:
        with service.database.read() as connection:
            connection.execute(text("SELECT 1"))
    except StorageError as error:
        problems["database"] = str(error)
    for name, store in service.stores.items():
        try:
            store.prepare()
        except StorageError:
            problems[f"store {name}"] = "it cannot be used"
    status = "ready" if not problems else "not ready"
    return JSONResponse({"status": status, "problems": problems}, 503 if problems else 200)


def metrics(call: Call) -> Response:
    """What the service counts."""
    return Response(call.service.metrics.text(), headers={"content-type": CONTENT_TYPE})


OPERATIONS = (
    Operation("GET", "/healthz", alive, "Whether the process answers", anonymous=True),
    Operation(
        "GET", "/readyz", ready, "Whether database and stores answer",
        {200: "ready", 503: "something does not answer"}, anonymous=True,
    ),
    Operation("GET", "/metrics", metrics, "Counters for Prometheus", anonymous=True),
)  # fmt: skip
