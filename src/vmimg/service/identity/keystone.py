"""Keystone says who asks: keystonemiddleware validates tokens, as in every OpenStack service.

The middleware is WSGI and blocks, so it runs in a worker thread, over a request that has the
token's headers and nothing else. What it found is kept for a short while, under a digest of the
token: the token itself is not. Imports keystonemiddleware.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from vmimg.errors import OptionError
from vmimg.extras import require
from vmimg.service.http.errors import HTTPError
from vmimg.service.identity.caller import Caller

__all__ = ["Keystone"]

_log: Final = logging.getLogger("vmimg.service")
_SECONDS: Final = 60.0
_MOST_KEPT: Final = 10_000
_MOST_TOKEN: Final = 16 << 10
_UNKNOWN: Final = (
    "This server could not verify that you are authorized to access the document you requested. "
    "Either you supplied the wrong credentials (e.g., bad password), or your browser does not "
    "understand how to supply the credentials required."
)


class Keystone:
    """``options``: of keystonemiddleware's auth_token, by their names there.

    Raises OptionError where they cannot be used.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        require("keystonemiddleware", "service", "tokens of Keystone")
        from keystonemiddleware import auth_token

        missing = [name for name in ("auth_url", "auth_type") if not options.get(name)]
        if missing:
            raise OptionError(f"identity.keystone.{missing[0]}: must be set")
        said = {name: str(value) for name, value in options.items()}
        where = said.setdefault("www_authenticate_uri", said["auth_url"])
        self._challenge = {"www-authenticate": f'Keystone uri="{where}"'}
        self._seen: dict[bytes, tuple[float, Caller]] = {}
        self._lock = threading.Lock()
        self._protocol = auth_token.AuthProtocol(
            _note, {**said, "delay_auth_decision": "true", "log_name": "vmimg.service.keystone"}
        )

    async def authenticate(self, request: Request) -> Caller:
        """The caller. Raises HTTPError 401 without a token that is good, 503 without Keystone."""
        token = request.headers.get("x-auth-token", "")
        if not token or len(token) > _MOST_TOKEN or not token.isascii():
            raise HTTPError(401, _UNKNOWN, self._challenge)
        digest = hashlib.sha256(token.encode()).digest()
        caller = self._remembered(digest)
        if caller is None:
            caller = await run_in_threadpool(self._ask, token)
            self._remember(digest, caller)
        return caller

    def _remembered(self, digest: bytes) -> Caller | None:
        with self._lock:
            until, caller = self._seen.get(digest, (0.0, None))
        return caller if time.monotonic() < until else None

    def _remember(self, digest: bytes, caller: Caller) -> None:
        with self._lock:
            if len(self._seen) >= _MOST_KEPT:
                self._seen.clear()
            self._seen[digest] = (time.monotonic() + _SECONDS, caller)

    def _ask(self, token: str) -> Caller:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "vmimg",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "HTTP_X_AUTH_TOKEN": token,
        }
        said: list[str] = []

        def start_response(status: str, headers: Any, failure: Any = None) -> Callable[..., Any]:
            said.append(status)
            return said.append

        from keystoneauth1.exceptions import ClientException

        try:
            for _ in self._protocol(environ, start_response):
                pass
        except ClientException as error:
            _log.error("Keystone cannot be asked: %s", error)
            said.append("503")
        if said and not said[-1].startswith("200"):
            raise HTTPError(503, "The identity service does not answer.", {"retry-after": "10"})
        if environ.get("HTTP_X_IDENTITY_STATUS") != "Confirmed":
            raise HTTPError(401, _UNKNOWN, self._challenge)
        roles = environ.get("HTTP_X_ROLES", "").split(",")
        return Caller(
            user=environ.get("HTTP_X_USER_ID", ""),
            project=environ.get("HTTP_X_PROJECT_ID") or None,
            roles=frozenset(role.strip().lower() for role in roles if role.strip()),
            user_name=environ.get("HTTP_X_USER_NAME", ""),
            project_name=environ.get("HTTP_X_PROJECT_NAME", ""),
            token=token,
        )


def _note(environ: Any, start_response: Any) -> list[bytes]:
    """The application behind the middleware: what it wanted to know is in ``environ``."""
    start_response("200 OK", [])
    return []
