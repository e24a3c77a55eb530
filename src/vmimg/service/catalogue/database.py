"""The database: one engine, transactions, migrations. Imports SQLAlchemy and Alembic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout

from vmimg.errors import OptionError, StorageError

__all__ = ["Database", "DatabaseGone", "now"]

_decode: Final = json.JSONDecoder().raw_decode
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_BUSY_SECONDS: Final = 30
# The number of PostgreSQL's lock that one process holds while it migrates.
_MIGRATING: Final = 0x766D696D67


# A server that vanished without a word is noticed within some 20 seconds.
_PATIENCE: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}


class DatabaseGone(StorageError):
    """The database does not answer; asking later may help."""


def now() -> datetime:
    """The time, as the tables have it: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


class Database:
    """The catalogue at ``url``.

    Raises OptionError for an address that cannot be one.
    """

    def __init__(self, url: str, *, pool: int = 10) -> None:
        try:
            where = make_url(url)
        except ArgumentError as error:
            raise OptionError(f"database.url: {url!r} is no address of a database") from error
        if where.get_backend_name() == "postgresql":
            where = where.set(drivername="postgresql+psycopg")
        elif where.get_backend_name() != "sqlite":
            raise OptionError(f"database.url: {where.drivername} is neither postgresql nor sqlite")
        self.url = where
        self.engine = _engine(where, pool)
        self._writing = self.engine.execution_options(writes=True)

    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return self.engine.dialect.name

    @property
    def is_sqlite(self) -> bool:
        """Whether there is one writer at a time."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end.

        Raises DatabaseGone where the database does not answer.
        """
        with _told(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: SQLite lets many of them be at once.

        Raises DatabaseGone where the database does not answer.
        """
        with _told(), self.engine.begin() as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the tables up to date."""
        from alembic import command
        from alembic.config import Config

        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        try:
            with self.begin() as connection:
                if not self.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except SQLAlchemyError as error:
            raise StorageError(f"the database cannot be brought up to date: {error}") from error

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyTimeout as error:
        raise DatabaseGone("the database does not answer") from error
    except DBAPIError as error:
        if not isinstance(error, OperationalError) and not error.connection_invalidated:
            raise
        raise DatabaseGone("the database does not answer") from error


def _json(value: Any) -> str:
    # As text, not escaped: SQLite compares the names in it as they are.
    return json.dumps(value, ensure_ascii=False)


def _from_json(text: str | bytes) -> Any:
    # json.loads would find out how bytes are encoded, and look for white space around: a page of
    # images is thousands of these, and the database wrote them. orjson would make floats of large
    # integers.
    return _decode(text if isinstance(text, str) else text.decode())[0]


def _engine(url: Any, pool: int) -> Engine:
    # What people send, their keys among it, is in no message.
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url,
            pool_size=pool,
            max_overflow=pool,
            pool_pre_ping=True,
            pool_timeout=10,
            connect_args=_PATIENCE,
            hide_parameters=True,
            json_serializer=_json,
            json_deserializer=_from_json,
        )
    engine = create_engine(
        url,
        connect_args={"timeout": _BUSY_SECONDS},
        hide_parameters=True,
        json_serializer=_json,
        json_deserializer=_from_json,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver would begin transactions when it likes; `_begun` does it.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail if another wrote in between.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
