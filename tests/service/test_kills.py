"""kill -9 in the middle of uploads, imports and deletes: nothing wrong is left, nothing is lost."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from asking import Child, free_port, start_service

OCTETS = {"content-type": "application/octet-stream"}
_WORKERS = 4


class _Busy:
    """Clients that upload, import and delete until the service is gone."""

    def __init__(self, child: Child, seed: int) -> None:
        self._url = child.url
        self._seed = seed
        self.data: dict[str, bytes] = {}
        """What each image was given, by its id, noted before it is sent."""
        self.deleted: set[str] = set()
        """Images of which the service said that they are gone."""
        self.begun = threading.Event()
        """The first image was made."""
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(_WORKERS)]
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        chance = random.Random(self._seed * 100 + number)
        with httpx.Client(base_url=self._url, timeout=30) as http:
            try:
                while True:
                    self._once(http, chance)
            except httpx.TransportError:
                return

    def _once(self, http: httpx.Client, chance: random.Random) -> None:
        data = chance.randbytes(chance.choice([100, 70_000, 3_000_000]))
        made = http.post("/v2/images", json={"disk_format": "raw", "container_format": "bare"})
        assert made.status_code == 201, made.text
        image_id = made.json()["id"]
        self.data[image_id] = data
        self.begun.set()
        if chance.random() < 0.5:
            answer = http.put(f"/v2/images/{image_id}/file", content=data, headers=OCTETS)
            assert answer.status_code == 204, answer.text
        else:
            answer = http.put(f"/v2/images/{image_id}/stage", content=data, headers=OCTETS)
            assert answer.status_code == 204, answer.text
            body = {"method": {"name": "glance-direct"}}
            answer = http.post(f"/v2/images/{image_id}/import", json=body)
            assert answer.status_code == 202, answer.text
        if chance.random() < 0.4:
            answer = http.delete(f"/v2/images/{image_id}")
            if answer.status_code == 204:
                self.deleted.add(image_id)


def settled(child: Child, folder: Path) -> None:
    """Wait until no task runs and nothing waits to be written or deleted."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with sqlite3.connect(folder / "data" / "catalogue.db", timeout=30) as rows:
            [running] = rows.execute(
                "SELECT count(*) FROM tasks WHERE status IN ('pending', 'processing')"
            ).fetchone()
            [noted] = rows.execute(
                "SELECT count(*) FROM journal WHERE purpose != 'staging'"
            ).fetchone()
        if not running and not noted:
            return
        time.sleep(0.05)
    pytest.fail(f"it does not come to rest: {running} tasks, {noted} notes")


def stored(folder: Path, place: str) -> set[str]:
    """Keys of what lies in a store."""
    return {path.name for path in (folder / "data" / place).rglob("*") if path.is_file()}


def check(child: Child, folder: Path, busy: _Busy) -> dict[str, int]:
    """Everything that is active is right, and everything that is stored is somebody's."""
    states: dict[str, int] = {}
    for image_id, data in busy.data.items():
        answer = child.http.get(f"/v2/images/{image_id}")
        if answer.status_code == 404:
            states["deleted"] = states.get("deleted", 0) + 1
            continue
        assert image_id not in busy.deleted
        image: dict[str, Any] = answer.json()
        states[image["status"]] = states.get(image["status"], 0) + 1
        assert image["status"] in ("active", "queued", "uploading"), image
        if image["status"] == "active":
            assert image["size"] == len(data)
            assert image["checksum"] == hashlib.md5(data).hexdigest()
            assert child.http.get(f"/v2/images/{image_id}/file").content == data
    with sqlite3.connect(folder / "data" / "catalogue.db", timeout=30) as rows:
        located = {key for (key,) in rows.execute("SELECT key FROM image_locations")}
        staged = {key for (key,) in rows.execute("SELECT key FROM journal")}
    assert stored(folder, "images") == located
    assert stored(folder, "staging") == staged
    return states


def ordeal(folder: Path, times: int) -> dict[str, int]:
    """Kill and start again so often; what became of the images."""
    port = free_port()
    chance = random.Random(11)
    total: dict[str, int] = {}
    child = start_service(folder, port=port)
    for number in range(times):
        busy = _Busy(child, number)
        busy.begun.wait(30)
        time.sleep(chance.uniform(0.05, 0.8))
        child.process.kill()
        child.process.wait()
        busy.join()
        child.http.close()
        child = start_service(folder, port=port)
        settled(child, folder)
        for state, count in check(child, folder, busy).items():
            total[state] = total.get(state, 0) + count
    assert child.stop() == 0
    return total


def test_five_kills_leave_nothing_wrong(tmp_path: Path) -> None:
    total = ordeal(tmp_path, 5)
    assert total.get("active", 0) > 0, total


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_leave_nothing_wrong(tmp_path: Path) -> None:
    total = ordeal(tmp_path, 50)
    assert total.get("active", 0) > 50, total
    assert total.get("queued", 0) > 0, total
