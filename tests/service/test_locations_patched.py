"""Locations that images show, and that patches give them and take away, where clients may see
them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from asking import OLD_PATCH, Asked, Client
from trouble import is_clean
from vmimg.service.catalogue import images
from vmimg.service.policy import Policy
from web_servers import Page, Web, web_server

DATA = bytes(range(256)) * 16
SUMS = {
    "checksum": hashlib.md5(DATA, usedforsecurity=False).hexdigest(),
    "os_hash_algo": "sha512",
    "os_hash_value": hashlib.sha512(DATA).hexdigest(),
}


@pytest.fixture
def web() -> Iterator[Web]:
    """A server with DATA at /one and /two, and something else of its length at /three."""
    with web_server() as web:
        web.pages |= {"/one": Page(DATA, '"1"'), "/two": Page(DATA, '"2"'), "/none": Page(b"")}
        web.pages["/long"] = Page(DATA * 2)
        yield web


@pytest.fixture
def said(tmp_path: Path, web: Web) -> dict[str, Any]:
    """Two stores and the web, whose addresses clients see."""
    stores = {name: {"url": f"file://{tmp_path / name}"} for name in ("one", "two")}
    imports = {"private_addresses": True, "ports": [web.port]}
    return {
        "show_locations": True, "stores": stores | {"web": {"url": "http://"}}, "imports": imports,
        "limits": {"image_size": 6000, "locations": 3, "project_size": 20_000},
    }  # fmt: skip


def _in_both(service: Asked) -> str:
    image = service.admin.active(DATA)
    with service.service.stores["two"].put("copy") as putting:
        putting.write(DATA)
        putting.commit()
    with service.service.database.begin() as connection:
        images.add_location(connection, image["id"], "two", "copy")
    return f"/v2/images/{image['id']}"


def _remove(at: str) -> list[dict[str, str]]:
    return [{"op": "remove", "path": f"/locations/{at}"}]


def _place(url: str, **more: Any) -> dict[str, Any]:
    return {"url": url, "metadata": {}} | more


def _add(place: dict[str, Any], at: str = "-") -> dict[str, Any]:
    return {"op": "add", "path": f"/locations/{at}", "value": place}


def _replace(*places: dict[str, Any]) -> dict[str, Any]:
    return {"op": "replace", "path": "/locations", "value": list(places)}


def _queued(client: Client, **fields: Any) -> str:
    return f"/v2/images/{client.image(**fields)['id']}"


def _urls(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [place["url"] for place in answer.json()["locations"]]


def test_locations_are_shown_with_their_stores(service: Asked, tmp_path: Path) -> None:
    image = service.admin.get(_in_both(service)).json()
    assert image["stores"] == "one,two"
    assert [place["metadata"] for place in image["locations"]] == [
        {"store": "one"},
        {"store": "two"},
    ]
    assert image["direct_url"] == image["locations"][0]["url"]
    assert image["locations"][1]["url"].startswith(f"file://{tmp_path / 'two'}")
    assert service.admin.image()["locations"] == []


def test_a_location_is_removed_with_its_bytes_but_not_the_last(service: Asked) -> None:
    path = _in_both(service)
    answer = service.admin.patch(path, _remove("0"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["stores"] == "two"
    assert list(service.service.stores["one"].list()) == []
    assert service.admin.get(f"{path}/file").content == DATA
    answer = service.admin.patch(path, _remove("0"))
    assert (answer.status_code, "Cannot remove last location" in answer.text) == (403, True)


def test_only_administrators_remove_locations_that_there_are(service: Asked) -> None:
    path = _in_both(service)
    for at in ("2", "x", "-1", "99999999999999999999", "٣"):
        assert service.admin.patch(path, _remove(at)).status_code == 400
    assert service.caller("admins").patch(path, _remove("0")).status_code == 403
    assert service.admin.get(path).json()["stores"] == "one,two"


def test_where_bytes_of_an_image_out_of_use_are_is_not_told(service: Asked) -> None:
    path = _in_both(service)
    service.admin.post(f"{path}/actions/deactivate")
    shown = service.caller("admins").get(path).json()
    assert (shown["locations"], "direct_url" in shown, "stores" in shown) == ([], False, False)
    assert service.admin.get(path).json()["stores"] == "one,two"


# Given


def test_a_location_makes_a_queued_image_active(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    path = _queued(blue)
    place = _place(web.url("/one"), metadata={"shelf": "3"}, validation_data=SUMS)
    shown = blue.patch(path, [_add(place)]).json()
    assert shown["status"] == "active"
    assert (shown["size"], shown["virtual_size"], shown["stores"]) == (4096, 4096, "web")
    assert {name: shown[name] for name in SUMS} == SUMS
    assert shown["locations"] == [
        {"url": web.url("/one"), "metadata": {"shelf": "3", "store": "web"}}
    ]
    assert blue.get(f"{path}/file").content == DATA
    part = blue.get(f"{path}/file", headers={"range": "bytes=256-259"})
    assert (part.status_code, part.content) == (206, bytes(range(4)))
    assert is_clean(service)


def test_a_location_stays_where_it_was_put(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    path = _queued(blue)
    one, two = web.url("/one"), web.url("/two")
    blue.patch(path, [_add(_place(one))])
    assert _urls(blue.patch(path, [_add(_place(two), "0")])) == [two, one]
    assert _urls(blue.get(path)) == [two, one]
    assert _urls(blue.patch(path, [_add(_place(one, metadata={"a": "b"}), "99")])) == [
        two, one, one,
    ]  # fmt: skip
    del web.pages["/two"]
    assert blue.get(f"{path}/file").content == DATA


def test_the_old_patch_adds_too(service: Asked, web: Web) -> None:
    path = _queued(service.admin)
    change = {"add": "/locations/-", "value": _place(web.url("/one"))}
    assert _urls(service.admin.patch(path, [change], OLD_PATCH)) == [web.url("/one")]


def test_all_locations_are_replaced_once_then_what_is_said_of_them(
    service: Asked, web: Web
) -> None:
    blue = service.caller("blue")
    path = _queued(blue)
    one, two = web.url("/one"), web.url("/two")
    assert _urls(blue.patch(path, [_replace(_place(one), _place(two))])) == [one, two]
    said = blue.patch(path, [_replace(_place(two, metadata={"a": "b"}), _place(one))])
    assert _urls(said) == [two, one]
    assert said.json()["locations"][0]["metadata"] == {"a": "b", "store": "web"}
    for places in ([one], [one, two, two], [one, web.url("/long")]):
        answer = blue.patch(path, [_replace(*map(_place, places))])
        assert (answer.status_code, "not empty" in answer.text) == (400, True)
    # What the first one is held to stays.
    web.pages["/two"] = Page(DATA[::-1], '"other"')
    del web.pages["/one"]
    assert blue.get(f"{path}/file").status_code == 502


def test_metadata_of_bytes_of_ours_are_replaced_and_they_stay(service: Asked) -> None:
    path = _in_both(service)
    places = service.admin.get(path).json()["locations"]
    places[0]["metadata"] = {"shelf": "1"}
    shown = service.admin.patch(path, [_replace(*places)]).json()
    assert [place["metadata"] for place in shown["locations"]] == [
        {"shelf": "1", "store": "one"},
        {"store": "two"},
    ]
    assert service.admin.get(f"{path}/file").content == DATA
    assert service.admin.delete(path).status_code == 204
    assert is_clean(service)


def test_a_patch_is_made_as_a_whole_or_not_at_all(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    path = _queued(blue, disk_format=None)
    add = _add(_place(web.url("/one")))
    answer = blue.patch(path, [add])
    assert (answer.status_code, "disk_format must be set" in answer.text) == (400, True)
    name = {"op": "replace", "path": "/name", "value": "new"}
    assert blue.patch(path, [name, add]).status_code == 400
    assert blue.get(path).json()["name"] is None
    format = {"op": "replace", "path": "/disk_format", "value": "raw"}
    assert blue.patch(path, [format, add, name]).json()["status"] == "active"
    assert blue.patch(path, [format]).status_code == 403


def test_a_patch_adds_nothing_that_cannot_be_an_image(service: Asked, web: Web) -> None:
    web.pages["/lost"] = Page(to="ftp://example.org/")
    web.pages["/whole"] = Page(DATA, ranges=False)
    stored, queued = _in_both(service), _queued(service.admin)
    for url in (
        "file:///etc/passwd", "nonsense", "", "nope://x/y", "http://127.0.0.1:1/x", "http://[x",
        "http://169.254.169.254/x", "s3://bucket/key", web.url("/gone"), web.url("/none"),
        web.url("/lost"), web.url("/whole"),
    ):  # fmt: skip
        for path, change in (
            (stored, _add(_place(url))),
            (queued, _add(_place(url))),
            (queued, _replace(_place(url))),
        ):
            answer = service.admin.patch(path, [change])
            assert (answer.status_code, "Invalid location" in answer.text) == (400, True), url
    assert service.admin.get(f"{stored}/file").content == DATA
    assert service.admin.get(queued).json()["status"] == "queued"


def test_a_wrong_image_does_not_become_active(service: Asked, web: Web) -> None:
    path = _queued(service.admin)
    web.pages["/lie"] = Page(b"QFI\xfb" + bytes(4092))
    answer = service.admin.patch(path, [_add(_place(web.url("/lie")))])
    assert (answer.status_code, "refused" in answer.text) == (415, True)
    assert service.admin.get(path).json()["status"] == "queued"


def test_limits_hold_for_locations_too(service: Asked, web: Web) -> None:
    path = _queued(service.admin)
    assert service.admin.patch(path, [_add(_place(web.url("/long")))]).status_code == 413
    many = [_place(web.url("/one"), metadata={"n": str(n)}) for n in range(4)]
    assert service.admin.patch(path, [_add(place) for place in many]).status_code == 413
    assert service.admin.patch(path, [_replace(*many)]).status_code == 413
    assert len(_urls(service.admin.patch(path, [_replace(*many[:3])]))) == 3
    assert service.admin.patch(path, [_add(many[3])]).status_code == 413
    others = [_queued(service.admin) for _ in range(2)]
    came = [service.admin.patch(other, [_add(many[0])]) for other in others]
    assert [answer.status_code for answer in came] == [200, 413]
    assert "image_size_total" in came[1].text


def test_bytes_of_another_length_are_not_the_images(service: Asked, web: Web) -> None:
    path = _in_both(service)
    web.pages["/short"] = Page(DATA[:512])
    answer = service.admin.patch(path, [_add(_place(web.url("/short")), "0")])
    assert (answer.status_code, "Invalid location" in answer.text) == (400, True)


def test_what_is_said_of_a_location_must_be_right(service: Asked, web: Web) -> None:
    path = _queued(service.admin)
    for more, status in (
        ({"metadata": {"a": 5}}, 400),
        ({"metadata": {"a": [{"b": None}]}}, 400),
        ({"metadata": {"os_glance_version": "1 x"}}, 403),
        ({"metadata": []}, 400),
        ({"url": "http://127.0.0.1/" + "x" * 255}, 400),
        ({"validation_data": SUMS | {"os_hash_algo": "sha256"}}, 409),
        ({"validation_data": SUMS | {"os_hash_value": "zz"}}, 409),
        ({"validation_data": SUMS | {"os_hash_value": "aa"}}, 409),
        ({"validation_data": SUMS | {"checksum": "x" * 32}}, 409),
        ({"validation_data": {"checksum": SUMS["checksum"]}}, 400),
    ):
        answer = service.admin.patch(path, [_add(_place(web.url("/one")) | more)])
        assert answer.status_code == status, (more, answer.text)
    assert web.asked == []


def test_hashes_that_are_known_stay_what_they_are(service: Asked, web: Web) -> None:
    path = _in_both(service)
    place = _place(web.url("/one"), validation_data=SUMS | {"checksum": "0" * 32})
    answer = service.admin.patch(path, [_add(place)])
    assert (answer.status_code, "already set" in answer.text) == (409, True)
    assert len(_urls(service.admin.patch(path, [_add(place | {"validation_data": SUMS})]))) == 3
    bare = _queued(service.admin)
    service.admin.patch(bare, [_add(_place(web.url("/one")))])
    answer = service.admin.patch(bare, [_add(_place(web.url("/two"), validation_data=SUMS))])
    assert (answer.status_code, "'queued'" in answer.text) == (409, True)


def test_only_who_may_change_an_image_has_addresses_asked(service: Asked, web: Web) -> None:
    path = _queued(service.caller("blue"), visibility="community")
    add = [_add(_place(web.url("/one")))]
    assert service.caller("red").patch(path, add).status_code == 403
    assert service.caller("blue", "reader").patch(path, add).status_code == 403
    object.__setattr__(service.service.settings, "show_locations", False)
    for change in (add[0], _replace(_place(web.url("/one")))):
        answer = service.admin.patch(path, [change])
        assert (answer.status_code, "locations are invisible" in answer.text) == (403, True)
    assert web.asked == []


def test_rules_say_who_sees_and_changes_where_images_lie(service: Asked, web: Web) -> None:
    path = _in_both(service)
    store = f"/v2/stores/two/{path.rsplit('/', 1)[1]}"
    add = [_add(_place(web.url("/one")))]
    for rule, asked in (
        ("set_image_location", lambda: service.admin.patch(path, add)),
        ("delete_image_location", lambda: service.admin.patch(path, _remove("0"))),
        ("delete_image_location", lambda: service.admin.delete(store)),
        ("get_image_location", lambda: service.admin.delete(store)),
        ("fetch_image_location", lambda: service.admin.get(f"{path}/locations")),
        ("add_image_location", lambda: service.admin.post(
            f"{_queued(service.admin)}/locations", {"url": web.url("/one")}
        )),
    ):  # fmt: skip
        policy = service.service.policy
        object.__setattr__(service.service, "policy", Policy({rule: "none"}))
        answer = asked()
        object.__setattr__(service.service, "policy", policy)
        assert (answer.status_code, rule in answer.text) == (403, True), rule
    assert web.asked == []


def test_images_that_get_data_otherwise_get_no_locations(service: Asked, web: Web) -> None:
    add = [_add(_place(web.url("/one")))]
    path = _in_both(service)
    service.admin.post(f"{path}/actions/deactivate")
    assert service.admin.patch(path, add).status_code == 409
    queued = _queued(service.admin)
    octets = {"content-type": "application/octet-stream"}
    service.admin.request("PUT", f"{queued}/stage", content=DATA, headers=octets)
    assert service.admin.patch(queued, add).status_code == 409
    assert web.asked == []


def test_an_image_is_not_made_with_locations(service: Asked, web: Web) -> None:
    said = {"disk_format": "raw", "container_format": "bare"}
    place = _place(web.url("/one"))
    answer = service.admin.post("/v2/images", said | {"locations": [place]})
    assert (answer.status_code, "reserved" in answer.text) == (403, True)


def test_nobody_waits_for_the_database_while_the_web_is_slow(service: Asked, web: Web) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def wait(_web: Web) -> None:
        asked.set()
        assert go_on.wait(30)

    web.pages["/one"].before = wait
    path, other = _queued(service.admin), _queued(service.admin)
    answers: list[httpx.Response] = []
    add = [_add(_place(web.url("/one")))]
    thread = threading.Thread(target=lambda: answers.append(service.admin.patch(path, add)))
    thread.start()
    assert asked.wait(30)
    # Somebody else changes an image, this one too.
    name = [{"op": "replace", "path": "/name", "value": "x"}]
    assert service.admin.patch(other, name).status_code == 200
    assert service.admin.patch(path, [_add(_place(web.url("/two")))]).status_code == 200
    go_on.set()
    thread.join()
    assert _urls(answers[0]) == [web.url("/two"), web.url("/one")]
