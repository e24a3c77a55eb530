"""Logs: one line of JSON for each request and for each thing that went wrong.

No token, no password and no query is in them. Imports nothing of the service.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Final

__all__ = ["FIELDS", "configure"]

FIELDS: Final = (
    *("request_id", "method", "path", "status", "seconds", "received", "sent"),
    *("user", "project", "client", "image", "task"),
)
"""What a record may carry besides its text: ``log.info("...", extra={"request_id": ...})``."""


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in FIELDS:
            if (value := getattr(record, name, None)) is not None:
                said[name] = value
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        said = [self.formatTime(record, "%H:%M:%S"), record.levelname.lower(), record.getMessage()]
        said += [
            f"{name}={value}"
            for name in FIELDS
            if (value := getattr(record, name, None)) is not None
        ]
        text = " ".join(said)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def configure(level: str, form: str) -> None:
    """Log to standard error; ``form``: json or text, ``level``: by its name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger("vmimg")
    root.handlers = [handler]
    root.setLevel(level.upper())
    root.propagate = False
    # Of libraries: what goes wrong. Each option that keystonemiddleware hands on is no news.
    for name in ("uvicorn", "uvicorn.error", "keystoneauth", "alembic"):
        logging.getLogger(name).handlers = [handler]
        logging.getLogger(name).setLevel("WARNING")
    logging.getLogger("keystonemiddleware").setLevel("ERROR")
