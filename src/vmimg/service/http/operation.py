"""Operations: what the API can do, as data, and the call that a handler gets.

Routes, the ``Allow`` of a 405, the OpenAPI document and the metrics' labels are made from the same
rows. Imports starlette, policy and service.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from vmimg.service.http.errors import bad_request, forbidden
from vmimg.service.identity.caller import Caller
from vmimg.service.policy import Target

if TYPE_CHECKING:
    from vmimg.service.service import Service

__all__ = ["JSON", "Call", "Handler", "Operation", "Parameter"]

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value in the query or the headers of a request, for the OpenAPI document."""

    name: str
    description: str
    place: str = "query"
    type: str = "string"


class Call:
    """One request, to its handler."""

    def __init__(
        self, service: Service, request: Request, caller: Caller, operation: Operation, body: bytes
    ) -> None:
        self.service = service
        self.request = request
        self.caller = caller
        self.operation = operation
        self.body = body
        """The body, for operations that do not stream it."""
        self.request_id = ""

    @property
    def path(self) -> Mapping[str, str]:
        """The values in the path."""
        return self.request.path_params

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers; names in any case."""
        return self.request.headers

    @cached_property
    def query(self) -> list[tuple[str, str]]:
        """What stands behind the question mark, in order, repeated ones too.

        Raises HTTPError 400 for text that is no UTF-8.
        """
        try:
            said = self.request.scope["query_string"].decode()
            return parse_qsl(said, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise bad_request("The query of the address is not UTF-8.") from None

    @property
    def media_type(self) -> str:
        """The type of the body, without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON: an object, or an array.

        Raises HTTPError 400 where it cannot be read. The media type is not looked at: many
        programs send none.
        """
        if not self.body:
            raise bad_request("Body expected in request.")
        try:
            said = json.loads(self.body, parse_constant=_no_number)
        except (ValueError, RecursionError):
            raise bad_request("Malformed JSON in request body.") from None
        if not isinstance(said, (dict, list)):
            raise bad_request("Unexpected body type. Expected list/dict.")
        if not _can_be_kept(said):
            raise bad_request("The request body has text that is no Unicode, or has a NUL.")
        return said

    def base_url(self) -> str:
        """The address of the service, as this client is to see it; no slash at its end."""
        public = self.service.settings.server.public_url
        return public.rstrip("/") or str(self.request.base_url).rstrip("/")

    def allows(self, rule: str, target: Target | None = None) -> bool:
        """Whether the caller may do what ``rule`` is about."""
        return self.service.policy.allows(rule, self.caller, target or Target())

    def require(self, rule: str, target: Target | None = None) -> None:
        """Raises HTTPError 403 unless the caller may."""
        if not self.allows(rule, target):
            raise forbidden(f"You are not authorized to complete {rule} action.")


def _no_number(word: str) -> Any:
    # NaN and Infinity, which Python would take.
    raise ValueError(word)


def _can_be_kept(said: Any) -> bool:
    """Whether a database takes all text in it: no NUL, and no half of a surrogate pair."""
    waiting = [said]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
            if "\0" in value:
                return False
        elif isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return True


Handler = Callable[[Call], Response] | Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    """As Starlette writes it: ``/v2/images/{image_id}``."""
    handler: Handler
    """A plain function runs in a worker thread with the body read; a coroutine streams."""
    summary: str
    answers: Mapping[int, str] = field(default_factory=lambda: {200: "done"})
    """Statuses that a client can get, and what they mean."""
    body: str = ""
    """The name of the JSON schema of the request's body."""
    answer: str = ""
    """The name of the JSON schema of the answer's body."""
    media: tuple[str, ...] = ()
    """What the body may be; without any, a request that has a body is refused: its sender means
    another one.
    """
    parameters: tuple[Parameter, ...] = ()
    anonymous: bool = False
    """Nobody is asked who he is."""
    ignores_body: bool = False
    """A body that is sent all the same is passed over, as Glance does here."""
