"""Databases of a Keystone and a Glance that have begun: tables, people, standard definitions.

    .venv-openstack/prepared/DIGEST/

Making them takes OpenStack's programs half a minute, so they are kept until this file or the
programs change. alice is a member of the projects ``one-N``, rita a reader, robot a service; bob is
a member of ``two-N``. Tests that must not see what others make have a pair for themselves.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openstack_env import (
    ADMIN,
    HOME,
    IMAGE_URL,
    MEMORY,
    PASSWORD,
    ask,
    configure_glance,
    configure_keystone,
    free_port,
    locked,
    run,
    start,
    stop,
    token_of,
    wait_for,
)

__all__ = ["SETS", "prepared"]

SETS = 16
"""How many pairs of projects there are."""

_PEOPLE = {"alice": ("one", "member"), "rita": ("one", "reader"), "bob": ("two", "member")}


def prepared() -> Path:
    """Databases to begin with; made if they are not there, or of other versions."""
    said = hashlib.sha256(Path(__file__).read_bytes())
    for package in ("glance", "keystone"):
        said.update(
            ",".join(sorted(p.name for p in HOME.glob(f"lib/*/site-packages/{package}-*"))).encode()
        )
    folder = HOME / "prepared" / said.hexdigest()[:16]
    folder.parent.mkdir(exist_ok=True)
    with locked(folder.parent / "lock"):
        if not folder.exists():
            for old in folder.parent.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            making = folder.with_suffix(".part")
            with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
                _prepare(Path(scratch) / "made")
                shutil.copytree(Path(scratch) / "made", making)
            making.rename(folder)
    return folder


def _prepare(folder: Path) -> None:
    port = free_port()
    keystone = folder / "keystone"
    configure_keystone(keystone, port)
    keys = keystone / "keys"
    keys.mkdir(mode=0o700)
    for number in ("0", "1"):
        (keys / number).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
        (keys / number).chmod(0o600)
    glance = folder / "glance"
    configure_glance(glance, 0, "http://127.0.0.1:1", 1)
    with ThreadPoolExecutor() as pool:
        for made in [
            pool.submit(_fill_keystone, keystone, port),
            pool.submit(_fill_glance, glance),
        ]:
            made.result()


def _fill_glance(folder: Path) -> None:
    settings = ("--config-file", str(folder / "glance-api.conf"))
    run("glance-manage", *settings, "db_sync")
    run("glance-manage", *settings, "db_load_metadefs", str(HOME / "etc/glance/metadefs"))


def _fill_keystone(folder: Path, port: int) -> None:
    settings = ("--config-file", str(folder / "keystone.conf"))
    url = f"http://127.0.0.1:{port}"
    run("keystone-manage", *settings, "db_sync")
    run(
        "keystone-manage", *settings, "bootstrap", "--bootstrap-password", PASSWORD,
        "--bootstrap-region-id", "here",
        *(f"--bootstrap-{kind}-url={url}/v3" for kind in ("public", "internal", "admin")),
    )  # fmt: skip
    server = start("keystone", folder)
    try:
        wait_for(server, folder, url)
        _people(url)
    finally:
        stop(server)
    with contextlib.closing(sqlite3.connect(folder / "db")) as database, database:
        _more_projects(database)


def _people(url: str) -> None:
    url += "/v3"
    token = token_of(url.removesuffix("/v3"), ADMIN, "admin")

    def make(kind: str, **fields: Any) -> str:
        made, _ = ask(f"{url}/{kind}s", {kind: fields}, token)
        return str(made[kind]["id"])

    roles = {role["name"]: role["id"] for role in ask(f"{url}/roles", token=token)[0]["roles"]}
    people = {
        name: make("user", name=name, password=PASSWORD, domain_id="default")
        for name in (*_PEOPLE, "robot")
    }
    service = make("service", name="glance", type="image")
    for interface in ("public", "internal", "admin"):
        make("endpoint", service_id=service, interface=interface, region_id="here", url=IMAGE_URL)
    projects = {
        side: make("project", name=f"{side}-0", domain_id="default") for side in ("one", "two")
    }
    given = [(who, projects[side], role) for who, (side, role) in _PEOPLE.items()]
    given += [("robot", projects["one"], role) for role in ("service", "member")]
    for who, project, role in given:
        path = f"projects/{project}/users/{people[who]}/roles/{roles[role]}"
        ask(f"{url}/{path}", token=token, method="PUT")


def _more_projects(database: sqlite3.Connection) -> None:
    """The other pairs: copies of the first, for asking Keystone takes a second each."""
    for side in ("one", "two"):
        (first,) = database.execute(
            "SELECT id FROM project WHERE name = ?", (f"{side}-0",)
        ).fetchone()
        for number in range(1, SETS):
            name = f"{side}-{number}"
            new = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
            _copy(database, "project", "id", first, id=new, name=name)
            _copy(database, "assignment", "target_id", first, target_id=new)


def _copy(database: sqlite3.Connection, table: str, key: str, value: str, **changed: str) -> None:
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    chosen = ", ".join("?" if column in changed else f'"{column}"' for column in columns)
    values = [changed[column] for column in columns if column in changed]
    database.execute(
        f'INSERT INTO {table} SELECT {chosen} FROM {table} WHERE "{key}" = ?', (*values, value)
    )


if __name__ == "__main__":
    prepared()
