"""The servers that `bench_service` measures, as processes: ours, a Glance, a PostgreSQL.

Glance runs as its documentation has it for WSGI servers: gunicorn, one worker of eight threads,
file store, SQLite; no Keystone, so every rule of its policy is open. Only the standard library and
`bench`: nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import MIB, run_quietly, stop

__all__ = ["Server", "glance", "postgresql", "vmimg"]

_SECONDS = 120

_GLANCE = """\
[DEFAULT]
log_file = {folder}/log
enabled_backends = fast:file
[database]
connection = sqlite:///{folder}/db
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {folder}/fast
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[paste_deploy]
config_file = {home}/etc/glance/glance-api-paste.ini
[oslo_policy]
policy_file = {folder}/policy.json
enforce_scope = false
"""
_GUNICORN = """\
wsgi_app = "glance.wsgi.api:application"
bind = "127.0.0.1:{port}"
workers = 1
threads = 8
timeout = 600
control_socket_disable = True
"""


class Server:
    """A server that listens on 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def wait(self) -> None:
        """Return when it takes connections."""
        end = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    stop(f"{self._log.name}: {self._log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.05)

    def processes(self) -> list[int]:
        """Its own number and those of its children."""
        main = self.process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]

    def cpu_seconds(self) -> float:
        """Of all its processes so far, in user and system mode."""
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """The most memory that its processes had, each at its own time."""
        peaks = 0
        for pid in self.processes():
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            peaks += int(found[1]) if found else 0
        return peaks * 1024 / MIB


@contextlib.contextmanager
def vmimg(program: str, folder: Path, *, database: str = "") -> Iterator[Server]:
    """``vmimg serve`` as it is without settings, with its data in ``folder``."""
    folder.mkdir()
    settings = folder / "vmimg.toml"
    settings.write_text(f'[database]\nurl = "{database}"\n' if database else "")
    port = _free_port()
    data = ("--config", str(settings), "--data", str(folder / "data"))
    with _running([program, "serve", "--port", str(port), *data], port, folder / "vmimg") as server:
        yield server


@contextlib.contextmanager
def glance(home: Path, folder: Path) -> Iterator[Server]:
    """The Glance of the environment ``home``."""
    for name in ("fast", "staging", "tasks"):
        (folder / name).mkdir(parents=True)
    port = _free_port()
    (folder / "glance-api.conf").write_text(_GLANCE.format(folder=folder, home=home))
    (folder / "gunicorn.py").write_text(_GUNICORN.format(port=port))
    programs = home / "bin"
    sample = subprocess.run(
        [str(programs / "oslopolicy-sample-generator"), "--namespace", "glance"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rules = re.findall(r'^#?"([^"]+)":', sample.stdout, re.MULTILINE)
    (folder / "policy.json").write_text(json.dumps(dict.fromkeys(rules, "")))
    run_quietly(programs / "glance-manage", "--config-dir", folder, "db_sync")
    with _running(
        [str(programs / "gunicorn")], port, folder / "glance", cwd=folder,
        env=os.environ | {
            "GUNICORN_CMD_ARGS": "--config gunicorn.py", "OS_GLANCE_CONFIG_DIR": str(folder),
        },
    ) as server:  # fmt: skip
        yield server


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of Debian's with its defaults: the address of an empty database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    path = shutil.which("postgres") or (str(found[-1]) if found else None)
    if path is None:
        stop("postgres is not installed (Debian: postgresql)")
    # root may not run it; its package brings a user for it, who cannot read others' folders.
    how: dict[str, Any] = {}
    where = Path(tempfile.mkdtemp(prefix="vmimg-bench-postgres-", dir=folder.parent))
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        how = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        shutil.chown(where, "postgres")
    port = _free_port()
    data = where / "data"
    initdb = str(Path(path).with_name("initdb"))
    try:
        subprocess.run(
            [initdb, "--pgdata", str(data), "--username", "vmimg", "--auth", "trust",
             "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"],
            check=True, capture_output=True, cwd=where, **how,
        )  # fmt: skip
        line = [path, "-D", str(data), "-p", str(port), "-cunix_socket_directories="]
        with _running(line, port, folder / "postgres", cwd=where, end=signal.SIGINT, **how):
            yield f"postgresql://vmimg@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(where, ignore_errors=True)


@contextlib.contextmanager
def _running(
    line: Sequence[str], port: int, log: Path, *, end: int = signal.SIGTERM, **how: Any
) -> Iterator[Server]:
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **how)
    try:
        server = Server(process, port, log)
        server.wait()
        yield server
    finally:
        process.send_signal(end)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
