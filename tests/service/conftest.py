"""The service, as tests ask it: in this process over ASGI, or as a program on a port.

service          in this process; ``service.caller("blue")`` is a client of somebody of a
                 project, ``service.admin`` of an administrator
running_service  ``vmimg serve`` as a child
settings_for     what the first is made of; tests override the fixture ``said``
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import vmimg.service.settings as vmimg_settings
from asking import Asked, Child, start_service, who_asks
from glance_peer import openstack
from postgres import Server
from vmimg.service.application import application, assemble
from vmimg.service.catalogue.database import Database
from vmimg.service.catalogue.metadefs.standard import seed

__all__ = ["openstack"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """PostgreSQL, with a database ``migrated`` to copy."""
    server = Server()
    try:
        server.execute("CREATE DATABASE migrated")
        _prepare(server.url("migrated"))
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of SQLite, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "catalogue.db"
    _prepare(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _prepare(url: str) -> None:
    database = Database(url)
    database.migrate()
    seed(database)
    database.close()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite, unless the test is marked with `postgres.databases`; migrated in either case."""
    if getattr(request, "param", "sqlite") == "sqlite":
        path = tmp_path / "catalogue.db"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        return f"sqlite:///{path}"
    server: Server = request.getfixturevalue("postgres_server")
    return server.database("migrated")


@pytest.fixture
def said() -> dict[str, Any]:
    """What vmimg.toml says, by section; tests override it."""
    return {}


@pytest.fixture
def settings_for(
    said: dict[str, Any], database_url: str, tmp_path: Path
) -> vmimg_settings.Settings:
    """Settings for one test: everything in its directory."""
    database = {"database": {"url": database_url}}
    return vmimg_settings.load(None, **{"data": tmp_path / "data", **database, **said})


@pytest.fixture
def service(settings_for: vmimg_settings.Settings) -> Iterator[Asked]:
    """The service in this process. Who sends no name is an administrator of no project."""
    made = assemble(settings_for)
    with TestClient(application(made, who_asks), raise_server_exceptions=False) as http:
        yield Asked(made, http)


@pytest.fixture
def running_service(tmp_path: Path) -> Iterator[Child]:
    """``vmimg serve`` on a free port, with its data in ``tmp_path``."""
    child = start_service(tmp_path)
    try:
        yield child
    finally:
        child.http.close()
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait()
