"""Scenarios: bytes in and out, staging and imports, stores, locations."""

from __future__ import annotations

import hashlib
import struct
import uuid
from pathlib import Path

from compare import OCTETS, Run, empty_qcow2, scenario

__all__: list[str] = []

_BYTES = bytes(range(256)) * 12


@scenario
def uploading(run: Run) -> None:
    image = run.image()
    where = f"{image}/file"
    run.ask("alice", "GET", where)
    run.ask("alice", "PUT", where, b"x")
    run.ask("alice", "PUT", where, b"x", {"Content-Type": "application/json"})
    for who in ("rita", "bob"):
        run.ask(who, "PUT", where, b"x", OCTETS)
    run.ask("alice", "PUT", where, b"x", OCTETS | {"x-image-meta-store": "nope"})
    run.ask("alice", "PUT", where, b"x", OCTETS | {"x-openstack-image-size": "y"})
    run.ask("alice", "GET", image)
    run.ask("alice", "PUT", where, _BYTES, OCTETS)
    run.ask("alice", "GET", image)
    run.ask("alice", "PUT", where, _BYTES, OCTETS)
    run.ask("alice", "PUT", f"{image}/stage", _BYTES, OCTETS)
    run.ask("alice", "GET", where)
    run.ask("alice", "PUT", "/v2/images/nope/file", b"x", OCTETS)
    other = run.image()
    run.ask("alice", "PUT", f"{other}/file", _BYTES, OCTETS | {"x-image-meta-store": "slow"})
    run.ask("alice", "GET", other)
    for fields in ({"disk_format": None}, {"container_format": None}):
        lacking = run.image(**fields)
        run.ask("alice", "PUT", f"{lacking}/file", b"x", OCTETS)
        run.ask("alice", "GET", lacking)
    empty = run.image()
    run.ask("alice", "PUT", f"{empty}/file", b"", OCTETS)
    run.ask("alice", "GET", empty)


@scenario
def downloading_parts(run: Run) -> None:
    where = f"{run.active(_BYTES)}/file"
    size = len(_BYTES)
    for said in (
        "bytes=0-4", "bytes=5-", "bytes=-3", f"bytes=-{size * 2}", f"bytes=0-{size * 2}",
        f"bytes={size - 1}-", f"bytes={size}-", "bytes=3-1", "nonsense", "bytes=", "bytes=-0",
        "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=0-0", "bytes= 0-1",
    ):  # fmt: skip
        run.ask("alice", "GET", where, headers={"Range": said})
    for said in (
        "bytes 1-3/*",
        f"bytes 1-3/{size}",
        f"bytes 1-{size + 5}/*",
        "nonsense",
        f"bytes {size}-{size + 1}/*",
    ):
        run.ask("alice", "GET", where, headers={"Content-Range": said})
    for store in ("fast", "slow", "nope", "slow,fast", "nope,fast", ""):
        run.ask("alice", "GET", f"{where}?prefer={store}")
    run.ask("rita", "GET", f"{where}?prefer=fast")
    for name in ("If-None-Match", "If-Match"):
        run.ask("alice", "GET", where, headers={name: '"another"'})
    run.ask("alice", "GET", where, headers={"If-Modified-Since": "Sat, 01 Jan 2050 00:00:00 GMT"})
    run.ask("alice", "GET", where, headers={"Accept": "application/json"})
    run.ask("alice", "HEAD", where)
    for who in ("rita", "bob"):
        run.ask(who, "GET", where)
    run.ask("alice", "GET", "/v2/images/nope/file")


@scenario
def what_is_said_of_formats(run: Run) -> None:
    whole = empty_qcow2()
    for form, data in (
        ("qcow2", whole), ("raw", whole), ("qcow2", b"not one" * 1000), ("vmdk", whole),
        ("iso", b"\0" * 70_000), ("vhdx", b"x" * 1000), ("vdi", whole), ("raw", b"\0" * 5000),
    ):  # fmt: skip
        image = run.image(disk_format=form)
        run.ask("alice", "PUT", f"{image}/file", data, OCTETS)
        run.ask("alice", "GET", image)
    backed = bytearray(whole)
    name = b"/etc/passwd"
    struct.pack_into(">QI", backed, 8, 512, len(name))
    backed[512 : 512 + len(name)] = name
    image = run.image(disk_format="qcow2")
    run.ask("alice", "PUT", f"{image}/file", bytes(backed), OCTETS)
    run.ask("alice", "GET", image)


@scenario
def staging_and_importing(run: Run) -> None:
    image = run.image()
    stage, begin = f"{image}/stage", f"{image}/import"
    direct = {"method": {"name": "glance-direct"}}
    run.ask("alice", "POST", begin, direct)
    run.ask("alice", "PUT", stage, b"x")
    for who in ("rita", "bob"):
        run.ask(who, "PUT", stage, b"x", OCTETS)
    run.ask("alice", "PUT", stage, _BYTES, OCTETS)
    run.ask("alice", "GET", image)
    run.ask("alice", "PUT", stage, b"again", OCTETS)
    run.ask("alice", "PUT", f"{image}/file", b"other", OCTETS)
    run.ask("alice", "GET", f"{image}/file")
    run.ask(
        "alice", "POST", begin, {"method": {"name": "web-download", "uri": "http://example.com/"}}
    )
    run.ask("alice", "POST", begin, {"method": {"name": "copy-image"}})
    run.ask("alice", "POST", begin, direct | {"stores": ["nope"]})
    run.ask("alice", "POST", begin, direct | {"stores": ["fast"], "all_stores": True})
    run.ask("alice", "POST", begin, direct, {"x-image-meta-store": "nope"})
    for who in ("rita", "bob"):
        run.ask(who, "POST", begin, direct)
    run.ask("alice", "POST", begin, direct | {"stores": ["slow"]})
    run.settled("alice", image)
    run.ask("alice", "GET", f"{image}/file")
    run.ask("alice", "POST", begin, direct)
    tasks = f"{image}/tasks"
    run.until("alice", tasks, lambda said: said["tasks"][0]["status"] != "processing")
    for who in ("rita", "bob"):
        run.ask(who, "GET", tasks)
    run.ask("alice", "GET", f"{run.image()}/tasks")
    run.ask("alice", "GET", "/v2/images/nope/tasks")


@scenario
def imports_that_are_wrong(run: Run) -> None:
    begin = f"{run.image()}/import"
    for body in (
        {}, {"method": {}}, {"method": {"name": "nope"}}, {"method": {"name": None}},
        {"method": {"name": "glance-direct"}, "all_stores": "x"},
        {"method": {"name": "glance-direct"}, "all_stores_must_succeed": "x"},
        {"method": {"name": "glance-direct"}, "stores": ["nope"]},
        {"method": {"name": "web-download"}},
        {"method": {"name": "web-download", "uri": ""}},
        {"method": {"name": "web-download", "uri": "ftp://127.0.0.1/x"}},
        {"method": {"name": "web-download", "uri": "file:///etc/passwd"}},
        {"method": {"name": "web-download", "uri": "http://127.0.0.1:1/x"}},
        {"method": {"name": "web-download", "uri": "http://169.254.169.254/latest"}},
        {"method": {"name": "web-download", "uri": "http://[::1]/x"}},
        {"method": {"name": "web-download", "uri": "http://0x7f000001/x"}},
        {"method": {"name": "web-download", "uri": "http:///x"}},
        {"method": {"name": "copy-image"}},
        {"method": {"name": "glance-download"}},
        {"method": {"name": "glance-download", "glance_region": "here"}},
        {"method": {"name": "glance-download", "glance_region": "here", "glance_image_id": "x"}},
    ):  # fmt: skip
        run.ask("alice", "POST", begin, body)
    run.ask("alice", "POST", begin)
    run.ask("alice", "POST", "/v2/images/nope/import", {"method": {"name": "copy-image"}})
    for fields in ({"disk_format": None}, {"container_format": None}):
        lacking = run.image(**fields)
        body = {"method": {"name": "web-download", "uri": f"{run.files}/x"}}
        run.ask("alice", "POST", f"{lacking}/import", body)


@scenario
def downloading_from_the_web(run: Run) -> None:
    name = f"{uuid.uuid4()}.raw"
    Path(run.files_folder, name).write_bytes(_BYTES)
    method = {"name": "web-download", "uri": f"{run.files}/{name}"}
    image = run.image()
    run.ask("alice", "POST", f"{image}/import", {"method": method})
    run.settled("alice", image)
    run.ask("alice", "GET", f"{image}/file")
    both = run.image()
    run.ask("alice", "POST", f"{both}/import", {"method": method, "all_stores": True})
    run.settled("alice", both)
    missing = run.image()
    body = {"method": {"name": "web-download", "uri": f"{run.files}/nothing-here"}}
    run.ask("alice", "POST", f"{missing}/import", body)
    run.settled("alice", missing)
    task = run.ask("alice", "GET", f"{missing}/tasks", record=False).json["tasks"][0]["id"]
    run.until("admin", f"/v2/tasks/{task}", lambda task: task["status"] in ("success", "failure"))


@scenario
def copying_and_leaving_stores(run: Run) -> None:
    image = run.active(_BYTES)
    name = image.rsplit("/", 1)[1]
    begin = f"{image}/import"
    copy = {"method": {"name": "copy-image"}}
    run.ask("alice", "POST", begin, copy | {"stores": ["slow"]})
    run.ask("admin", "POST", begin, copy | {"stores": ["fast"]})
    run.ask("admin", "POST", begin, copy | {"stores": ["nope"]})
    run.ask("admin", "DELETE", f"/v2/stores/fast/{name}")
    run.ask("admin", "POST", begin, copy | {"stores": ["slow"]})
    run.settled("alice", image)
    run.ask("admin", "POST", begin, copy | {"all_stores": True})
    run.settled("alice", image)
    run.ask("alice", "GET", f"{image}/file?prefer=slow")
    run.ask("alice", "DELETE", f"/v2/stores/fast/{name}")
    run.ask("rita", "DELETE", f"/v2/stores/fast/{name}")
    run.ask("bob", "DELETE", f"/v2/stores/fast/{name}")
    run.ask("admin", "DELETE", f"/v2/stores/nope/{name}")
    run.ask("admin", "DELETE", "/v2/stores/fast/nope")
    run.ask("admin", "DELETE", f"/v2/stores/fast/{name}")
    run.ask("alice", "GET", image)
    run.ask("alice", "GET", f"{image}/file")
    for store in ("fast", "slow"):
        run.ask("admin", "DELETE", f"/v2/stores/{store}/{name}")
    queued = run.image().rsplit("/", 1)[1]
    run.ask("admin", "DELETE", f"/v2/stores/fast/{queued}")


@scenario
def from_another_service(run: Run) -> None:
    there = Run(run.elsewhere, run.tokens, run.projects)
    source = there.active(_BYTES, os_distro="debian", hw_disk_bus="virtio", min_ram=64)
    there.close()
    method = {
        "name": "glance-download", "glance_region": "here",
        "glance_image_id": source.rsplit("/", 1)[1],
    }  # fmt: skip
    image = run.image()
    run.ask("alice", "POST", f"{image}/import", {"method": method})
    run.until(
        "alice", image,
        lambda image: image["status"] == "active" and not image.get("os_glance_import_task"),
    )  # fmt: skip
    run.ask("alice", "GET", f"{image}/file")
    lost = run.image()
    method = method | {"glance_image_id": str(uuid.uuid4())}
    run.ask("alice", "POST", f"{lost}/import", {"method": method})
    run.until(
        "alice", lost,
        lambda image: image["status"] == "queued" and not image.get("os_glance_import_task"),
    )  # fmt: skip


@scenario
def locations(run: Run) -> None:
    image = run.active()
    where = f"{image}/locations"
    for who in ("alice", "rita", "bob", "robot", "admin"):
        run.ask(who, "GET", where)
    run.ask("alice", "POST", where, {"url": "http://127.0.0.1/x"})
    queued = run.image()
    where = f"{queued}/locations"
    run.ask("robot", "GET", where)
    digest, url = hashlib.sha512(b"x").hexdigest(), "http://127.0.0.1:1/x"
    for body in (
        {}, {"url": 5}, {"url": url, "validation_data": {"os_hash_algo": "sha512"}},
        {"url": url, "validation_data": {"os_hash_algo": "crc", "os_hash_value": "0"}},
        {"url": url, "validation_data": {"other": "x"}}, {"url": url, "validation_data": "x"},
        {"url": "http://127.0.0.1/x"}, {"url": "file:///etc/passwd"}, {"url": "nonsense"},
    ):  # fmt: skip
        run.ask("alice", "POST", where, body)
    for value in ("zz", "aa", digest):
        said = {"os_hash_algo": "sha512", "os_hash_value": value}
        run.ask("robot", "POST", where, {"url": url, "validation_data": said})
    for who in ("rita", "bob"):
        run.ask(who, "POST", where, {"url": "http://127.0.0.1/x"})
    run.ask("alice", "POST", "/v2/images/nope/locations", {"url": "http://127.0.0.1/x"})
    run.ask("alice", "POST", where)
    run.ask("alice", "GET", queued)


@scenario
def locations_in_records(run: Run) -> None:
    image = run.active()
    run.ask("alice", "GET", image)
    foreign = {"url": "file:///etc/passwd", "metadata": {}}
    for change in (
        {"op": "remove", "path": "/locations/0"},
        {"op": "replace", "path": "/locations", "value": []},
        {"op": "add", "path": "/locations/-", "value": foreign},
        {"op": "add", "path": "/locations/-", "value": {"url": "nonsense", "metadata": {}}},
        {"op": "add", "path": "/locations/-", "value": {"metadata": {}}},
        {"op": "add", "path": "/locations", "value": []},
        {"op": "replace", "path": "/locations", "value": [{"url": "nope://x", "metadata": {}}]},
    ):  # fmt: skip
        for who in ("alice", "rita", "admin"):
            run.patch(who, image, change)
    run.ask("alice", "GET", image)
