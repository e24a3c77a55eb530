"""A store from its URL, and what is said of a wrong one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from object_servers import AZURE_KEY
from vmimg.errors import OptionError, StorageError
from vmimg.service.stores.file import FileStore
from vmimg.service.stores.objects import ObjectStore
from vmimg.service.stores.registry import store_from

S3 = {"access_key_id": "AKIA", "secret_access_key": "very secret"}
AZ = {"account_name": "mine", "account_key": AZURE_KEY}
GS = {"bearer_token": "very secret"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tools of the services take from it is not that of whoever runs the tests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)


def test_a_path_is_a_directory(tmp_path: Path) -> None:
    store = store_from("mine", f"file://{tmp_path}/with%20space", {"capacity": "10 GiB"})
    assert isinstance(store, FileStore)
    assert not (tmp_path / "with space").exists(), "nothing is made before it is used"
    store.prepare()
    assert (tmp_path / "with space").is_dir()
    assert store.url == f"file://{tmp_path}/with%20space"
    assert (store.free() or 0) <= 10 << 30


@pytest.mark.parametrize(
    ("url", "options", "shown"),
    [
        ("s3://bucket/some/prefix", {**S3, "region": "eu-west-1"}, "s3://bucket/some/prefix"),
        ("s3://bucket?endpoint=http://127.0.0.1:9000", S3, "s3://bucket"),
        ("s3://bucket", {"anonymous": "true"}, "s3://bucket"),
        ("s3://bucket/", {}, "s3://bucket"),
        ("gs://bucket/prefix", GS, "gs://bucket/prefix"),
        ("az://container/prefix", AZ, "az://container/prefix"),
        ("memory://", {}, "memory://"),
    ],
)
def test_the_scheme_says_what_it_is(url: str, options: dict[str, str], shown: str) -> None:
    pytest.importorskip("obstore")
    store = store_from("mine", url, options)
    assert isinstance(store, ObjectStore)
    assert store.name == "mine"
    assert store.url == shown
    assert "secret" not in repr(store)


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("", {}, "begins with none of file://, s3://, gs://, az://, memory://"),
        ("/var/lib/images", {}, "begins with none of file://"),
        ("ftp://host/path", {}, "begins with none of file://"),
        ("http://[", {}, "this is no URL"),
        ("file:relative", {}, "names no directory"),
        ("file:///", {}, "names no directory"),
        ("file://var/lib/images", {}, "takes three slashes"),
        ("file:///var/../etc", {}, "no absolute path"),
        ("file:///var/lib/a%00b", {}, "has a NUL"),
        ("file:///var/lib/a#b", {}, "write %23"),
        ("file:///var/lib/a", {"capacity": "much"}, "capacity: 'much' is not a size"),
        ("file:///var/lib/a", {"capacitiy": "1G"}, "no option 'capacitiy'; there are capacity"),
        ("file:///var/lib/a?capacity=1G", {"capacity": "2G"}, "capacity stands in the URL and in"),
        ("s3://", S3, "names no bucket: s3://bucket/prefix"),
        ("s3:///prefix", S3, "names no bucket"),
        ("s3://bucket/../other", S3, "has dots for a part"),
        ("s3://key:secret@bucket", {}, "a user, a password or a port"),
        ("s3://bucket:80", S3, "a user, a password or a port"),
        ("s3://bucket?secret_access_key=x", {"access_key_id": "y"}, "URLs are shown"),
        ("s3://bucket", {"access_key_id": "y"}, "of no use without secret_access_key"),
        ("s3://bucket", {"secret_access_key": "y"}, "of no use without access_key_id"),
        ("s3://bucket", {**S3, "endpoint": "localhost:9000"}, "no URL like https://host:port"),
        ("s3://bucket", {**S3, "endpoint": "http://host:port"}, "no URL like https://host:port"),
        ("s3://bucket", {**S3, "endpoint": "http://a:b@host"}, "no URL like https://host:port"),
        ("s3://bucket", {**S3, "part_size": "1M"}, "between 5 MiB and 1 GiB"),
        ("s3://bucket", {**S3, "timeout": "soon"}, "timeout = 'soon' is no number"),
        ("s3://bucket", {**S3, "retry_for": "-1"}, "retry_for = '-1' is no number from 0 to 300"),
        ("s3://bucket", {**S3, "timeout": "nan"}, "timeout = 'nan' is no number"),
        ("s3://bucket", {**S3, "ca_file": "/not/there"}, "ca_file /not/there: no such file"),
        ("s3://bucket", {**S3, "ca_file": "/etc/hostname"}, "No certificates found"),
        ("s3://bucket", {"anonymous": "perhaps"}, '"perhaps" as boolean'),
        ("s3://bucket", {**S3, "encryption": "much"}, "Invalid encryption type: much"),
        ("az://container", {}, "Account must be specified"),
        ("az://container", {**AZ, "account_key": "not base64!"}, "Invalid Access Key"),
        ("az://", AZ, "names no container"),
        ("gs://bucket", {"service_account": "/not/there"}, "Unable to open service account file"),
        ("gs://bucket", {"service_account_key": "{}"}, "missing field"),
        ("memory://", {"region": "x"}, "no option 'region'"),
    ],
)
def test_a_mistake_is_told_once_with_the_store_and_no_secret(
    url: str, options: dict[str, str], told: str
) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(OptionError, match=r"^stores\.mine: ") as raised:
        store_from("mine", url, options)
    message = str(raised.value)
    assert told in message
    assert "\n" not in message
    assert "very secret" not in message
    assert AZURE_KEY not in message


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no directory")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"mine: .*cannot use it"):
            store_from("mine", f"file://{path}").prepare()


def test_a_directory_needs_no_library_of_services(tmp_path: Path) -> None:
    """Nor does the rest of the registry, until an object store is asked for."""
    script = f"""
import sys
sys.modules["obstore"] = None
from vmimg.errors import UnsupportedFeature
from vmimg.service.stores.registry import store_from
store = store_from("mine", "file://{tmp_path}/store")
store.prepare()
with store.put("aaaa") as putting:
    putting.write(b"x")
try:
    store_from("mine", "s3://bucket")
except UnsupportedFeature as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stores.mine: this needs obstore; pip install 'vmimg[service]'" in done.stdout
