"""Imports: staged, fetched, copied, reshaped; what fails is put right."""

from __future__ import annotations

import gzip
import random
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import vmimg
from asking import Asked, Child, Client

OCTETS = {"content-type": "application/octet-stream"}
DATA = random.Random(3).randbytes(3 << 20)


@pytest.fixture
def said(tmp_path: Path) -> dict[str, Any]:
    """Two stores; addresses on this computer may be asked."""
    return {
        "stores": {
            "fast": {"url": f"file://{tmp_path}/fast", "description": "near"},
            "slow": {"url": f"file://{tmp_path}/slow"},
        },
        "imports": {"private_addresses": True, "hosts": ["127.0.0.1"]},
    }


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server: its address, and the directory that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(service: Asked, web: tuple[str, Path]) -> Client:
    """An administrator of a service that may ask the web server's port."""
    port = int(web[0].rpartition(":")[2])
    rules = service.service.settings.imports.model_copy(update={"ports": (port,)})
    object.__setattr__(service.service.settings, "imports", rules)
    return service.admin


def stage(client: Client, data: bytes, **fields: str) -> str:
    """The identifier of an image with these bytes staged."""
    image = client.image(**fields)
    answer = client.request("PUT", f"/v2/images/{image['id']}/stage", content=data, headers=OCTETS)
    assert answer.status_code == 204, answer.text
    return str(image["id"])


def begin(client: Client, image_id: str, name: str, **said: Any) -> Any:
    """Ask for an import."""
    options = {key: said.pop(key) for key in list(said) if key in _BESIDES}
    body = {"method": {"name": name, **said}, **options}
    return client.post(f"/v2/images/{image_id}/import", body)


_BESIDES = ("stores", "all_stores", "all_stores_must_succeed")


def ended(client: Client, image_id: str) -> dict[str, Any]:
    """The image's newest task, when it has ended."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        task: dict[str, Any] = client.get(f"/v2/images/{image_id}/tasks").json()["tasks"][0]
        if task["status"] in ("success", "failure"):
            return task
        time.sleep(0.02)
    pytest.fail(f"the task does not end: {task}")


def imported(client: Client, image_id: str, name: str, **said: Any) -> dict[str, Any]:
    """The image after an import that went well."""
    answer = begin(client, image_id, name, **said)
    assert answer.status_code == 202, answer.text
    task = ended(client, image_id)
    assert task["status"] == "success", task["message"]
    return client.shown(image_id)


def data_of(client: Client, image_id: str) -> bytes:
    """What is downloaded."""
    return bytes(client.get(f"/v2/images/{image_id}/file").content)


def left(service: Asked) -> list[str]:
    """What lies in the staging area."""
    return [each.key for each in service.service.staging.list()]


def test_staged_data_is_imported(service: Asked, client: Client) -> None:
    image_id = stage(client, DATA)
    assert client.shown(image_id)["status"] == "uploading"
    assert client.get(f"/v2/images/{image_id}/file").status_code == 204
    image = imported(client, image_id, "glance-direct")
    assert (image["status"], image["size"], image["stores"]) == ("active", len(DATA), "fast")
    assert data_of(client, image_id) == DATA
    assert left(service) == []


def test_an_import_goes_to_all_stores(client: Client) -> None:
    image_id = stage(client, DATA)
    image = imported(client, image_id, "glance-direct", all_stores=True)
    assert image["stores"] == "fast,slow"
    assert (image["os_glance_importing_to_stores"], image["os_glance_failed_import"]) == ("", "")


def test_an_address_is_fetched(service: Asked, client: Client, web: tuple[str, Path]) -> None:
    (web[1] / "disk.raw").write_bytes(DATA)
    image_id = client.image()["id"]
    image = imported(client, image_id, "web-download", uri=f"{web[0]}/disk.raw", stores=["slow"])
    assert (image["size"], image["stores"]) == (len(DATA), "slow")
    assert data_of(client, image_id) == DATA
    assert left(service) == []


def test_what_an_address_lacks_leaves_the_image_queued(
    service: Asked, client: Client, web: tuple[str, Path]
) -> None:
    image_id = client.image()["id"]
    assert begin(client, image_id, "web-download", uri=f"{web[0]}/none").status_code == 202
    task = ended(client, image_id)
    assert task["status"] == "failure"
    assert "404" in task["message"]
    image = client.shown(image_id)
    assert (image["status"], image["message"]) == ("queued", task["message"])
    assert left(service) == []


def test_what_is_fetched_is_vetted(
    service: Asked, client: Client, web: tuple[str, Path], tmp_path: Path
) -> None:
    vmimg.create(web[1] / "lie.raw", 1 << 20, format="qcow2")
    image_id = client.image(disk_format="raw")["id"]
    assert begin(client, image_id, "web-download", uri=f"{web[0]}/lie.raw").status_code == 202
    assert ended(client, image_id)["status"] == "failure"
    assert "declared as raw, and is qcow2" in client.shown(image_id)["message"]
    assert left(service) == []


def test_an_active_image_is_copied_to_another_store(client: Client) -> None:
    image = client.active(DATA)
    copied = imported(client, image["id"], "copy-image", stores=["slow"])
    assert copied["stores"] == "fast,slow"
    for name in ("status", "size", "checksum", "os_hash_value"):
        assert copied[name] == image[name]
    assert client.delete(f"/v2/stores/fast/{image['id']}").status_code == 204
    assert client.shown(image["id"])["stores"] == "slow"
    assert data_of(client, image["id"]) == DATA
    assert client.delete(f"/v2/stores/slow/{image['id']}").status_code == 403


def test_a_copy_that_is_not_what_it_was_is_refused(service: Asked, client: Client) -> None:
    image = client.active(DATA)
    store = service.service.stores["fast"]
    [stored] = store.list()
    path = Path(store.location(stored.key).removeprefix("file://"))
    path.chmod(0o600)
    path.write_bytes(DATA[:-1] + b"!")
    assert begin(client, image["id"], "copy-image", stores=["slow"]).status_code == 202
    task = ended(client, image["id"])
    assert task["status"] == "failure"
    assert client.shown(image["id"])["stores"] == "fast"
    assert list(service.service.stores["slow"].list()) == []


def test_a_copy_to_all_stores_goes_where_it_is_not(client: Client) -> None:
    image = client.active(DATA)
    assert imported(client, image["id"], "copy-image", all_stores=True)["stores"] == "fast,slow"
    assert begin(client, image["id"], "copy-image", all_stores=True).status_code == 202
    assert begin(client, image["id"], "copy-image", stores=["slow"]).status_code == 400


def test_another_service_is_asked_by_its_region(
    service: Asked, client: Client, running_service: Child
) -> None:
    far = running_service.client.active(DATA)
    rules = service.service.settings.imports.model_copy(
        update={"regions": {"north": running_service.url}}
    )
    object.__setattr__(service.service.settings, "imports", rules)
    image_id = client.image()["id"]
    said = {"glance_region": "north", "glance_image_id": far["id"]}
    image = imported(client, image_id, "glance-download", **said)
    assert image["os_hash_value"] == far["os_hash_value"]
    assert data_of(client, image_id) == DATA
    nowhere = client.image()["id"]
    said = {"glance_region": "south", "glance_image_id": far["id"]}
    assert begin(client, nowhere, "glance-download", **said).status_code == 202
    assert "south" in ended(client, nowhere)["message"]


# Reshaping


def test_compressed_data_is_unpacked(client: Client) -> None:
    image_id = stage(client, gzip.compress(DATA), container_format="compressed")
    image = imported(client, image_id, "glance-direct")
    assert (image["container_format"], image["size"]) == ("bare", len(DATA))
    assert data_of(client, image_id) == DATA


@pytest.fixture
def ova(tmp_path: Path) -> bytes:
    """An appliance of one disk, with 2 processors, UEFI, and a network card."""
    vmimg.create(tmp_path / "disk.qcow2", 4 << 20, format="qcow2")
    from vmimg.machines.model import CPUs, Firmware, Machine, Network

    machine = Machine(
        name="web", cpus=CPUs(2, 1, 2, 1), memory=1 << 30, firmware=Firmware("uefi"),
        networks=(Network("vmxnet3"),),
    )  # fmt: skip
    vmimg.pack([tmp_path / "disk.qcow2"], tmp_path / "web.ova", kind="ova", machine=machine)
    return (tmp_path / "web.ova").read_bytes()


def test_an_appliance_becomes_its_disk_and_properties(client: Client, ova: bytes) -> None:
    image_id = stage(client, ova, disk_format="vmdk", container_format="ova")
    image = imported(client, image_id, "glance-direct")
    assert (image["disk_format"], image["container_format"]) == ("qcow2", "bare")
    assert image["virtual_size"] == 4 << 20
    assert image["hw_firmware_type"] == "uefi"
    assert image["hw_vif_model"] == "vmxnet3"
    assert image["hw_cpu_cores"] == "2"
    assert data_of(client, image_id)[:4] == b"QFI\xfb"


def test_imports_are_converted_where_the_deployment_wants_that(
    service: Asked, client: Client, tmp_path: Path
) -> None:
    rules = service.service.settings.imports.model_copy(update={"output_format": "vhdx"})
    object.__setattr__(service.service.settings, "imports", rules)
    (tmp_path / "disk.raw").write_bytes(DATA)
    image_id = stage(client, DATA)
    image = imported(client, image_id, "glance-direct")
    assert (image["disk_format"], image["virtual_size"]) == ("vhdx", len(DATA))
    (tmp_path / "got.vhdx").write_bytes(data_of(client, image_id))
    assert vmimg.compare(tmp_path / "got.vhdx", tmp_path / "disk.raw").identical


# Mistakes


def test_requests_that_are_none(client: Client) -> None:
    image_id = client.image()["id"]
    path = f"/v2/images/{image_id}/import"
    assert client.post(path, {}).status_code == 400
    assert client.post(path, {"method": {}}).status_code == 400
    assert client.post(path, []).status_code == 400
    assert begin(client, image_id, "by-pigeon").status_code == 400
    assert begin(client, image_id, "glance-direct", all_stores="yes").status_code == 400
    both = begin(
        client, image_id, "web-download", uri="http://x/", all_stores=True, stores=["fast"]
    )
    assert both.status_code == 400
    none = begin(client, image_id, "web-download", uri="http://127.0.0.1:1/", stores=["nope"])
    assert none.status_code == 409
    assert client.shown(image_id)["status"] == "queued"


def test_images_in_the_wrong_state(client: Client) -> None:
    queued = client.image()["id"]
    assert begin(client, queued, "glance-direct").status_code == 409
    assert begin(client, queued, "copy-image", stores=["slow"]).status_code == 409
    active = client.active(DATA)["id"]
    assert begin(client, active, "glance-direct").status_code == 409
    without = client.post("/v2/images", {"name": "x"}).json()["id"]
    assert begin(client, without, "web-download", uri="http://127.0.0.1/").status_code == 409


@pytest.mark.parametrize(
    "uri",
    [
        "file:///etc/passwd", "ftp://127.0.0.1/x", "http://127.0.0.1:22/x", "http://user@127.0.0.1/",
        "gopher://127.0.0.1/", "http:///x", "//127.0.0.1/x", "http://10.0.0.1/", "", "http://[::1]/",
    ],
)  # fmt: skip
def test_addresses_that_nobody_may_ask_for(client: Client, uri: str) -> None:
    image_id = client.image()["id"]
    assert begin(client, image_id, "web-download", uri=uri).status_code == 400
    assert client.shown(image_id)["status"] == "queued"


def test_who_may_not_change_it_may_not_import(service: Asked, client: Client) -> None:
    blue, red = service.caller("blue"), service.caller("red")
    image_id = stage(blue, DATA)
    assert begin(red, image_id, "glance-direct").status_code == 404
    assert begin(blue, image_id, "copy-image", stores=["slow"]).status_code in (403, 409)
    assert imported(blue, image_id, "glance-direct")["status"] == "active"
    assert begin(blue, image_id, "copy-image", stores=["slow"]).status_code == 403


def test_the_methods_and_stores_are_told(client: Client) -> None:
    methods = client.get("/v2/info/import").json()["import-methods"]["value"]
    assert methods == ["glance-direct", "web-download", "copy-image", "glance-download"]
    stores = client.get("/v2/info/stores").json()["stores"]
    assert stores == [{"id": "fast", "description": "near", "default": "true"}, {"id": "slow"}]
    detail = client.get("/v2/info/stores/detail").json()["stores"]
    assert [each["type"] for each in detail] == ["file", "file"]


def test_a_task_makes_an_image_as_before_there_was_an_import(
    client: Client, web: tuple[str, Path]
) -> None:
    (web[1] / "disk.raw").write_bytes(DATA)
    said = {
        "import_from": f"{web[0]}/disk.raw",
        "import_from_format": "raw",
        "image_properties": {"name": "old", "disk_format": "raw", "container_format": "bare"},
    }
    made = client.post("/v2/tasks", {"type": "import", "input": said})
    assert made.status_code == 201
    path = f"/v2/tasks/{made.json()['id']}"
    until = time.monotonic() + 30
    while (task := client.get(path).json())["status"] in ("pending", "processing"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert task["status"] == "success", task
    image = client.shown(task["result"]["image_id"])
    assert (image["name"], image["status"], image["size"]) == ("old", "active", len(DATA))
    assert client.get("/v2/tasks").json()["tasks"][0]["id"] == task["id"]
    assert client.delete(path).status_code == 405
