"""An environment of OpenStack's own programs, and how they are configured, started and stopped.

``.venv-openstack`` is made by `make test`: what they need clashes with what we do. Databases to
begin with are `openstack_databases`'s, the tests' Keystone and Glance `openstack_keeper`'s.
Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "ADMIN",
    "HOME",
    "IMAGE_URL",
    "MEMORY",
    "PASSWORD",
    "ask",
    "configure_glance",
    "configure_keystone",
    "free_port",
    "locked",
    "run",
    "start",
    "stop",
    "token_of",
    "wait_for",
]

HOME = Path(__file__).resolve().parents[2] / ".venv-openstack"
PASSWORD = "secret"
ADMIN = "admin"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where databases lie whose every commit would otherwise wait for a disk."""

_SECONDS = 120
_PR_SET_PDEATHSIG = 1
IMAGE_URL = "http://image"
"""Where Keystone says that images are, until it is known."""

_KEYSTONE = """\
[DEFAULT]
log_file = {folder}/log
[database]
connection = sqlite:///{folder}/db?timeout=30
[token]
provider = fernet
expiration = 86400
[fernet_tokens]
key_repository = {folder}/keys
[fernet_receipts]
key_repository = {folder}/keys
[credential]
key_repository = {folder}/keys
[identity]
password_hash_rounds = 4
[cache]
backend = dogpile.cache.memory
"""

# `enforce_scope`: tokens of projects may do all that their roles may. The hosts and ports are those
# that a deployment would open for images of its own.
_GLANCE = """\
[DEFAULT]
log_file = {folder}/log
{backends}enabled_import_methods = [glance-direct,web-download,copy-image,glance-download]
image_cache_dir = {folder}/cache
worker_self_reference_url = http://127.0.0.1:{port}
[database]
connection = sqlite:///{folder}/db?timeout=30
[glance_store]
default_backend = fast
[fast]
filesystem_store_datadir = {folder}/fast
store_description = on flash
[slow]
filesystem_store_datadir = {folder}/slow
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = [80,443,{port},{files_port}]
[paste_deploy]
config_file = {home}/etc/glance/glance-api-paste.ini
flavor = keystone
[keystone_authtoken]
www_authenticate_uri = {keystone}
auth_url = {keystone}
auth_type = password
username = admin
password = secret
project_name = admin
user_domain_id = default
project_domain_id = default
[oslo_policy]
enforce_scope = false
"""

_HIDDEN = "enabled_backends = fast:file, slow:file\n"

# Images show where they lie, and may lie on the web.
_VISIBLE = """\
enabled_backends = fast:file, slow:file, web:http
show_multiple_locations = True
show_image_direct_url = True
"""

# gunicorn's own control socket would lie in the home of whoever runs the tests.
_GUNICORN = """\
wsgi_app = "{application}"
bind = "127.0.0.1:{port}"
threads = {threads}
control_socket_disable = True
"""

# SQLite refuses a transaction that read first and writes later, if another one wrote meanwhile.
# Transactions that say at once that they will write wait for each other instead.
_ONE_AT_A_TIME = """\


def post_fork(server, worker):
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def begin(connection, cursor, statement, parameters, context, executemany):
        return ("BEGIN IMMEDIATE" if statement == "BEGIN" else statement), parameters
"""


@contextlib.contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock on a file, which is made if it is not there."""
    with path.open("ab") as file:
        fcntl.flock(file, how)
        yield


def ask(url: str, body: Any = None, token: str = "", method: str = "") -> tuple[Any, Any]:
    """What a URL answers, as JSON, and its headers."""
    headers = {"Content-Type": "application/json"} | ({"X-Auth-Token": token} if token else {})
    request = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(), headers, method=method or None
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        said = answer.read()
        return (json.loads(said) if said else None), answer.headers


def token_of(keystone: str, user: str, project: str) -> str:
    """A token of Keystone's, for a user in a project."""
    domain = {"id": "default"}
    identity = {
        "methods": ["password"],
        "password": {"user": {"name": user, "domain": domain, "password": PASSWORD}},
    }
    scope = {"project": {"name": project, "domain": domain}}
    _, headers = ask(f"{keystone}/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})
    return str(headers["X-Subject-Token"])


def configure_keystone(folder: Path, port: int) -> None:
    """A Keystone's files, but for its database and keys."""
    folder.mkdir(parents=True)
    (folder / "keystone.conf").write_text(_KEYSTONE.format(folder=folder))
    _configure_gunicorn(folder, "keystone.wsgi.api:application", port, 1)


def configure_glance(
    folder: Path, port: int, keystone: str, files_port: int, *, visible: bool = False
) -> None:
    """A Glance's files, but for its database; ``visible``: it shows where images lie."""
    for name in ("fast", "slow", "staging", "tasks", "cache"):
        (folder / name).mkdir(parents=True)
    said = _GLANCE.format(
        folder=folder, port=port, keystone=keystone, files_port=files_port, home=HOME,
        backends=_VISIBLE if visible else _HIDDEN,
    )  # fmt: skip
    (folder / "glance-api.conf").write_text(said)
    _configure_gunicorn(folder, "glance.wsgi.api:application", port, 4)


def _configure_gunicorn(folder: Path, application: str, port: int, threads: int) -> None:
    said = _GUNICORN.format(application=application, port=port, threads=threads) + _ONE_AT_A_TIME
    (folder / "gunicorn.py").write_text(said)


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """gunicorn with what `folder` configures; it ends with the thread that calls this."""
    with (folder / "output").open("ab") as output:
        # Keystone reads the command line of whoever loads it: gunicorn's arguments go elsewhere.
        return subprocess.Popen(
            [str(HOME / "bin/gunicorn")],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            preexec_fn=_die_with_parent,
            env=os.environ | {
                "GUNICORN_CMD_ARGS": "--config gunicorn.py",
                f"OS_{name.upper()}_CONFIG_DIR": str(folder),
            },
        )  # fmt: skip


def wait_for(server: subprocess.Popen[bytes], folder: Path, url: str) -> None:
    """Return when the server answers at `url`; RuntimeError with what it said if it does not."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            ask(url)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:  # Keystone's versions are 300 Multiple Choices
                return
        except OSError:
            pass
        if server.poll() is not None or time.monotonic() > end:
            said = (folder / "output").read_text(errors="replace")
            raise RuntimeError(f"{folder.name} does not start:\n{said[-4000:]}")
        time.sleep(0.05)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server, kindly at first."""
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run(program: str, *arguments: str) -> None:
    """Run one of the environment's programs; RuntimeError if it fails."""
    done = subprocess.run(
        [str(HOME / "bin" / program), *arguments], capture_output=True, timeout=300, cwd=HOME
    )
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')[-4000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
