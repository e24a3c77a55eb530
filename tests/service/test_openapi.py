"""schemathesis asks a running service all that its OpenAPI document says can be asked.

What it makes up is the same each time. No answer may be a 500; each is one of those that the
document has, of the type and the shape that it says.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode

from asking import Child
from postgres import Server
from trouble import start_with
from vmimg.service.api import OPERATIONS
from vmimg.service.api.openapi import document
from vmimg.service.settings import Formats

_DOCUMENT: dict[str, Any] = document(OPERATIONS, Formats())
schema = schemathesis.openapi.from_dict(_DOCUMENT)
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])

_CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.specs.openapi.checks.status_code_conformance,
    schemathesis.specs.openapi.checks.content_type_conformance,
    schemathesis.specs.openapi.checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A service, the same for all of it."""
    yield from _running(tmp_path_factory.mktemp("openapi"))


@pytest.fixture(scope="module")
def asked_postgres(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Server
) -> Iterator[Child]:
    """The same on PostgreSQL, which takes less than SQLite does."""
    database = {"url": postgres_server.database("migrated")}
    yield from _running(tmp_path_factory.mktemp("openapi"), database=database)


def _running(folder: Path, **sections: Any) -> Iterator[Child]:
    child = start_with(folder, **sections)
    yield child
    child.http.close()
    assert child.stop() == 0
    assert '"level": "error"' not in (folder / "log").read_text()


def how(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )


_numbers = itertools.count()


def ask(case: schemathesis.Case, child: Child) -> None:
    """Two of three times of an image that there is."""
    number = next(_numbers) % 3
    if number and "image_id" in case.path_parameters:
        client = child.client
        image = client.image(x="y", tags=["z"]) if number == 1 else client.active(b"data")
        case.path_parameters["image_id"] = image["id"]
    case.call_and_validate(base_url=child.url, checks=_CHECKS, timeout=30)


@schema.parametrize()
@how(2)
def test_answers_are_what_the_document_says(case: schemathesis.Case, asked: Child) -> None:
    ask(case, asked)


@pytest.mark.slow
@pytest.mark.peer("postgres", "initdb")
@schema.parametrize()
@how(int(os.environ.get("VMIMG_EXAMPLES", "100")))
def test_many_answers_are_what_the_document_says(
    case: schemathesis.Case, asked_postgres: Child
) -> None:
    ask(case, asked_postgres)
