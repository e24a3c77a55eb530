"""Images that lie on the web: read by ranges where they are, and never as other bytes."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vmimg
from asking import Asked, Client
from vmimg.errors import OptionError, StorageError
from vmimg.service.settings import Imports, SettingsError, load
from vmimg.service.stores.base import NotFound, StoreUnreachable, Unusable
from vmimg.service.stores.registry import store_from
from vmimg.service.stores.web import Version, WebStore
from web_servers import Page, Web, web_server

DATA = random.Random(8).randbytes((5 << 20) + 512)


@pytest.fixture
def web() -> Iterator[Web]:
    """A server with DATA at /disk."""
    with web_server() as web:
        web.pages["/disk"] = Page(DATA, '"one"')
        yield web


@pytest.fixture
def rules(web: Web) -> dict[str, Any]:
    """That the server may be asked, and nobody else on this computer."""
    return {"hosts": [f"127.0.0.1:{web.port}", "example.org"], "ports": [80, 443]}


@pytest.fixture
def said(rules: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A directory, and the web."""
    stores = {"disk": {"url": f"file://{tmp_path}/disk"}, "web": {"url": "http://"}}
    return {"stores": stores, "imports": rules}


@pytest.fixture
def store(web: Web) -> WebStore:
    """The web, in any port of this computer."""
    return WebStore("web", Imports(private_addresses=True, ports=(web.port,)))


def located(client: Client, url: str, **fields: Any) -> str:
    """The identifier of an image that got this location; the task has ended."""
    validation = fields.pop("validation_data", None)
    image_id: str = client.image(**fields)["id"]
    body = {"url": url} | ({"validation_data": validation} if validation else {})
    answer = client.post(f"/v2/images/{image_id}/locations", body)
    assert answer.status_code == 202, answer.text
    until = time.monotonic() + 30
    while (task := client.get(f"/v2/images/{image_id}/tasks").json()["tasks"][0])["status"] in (
        "pending",
        "processing",
    ):
        assert time.monotonic() < until, task
        time.sleep(0.02)
    return image_id


# The store


def test_ranges_of_an_address_are_read(store: WebStore, web: Web) -> None:
    with store.opened(web.url("/disk")) as storage:
        assert storage.size == len(DATA)
        assert storage.version == Version(len(DATA), '"one"')
        assert storage.read(5_000_000, 100) == DATA[5_000_000:5_000_100]
        assert storage.read(len(DATA) - 512, 512) == DATA[-512:]
    assert store.read(web.url("/disk"), 7, 9) == DATA[7:16]


def test_who_reads_on_gets_one_answer(store: WebStore, web: Web) -> None:
    with store.opened(web.url("/disk")) as storage:
        came = b"".join(
            storage.read(at, min(1 << 20, len(DATA) - at)) for at in range(0, len(DATA), 1 << 20)
        )
    assert came == DATA
    # The first byte, the first piece, all that follows; the last 512 bytes.
    assert len(web.asked) == 4, web.asked


def test_a_long_answer_that_breaks_off_is_gone_on_with(store: WebStore, web: Web) -> None:
    def cut_some(web: Web) -> None:
        web.pages["/disk"].cut = 1 << 20 if len(web.asked) == 3 else None

    web.pages["/disk"].before = cut_some
    with store.opened(web.url("/disk")) as storage:
        pieces = [storage.read(at, 1 << 20) for at in range(0, 5 << 20, 1 << 20)]
    assert b"".join(pieces) == DATA[: 5 << 20]


@pytest.mark.parametrize(
    "other",
    [Page(DATA + b"more", '"one"'), Page(DATA[:-1], '"one"'), Page(DATA[::-1], '"two"'),
     Page(DATA[::-1], ""), Page(DATA[:600], '"one"')],
    ids=["longer", "shorter", "tag", "untagged", "cut"],
)  # fmt: skip
def test_what_changes_while_it_is_read_is_an_error(store: WebStore, web: Web, other: Page) -> None:
    with store.opened(web.url("/disk")) as storage:
        first = storage.read(0, 1 << 20)
        assert first == DATA[: 1 << 20]
        web.pages["/disk"] = other
        with pytest.raises(Unusable, match=r"not what was there before|answers 416"):
            storage.read(3 << 20, 1 << 20)
        with pytest.raises(Unusable):
            storage.read(1 << 20, 2 << 20)


def test_a_server_that_says_only_a_time_is_held_to_it(store: WebStore, web: Web) -> None:
    with store.opened(web.url("/disk")) as storage:
        version = storage.version
    assert Version.of(str(version)) == version
    with pytest.raises(Unusable, match="not what was there before"):
        store.opened(web.url("/disk"), version._replace(validator="yesterday"))


@pytest.mark.parametrize(
    ("page", "error", "match"),
    [
        (Page(DATA, ranges=False), Unusable, "gives no ranges"),
        (Page(status=404), NotFound, "answers 404"),
        (Page(status=403), Unusable, "answers 403"),
        (Page(status=503), StoreUnreachable, "answers 503"),
        (Page(b""), Unusable, "there are no bytes"),
        (Page(to="http://10.0.0.1/disk"), Unusable, "does not pass filtering"),
        (Page(to="ftp://example.org/disk"), Unusable, "does not pass filtering"),
        (Page(to="/disk"), StorageError, "redirects too often"),
    ],
    ids=["ranges", "404", "403", "503", "empty", "private", "ftp", "round"],
)
def test_what_cannot_be_had_is_one_clear_error(
    web: Web, page: Page, error: type[StorageError], match: str
) -> None:
    web.pages["/disk"] = page
    store = WebStore("web", Imports(hosts=(f"127.0.0.1:{web.port}",)))
    with pytest.raises(error, match=match) as caught:
        store.size(web.url("/disk?key=hidden"))
    assert "hidden" not in str(caught.value)


def test_a_name_that_becomes_private_is_not_followed(web: Web) -> None:
    """Each connection is checked anew: the second answer of the name service is refused."""
    answers = ["127.0.0.1"]

    def look_up(host: str, port: int, **_how: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[0], port))]

    url = f"http://rebinding.example:{web.port}/disk"
    open_to = WebStore("web", Imports(private_addresses=True, ports=(web.port,)), look_up=look_up)
    assert open_to.size(url) == len(DATA)
    closed = WebStore("web", Imports(ports=(web.port,)), look_up=look_up)
    asked = len(web.asked)
    with pytest.raises(Unusable, match="not one of the public Internet"):
        closed.size(url)
    assert len(web.asked) == asked


def test_a_redirect_is_followed_for_each_range(store: WebStore, web: Web) -> None:
    web.pages["/moved"] = Page(to="/disk")
    with store.opened(web.url("/moved")) as storage:
        assert storage.read(1 << 20, 10) == DATA[1 << 20 : (1 << 20) + 10]


def test_all_that_is_read_has_its_time(store: WebStore, web: Web) -> None:
    with store.opened(web.url("/disk"), within=0.3) as storage:
        time.sleep(0.4)
        with pytest.raises(StoreUnreachable, match="too long"):
            storage.read(1 << 20, 10)


def test_nothing_is_stored_on_the_web(store: WebStore, web: Web) -> None:
    with pytest.raises(StorageError):
        store.put("some-key")
    with pytest.raises(StorageError):
        store.delete(web.url("/disk"))
    assert list(store.list()) == []


def test_the_store_is_there_by_configuration_only(tmp_path: Path) -> None:
    assert isinstance(store_from("web", "http://"), WebStore)
    for url in ("http://example.org", "https:///path", "http://u:p@/"):
        with pytest.raises(OptionError, match=r"stores\.web"):
            store_from("web", url)
    with pytest.raises(OptionError, match="there is none"):
        store_from("web", "http://", {"region": "x"})
    stores = {"web": {"url": "https://"}, "disk": {"url": f"file://{tmp_path}"}}
    assert load(None, stores=stores).first_store == "disk"
    with pytest.raises(SettingsError, match="read-only"):
        load(None, stores=stores, default_store="web")
    with pytest.raises(SettingsError, match="none of them"):
        load(None, stores={"web": {"url": "http://"}})


def test_secure_addresses_alone_can_be_allowed() -> None:
    secure = store_from("web", "https://")
    assert isinstance(secure, WebStore)
    assert secure.has("https://example.org/x")
    assert not secure.has("http://example.org/x")


# Through the service


def test_an_image_on_the_web_is_hashed_judged_and_handed_out(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    url = web.url("/disk?signature=abc")
    sums = {"os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(DATA).hexdigest()}
    image_id = located(blue, url, validation_data=sums)
    image = blue.shown(image_id)
    assert (image["status"], image["size"], image["virtual_size"]) == (
        "active", len(DATA), len(DATA),
    )  # fmt: skip
    assert image["os_hash_value"] == sums["os_hash_value"]
    assert image["checksum"] == hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    assert image["stores"] == "web"
    assert list(service.service.stores["disk"].list()) == []
    path = f"/v2/images/{image_id}/file"
    assert blue.get(path).content == DATA
    answer = blue.get(path, headers={"range": "bytes=1000000-1000099"})
    assert (answer.status_code, answer.content) == (206, DATA[1_000_000:1_000_100])
    assert service.admin.get(f"/v2/images/{image_id}/locations").json() == [
        {"url": url, "metadata": {"store": "web"}}
    ]


def test_any_format_is_made_of_an_image_on_the_web(
    service: Asked, web: Web, tmp_path: Path
) -> None:
    vmimg.create(tmp_path / "disk.raw", 8 << 20, format="raw")
    with (tmp_path / "disk.raw").open("r+b") as file:
        file.seek(3 << 20)
        file.write(DATA[: 1 << 20])
    vmimg.convert(tmp_path / "disk.raw", tmp_path / "disk.qcow2", format="qcow2")
    web.pages["/q"] = Page((tmp_path / "disk.qcow2").read_bytes(), '"q"')
    blue = service.caller("blue")
    image_id = located(blue, web.url("/q"), disk_format="qcow2")
    assert blue.shown(image_id)["virtual_size"] == 8 << 20
    (tmp_path / "got.vhdx").write_bytes(blue.get(f"/v2/images/{image_id}/file?format=vhdx").content)
    assert vmimg.compare(tmp_path / "got.vhdx", tmp_path / "disk.raw").identical


def failed(service: Asked, client: Client, image_id: str) -> str:
    """Why the image is queued again; nothing is left of what was tried."""
    image = client.shown(image_id)
    assert (image["status"], image["size"]) == ("queued", None)
    assert "stores" not in image
    return str(image["message"])


@pytest.mark.parametrize(
    ("page", "match"),
    [
        (Page(DATA, ranges=False), "gives no ranges"),
        (Page(status=404), "answers 404"),
        (Page(to="http://169.254.169.254/latest"), "does not pass filtering"),
        (Page(b"QFI\xfb" + bytes(4096)), "refused"),
    ],
    ids=["ranges", "404", "metadata", "lie"],
)
def test_what_is_no_image_leaves_it_queued(
    service: Asked, web: Web, page: Page, match: str
) -> None:
    web.pages["/disk"] = page
    blue = service.caller("blue")
    assert match in failed(service, blue, located(blue, web.url("/disk")))


def test_a_server_that_is_down_is_tried_three_times(service: Asked, web: Web) -> None:
    web.pages["/disk"] = Page(status=503)
    blue = service.caller("blue")
    assert "After 3 tries" in failed(service, blue, located(blue, web.url("/disk")))


def test_another_hash_than_was_said_is_refused(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    sums = {"os_hash_algo": "sha256", "os_hash_value": "0" * 64}
    image_id = located(blue, web.url("/disk"), validation_data=sums)
    assert "not what its hash says" in failed(service, blue, image_id)


def test_bytes_that_change_while_they_are_hashed_are_no_image(service: Asked, web: Web) -> None:
    def change(web: Web) -> None:
        if len(web.asked) == 3:
            web.pages["/disk"] = replace(web.pages["/disk"], etag='"two"')

    web.pages["/disk"].before = change
    blue = service.caller("blue")
    assert "not what was there before" in failed(service, blue, located(blue, web.url("/disk")))


def test_bytes_that_changed_since_are_never_handed_out(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    image_id = located(blue, web.url("/disk"))
    web.pages["/disk"] = Page(DATA[::-1], '"two"')
    for path in ("file", "file?format=qcow2"):
        answer = blue.get(f"/v2/images/{image_id}/{path}")
        assert answer.status_code == 502, answer.text
        assert "not the image any more" in answer.text
        assert str(web.port) not in answer.text
    web.pages["/disk"] = Page(DATA, '"one"')
    assert blue.get(f"/v2/images/{image_id}/file").content == DATA


def test_deleting_the_image_leaves_the_web_alone(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    image_id = located(blue, web.url("/disk"))
    assert blue.delete(f"/v2/images/{image_id}").status_code == 204
    assert web.asked[-1][0] == "GET"
    assert blue.get(f"/v2/images/{image_id}").status_code == 404
    again = located(blue, web.url("/disk"))
    assert blue.shown(again)["status"] == "active"


def test_a_copy_is_made_of_an_image_on_the_web(service: Asked, web: Web) -> None:
    image_id = located(service.caller("blue"), web.url("/disk"))
    begun = service.admin.post(
        f"/v2/images/{image_id}/import", {"method": {"name": "copy-image"}, "stores": ["disk"]}
    )
    assert begun.status_code == 202, begun.text
    until = time.monotonic() + 30
    while service.admin.shown(image_id).get("stores") != "web,disk":
        assert time.monotonic() < until
        time.sleep(0.02)
    while service.admin.get(f"/v2/images/{image_id}/tasks").json()["tasks"][0]["status"] != (
        "success"
    ):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert service.admin.delete(f"/v2/stores/web/{image_id}").status_code == 204
    web.pages.clear()
    assert service.admin.get(f"/v2/images/{image_id}/file").content == DATA


def test_images_are_put_into_stores_that_can_be_written_to(service: Asked, web: Web) -> None:
    stores = service.admin.get("/v2/info/stores").json()["stores"]
    assert stores == [{"id": "disk", "default": "true"}, {"id": "web", "read-only": "true"}]
    image = service.admin.active(DATA[:1024])
    assert image["stores"] == "disk"
    said = {"method": {"name": "copy-image"}}
    path = f"/v2/images/{image['id']}/import"
    assert service.admin.post(path, {**said, "all_stores": True}).status_code == 202
    assert service.admin.post(path, {**said, "stores": ["web"]}).status_code == 409
    queued = service.admin.image()["id"]
    answer = service.admin.request(
        "PUT", f"/v2/images/{queued}/file", content=b"x",
        headers={"content-type": "application/octet-stream", "x-image-meta-store": "web"},
    )  # fmt: skip
    assert answer.status_code == 410, answer.text
    assert service.admin.shown(queued)["status"] == "queued"


def test_addresses_that_nobody_may_ask_for_are_no_locations(service: Asked, web: Web) -> None:
    blue = service.caller("blue")
    path = f"/v2/images/{blue.image()['id']}/locations"
    for url in (
        "http://10.0.0.1/x", f"http://u:p@127.0.0.1:{web.port}/disk", "http://[::1]/", "http:///x",
        "http://127.0.0.1:1/x", f"http://0x7f000001:{web.port}/disk", "http://[x",
    ):  # fmt: skip
        assert blue.post(path, {"url": url}).status_code == 400, url
    assert blue.post(path, {"url": "file:///etc/passwd"}).status_code == 403
    assert web.asked == []
