"""The OpenAPI document: made of the same rows as the routes, and of the schemas that are checked.

OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.0), whose schemas are JSON Schema's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from vmimg import __version__
from vmimg.service.api import metadefs
from vmimg.service.api.schemas import schemas
from vmimg.service.http.operation import Call, Operation
from vmimg.service.settings import Formats

__all__ = ["document", "operations"]

_IN_PATH: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_ERROR: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "code": {"type": "string"},
        "title": {"type": "string"},
        "message": {"type": "string"},
    },
}
_COMMON: Final[Mapping[int, str]] = {
    400: "the request is wrong",
    401: "nobody is known by this token",
    403: "the caller may not",
    404: "it is not there, or not for this caller",
    503: "the catalogue or a store does not answer",
}


def document(operations: Iterable[Operation], formats: Formats) -> dict[str, Any]:
    """The whole, for these operations."""
    of_metadefs = [(f"metadefs/{name}", each) for name, each in metadefs.schemas.SCHEMAS.items()]
    known = {
        _component(name): _embedded(schema, f"#/components/schemas/{_component(name)}/")
        for name, schema in (*schemas(formats).items(), *of_metadefs)
    }
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _IN_PATH.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vmimg image service",
            "version": __version__,
            "description": "The OpenStack Image API v2, over a core that knows disk formats.",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**known, "error": dict(_ERROR)},
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
            },
        },
    }


def _component(name: str) -> str:
    return name.replace("/", ".")


def _embedded(schema: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A schema of the API as a part of the document: what it refers to in itself lies deeper."""
    told = {"type": "object", **{k: v for k, v in schema.items() if k not in ("name", "links")}}

    def moved(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {
                key: place + value.removeprefix("#/")
                if key == "$ref" and isinstance(value, str)
                else moved(value)
                for key, value in part.items()
            }
        return [moved(each) for each in part] if isinstance(part, list | tuple) else part

    moved_schema: dict[str, Any] = moved(told)
    return moved_schema


def _operation(operation: Operation, known: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _IN_PATH.findall(operation.path)
    ]
    parameters += [
        {
            "name": each.name,
            "in": each.place,
            "description": each.description,
            "schema": {"type": each.type},
        }
        for each in operation.parameters
    ]
    told: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "parameters": parameters,
        "responses": _answers(operation, known),
    }
    if operation.method in ("POST", "PUT", "PATCH") and (operation.body or _streams(operation)):
        told["requestBody"] = {
            "required": True,
            "content": {media: {"schema": _body(operation, known)} for media in operation.media},
        }
    if not operation.anonymous:
        told["security"] = [{"token": []}]
    return told


def _identifier(operation: Operation) -> str:
    """Of the path and the method, which no two operations share."""
    words = re.findall(r"\w+", operation.path)
    return "_".join([operation.method.lower(), *words])


def _streams(operation: Operation) -> bool:
    return "application/octet-stream" in operation.media


def _body(operation: Operation, known: Mapping[str, Any]) -> dict[str, Any]:
    if _streams(operation):
        return {"type": "string", "format": "binary"}
    name = _component(operation.body)
    if name in known and operation.method != "PATCH":
        return {"$ref": f"#/components/schemas/{name}"}
    return {}


def _answers(operation: Operation, known: Mapping[str, Any]) -> dict[str, Any]:
    meanings = {**({} if operation.anonymous else _COMMON), **operation.answers}
    if operation.method in ("POST", "PUT", "PATCH"):
        meanings = {408: "nothing came any more", 413: "too large"} | meanings
    told: dict[str, Any] = {}
    for status, meaning in sorted(meanings.items()):
        answer: dict[str, Any] = {"description": meaning}
        if status >= 400:
            schema = {"$ref": "#/components/schemas/error"}
            answer["content"] = {
                "application/json": {"schema": schema},
                "text/html": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
            }
        elif _component(operation.answer) in known:
            schema = {"$ref": f"#/components/schemas/{_component(operation.answer)}"}
            answer["content"] = {"application/json": {"schema": schema}}
        told[str(status)] = answer
    return told


def operations(all_operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """The operation that shows the document of ``all_operations``, itself among them."""
    rows: list[Operation] = list(all_operations)

    @cache
    def made(formats: Formats) -> dict[str, Any]:
        return document(rows, formats)

    def show(call: Call) -> Response:
        """The OpenAPI document."""
        return JSONResponse(made(call.service.settings.formats))

    rows.append(Operation("GET", "/openapi.json", show, "This API, for machines", anonymous=True))
    return (rows[-1],)
