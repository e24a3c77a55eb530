"""The tables that the migrations make are those that the code has."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect

from postgres import databases
from vmimg.errors import OptionError
from vmimg.service.catalogue import migrations
from vmimg.service.catalogue.database import Database
from vmimg.service.catalogue.tables import metadata


@databases
def test_the_migrations_make_the_tables_of_the_code(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    made_by_code = create_engine(f"sqlite:///{tmp_path}/code.db")
    metadata.create_all(made_by_code)
    wanted = inspect(made_by_code)
    with database.begin() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
        there = inspect(connection)
        for table in metadata.tables.values():
            # Alembic cannot compare indexes on expressions.
            made = {each["name"] for each in there.get_indexes(table.name)}
            assert made >= {each["name"] for each in wanted.get_indexes(table.name)}
            if not database.is_sqlite:
                assert made >= {index.name for index in table.indexes}
    assert [each for each in found if "index" not in str(each[0])] == []
    database.close()


def test_the_last_step_is_known_without_alembic() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_current_head() == migrations.LATEST


def test_what_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    """Whoever starts the service again waits for no migration: Alembic is not even imported."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    code = (
        "import sys; from vmimg.service.catalogue.database import Database\n"
        f"Database({url!r}).migrate(); print('alembic' in sys.modules)"
    )
    for imported in ("True", "False"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.stdout.strip(), done.stderr) == (imported, "")


def test_two_processes_may_begin_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/catalogue.db"
    failed: list[BaseException] = []

    def begin() -> None:
        database = Database(url)
        try:
            database.migrate()
        except BaseException as error:
            failed.append(error)
        database.close()

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", ""])
def test_what_is_no_database_is_told(url: str) -> None:
    with pytest.raises(OptionError, match=r"database\.url"):
        Database(url)
