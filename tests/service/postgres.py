"""Debian's PostgreSQL for one worker's tests: a server on a port of its own, gone at the end.

    @databases
    def test_something(service): ...        # once on SQLite, once on PostgreSQL

Each test gets a database of its own, copied from one that was migrated once.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

import peers
from asking import free_port

__all__ = ["Server", "databases"]

databases = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgres", "initdb"))],
    indirect=True,
)
"""The test runs once on each database."""

_SECONDS = 30
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "50",
    "shared_buffers": "32MB",
    "unix_socket_directories": "",
}


class Server:
    """A PostgreSQL server with an empty cluster; `stop` removes it."""

    def __init__(self) -> None:
        peers.require("postgres", "initdb")
        self._folder = Path(tempfile.mkdtemp(prefix="vmimg-postgres-"))
        self._numbers = itertools.count()
        self.port = free_port()
        # root may not run it: Debian's package brings a user for it.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        self._run(
            "initdb", "--pgdata", str(data), "--username", "vmimg", "--auth", "trust",
            "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync",
        )  # fmt: skip
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(peers.find("postgres")), "-D", str(data), "-p", str(self.port), *settings],
                stdout=log, stderr=log, **self._how(),
            )  # fmt: skip
        self._wait()

    def url(self, name: str) -> str:
        """The address of a database on it."""
        return f"postgresql://vmimg@127.0.0.1:{self.port}/{name}"

    def database(self, template: str = "template1") -> str:
        """The address of a new database, a copy of ``template``."""
        name = f"test{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def execute(self, statement: str) -> None:
        """Run a statement outside of any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def restart(self, seconds: float) -> None:
        """Be gone for that long."""
        self._process.send_signal(2)
        self._process.wait(_SECONDS)
        arguments = self._process.args
        time.sleep(seconds)
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._how()
        )
        self._wait()

    def stop(self) -> None:
        """End it and remove what it wrote."""
        self._process.send_signal(3)
        self._process.wait(_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _how(self) -> dict[str, object]:
        if self._user is None:
            return {"cwd": self._folder}
        entry = pwd.getpwnam(self._user)
        return {
            "cwd": self._folder, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [],
        }  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(peers.find(program)), *arguments], capture_output=True, check=False, **self._how()
        )
        if done.returncode:
            pytest.fail(f"{program}: {done.stderr.decode(errors='replace')}")

    def _wait(self) -> None:
        end = time.monotonic() + _SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > end:
                    pytest.fail((self._folder / "log").read_text(errors="replace"))
                time.sleep(0.05)
