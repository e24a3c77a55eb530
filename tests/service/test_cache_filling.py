"""The cache fills itself: what was downloaded from far away is fetched, and comes from it then."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_cache import DATA, cache, files, ids, told

from asking import Asked, Child, Client
from postgres import databases
from trouble import MIB, OCTETS, start_with, waited
from vmimg.service.catalogue import cached, images

LARGE = random.Random(17).randbytes(24 * MIB)


@pytest.fixture
def fill() -> str:
    """What is to be filled; tests override it."""
    return "remote"


@pytest.fixture
def said(tmp_path: Path, database_url: str, fill: str) -> dict[str, Any]:
    """A cache for two images of this size; a store that is far, and one that is not."""
    return {
        "database": {"url": database_url},
        "cache": {"max_size": 250_000, "fill": fill},
        "stores": {"far": {"url": "memory://"}, "near": {"url": f"file://{tmp_path}/near"}},
    }


def download(client: Client, image_id: str, **how: Any) -> bytes:
    """All of it."""
    answer = client.get(f"/v2/images/{image_id}/file", **how)
    assert answer.status_code in (200, 206), answer.text
    return answer.content


def stored_in(service: Asked, store: str) -> str:
    """An image whose bytes lie there."""
    image_id: str = service.admin.image()["id"]
    answer = service.admin.request(
        "PUT", f"/v2/images/{image_id}/file", content=DATA,
        headers={**OCTETS, "x-image-meta-store": store},
    )  # fmt: skip
    assert answer.status_code == 204, answer.text
    return image_id


def never_cached(client: Client) -> None:
    """Nothing is in the cache, nor is anything to come."""
    assert told(client) == {"cached_images": [], "queued_images": []}


@databases
def test_the_second_download_comes_from_the_cache(service: Asked) -> None:
    image = service.admin.active(DATA)["id"]
    somebody = service.caller("admins")
    assert download(somebody, image) == DATA
    assert ids(service.admin) == [image]
    [shown] = told(service.admin)["cached_images"]
    assert (shown["size"], shown["hits"]) == (len(DATA), 0)
    # Nothing of it is in its store any more.
    [stored] = service.service.stores["far"].list()
    service.service.stores["far"].delete(stored.key)
    assert download(somebody, image) == DATA
    assert told(service.admin)["cached_images"][0]["hits"] == 1


def test_another_format_fills_it_too_and_is_made_of_what_is_there(service: Asked) -> None:
    image = service.admin.active(bytes(65536))["id"]
    for query in ("format=vdi", "format=qcow2&compress=true"):
        before = download(service.admin, image, params=query)
        assert ids(service.admin) == [image]
        assert told(service.admin)["cached_images"][0]["hits"] == 0
        assert download(service.admin, image, params=query) == before
        assert told(service.admin)["cached_images"][0]["hits"] == 1
        service.admin.delete(f"/v2/cache/{image}")


def test_what_is_not_a_whole_download_fills_nothing(service: Asked) -> None:
    image = service.admin.active(DATA)["id"]
    path = f"/v2/images/{image}/file"
    assert download(service.admin, image, headers={"range": "bytes=0-99"}) == DATA[:100]
    assert service.admin.request("HEAD", path).status_code == 200
    tag = service.admin.request("HEAD", path).headers["etag"]
    assert service.admin.get(path, headers={"if-none-match": tag}).status_code == 304
    never_cached(service.admin)


@pytest.mark.parametrize("fill", ["remote", "asked", "all"])
def test_which_images_come_is_a_setting(service: Asked, fill: str) -> None:
    image = {name: stored_in(service, name) for name in ("far", "near")}
    for image_id in image.values():
        assert download(service.admin, image_id) == DATA
    wanted = {"remote": ["far"], "asked": [], "all": ["far", "near"]}[fill]
    assert sorted(ids(service.admin)) == sorted(image[name] for name in wanted)
    cache(service.admin, image["near"])
    assert image["near"] in ids(service.admin)


def test_an_image_larger_than_the_cache_drives_nothing_out(service: Asked) -> None:
    small, large = (service.admin.active(data)["id"] for data in (DATA, bytes(300_000)))
    for image in (small, large):
        download(service.admin, image)
        assert ids(service.admin) == [small]
    assert told(service.admin)["queued_images"] == []


def test_there_is_never_more_than_the_settings_allow(service: Asked) -> None:
    made = [service.admin.active(DATA)["id"] for _ in range(5)]
    most = 0
    ended = threading.Event()
    root = Path(service.service.settings.data) / "cache"

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            there = (path for path in root.rglob("*") if path.is_file())
            most = max(most, sum(_size(path) for path in there))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for image in made:
            assert download(service.admin, image) == DATA
        waited(lambda: ids(service.admin) == made[-2:])
    finally:
        ended.set()
        watching.join()
    assert 0 < most <= 250_000
    assert files(service) == set(made[-2:])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@databases
def test_many_downloads_at_once_have_it_fetched_once(service: Asked) -> None:
    image = service.admin.active(DATA)["id"]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: download(service.admin, image), range(16))) == {DATA}
    assert ids(service.admin) == [image]
    assert files(service) == {image}


def test_a_copy_of_other_bytes_is_not_served(service: Asked) -> None:
    image = service.admin.active(DATA)["id"]
    download(service.admin, image)
    assert ids(service.admin) == [image]
    with service.service.database.read() as connection:
        record = images.find(connection, image)
    assert record is not None
    other = record._replace(checksum="0" * 32)
    assert service.service.cache.open(other) is None
    never_cached(service.admin)
    assert files(service) == set()


def test_an_image_that_is_deleted_while_it_is_fetched_does_not_stay(service: Asked) -> None:
    image, made = stored_in(service, "near"), service.service
    with made.database.begin() as connection:
        record = images.find(connection, image)
        assert record is not None
        cached.queue(connection, made.node, image)
    with made.presenter.far(record) as source:
        assert service.admin.delete(f"/v2/images/{image}").status_code == 204
        assert not made.cache.put(record, source, threading.Event())
    assert files(service) == set()


def test_a_store_that_is_silent_holds_up_no_other(service: Asked) -> None:
    gone, there = (service.admin.active(DATA)["id"] for _ in range(2))
    with service.service.database.begin() as connection:
        # The bytes are in no store that there is.
        location = images.find(connection, gone).locations[0]  # type: ignore[union-attr]
        service.service.stores["far"].delete(str(location.key))
    for image in (gone, there):
        service.admin.put(f"/v2/cache/{image}")
    assert ids(service.admin) == [there]


# The program


def test_who_downloads_does_not_wait_for_the_cache(tmp_path: Path) -> None:
    child = start_with(tmp_path, cache={"fill": "all"})
    try:
        left, whole = (child.client.active(LARGE)["id"] for _ in range(2))
        with child.http.stream("GET", f"/v2/images/{left}/file") as answer:
            next(answer.iter_bytes(MIB))
        with sqlite3.connect(tmp_path / "data" / "catalogue.db", isolation_level=None) as rows:
            # Nothing can be noted meanwhile, for longer than the client waits.
            rows.execute("BEGIN IMMEDIATE")
            answer = child.http.get(f"/v2/images/{whole}/file", timeout=20)
            assert answer.content == LARGE
            rows.execute("ROLLBACK")
        # Who went away in the middle has nothing fetched.
        assert ids_when(child, 1) == [whole]
    finally:
        child.http.close()
        child.stop()


def ids_when(child: Child, count: int) -> list[str]:
    """What is in the cache when so many are, and no more are to come."""
    waited(lambda: len(told(child.client)["cached_images"]) == count)
    return ids(child.client)


def test_a_kill_in_the_middle_leaves_nothing_that_is_not_whole(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {"cache": {"fill": "all"}}
    child = start_with(tmp_path, **settings)
    root = tmp_path / "data" / "cache"
    found = set()
    try:
        image = child.client.active(LARGE)["id"]
        for pause in (0.0, 0.04, 0.1):
            assert download(child.client, image) == LARGE
            time.sleep(pause)
            child.process.kill()
            child.process.wait()
            child.http.close()
            left = [path for path in root.rglob("*") if path.is_file() and path.name == image]
            assert [path.stat().st_size for path in left] in ([], [len(LARGE)])
            found.add(bool(left))
            child = start_with(tmp_path, **settings)
            assert download(child.client, image) == LARGE
            assert ids_when(child, 1) == [image]
            hits = told(child.client)["cached_images"][0]["hits"]
            assert download(child.client, image) == LARGE
            assert told(child.client)["cached_images"][0]["hits"] == hits + 1
            assert child.client.delete(f"/v2/cache/{image}").status_code == 204
            assert not any(path.is_file() for path in root.rglob("*"))
    finally:
        child.http.close()
        child.process.kill()
        child.process.wait()
    assert False in found
