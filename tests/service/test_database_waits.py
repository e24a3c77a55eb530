"""A database that answers nobody: requests end with 503 after the time that the settings say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from asking import Asked
from postgres import databases
from vmimg.service.catalogue import database as catalogue
from vmimg.service.catalogue.database import Database, DatabaseGone

pytestmark = pytest.mark.peer("postgres", "initdb")
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def waits() -> dict[str, float]:
    """How long it may take; tests override it."""
    return {"statement_seconds": 1, "lock_seconds": 0}


@pytest.fixture
def said(database_url: str, waits: dict[str, float]) -> dict[str, Any]:
    """A service that has little patience."""
    return {"database": {"url": database_url, **waits}}


@contextmanager
def held(url: str, statement: str) -> Iterator[None]:
    """Another connection is in the middle of a transaction that began with ``statement``."""
    with psycopg.connect(url) as other:
        other.execute(statement.encode())
        yield
        other.rollback()


@on_postgresql
def test_a_request_that_waits_for_the_database_ends_with_503(
    service: Asked, database_url: str
) -> None:
    image = service.admin.image()
    with held(database_url, "LOCK TABLE images IN ACCESS EXCLUSIVE MODE"):
        for path in ("/v2/images", f"/v2/images/{image['id']}"):
            answer = service.admin.get(path)
            assert answer.status_code == 503
            assert "The catalogue does not answer." in answer.text
            assert answer.headers["retry-after"] == "10"
    assert service.admin.shown(image["id"]) == image


@on_postgresql
@pytest.mark.parametrize("waits", [{"statement_seconds": 0, "lock_seconds": 0.3}])
def test_a_change_does_not_wait_for_a_lock_longer_than_it_may(
    service: Asked, database_url: str, waits: dict[str, float]
) -> None:
    image = service.admin.image(name="before")
    change = [{"op": "replace", "path": "/name", "value": "after"}]
    with held(database_url, f"SELECT 1 FROM images WHERE id = '{image['id']}' FOR UPDATE"):
        assert service.admin.patch(f"/v2/images/{image['id']}", change).status_code == 503
        # Who only reads waits for nobody.
        assert service.admin.shown(image["id"])["name"] == "before"
    assert service.admin.patch(f"/v2/images/{image['id']}", change).status_code == 200


@on_postgresql
def test_the_connection_is_good_for_the_next_one(database_url: str) -> None:
    database = Database(database_url, pool=1, statement_seconds=0.2)
    for _ in range(4):
        with pytest.raises(DatabaseGone), database.begin() as connection:
            connection.execute(text("SELECT pg_sleep(60)"))
    with database.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    database.close()


@on_postgresql
def test_migrations_take_the_time_that_they_need(database_url: str) -> None:
    database = Database(database_url, statement_seconds=0.1, lock_seconds=0.1)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (catalogue._MIGRATING,))
        # Another process is at it for longer than a statement may take.
        later = threading.Timer(0.6, other.execute, ("SELECT pg_advisory_unlock_all()",))
        later.start()
        database.migrate()
        later.join()
    with database.read() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "100ms"
    database.close()


@on_postgresql
def test_what_the_address_says_of_it_counts_more(database_url: str) -> None:
    address = f"{database_url}?options=-c%20lock_timeout%3D7s"
    database = Database(address, statement_seconds=60, lock_seconds=60)
    with database.read() as connection:
        shown = [connection.execute(text(f"SHOW {n}_timeout")).scalar() for n in _NAMES]
    assert shown == ["1min", "7s"]
    database.close()


_NAMES = ("statement", "lock")


@databases
def test_without_limits_nothing_is_said_of_them(database_url: str) -> None:
    database = Database(database_url)
    assert "options" not in database.url.query
    with database.read() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    database.close()
