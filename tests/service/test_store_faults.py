"""What stores leave behind when something fails: the system, the service, the process itself."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults import Faults, ordeal
from object_servers import AZURE_KEY, REMOTE, address, free_port, start_s3
from vmimg.errors import StorageError
from vmimg.service.stores.base import Exists, NotFound, Store, StoreFull, StoreUnreachable
from vmimg.service.stores.file import FileStore
from vmimg.service.stores.registry import store_from
from vmimg.storage import output

KEY = "3fa1c2d8-0b7e-4a52-9a51-0d2f6f1e0001"
MIB = 1 << 20


@pytest.fixture(params=["without a name", "with a name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of making a file."""
    if request.param == "with a name":
        monkeypatch.setattr(output, "_CAN_LINK", False)
    return str(request.param)


def file_store(folder: Path, *, capacity: int | None = None) -> FileStore:
    store = FileStore("mine", folder / "store", capacity=capacity)
    store.prepare()
    return store


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


# The system fails


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_whatever_call_fails_a_put_is_there_whole_or_not_at_all(tmp_path: Path, error: int) -> None:
    def operation(folder: Path) -> None:
        with FileStore("mine", folder / "store").put(KEY) as putting:
            putting.write(bytes(70_000))
            putting.write(b"the end")

    calls = ordeal(tmp_path, lambda folder: file_store(folder) and None, operation, error=error)
    assert calls > 10


def test_whatever_call_fails_what_is_deleted_is_gone_or_whole(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    for at in range(1, 20):
        if not list(store.list()):
            with store.put(KEY) as putting:
                putting.write(b"whole")
        with Faults(at=at) as faults:
            try:
                store.delete(KEY)
            except StorageError:
                assert store.read(KEY, 0, 5) == b"whole"
            else:
                assert names(tmp_path) == []
        if not faults.failed:
            return
    raise AssertionError("not reached")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("room", [0, 1000, 3 * MIB])
def test_a_disk_that_runs_full_is_a_full_store_and_nothing_is_seen(
    tmp_path: Path, room: int
) -> None:
    store = file_store(tmp_path)
    with Faults(room=room), pytest.raises(StoreFull) as raised:  # noqa: SIM117
        with store.put(KEY) as putting:
            for _ in range(8):
                putting.write(bytes(MIB))
    assert KEY in str(raised.value)
    assert str(tmp_path) not in str(raised.value), "paths of the host are nobody's business"
    assert names(tmp_path) == []
    with store.put(KEY) as putting:
        putting.write(b"when there is room again")
    assert store.size(KEY) == 24


@pytest.mark.usefixtures("way")
def test_a_disk_that_is_full_only_when_it_is_made_durable(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    putting = store.put(KEY)
    putting.write(bytes(MIB))
    with (
        Faults(at=1, kinds={"fsync"}, error=errno.ENOSPC),
        pytest.raises(StoreFull),
    ):
        putting.commit()
    assert names(tmp_path) == []


@pytest.mark.usefixtures("way")
def test_a_write_that_fails_ends_the_put(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    putting = store.put(KEY)
    with Faults(at=1, kinds={"pwritev"}), pytest.raises(StorageError):
        putting.write(b"lost")
    assert names(tmp_path) == []
    for late in (putting.commit, lambda: putting.write(b"more")):
        with pytest.raises(StorageError, match="has ended"):
            late()
    assert list(store.list()) == []


def test_a_failed_put_gives_its_share_of_the_capacity_back(tmp_path: Path) -> None:
    store = file_store(tmp_path, capacity=2 * MIB)
    for _ in range(5):
        with Faults(at=2, kinds={"pwritev"}), pytest.raises(StorageError):  # noqa: SIM117
            with store.put(KEY) as putting:
                putting.write(bytes(MIB))
                putting.write(bytes(MIB))
    assert store.free() == 2 * MIB


def test_writes_that_come_short_and_late_are_finished(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    data = os.urandom(3 * MIB)
    with Faults(short=True, slow=True), store.put(KEY) as putting:
        for start in range(0, len(data), MIB):
            putting.write(data[start : start + MIB])
    assert store.read(KEY, 0, len(data)) == data


def test_every_call_that_reads_can_fail_with_an_error_of_stores(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    with store.put(KEY) as putting:
        putting.write(b"whole")
    for at in range(1, 10):
        with Faults(at=at) as faults:
            try:
                assert store.read(KEY, 0, 5) == b"whole"
            except StorageError as error:
                assert not isinstance(error, NotFound)
        if not faults.failed:
            return
    raise AssertionError("not reached")


@pytest.mark.usefixtures("way")
def test_a_put_is_durable_with_its_name(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    putting = store.put(KEY)
    putting.write(b"x")
    with Faults(kinds={"fsync"}) as faults:
        putting.commit()
    assert faults.calls >= 2, "the file, and the directory that names it"


# The process is killed

_PUT = """
import json, sys, time
from vmimg.storage import output
from vmimg.service.stores.registry import store_from
said = json.loads(sys.argv[1])
if said["named"]:
    output._CAN_LINK = False
store = store_from("mine", said["url"], said["options"])
putting = store.put(said["key"])
for _ in range(said["pieces"]):
    putting.write(bytes(1 << 20))
print("written", flush=True)
time.sleep(60)
"""


@contextmanager
def putting_child(
    url: str, options: dict[str, str], *, named: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has written 20 MiB of an upload, and waits."""
    said = {"url": url, "options": options, "named": named, "key": KEY, "pieces": 20}
    with subprocess.Popen(
        [sys.executable, "-c", _PUT, json.dumps(said)], stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"written\n"
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("kind", ["file", "file with names", *REMOTE])
def test_a_put_that_is_killed_leaves_nothing_that_is_seen(kind: str, tmp_path: Path) -> None:
    url, options = address(kind, tmp_path)
    store = store_from("mine", url, options)
    store.prepare()
    with putting_child(url, options, named=kind == "file with names") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.size(KEY)
    assert store.sweep() == (1 if kind == "file with names" else 0)
    assert names(tmp_path) == []
    with store.put(KEY) as putting:
        putting.write(b"a new start")
    assert store.read(KEY, 0, 11) == b"a new start"


def test_the_sweep_leaves_what_another_process_is_writing(tmp_path: Path) -> None:
    url, options = address("file with names", tmp_path)
    store = store_from("mine", url, options)
    store.prepare()
    with putting_child(url, options, named=True):
        assert store.sweep() == 0
        assert len(names(tmp_path)) == 1


# The service is not there


@pytest.fixture(params=["s3", "gs", "az"])
def absent(request: pytest.FixtureRequest) -> Store:
    """A store at whose address nobody listens."""
    pytest.importorskip("obstore")
    return _at(request.param, free_port(), retry_for="0.5")


def _at(scheme: str, port: int, **more: str) -> Store:
    options = {
        "s3": {"access_key_id": "anybody", "secret_access_key": "a secret"},
        "gs": {"bearer_token": "a secret"},
        "az": {"account_name": "anybody", "account_key": AZURE_KEY},
    }[scheme]
    options = {**options, "endpoint": f"http://127.0.0.1:{port}", **more}
    return store_from("mine", f"{scheme}://bucket", options)


def test_a_service_that_does_not_answer_is_worth_another_try(absent: Store) -> None:
    for operation in (
        lambda: absent.put(KEY),
        lambda: absent.read(KEY, 0, 1),
        lambda: absent.size(KEY),
        lambda: absent.delete(KEY),
        lambda: list(absent.list()),
        absent.prepare,
    ):
        with pytest.raises(StoreUnreachable, match=r"mine: .*does not answer") as raised:
            operation()
        assert "127.0.0.1" not in str(raised.value), "nor are addresses"


@pytest.mark.peer("moto")
def test_a_service_that_goes_away_in_the_middle_is_told_and_the_put_is_over() -> None:
    port = free_port()
    server = start_s3(port)
    store = _bucket(port, retry_for="0.5")
    putting = store.put(KEY)
    putting.write(bytes(10 * MIB))
    server.kill()
    server.wait()
    with pytest.raises(StoreUnreachable):
        for _ in range(40):
            putting.write(bytes(MIB))
    with pytest.raises(StorageError, match="has ended"):
        putting.commit()


@pytest.mark.peer("moto")
def test_a_service_that_goes_away_before_the_end_is_told() -> None:
    port = free_port()
    server = start_s3(port)
    store = _bucket(port, retry_for="0.5")
    putting = store.put(KEY)
    putting.write(bytes(10 * MIB))
    server.kill()
    server.wait()
    with pytest.raises(StoreUnreachable):
        putting.commit()


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_service_that_stays_silent_is_given_up(scheme: str) -> None:
    pytest.importorskip("obstore")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        store = _at(scheme, port, timeout="0.5", retry_for="0")
        start = time.monotonic()
        for operation in (lambda: store.size(KEY), lambda: store.put(KEY)):
            with pytest.raises(StoreUnreachable, match="does not answer"):
                operation()
        assert time.monotonic() - start < 30


@pytest.mark.peer("moto")
@pytest.mark.parametrize("size", [1, 20])
def test_an_aborted_put_leaves_no_parts_that_cost_money(size: int) -> None:
    port = free_port()
    start_s3(port)
    store = _bucket(port)
    putting = store.put(KEY)
    for _ in range(size):
        putting.write(bytes(MIB))
    assert _uploads(port) == (size > 8)
    putting.abort()
    assert _uploads(port) == 0


@pytest.mark.peer("moto")
def test_a_put_that_comes_second_leaves_no_parts() -> None:
    port = free_port()
    start_s3(port)
    store = _bucket(port)
    first, second = store.put(KEY), store.put(KEY)
    for putting in (first, second):
        putting.write(bytes(20 * MIB))
    first.commit()
    with pytest.raises(Exists):
        second.commit()
    assert _uploads(port) == 0
    assert store.size(KEY) == 20 * MIB


@pytest.mark.peer("moto")
def test_a_service_that_comes_back_in_time_is_waited_for() -> None:
    port = free_port()
    store = store_from("mine", "s3://missing", _said(port))
    started = threading.Thread(target=lambda: (time.sleep(1), start_s3(port)))
    started.start()
    try:
        # An answer, by a server that was not there when it was asked.
        with pytest.raises(NotFound):
            store.size(KEY)
    finally:
        started.join()


@pytest.mark.peer("moto")
def test_a_bucket_that_is_not_there_is_told() -> None:
    port = free_port()
    start_s3(port)
    store = store_from("mine", "s3://missing/prefix", _said(port))
    with pytest.raises(StorageError, match=r"mine: .*s3://missing/prefix"):
        store.prepare()
    with (
        pytest.raises(StorageError, match=r"there is no s3://missing/prefix"),
        store.put(KEY) as putting,
    ):
        putting.write(b"x")


@pytest.mark.peer("azurite-blob")
def test_refused_credentials_are_told_and_not_shown(tmp_path: Path) -> None:
    url, options = address("az", tmp_path)
    wrong = "c2VjcmV0" + AZURE_KEY[8:]
    store = store_from("mine", url, {**options, "account_key": wrong})
    for operation in (store.prepare, lambda: store.put(KEY), lambda: store.read(KEY, 0, 1)):
        with pytest.raises(StorageError, match="refuses the credentials") as raised:
            operation()
        assert not isinstance(raised.value, StoreUnreachable)
        told = str(raised.value) + repr(raised.value) + repr(store)
        assert wrong not in told and options["endpoint"] not in told


def _uploads(port: int) -> int:
    """How many uploads have begun in the bucket of `_bucket`, and have not ended."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/mine?uploads", timeout=30) as answer:
        found: int = answer.read().count(b"<UploadId>")
        return found


def _said(port: int, **more: str) -> dict[str, str]:
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "access_key_id": "anybody",
        "secret_access_key": "whatever",
        **more,
    }


def _bucket(port: int, **options: str) -> Store:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/mine", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        return store_from("mine", "s3://mine", _said(port, **options))


# Many at once

_MANY = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from vmimg.service.stores.registry import store_from
said = json.loads(sys.argv[1])
store = store_from("mine", said["url"], said["options"])
store.prepare()

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10

before = high_water()
puttings = [store.put(f"many-{number}") for number in range(64)]

def write(number):
    for _ in range(16):
        puttings[number].write(bytes([number]) * (1 << 20))

# All of them are open, and full, before the first one ends.
with ThreadPoolExecutor(64) as pool:
    list(pool.map(write, range(64)))
    list(pool.map(lambda putting: putting.commit(), puttings))
print(high_water() - before, len(list(store.list())), store.read("many-63", 5 << 20, 1)[0])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells memory so")
@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("file", 150 * MIB),
        # A part of 8 MiB for each, a piece of 1 MiB that is on its way into it, and some to spare.
        pytest.param("s3", 660 * MIB, marks=[pytest.mark.peer("moto"), pytest.mark.slow]),
        pytest.param("az", 660 * MIB, marks=[pytest.mark.peer("azurite-blob"), pytest.mark.slow]),
    ],
)
def test_many_puts_at_once_take_little_memory(kind: str, most: int, tmp_path: Path) -> None:
    """64 of 16 MiB each; the store's own part of it, in a process that does nothing else."""
    url, options = address(kind, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _MANY, json.dumps({"url": url, "options": options})],
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode()
    taken, stored, byte = (int(word) for word in done.stdout.split())
    assert (stored, byte) == (64, 63)
    assert taken < most
