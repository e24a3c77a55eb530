"""Seeds for cloud-init's NoCloud: exact names and contents, and the same bytes each time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import peers
import vmimg
from vmimg.errors import OptionError
from vmimg.formats.info import image_info

pytestmark = pytest.mark.peer("pycdlib")

USER = b"#cloud-config\nhostname: x\n"


def content(disc: Path, name: str, *flags: str) -> bytes:
    return peers.run("isoinfo", *flags, "-i", disc, "-x", f"/{name}").stdout


@pytest.mark.peer("isoinfo", "xorriso")
def test_files_have_exactly_their_names_and_contents(tmp_path: Path) -> None:
    disc = tmp_path / "seed.iso"
    files = {
        "user-data": USER,
        "meta-data": b"instance-id: mine\n",
        "network-config": b"version: 2\n",
        "vendor-data": b"#!/bin/sh\n",
    }
    result = vmimg.create_seed(
        disc,
        files["user-data"],
        meta_data=files["meta-data"],
        network_config=files["network-config"],
        vendor_data=files["vendor-data"],
    )
    assert result.instance_id is None and result.warnings == ()
    assert sorted(result.files) == sorted(files)
    for name, data in files.items():
        assert content(disc, name, "-R") == content(disc, name, "-J") == data
    said = peers.run("xorriso", "-indev", disc, "-pvd_info").stdout.decode()
    assert re.search(r"^Volume Id +: CIDATA$", said, re.MULTILINE)
    listed = peers.run("isoinfo", "-f", "-R", "-i", disc).stdout.decode().split()
    assert sorted(listed) == sorted(f"/{name}" for name in files)
    assert image_info(disc)[0].image.details["label"] == "CIDATA"


@pytest.mark.peer("isoinfo")
def test_meta_data_is_made_where_there_is_none(tmp_path: Path) -> None:
    disc = tmp_path / "seed.iso"
    result = vmimg.create_seed(disc, USER, hostname="web-1.example.org")
    assert result.instance_id is not None
    assert content(disc, "meta-data", "-R").decode().splitlines() == [
        f'instance-id: "{result.instance_id}"',
        'local-hostname: "web-1.example.org"',
    ]
    vmimg.create_seed(disc, USER, instance_id='a "b": c', replace=True)
    assert content(disc, "meta-data", "-R") == b'instance-id: "a \\"b\\": c"\n'


def test_equal_seeds_are_equal_and_others_are_other_instances(tmp_path: Path) -> None:
    one = vmimg.create_seed(tmp_path / "1.iso", USER, hostname="a")
    two = vmimg.create_seed(tmp_path / "2.iso", USER, hostname="a")
    assert (tmp_path / "1.iso").read_bytes() == (tmp_path / "2.iso").read_bytes()
    others = {
        vmimg.create_seed(tmp_path / "3.iso", data, replace=True, **settings).instance_id
        for data, settings in (
            (USER + b"\n", {"hostname": "a"}),
            (USER, {"hostname": "b"}),
            (USER, {}),
            (USER, {"network_config": b"a"}),
            (USER, {"vendor_data": b"a"}),
        )
    }
    assert one.instance_id == two.instance_id
    assert len(others | {one.instance_id}) == 6


@pytest.mark.parametrize(
    "data",
    [
        b"#cloud-config\n",
        b"#cloud-config-archive\n",
        b"#!/bin/sh\n",
        b"## template: jinja\n#cloud-config\n",
        b"Content-Type: multipart/mixed; boundary=x\n",
        b"MIME-Version: 1.0\n",
        b"#include\nhttp://example.org/\n",
        b"#cloud-boothook\n",
        b"\x1f\x8b\x08",
    ],
)
def test_what_cloud_init_takes_is_taken_silently(tmp_path: Path, data: bytes) -> None:
    assert vmimg.create_seed(tmp_path / "a.iso", data).warnings == ()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "being empty"),
        (b"\n#cloud-config\n", "empty line"),
        (b"\xef\xbb\xbf#cloud-config\n", "byte order mark"),
        (b"# cloud-config\n", "'# cloud-config'"),
        (b"users: []\n", "'users: []'"),
        (b"\x1b[31m\xff\n", "x1b"),
    ],
)
def test_what_it_does_not_take_is_said(tmp_path: Path, data: bytes, says: str) -> None:
    (warning,) = vmimg.create_seed(tmp_path / "a.iso", data).warnings
    assert "user-data" in warning and says in warning and warning.isprintable()
    (warning,) = vmimg.create_seed(tmp_path / "b.iso", USER, vendor_data=data).warnings
    assert "vendor-data" in warning


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"meta_data": b"", "hostname": "a"}, "meta-data that is given"),
        ({"meta_data": b"", "instance_id": "a"}, "meta-data that is given"),
        ({"hostname": "a_b"}, "not a host name"),
        ({"hostname": "-a"}, "not a host name"),
        ({"hostname": ""}, "not a host name"),
        ({"hostname": "a\nb"}, "not a host name"),
        ({"hostname": "a" * 64}, "not a host name"),
        ({"instance_id": ""}, "not an instance id"),
        ({"instance_id": "a\nb"}, "not an instance id"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        vmimg.create_seed(tmp_path / "a.iso", USER, **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
