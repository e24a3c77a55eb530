"""The database: one engine, transactions, migrations. Imports SQLAlchemy and Alembic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeout

from vmimg.errors import OptionError, StorageError
from vmimg.extras import require
from vmimg.service.catalogue.migrations import LATEST

__all__ = ["Database", "DatabaseGone", "now"]

_decode: Final = json.JSONDecoder().raw_decode
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_REVISION: Final = "SELECT version_num FROM alembic_version"
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
    # The plan of a prepared statement comes to be one for all values: for the page of a list, whose
    # filters and length decide which index to take, that is five times slower. Poolers in front of
    # PostgreSQL want none either.
    "prepare_threshold": None,
}


class DatabaseGone(StorageError):
    """The database does not answer; asking later may help."""


def now() -> datetime:
    """The time, as the tables have it: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


class Database:
    """The catalogue at ``url``.

    ``statement_seconds``, ``lock_seconds``: how long PostgreSQL may take for one statement, and for
    the locks that it waits for, before it gives up; 0 is forever. Raises OptionError for an address
    that cannot be one.
    """

    def __init__(
        self, url: str, *, pool: int = 10, statement_seconds: float = 0, lock_seconds: float = 0
    ) -> None:
        try:
            where = make_url(url)
        except ArgumentError as error:
            raise OptionError(f"database.url: {url!r} is no address of a database") from error
        if where.get_backend_name() == "postgresql":
            where = where.set(drivername="postgresql+psycopg")
            where = _impatient(
                where, statement_timeout=statement_seconds, lock_timeout=lock_seconds
            )
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
        if self._is_current():
            return
        require("alembic", "service", "the image service")
        from alembic import command
        from alembic.config import Config

        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        try:
            with self.begin() as connection:
                if not self.is_sqlite:
                    # A table takes as long as it is large, and another process as long as it needs.
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                    connection.execute(text("SET LOCAL lock_timeout = 0"))
                    connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except SQLAlchemyError as error:
            raise StorageError(f"the database cannot be brought up to date: {error}") from error

    def _is_current(self) -> bool:
        """Whether there is nothing to do: as at most starts, and Alembic need not be imported."""
        try:
            with self.read() as connection:
                return connection.execute(text(_REVISION)).scalar() == LATEST
        except (DatabaseGone, SQLAlchemyError):
            return False  # there are no tables yet

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


def _impatient(url: URL, **seconds: float) -> URL:
    """With settings of PostgreSQL for each connection; what the address itself says counts more."""
    said = [f"-c {name}={max(1, round(n * 1000))}" for name, n in seconds.items() if n]
    theirs = url.query.get("options", ())
    said += [theirs] if isinstance(theirs, str) else theirs
    return url.update_query_dict({"options": " ".join(said)}) if said else url


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
