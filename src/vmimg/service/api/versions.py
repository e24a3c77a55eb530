"""Which versions of the API there are."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from vmimg.service.http.operation import Call, Operation

__all__ = ["ELSEWHERE", "KNOWN", "OPERATIONS"]

# Glance 33's answer; CURRENT is what it says with several stores and its cache API.
_CURRENT = "v2.18"
_SUPPORTED = (
    *("v2.17", "v2.16", "v2.15", "v2.14", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.8"),
    *("v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"),
)


def _versions(call: Call) -> dict[str, Any]:
    href = f"{call.base_url()}/v2/"

    def version(number: str, status: str) -> dict[str, Any]:
        return {"id": number, "status": status, "links": [{"rel": "self", "href": href}]}

    found = [version(_CURRENT, "CURRENT")]
    return {"versions": found + [version(number, "SUPPORTED") for number in _SUPPORTED]}


def choices(call: Call) -> Response:
    """The versions, as an answer to whoever named none."""
    return JSONResponse(_versions(call), 300)


def listing(call: Call) -> Response:
    """The versions."""
    return JSONResponse(_versions(call))


KNOWN = frozenset({"v2", _CURRENT, *_SUPPORTED})
"""What a path may begin with: all of them are the same service."""
_CHOICES = Operation(
    "GET", "/", choices, "Which versions there are", {300: "choices"},
    anonymous=True, ignores_body=True,
)  # fmt: skip
_LISTING = Operation(
    "GET", "/versions", listing, "Which versions there are", anonymous=True, ignores_body=True
)
ELSEWHERE = {"": _CHOICES, "versions": _LISTING}
"""What answers for paths that nothing else does, by their first part."""
OPERATIONS = (_CHOICES, _LISTING)
