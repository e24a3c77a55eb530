"""What keeps a Keystone and a Glance for the tests; `glance_peer` runs it as a program.

It starts both, writes ``ready.json``, waits until nobody holds a lock on ``users`` any more, and
stops them. A worker of pytest that dies lets go of its lock, so nothing stays behind.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import sqlite3
import sys
import tempfile
import threading
from pathlib import Path

from openstack_databases import prepared
from openstack_env import (
    ADMIN,
    IMAGE_URL,
    MEMORY,
    ask,
    configure_glance,
    configure_keystone,
    free_port,
    locked,
    start,
    stop,
    token_of,
    wait_for,
)
from web_servers import Files

__all__: list[str] = []


def main(control: Path) -> None:
    """Start both, say where in ``control/ready.json``, stop them when nobody wants them."""
    made = prepared()
    with tempfile.TemporaryDirectory(prefix="vmimg-openstack-", dir=MEMORY) as scratch:
        _keep(control, Path(scratch), made)


def _keep(control: Path, folder: Path, made: Path) -> None:
    keystone_port, glance_port = free_port(), free_port()
    keystone, glance = f"http://127.0.0.1:{keystone_port}", f"http://127.0.0.1:{glance_port}"
    files = folder / "files"
    files.mkdir()
    handler = type("Served", (Files,), {"directory": files})
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()

    configure_keystone(folder / "keystone", keystone_port)
    shutil.copytree(made / "keystone/keys", folder / "keystone/keys")
    configure_glance(folder / "glance", glance_port, keystone, web.server_port)
    for name in ("keystone", "glance"):
        shutil.copy(made / name / "db", folder / name / "db")
    with contextlib.closing(sqlite3.connect(folder / "keystone/db")) as database:
        database.execute("UPDATE endpoint SET url = ? WHERE url = ?", (glance, IMAGE_URL))
        database.execute("UPDATE endpoint SET url = ? WHERE url <> ?", (f"{keystone}/v3", glance))
        projects = dict(database.execute("SELECT name, id FROM project"))
        users = dict(database.execute("SELECT name, user_id FROM local_user"))
        database.commit()

    servers = {name: start(name, folder / name) for name in ("keystone", "glance")}
    urls = {"keystone": keystone, "glance": f"{glance}/versions"}
    try:
        for name, server in servers.items():
            wait_for(server, folder / name, urls[name])
        # The first token has Glance introduce itself to Keystone.
        ask(f"{glance}/v2/schemas/image", token=token_of(keystone, ADMIN, "admin"))
        said = {
            "keystone": keystone, "glance": glance, "projects": projects, "users": users,
            "files": f"http://127.0.0.1:{web.server_port}", "files_folder": str(files),
        }  # fmt: skip
        (control / "ready.part").write_text(json.dumps(said))
        (control / "ready.part").rename(control / "ready.json")
        with locked(control / "users"):
            (control / "ready.json").unlink()
            for server in servers.values():
                stop(server)
    finally:
        for server in servers.values():
            server.kill()
            server.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
