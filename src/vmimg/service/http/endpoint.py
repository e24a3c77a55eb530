"""All methods of one path as an ASGI application: who asks, errors, limits, logs, counts.

Imports operation, errors, metrics; handlers are given to it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from vmimg.errors import StorageError
from vmimg.service.catalogue.database import DatabaseGone
from vmimg.service.http.errors import HTTPError, error_response
from vmimg.service.http.handing import ZERO_COPY
from vmimg.service.http.operation import Call, Operation
from vmimg.service.http.receiving import RECEIVE_INTO, ReceiveInto
from vmimg.service.http.wire import ABORT
from vmimg.service.identity import Authenticator
from vmimg.service.identity.caller import Caller
from vmimg.service.service import Service

__all__ = ["Endpoint"]

_log: Final = logging.getLogger("vmimg.service")
# What a client, or a proxy, may call its request.
_REQUEST_ID: Final = re.compile(r"req-[0-9a-f-]{36}")
_NOBODY: Final = Caller()
_WITH_BODIES: Final = frozenset({"POST", "PUT", "PATCH"})


class Endpoint:
    """The operations of one path, by method."""

    def __init__(
        self, service: Service, methods: Mapping[str, Operation], authenticate: Authenticator
    ) -> None:
        self._service = service
        self._methods = methods
        self._authenticate = authenticate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        watched = _Watched(self._service, scope, receive, send)
        request = Request(scope, watched.receive, watched.send)
        operation = self._methods.get(request.method)
        metrics = self._service.metrics
        metrics.under_way.inc()
        self._service.under_way.add(watched)
        try:
            response = await self._answered(request, operation, watched)
            response.headers["x-openstack-request-id"] = watched.request_id
            await response(scope, watched.receive, watched.send)
        except ClientDisconnect:
            watched.note = "the client went away"
        except TimeoutError:
            watched.note = "the client takes nothing"
            if (abort := scope.get(ABORT)) is not None:
                abort()
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            watched.note = "the service stops"
            raise
        except Exception:
            # The answer had begun: the connection ends, which tells the client that it is cut off.
            _log.exception("an answer was cut off", extra={"request_id": watched.request_id})
            watched.note = "failed on the way"
            raise
        finally:
            metrics.under_way.dec()
            self._service.under_way.discard(watched)
            watched.tell(request, operation)

    async def _answered(
        self, request: Request, operation: Operation | None, watched: _Watched
    ) -> Response:
        extra = {"request_id": watched.request_id}
        try:
            return await self._answer(request, operation, watched)
        except HTTPError as error:
            return error_response(request, error)
        except (ClientDisconnect, TimeoutError):
            return error_response(request, HTTPError(408, "The request did not come in time."))
        except DatabaseGone:
            _log.error("the database does not answer", extra=extra)
            return error_response(
                request, HTTPError(503, "The catalogue does not answer.", {"retry-after": "10"})
            )
        except StorageError:
            _log.exception("a store failed", extra=extra)
            return error_response(
                request, HTTPError(503, "The store does not answer.", {"retry-after": "10"})
            )
        except Exception:
            _log.exception("a request failed", extra=extra)
            return error_response(request, HTTPError(500))

    async def _answer(
        self, request: Request, operation: Operation | None, watched: _Watched
    ) -> Response:
        if not _is_text(request):
            raise HTTPError(400, "The path of the address is not UTF-8.")
        if operation is None:
            raise HTTPError(405, headers={"allow": ", ".join(sorted(self._methods))})
        caller = _NOBODY if operation.anonymous else await self._authenticate(request)
        watched.caller = caller
        if any("\0" in part for part in request.path_params.values()):
            # No name of anything has one, and PostgreSQL takes none.
            raise HTTPError(404, "The resource could not be found.")
        takes = bool(operation.media)
        if not takes and not operation.ignores_body and _has_body(request):
            raise HTTPError(400, "A body is not expected with this request.")
        call = Call(self._service, request, caller, operation, b"")
        call.request_id = watched.request_id
        if asyncio.iscoroutinefunction(operation.handler):
            answer: Response = await operation.handler(call)
            return answer
        if takes:
            call.body = await _body(request, self._service.settings.limits.body_size)
        return await run_in_threadpool(operation.handler, call)  # type: ignore[arg-type]


class _Watched:
    """One request's messages, counted, each in its time."""

    def __init__(self, service: Service, scope: Any, receive: Any, send: Any) -> None:
        self._service = service
        self._receive = receive
        self._send = send
        self._hand_over = scope.get(ZERO_COPY)
        self._fill: ReceiveInto | None = scope.get(RECEIVE_INTO)
        if self._fill is not None:
            scope[RECEIVE_INTO] = self.receive_into
        self._patience = service.settings.server.idle_seconds or None
        self._began = time.monotonic()
        self._received = self._sent = self._status = 0
        self._complete = False
        self.caller = _NOBODY
        self.note = ""
        given = dict(scope["headers"]).get(b"x-openstack-request-id", b"").decode("latin-1")
        known = _REQUEST_ID.fullmatch(given)
        self.request_id = given if known else f"req-{uuid.uuid4()}"

    async def receive(self) -> Any:
        """The next message; TimeoutError where the client sends nothing for too long."""
        # Behind the body comes nothing but the end of the connection: a download waits for that.
        async with asyncio.timeout(None if self._complete else self._patience):
            message = await self._receive()
        self._complete = not message.get("more_body", False)
        size = len(message.get("body", b""))
        self._received += size
        self._service.metrics.received.inc(size)
        return message

    async def receive_into(self, buffer: memoryview) -> int:
        """Fill it with the body; TimeoutError where the client sends nothing for too long."""
        assert self._fill is not None
        size = await self._fill(buffer)
        self._received += size
        self._service.metrics.received.inc(size)
        return size

    async def send(self, message: Any) -> None:
        """Pass it on; TimeoutError where the client takes nothing for too long."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._status == 408:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        size, send = len(message.get("body", b"")), self._send
        if message["type"] == ZERO_COPY:
            size, send = message["count"], self._hand_over
        self._sent += size
        self._service.metrics.sent.inc(size)
        async with asyncio.timeout(self._patience):
            await send(message)

    def tell(self, request: Request, operation: Operation | None) -> None:
        """Log and count the request when it is over."""
        seconds = time.monotonic() - self._began
        path = operation.path if operation is not None else "other"
        metrics = self._service.metrics
        metrics.requests.labels(request.method, path, str(self._status)).inc()
        metrics.seconds.labels(request.method, path).observe(seconds)
        client = request.client
        _log.info(
            self.note or "answered",
            extra={
                "request_id": self.request_id,
                "method": request.method,
                "path": request.url.path,
                "status": self._status,
                "seconds": round(seconds, 4),
                "received": self._received,
                "sent": self._sent,
                "user": self.caller.user or None,
                "project": self.caller.project,
                "client": client.host if client is not None else None,
            },
        )


def _is_text(request: Request) -> bool:
    """Whether the path is UTF-8 as it came: decoded, what is none has become something else."""
    raw: bytes = request.scope.get("raw_path") or b""
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_body(request: Request) -> bool:
    """Whether a body is announced, as Glance finds out: one without a length counts only with
    methods that commonly have one.
    """
    if request.headers.get("content-length", "0").strip("0"):
        return True
    return request.method in _WITH_BODIES and "transfer-encoding" in request.headers


async def _body(request: Request, limit: int) -> bytes:
    gathered = bytearray()
    async for chunk in request.stream():
        gathered += chunk
        if len(gathered) > limit:
            raise HTTPError(413, f"The request body is larger than {limit} bytes.")
    return bytes(gathered)
