"""Requests for paths that no operation has.

What begins with another version of the API than ``v2`` is asked for as if it did, as every one of
them is the same service; what begins with no version is told which there are; the rest is not
there. Each is an `Endpoint`: logged, counted, and told in the shape that the client accepts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vmimg.service.http.endpoint import Endpoint
from vmimg.service.http.errors import not_found
from vmimg.service.http.operation import Call, Operation
from vmimg.service.identity import Authenticator
from vmimg.service.service import Service

__all__ = ["Unrouted"]

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Unrouted:
    """The application behind all routes.

    ``versions`` are the first parts of a path that mean ``v2``; ``elsewhere`` answers by the first
    part of a path, that of ``""`` all others.
    """

    def __init__(
        self,
        service: Service,
        authenticate: Authenticator,
        router: ASGIApp,
        versions: Collection[str],
        elsewhere: Mapping[str, Operation],
    ) -> None:
        self._router = router
        self._versions = frozenset(versions) - {"v2"}
        nothing = Operation("GET", "/v2", _nothing, "What is not there", ignores_body=True)
        self._endpoints = {
            first: Endpoint(service, dict.fromkeys(_METHODS, operation), authenticate)
            for first, operation in {**elsewhere, "v2": nothing}.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        first, _, rest = scope["path"].lstrip("/").partition("/")
        if first in self._versions:
            await self._router({**scope, "path": f"/v2/{rest}"}, receive, send)
            return
        endpoint: Any = self._endpoints.get(first, self._endpoints[""])
        await endpoint({**scope, "path_params": {}}, receive, send)


def _nothing(call: Call) -> Response:
    raise not_found("The resource could not be found.")
