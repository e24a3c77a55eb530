"""The cache: images that administrators want near, and how they leave it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from asking import Asked, Client
from trouble import waited

DATA = random.Random(6).randbytes(100_000)


@pytest.fixture
def said() -> dict[str, Any]:
    """A cache for two images of this size; and a store that is not a directory."""
    return {
        "cache": {"max_size": 250_000},
        "stores": {"far": {"url": "memory://"}},
    }


def told(client: Client) -> dict[str, Any]:
    answer = client.get("/v2/cache")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(client: Client) -> list[str]:
    """What is in the cache, when nothing is to be fetched any more."""
    found = waited(lambda: (t := told(client)) and not t["queued_images"] and t)
    return [each["image_id"] for each in found["cached_images"]]


def cache(client: Client, *images: str) -> None:
    """Have these fetched, one after another."""
    for image_id in images:
        assert client.put(f"/v2/cache/{image_id}").status_code == 202
        ids(client)


def files(service: Asked) -> set[str]:
    root = Path(service.service.settings.data) / "cache"
    return {path.name for path in root.rglob("*") if path.is_file()}


def test_an_image_is_cached_and_served_from_there(service: Asked) -> None:
    image = service.admin.active(DATA)
    cache(service.admin, image["id"])
    [shown] = told(service.admin)["cached_images"]
    assert set(shown) == {
        "id", "image_id", "last_accessed", "last_modified", "size", "hits", "checksum"
    }  # fmt: skip
    assert (shown["image_id"], shown["size"], shown["hits"]) == (image["id"], len(DATA), 0)
    # Nothing of it is in the store any more: what comes, comes from the cache.
    [stored] = service.service.stores["far"].list()
    service.service.stores["far"].delete(stored.key)
    answer = service.admin.get(f"/v2/images/{image['id']}/file")
    assert answer.content == DATA
    part = service.admin.get(f"/v2/images/{image['id']}/file", headers={"range": "bytes=5-9"})
    assert part.content == DATA[5:10]
    [shown_later] = told(service.admin)["cached_images"]
    assert shown_later["hits"] == 2
    assert shown_later["last_accessed"] > shown["last_accessed"]


def test_another_format_is_made_of_the_cached_bytes(service: Asked) -> None:
    image = service.admin.active(bytes(65536))
    cache(service.admin, image["id"])
    answer = service.admin.get(f"/v2/images/{image['id']}/file?format=vdi")
    assert answer.status_code == 200
    assert told(service.admin)["cached_images"][0]["hits"] == 1


def test_what_was_not_used_for_long_makes_room(service: Asked) -> None:
    first, second, third = (service.admin.active(DATA)["id"] for _ in range(3))
    cache(service.admin, first, second)
    assert service.admin.get(f"/v2/images/{first}/file").content == DATA
    cache(service.admin, third)
    waited(lambda: set(ids(service.admin)) == {first, third})
    waited(lambda: files(service) == {first, third})


def test_an_image_larger_than_the_cache_is_not_in_it(service: Asked) -> None:
    image = service.admin.active(bytes(300_000))
    cache(service.admin, image["id"])
    assert ids(service.admin) == []
    assert files(service) == set()


def test_an_image_that_is_not_what_its_hash_says_is_not_cached(service: Asked) -> None:
    image = service.admin.active(DATA)
    store = service.service.stores["far"]
    [stored] = store.list()
    store.delete(stored.key)
    with store.put(stored.key) as putting:
        putting.write(b"x" * len(DATA))
    cache(service.admin, image["id"])
    assert ids(service.admin) == []
    assert files(service) == set()


def test_images_are_taken_out(service: Asked) -> None:
    first, second = (service.admin.active(DATA)["id"] for _ in range(2))
    cache(service.admin, first, second)
    assert service.admin.delete(f"/v2/cache/{first}").status_code == 204
    assert service.admin.delete(f"/v2/cache/{first}").status_code == 204
    assert ids(service.admin) == [second]
    assert service.admin.delete(f"/v2/images/{second}").status_code == 204
    assert ids(service.admin) == []
    assert files(service) == set()


@pytest.mark.parametrize(("target", "stays"), [("cache", False), ("queue", True), ("", False)])
def test_the_cache_is_emptied(service: Asked, target: str, stays: bool) -> None:
    image = service.admin.active(DATA)["id"]
    cache(service.admin, image)
    headers = {"x-image-cache-clear-target": target}
    assert service.admin.delete("/v2/cache", headers=headers).status_code == 204
    assert ids(service.admin) == ([image] if stays else [])
    assert files(service) == ({image} if stays else set())


def test_a_target_that_there_is_not(service: Asked) -> None:
    headers = {"x-image-cache-clear-target": "everything"}
    assert service.admin.delete("/v2/cache", headers=headers).status_code == 400


def test_cleaning_removes_what_is_not_whole(service: Asked) -> None:
    image = service.admin.active(DATA)["id"]
    cache(service.admin, image)
    root = Path(service.service.settings.data) / "cache"
    [path] = [each for each in root.rglob("*") if each.is_file()]
    stray = root / "12" / "34" / "1234-nobody"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"x")
    path.unlink()
    answer = service.admin.post("/v2/cache/clean")
    assert (answer.status_code, answer.content) == (200, b"")
    assert ids(service.admin) == []
    assert files(service) == set()


def test_pruning_tells_what_it_removed(service: Asked) -> None:
    first, second = (service.admin.active(DATA)["id"] for _ in range(2))
    cache(service.admin, first, second)
    service.service.cache.most = 150_000
    answer = service.admin.post("/v2/cache/prune")
    assert answer.json() == {"total_files_pruned": 1, "total_bytes_pruned": len(DATA)}
    assert ids(service.admin) == [second]
    assert service.admin.post("/v2/cache/prune").json()["total_files_pruned"] == 0


def test_who_has_it_near_is_told(service: Asked) -> None:
    image = service.admin.active(DATA)["id"]
    assert service.admin.get(f"/v2/cache/nodes/{image}").json() == []
    cache(service.admin, image)
    node = service.service.node
    assert service.admin.get(f"/v2/cache/nodes/{image}").json() == [f"http://{node}"]


def test_what_cannot_be_cached(service: Asked) -> None:
    queued = service.admin.image()["id"]
    answer = service.admin.put(f"/v2/cache/{queued}")
    assert answer.status_code == 400
    assert "status active" in answer.text
    for method in ("PUT", "DELETE"):
        answer = service.admin.request(method, "/v2/cache/nope")
        assert answer.status_code == 404
        assert "Image nope not found." in answer.text


def test_only_administrators_may(service: Asked) -> None:
    image = service.admin.active(DATA, visibility="public")["id"]
    member = service.caller("blue")
    for method, path, rule in (
        ("GET", "/v2/cache", "cache_list"), ("PUT", f"/v2/cache/{image}", "cache_image"),
        ("DELETE", f"/v2/cache/{image}", "cache_delete"), ("DELETE", "/v2/cache", "cache_delete"),
        ("POST", "/v2/cache/clean", "cache_clean"), ("POST", "/v2/cache/prune", "cache_prune"),
        ("GET", f"/v2/cache/nodes/{image}", "list_cached_nodes"),
    ):  # fmt: skip
        answer = member.request(method, path)
        assert answer.status_code == 403, path
        assert rule in answer.text


def test_without_a_size_there_is_no_cache(service: Asked) -> None:
    service.service.cache.most = 0
    assert service.admin.get("/v2/cache").status_code == 404
