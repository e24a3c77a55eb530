"""What goes wrong with a request, as an answer.

Glance's bodies depend on what the client accepts: HTML for whoever says ``*/*`` or ``text/html``,
JSON for ``application/json``, plain text else; the clients look for the text in either. Imports
starlette.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

__all__ = ["HTTPError", "bad_request", "conflict", "error_response", "forbidden", "not_found"]

# Glance's; Python's own have changed from release to release.
_TITLES: Final = {413: "Request Entity Too Large", 416: "Request Range Not Satisfiable"}
_HTML: Final = """<html>
 <head>
  <title>{code} {title}</title>
 </head>
 <body>
  <h1>{code} {title}</h1>
  {message}<br /><br />



 </body>
</html>"""


class HTTPError(Exception):
    """An answer that ends a request early: of 400 or more, or one without a body: 204, 304.

    The message is for the one who asked: never a path of the server, never another's identifier.
    """

    def __init__(
        self, status: int, message: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message or HTTPStatus(status).phrase)
        self.status = status
        self.message = message or HTTPStatus(status).phrase
        self.headers = dict(headers or {})


def bad_request(message: str) -> HTTPError:
    """400: the request itself is wrong."""
    return HTTPError(400, message)


def forbidden(message: str = "You are not authorized to complete this action.") -> HTTPError:
    """403: a rule or a limit forbids it."""
    return HTTPError(403, message)


def not_found(message: str) -> HTTPError:
    """404: it is not there, or not for this caller."""
    return HTTPError(404, message)


def conflict(message: str) -> HTTPError:
    """409: the thing is in no state for it."""
    return HTTPError(409, message)


def error_response(request: Request, error: HTTPError) -> Response:
    """The answer, in the form that the client accepts."""
    if error.status < 400:
        return Response(status_code=error.status, headers=error.headers)
    title = _TITLES.get(error.status) or HTTPStatus(error.status).phrase
    accept = request.headers.get("accept", "")
    if "html" in accept or "*/*" in accept:
        message = html.escape(error.message)
        text = _HTML.format(code=error.status, title=title, message=message)
        return Response(
            text, error.status, headers=error.headers, media_type="text/html; charset=UTF-8"
        )
    if "json" in accept:
        body = {
            "message": f"{error.message}<br /><br />\n\n\n",
            "code": f"{error.status} {title}",
            "title": title,
        }
        return JSONResponse(body, error.status, headers=error.headers)
    return PlainTextResponse(
        f"{error.status} {title}\n\n{error.message}\n\n   ", error.status, headers=error.headers
    )
