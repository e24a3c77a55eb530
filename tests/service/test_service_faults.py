"""What goes wrong around the service: full stores, lost clients and databases, two at once."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from asking import Asked, Child, Client, who_asks
from postgres import Server
from test_imports import begin, ended, left, stage
from test_kills import settled, stored
from trouble import (
    DATA,
    MIB,
    OCTETS,
    Dripping,
    Uploading,
    Wire,
    is_clean,
    put,
    start_with,
    status,
    waited,
)
from vmimg.service.catalogue import images, journal
from vmimg.service.data.arriving import Arrived
from vmimg.service.data.copying import pieces_of
from vmimg.service.data.judging import Judgement
from vmimg.service.data.removal import recover
from vmimg.service.data.uploading import reserve, settle
from vmimg.service.http.errors import HTTPError


@pytest.fixture
def said(tmp_path: Path) -> dict[str, Any]:
    """Two stores: one takes 2 MiB, one everything."""
    return {
        "stores": {
            "small": {"url": f"file://{tmp_path}/small", "options": {"capacity": "2MiB"}},
            "large": {"url": f"file://{tmp_path}/large"},
        },
    }


# Full stores


def test_an_upload_to_a_full_store_is_refused(service: Asked) -> None:
    image = service.admin.image()
    answer = service.admin.upload(image["id"], DATA)
    assert answer.status_code == 413
    assert "full" in answer.text
    assert service.admin.shown(image["id"])["status"] == "queued"
    assert is_clean(service)


def test_a_store_that_runs_full_in_an_upload_without_a_length(service: Asked) -> None:
    image = service.admin.image()
    answer = service.admin.request(
        "PUT", f"/v2/images/{image['id']}/file", content=iter([DATA]), headers=OCTETS
    )
    assert answer.status_code == 413
    assert service.admin.shown(image["id"])["status"] == "queued"
    assert is_clean(service)
    assert service.admin.upload(image["id"], DATA[:MIB]).status_code == 204


def test_a_staging_area_that_is_full(service: Asked) -> None:
    object.__setattr__(service.service.staging, "_capacity", MIB)
    image = service.admin.image()
    answer = service.admin.request(
        "PUT", f"/v2/images/{image['id']}/stage", content=DATA, headers=OCTETS
    )
    assert answer.status_code == 413
    assert service.admin.shown(image["id"])["status"] == "queued"
    assert is_clean(service)


def test_an_import_to_a_full_store_fails_and_says_so(service: Asked) -> None:
    image_id = stage(service.admin, DATA)
    assert begin(service.admin, image_id, "glance-direct").status_code == 202
    task = ended(service.admin, image_id)
    assert task["status"] == "failure"
    assert "full" in task["message"]
    image = service.admin.shown(image_id)
    assert image["status"] == "queued"
    assert image["os_glance_failed_import"] == "small"
    assert is_clean(service)


def test_an_import_goes_where_there_is_space_if_not_all_must(service: Asked) -> None:
    image_id = stage(service.admin, DATA)
    how: dict[str, Any] = {"all_stores": True, "all_stores_must_succeed": False}
    assert begin(service.admin, image_id, "glance-direct", **how).status_code == 202
    assert ended(service.admin, image_id)["status"] == "success"
    image = service.admin.shown(image_id)
    assert (image["status"], image["stores"]) == ("active", "large")
    assert image["os_glance_failed_import"] == "small"
    assert left(service) == []


def test_a_copy_to_a_full_store_leaves_the_image_as_it_was(service: Asked) -> None:
    image = service.admin.image()
    answer = service.admin.request(
        "PUT", f"/v2/images/{image['id']}/file", content=DATA,
        headers=OCTETS | {"x-image-meta-store": "large"},
    )  # fmt: skip
    assert answer.status_code == 204
    assert begin(service.admin, image["id"], "copy-image", stores=["small"]).status_code == 202
    task = ended(service.admin, image["id"])
    assert task["status"] == "failure"
    assert "full" in task["message"]
    shown = service.admin.shown(image["id"])
    assert (shown["status"], shown["stores"]) == ("active", "large")
    assert service.admin.get(f"/v2/images/{image['id']}/file").content == DATA


# Clients


def test_a_client_that_goes_away_leaves_the_image_queued(
    running_service: Child, tmp_path: Path
) -> None:
    image_id = running_service.client.image()["id"]
    wire = put(running_service, image_id, len(DATA))
    wire.socket.sendall(DATA[: 2 * MIB])
    waited(lambda: status(running_service, image_id) == "saving")
    wire.close()
    waited(lambda: status(running_service, image_id) == "queued")
    settled(running_service, tmp_path)
    assert stored(tmp_path, "images") == set()
    assert running_service.client.upload(image_id, DATA).status_code == 204


def test_a_length_that_is_a_lie_is_no_image(running_service: Child, tmp_path: Path) -> None:
    image_id = running_service.client.image()["id"]
    wire = put(running_service, image_id, len(DATA))
    wire.socket.sendall(DATA[:MIB])
    wire.socket.shutdown(socket.SHUT_WR)
    wire.answer()
    wire.close()
    waited(lambda: status(running_service, image_id) == "queued")
    settled(running_service, tmp_path)
    assert stored(tmp_path, "images") == set()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Child]:
    """A service that waits for a second."""
    child = start_with(tmp_path, server={"idle_seconds": 1})
    yield child
    child.http.close()
    if child.process.poll() is None:
        assert child.stop() == 0


def test_a_client_that_sends_nothing_more_is_told_and_let_go(
    impatient: Child, tmp_path: Path
) -> None:
    image_id = impatient.client.image()["id"]
    wire = put(impatient, image_id, len(DATA))
    wire.socket.sendall(DATA[:MIB])
    answer = wire.answer()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert status(impatient, image_id) == "queued"
    settled(impatient, tmp_path)
    assert stored(tmp_path, "images") == set()


def test_a_client_that_never_ends_its_head_is_let_go(impatient: Child) -> None:
    wire = Wire(impatient, "GET /v2/images HTTP/1.1\nHost: x\nX-Slow: ")
    began = time.monotonic()
    assert wire.answer() == b""
    assert time.monotonic() - began < 10


def test_a_client_that_takes_nothing_is_let_go(impatient: Child) -> None:
    image_id = impatient.client.active(bytes(64 * MIB))["id"]
    wire = Wire(impatient, f"GET /v2/images/{image_id}/file HTTP/1.1\nHost: x\n\n")
    waited(lambda: requests_under_way(impatient) == 1)
    waited(lambda: requests_under_way(impatient) == 0)
    assert len(wire.answer()) < 64 * MIB
    assert impatient.client.get(f"/v2/images/{image_id}/file").content == bytes(64 * MIB)


def requests_under_way(child: Child) -> int:
    """But the one that asks."""
    text = child.client.get("/metrics").text
    [line] = [each for each in text.splitlines() if each.startswith("vmimg_requests_under_way ")]
    return int(float(line.split()[1])) - 1


def test_a_client_that_takes_it_slowly_gets_it_all(impatient: Child) -> None:
    image_id = impatient.client.active(bytes(24 * MIB))["id"]
    wire = Wire(impatient, f"GET /v2/images/{image_id}/file HTTP/1.1\nHost: x\n\n")
    came = 0
    began = time.monotonic()
    while came < 24 * MIB:
        piece = wire.socket.recv(3 * MIB)
        assert piece, f"cut off after {came} bytes"
        came += len(piece)
        time.sleep(max(0.0, came / (24 * MIB) * 2.5 - (time.monotonic() - began)))
    assert time.monotonic() - began > 2


# Two at once


def test_of_two_uploads_to_one_image_the_first_goes_on(running_service: Child) -> None:
    image_id = running_service.client.image()["id"]
    first = Uploading(running_service, image_id, DATA)
    second = running_service.client.upload(image_id, b"second")
    assert second.status_code == 409
    answer = first.end()
    assert answer is not None and answer.status_code == 204
    assert running_service.client.get(f"/v2/images/{image_id}/file").content == DATA


def test_of_two_deletes_one_finds_nothing(running_service: Child, tmp_path: Path) -> None:
    for _ in range(10):
        image_id = running_service.client.active(b"data")["id"]
        together = threading.Barrier(2)
        codes: list[int] = []

        def delete(image_id: str = image_id, together: threading.Barrier = together,
                   codes: list[int] = codes) -> None:  # fmt: skip
            together.wait()
            url = f"{running_service.url}/v2/images/{image_id}"
            codes.append(httpx.delete(url, timeout=30).status_code)

        threads = [threading.Thread(target=delete) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(codes) == [204, 404]
    settled(running_service, tmp_path)
    assert stored(tmp_path, "images") == set()


@pytest.mark.parametrize("what", ["file", "stage"])
def test_an_image_that_is_deleted_while_its_data_comes(
    running_service: Child, tmp_path: Path, what: str
) -> None:
    image_id = running_service.client.image()["id"]
    upload = Uploading(running_service, image_id, DATA, what)
    assert running_service.client.delete(f"/v2/images/{image_id}").status_code == 204
    answer = upload.end()
    assert answer is not None and answer.status_code == 410
    settled(running_service, tmp_path)
    assert stored(tmp_path, "images") == stored(tmp_path, "staging") == set()


class Gate:
    """Holds whoever puts a piece into a store, until it is opened."""

    def __init__(self, service: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

        def held(storage: Any) -> Iterator[bytes]:
            for piece in pieces_of(storage):
                self.reached.set()
                assert self.open.wait(30)
                yield piece

        monkeypatch.setattr("vmimg.service.tasks.importing.pieces_of", held)


def test_an_image_that_is_deleted_during_its_import(
    service: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(service, monkeypatch)
    image_id = stage(service.admin, DATA)
    how = {"stores": ["large"]}
    assert begin(service.admin, image_id, "glance-direct", **how).status_code == 202
    assert gate.reached.wait(30)
    assert service.admin.delete(f"/v2/images/{image_id}").status_code == 204
    gate.open.set()
    [task] = service.admin.get("/v2/tasks").json()["tasks"]
    task = waited(lambda: told(service.admin, task["id"]))
    assert task["status"] == "failure"
    assert "deleted" in task["message"]
    assert is_clean(service)


def told(client: Client, task_id: str) -> Any:
    """The task, if it has ended."""
    task = client.get(f"/v2/tasks/{task_id}").json()
    return task if task["status"] in ("success", "failure") else None


# The database


@pytest.fixture
def own_postgres() -> Iterator[Server]:
    """A PostgreSQL that may be stopped."""
    server = Server()
    yield server
    server.stop()


class Outage:
    """The database is gone between `begin` and `end`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        self._thread = threading.Thread(target=self._server.restart, args=(seconds,))
        self._thread.start()

    def end(self) -> None:
        assert self._thread is not None
        self._thread.join(60)


@pytest.mark.peer("postgres", "initdb")
def test_a_database_that_is_gone_for_a_while(own_postgres: Server, tmp_path: Path) -> None:
    database = {"url": own_postgres.database()}
    child = start_with(tmp_path, database=database, server={"upkeep_seconds": 1})
    outage = Outage(own_postgres)
    try:
        active = child.client.active(b"before")["id"]
        fails, lasts, imports = (child.client.image()["id"] for _ in range(3))
        failing, lasting = Uploading(child, fails, DATA), Uploading(child, lasts, DATA)
        answer = child.client.request(
            "PUT", f"/v2/images/{imports}/stage", content=DATA, headers=OCTETS
        )
        assert answer.status_code == 204
        outage.begin(3)
        gone = waited(lambda: without(child, active))
        assert gone.status_code == 503
        assert int(gone.headers["retry-after"]) > 0
        # An upload that ends while there is no database fails; one that goes on over it does not.
        answer = failing.end()
        assert answer is not None and answer.status_code == 503
        assert child.client.get("/healthz").status_code == 200
        assert child.client.get("/readyz").status_code == 503
        outage.end()
        waited(lambda: child.client.get("/readyz").status_code == 200)
        assert child.client.get(f"/v2/images/{active}/file").content == b"before"
        answer = lasting.end()
        assert answer is not None and answer.status_code == 204
        assert child.client.shown(lasts)["size"] == len(DATA)
        # What could not be noted then is put right by itself.
        waited(lambda: child.client.shown(fails)["status"] == "queued")
        assert child.client.upload(fails, b"again").status_code == 204
        assert begin(child.client, imports, "glance-direct").status_code == 202
        assert ended(child.client, imports)["status"] == "success"
        assert child.stop() == 0
    finally:
        child.http.close()
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait()
    assert len(stored(tmp_path, "images")) == 4


def without(child: Child, image_id: str) -> httpx.Response | None:
    """The answer that there is no database; None as long as there is one."""
    answer = child.client.get(f"/v2/images/{image_id}")
    return answer if answer.status_code != 200 else None


@pytest.mark.peer("postgres", "initdb")
def test_a_task_goes_on_when_the_database_is_back(
    own_postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.testclient import TestClient

    from vmimg.service.application import application, assemble
    from vmimg.service.settings import load

    database = {"url": own_postgres.database()}
    made = assemble(load(None, data=tmp_path / "data", database=database))
    with TestClient(application(made, who_asks), raise_server_exceptions=False) as http:
        service = Asked(made, http)
        gate = Gate(service, monkeypatch)
        image_id = stage(service.admin, DATA)
        assert begin(service.admin, image_id, "glance-direct").status_code == 202
        assert gate.reached.wait(30)
        outage = Outage(own_postgres)
        outage.begin(2)
        waited(lambda: service.admin.get("/v2/images").status_code == 503)
        # Its next steps find no database.
        gate.open.set()
        outage.end()
        waited(lambda: service.admin.get("/v2/images").status_code == 200)
        assert ended(service.admin, image_id)["status"] == "success"
        assert service.admin.shown(image_id)["status"] == "active"
        assert service.admin.get(f"/v2/images/{image_id}/file").content == DATA
        recover(made)
        assert left(service) == []
        assert len(list(made.stores["default"].list())) == 1


def test_bytes_that_were_given_up_become_no_image(service: Asked) -> None:
    """Another process took this one's silence for its end, and deleted what it wrote."""
    image_id = service.admin.image()["id"]
    database = service.service.database
    with database.begin() as connection:
        key = reserve(connection, service.service, image_id, "large")
        assert images.transition(connection, image_id, ("queued",), "saving")
    with database.begin() as connection:
        assert journal.give_up(connection, "large", key)
    came = Arrived(4, "0" * 32, "sha512", "0" * 128)
    with pytest.raises(HTTPError) as caught:
        settle(service.service, image_id, "large", key, came, Judgement())
    assert caught.value.status == 503
    shown = service.admin.shown(image_id)
    assert (shown["status"], shown["size"]) == ("saving", None)
    assert "stores" not in shown


def test_an_upload_that_nobody_works_on_is_put_right(service: Asked) -> None:
    """It ended while there was no database to say so."""
    image_id, busy_id = (service.admin.image()["id"] for _ in range(2))
    with service.service.database.begin() as connection:
        keys = [reserve(connection, service.service, each, "large") for each in (image_id, busy_id)]
        for each in (image_id, busy_id):
            assert images.transition(connection, each, ("queued",), "saving")
    service.service.writing.discard(keys[0])
    recover(service.service)
    assert service.admin.shown(image_id)["status"] == "queued"
    assert service.admin.shown(busy_id)["status"] == "saving"


# The end


def test_an_upload_may_end_after_the_service_was_told_to_stop(tmp_path: Path) -> None:
    child = start_with(tmp_path, server={"shutdown_seconds": 30})
    image_id = child.client.image()["id"]
    upload = Uploading(child, image_id, DATA)
    child.process.send_signal(signal.SIGTERM)
    waited(lambda: refuses(child))
    answer = upload.end()
    assert answer is not None and answer.status_code == 204
    assert child.process.wait(30) == 0
    child = start_with(tmp_path)
    assert child.client.get(f"/v2/images/{image_id}/file").content == DATA
    assert child.stop() == 0


def refuses(child: Child) -> bool:
    """Whether nobody is let in any more."""
    try:
        httpx.get(f"{child.url}/versions", timeout=5)
    except httpx.TransportError:
        return True
    return False


def test_an_upload_that_does_not_end_is_parked(tmp_path: Path) -> None:
    child = start_with(tmp_path, server={"shutdown_seconds": 1})
    image_id = child.client.image()["id"]
    upload = Uploading(child, image_id, DATA)
    began = time.monotonic()
    assert child.stop() == 0
    assert time.monotonic() - began < 15
    upload.end()
    assert stored(tmp_path, "images") == set()
    child = start_with(tmp_path)
    assert status(child, image_id) == "queued"
    assert child.client.upload(image_id, DATA).status_code == 204
    assert child.stop() == 0


@pytest.fixture
def dripping() -> Iterator[Dripping]:
    """A web server that sends 3 MiB, slowly unless told otherwise."""
    server = Dripping()
    yield server
    server.stop()


def test_an_import_is_parked_and_goes_on(tmp_path: Path, dripping: Dripping) -> None:
    imports = {"private_addresses": True, "ports": [dripping.port]}
    child = start_with(tmp_path, imports=imports, server={"shutdown_seconds": 1})
    image_id = child.client.image()["id"]
    uri = f"http://127.0.0.1:{dripping.port}/disk"
    assert begin(child.client, image_id, "web-download", uri=uri).status_code == 202
    assert dripping.begun.wait(30)
    assert child.stop() == 0
    dripping.pause = 0.0
    child = start_with(tmp_path, imports=imports)
    task = ended(child.client, image_id)
    assert task["status"] == "success", task["message"]
    assert child.client.get(f"/v2/images/{image_id}/file").content == DATA
    settled(child, tmp_path)
    assert stored(tmp_path, "staging") == set()
    assert child.stop() == 0
