"""Servers of objects, for one worker's tests: each starts when the first test needs it, on a port
of its own, and ends with the worker.

    s3     moto's server: an S3 that stores what it is sent
    gs     the same: the XML API of Google's storage is S3's, and it is what obstore speaks. Nothing
           that can be installed here speaks Google's own way to upload in parts
    az     azurite, Microsoft's own

``make(kind, folder)`` is a store of that kind with nothing in it.
"""

from __future__ import annotations

import atexit
import base64
import email.utils
import functools
import hashlib
import hmac
import itertools
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
from asking import free_port
from vmimg.service.stores.base import Store
from vmimg.service.stores.registry import store_from

__all__ = ["AZURE_KEY", "KINDS", "REMOTE", "address", "free_port", "make", "start_s3"]

_S3 = pytest.param("s3", marks=pytest.mark.peer("moto"))
_GS = pytest.param("gs", marks=pytest.mark.peer("moto"))
_AZ = pytest.param("az", marks=pytest.mark.peer("azurite-blob"))
REMOTE = [_S3, _GS, _AZ]
"""Stores that other processes see, besides directories."""
KINDS = ["file", "file with names", "memory", *REMOTE]
"""All there are. "file with names": where files cannot be without a name until they are done."""

# Of azurite, for everyone: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_SECONDS = 60.0
_numbers = itertools.count()


def make(kind: str, folder: Path, **options: str) -> Store:
    """A store of ``kind`` with nothing in it; one of files lies in ``folder``."""
    url, given = address(kind, folder)
    store = store_from("mine", url, {**given, **options})
    store.prepare()
    return store


def address(kind: str, folder: Path) -> tuple[str, dict[str, str]]:
    """The URL of such a store, and the options to use it."""
    prefix = f"images/{next(_numbers)}"
    if kind.startswith("file"):
        return f"file://{folder / 'store'}", {}
    if kind == "memory":
        return "memory://", {}
    if kind == "az":
        return f"az://images/{prefix}", {
            "endpoint": f"http://127.0.0.1:{_azure()}/{_ACCOUNT}",
            "account_name": _ACCOUNT,
            "account_key": AZURE_KEY,
        }
    endpoint = f"http://127.0.0.1:{_s3()}"
    if kind == "gs":
        return f"gs://images/{prefix}", {"endpoint": endpoint, "bearer_token": "anybody"}
    return f"s3://images/{prefix}", {
        "endpoint": endpoint,
        "access_key_id": "anybody",
        "secret_access_key": "whatever",
    }


@functools.cache
def _s3() -> int:
    port = free_port()
    start_s3(port)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/images", method="PUT")
    with urllib.request.urlopen(request, timeout=_SECONDS):
        return port


def start_s3(port: int) -> subprocess.Popen[bytes]:
    """moto's server on ``port``, ready, with no bucket."""
    peers.require("moto")
    process = _start(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    _wait(process, lambda: _connects(port))
    return process


@functools.cache
def _azure() -> int:
    peers.require("azurite-blob")
    port = free_port()
    folder = tempfile.TemporaryDirectory(prefix="vmimg-azurite-")
    atexit.register(folder.cleanup)
    process = _start(
        *(str(peers.find("azurite-blob")), "--blobHost", "127.0.0.1", "--blobPort", str(port)),
        *("--location", folder.name, "--silent", "--skipApiVersionCheck", "--disableTelemetry"),
    )
    _wait(process, lambda: _connects(port))
    _make_container(port)
    return port


def _make_container(port: int) -> None:
    """obstore makes none. The signature: Microsoft, "Authorize with Shared Key"."""
    about = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    said = "".join(f"{name}:{value}\n" for name, value in sorted(about.items()))
    path = f"/{_ACCOUNT}/{_ACCOUNT}/images"
    text = "PUT" + "\n" * 12 + said + path + "\nrestype:container"
    key = base64.b64decode(AZURE_KEY)
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{_ACCOUNT}/images?restype=container",
        method="PUT",
        headers={**about, "Authorization": f"SharedKey {_ACCOUNT}:{signature}"},
    )
    with urllib.request.urlopen(request, timeout=_SECONDS):
        pass


def _start(*command: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            _stop(process)
            pytest.fail(f"{process.args!r} does not start")
        time.sleep(0.05)


def _connects(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
