"""Scenarios: where images lie, shown and changed by patches, and on the web.

For a Glance with ``show_multiple_locations`` and an http store.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

from compare import Run, scenario_visible

__all__: list[str] = []

_BYTES = bytes(range(256)) * 20
_SUMS = {
    "checksum": hashlib.md5(_BYTES, usedforsecurity=False).hexdigest(),
    "os_hash_algo": "sha512",
    "os_hash_value": hashlib.sha512(_BYTES).hexdigest(),
}


def _file(run: Run, data: bytes = _BYTES) -> str:
    """The address of a file on the web server of both."""
    name = f"{uuid.uuid4()}.raw"
    Path(run.files_folder, name).write_bytes(data)
    return f"{run.files}/{name}"


def _place(url: str, metadata: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"url": url, "metadata": metadata or {}, **more}


def _add(place: Any, at: str = "-") -> dict[str, Any]:
    return {"op": "add", "path": f"/locations/{at}", "value": place}


def _replace(*places: Any) -> dict[str, Any]:
    return {"op": "replace", "path": "/locations", "value": list(places)}


@scenario_visible
def locations_are_shown(run: Run) -> None:
    image = run.active()
    for who in ("alice", "rita", "bob", "admin"):
        run.ask(who, "GET", image)
    run.ask("alice", "GET", run.image())
    run.ask("alice", "GET", "/v2/info/stores")
    run.ask("admin", "GET", "/v2/info/stores/detail")
    said = {"disk_format": "raw", "container_format": "bare"}
    run.ask("alice", "POST", "/v2/images", said | {"locations": [_place(_file(run))]})
    run.ask("alice", "POST", "/v2/images", said | {"locations": []})
    run.ask("alice", "POST", "/v2/images", said | {"locations": [{"url": "x"}]})


@scenario_visible
def a_location_makes_an_image_active(run: Run) -> None:
    url = _file(run)
    image = run.image()
    for who in ("rita", "bob"):
        run.patch(who, image, _add(_place(url)))
    run.patch("alice", image, _add(_place(url, {"shelf": "3", "tags": ["a", {"b": "c"}]})))
    run.ask("alice", "GET", image)
    run.ask("alice", "GET", f"{image}/file")
    run.ask("robot", "GET", f"{image}/locations")
    # What is active has its bytes.
    run.patch("alice", image, _add(_place(url, {"shelf": "3", "tags": ["a", {"b": "c"}]})))
    run.patch("alice", image, _add(_place(url, {"shelf": "4"}), "0"))
    run.patch("alice", image, _add(_place(_file(run)), "1"))
    run.patch("alice", image, _add(_place(_file(run)), "77"))
    run.patch("alice", image, _add(_place(url, {"shelf": "5"}), "x"))
    run.patch("alice", image, {"op": "replace", "path": "/locations/0", "value": _place(url)})
    run.patch("alice", image, {"op": "replace", "path": "/disk_format", "value": "qcow2"})
    for who in ("alice", "admin"):
        run.patch(who, image, {"op": "remove", "path": "/locations/1"})
    run.ask("alice", "GET", image)
    run.ask("alice", "DELETE", image)


@scenario_visible
def locations_are_replaced(run: Run) -> None:
    one, two = _file(run), _file(run)
    image = run.image()
    run.patch("alice", image, _replace(_place(one), _place(one)))
    run.patch("alice", image, _replace(_place(one), _place("nonsense")))
    run.patch("alice", image, _replace(_place(one), _place(two, {"a": "b"})))
    run.ask("alice", "GET", f"{image}/file")
    run.patch("alice", image, _replace(_place(two), _place(one, {"c": "d"})))
    run.ask("alice", "GET", image)
    run.patch("alice", image, _replace(_place(one)))
    run.patch("alice", image, _replace(_place(one), _place(_file(run))))
    run.patch("alice", image, _replace())
    stored = run.active()
    place = run.ask("alice", "GET", stored, record=False).json["locations"][0]
    run.patch("alice", stored, _replace(place | {"metadata": {"shelf": "1"}}))
    run.ask("alice", "GET", stored)
    run.ask("alice", "GET", f"{stored}/file")
    run.patch("alice", run.image(), _add(place))
    run.patch("alice", run.image(), _add(_place(one)), _add(_place(two)))
    lacking = run.image(disk_format=None)
    run.patch("alice", lacking, _add(_place(one)))
    format = {"op": "replace", "path": "/disk_format", "value": "raw"}
    run.patch("alice", lacking, format, _add(_place(one)))


@scenario_visible
def what_is_said_of_bytes(run: Run) -> None:
    url = _file(run)
    image = run.image()
    for wrong in (
        {}, {"os_hash_algo": "sha512"}, _SUMS | {"more": "x"}, _SUMS | {"checksum": "0"},
        _SUMS | {"checksum": "x" * 32}, _SUMS | {"os_hash_algo": "sha256"},
        _SUMS | {"os_hash_value": "zz"}, _SUMS | {"os_hash_value": "aa"},
    ):  # fmt: skip
        run.patch("alice", image, _add(_place(url, validation_data=wrong)))
    both = [
        _place(url, validation_data=_SUMS),
        _place(_file(run), validation_data=_SUMS | {"checksum": "0" * 32}),
    ]
    run.patch("alice", image, _replace(*both))
    run.patch("alice", image, _add(_place(url, validation_data=_SUMS)))
    run.ask("alice", "GET", image)
    run.ask("alice", "GET", f"{image}/file")
    other = _file(run)
    run.patch("alice", image, _add(_place(other, validation_data=_SUMS | {"checksum": "0" * 32})))
    run.patch("alice", image, _add(_place(other, validation_data=_SUMS)))
    bare = run.image()
    run.patch("alice", bare, _add(_place(url)))
    run.patch("alice", bare, _add(_place(other, validation_data=_SUMS)))


@scenario_visible
def locations_that_are_none(run: Run) -> None:
    for image in (run.image(), run.active()):
        for url in (
            "", "nonsense", "file:///etc/passwd", "nope://x/y", f"{run.files}/nothing-here",
            "http://127.0.0.1:1/x", "http://169.254.169.254/latest", "http://[::1]/x",
            "http://0x7f000001/x", "http:///x", f"{_file(run)[:7]}user:secret@127.0.0.1/x",
            _file(run, b""), f"{run.files}/{'x' * 255}",
        ):  # fmt: skip
            run.patch("alice", image, _add(_place(url)))
        wrong: Any
        for wrong in (5, {}, {"url": run.files}, {"metadata": {}}, _place(run.files, {"a": 5})):
            run.patch("alice", image, _add(wrong))
        run.patch("alice", image, {"op": "add", "path": "/locations", "value": []})
        run.patch("alice", image, {"op": "replace", "path": "/locations", "value": 5})
        run.patch("alice", image, {"op": "remove", "path": "/locations/0"})
        run.patch("admin", image, {"op": "remove", "path": "/locations/0"})
    many = [_add(_place(_file(run))) for _ in range(11)]
    run.patch("alice", run.image(), *many)
    run.patch("alice", run.image(), _replace(*[each["value"] for each in many]))
    out = run.active()
    run.ask("alice", "POST", f"{out}/actions/deactivate")
    run.patch("alice", out, _add(_place(_file(run))))
    run.patch("alice", out, _replace(_place(_file(run))))
    run.patch("admin", out, {"op": "remove", "path": "/locations/0"})
    run.ask("alice", "GET", out)


@scenario_visible
def images_on_the_web(run: Run) -> None:
    url = _file(run)
    sums = {name: _SUMS[name] for name in ("os_hash_algo", "os_hash_value")}
    image = run.image()
    for who in ("rita", "bob"):
        run.ask(who, "POST", f"{image}/locations", {"url": url})
    for wrong in ("http://127.0.0.1:1/x", "http://169.254.169.254/x", "file:///etc/passwd"):
        run.ask("alice", "POST", f"{image}/locations", {"url": wrong})
    run.ask("alice", "POST", f"{image}/locations", {"url": url, "validation_data": sums})
    run.until(
        "alice", image,
        lambda said: said["os_hash_value"] and not said.get("os_glance_import_task"),
    )  # fmt: skip
    run.ask("alice", "GET", f"{image}/file")
    run.ask("alice", "GET", f"{image}/file", headers={"Range": "bytes=256-511"})
    run.ask("robot", "GET", f"{image}/locations")
    name = image.rsplit("/", 1)[1]
    run.ask("admin", "DELETE", f"/v2/stores/web/{name}")
    run.ask("alice", "POST", f"{image}/locations", {"url": url})
    queued = run.image()
    octets = {"Content-Type": "application/octet-stream", "x-image-meta-store": "web"}
    run.ask("alice", "PUT", f"{queued}/file", b"x" * 512, octets)
    run.ask("alice", "GET", queued)
    run.ask("alice", "DELETE", image)
