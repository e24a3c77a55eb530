"""The data of images: uploaded, vetted, downloaded; whole, in parts, in other formats."""

from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest

import peers
import vmimg
from asking import Asked, Client

OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk of 8 MiB with data here and there."""
    chance = random.Random(5)
    data = bytearray(8 << 20)
    for at in (0, 1 << 20, 5 << 20):
        data[at : at + 200_000] = chance.randbytes(200_000)
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def qcow2(disk: Path) -> Path:
    """The same disk as qcow2."""
    path = disk.with_suffix(".qcow2")
    vmimg.convert(disk, path, format="qcow2")
    return path


def uploaded(client: Client, path: Path, disk_format: str) -> str:
    """The identifier of an image with the file's bytes."""
    return str(client.active(path.read_bytes(), disk_format=disk_format)["id"])


def test_what_was_uploaded_comes_back(service: Asked, qcow2: Path) -> None:
    data = qcow2.read_bytes()
    image = service.admin.active(data, disk_format="qcow2")
    assert (image["status"], image["size"]) == ("active", len(data))
    assert image["checksum"] == hashlib.md5(data).hexdigest()
    assert image["os_hash_algo"] == "sha512"
    assert image["os_hash_value"] == hashlib.sha512(data).hexdigest()
    answer = service.admin.get(f"/v2/images/{image['id']}/file")
    assert answer.content == data
    assert answer.headers["content-md5"] == image["checksum"]
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["content-type"] == "application/octet-stream"


def test_the_virtual_size_is_read_from_the_disk(service: Asked, qcow2: Path) -> None:
    assert service.admin.active(qcow2.read_bytes(), disk_format="qcow2")["virtual_size"] == 8 << 20


def test_a_queued_image_has_no_data(service: Asked) -> None:
    image = service.admin.image()
    assert service.admin.get(f"/v2/images/{image['id']}/file").status_code == 204


def test_an_image_takes_data_once(service: Asked) -> None:
    image = service.admin.active(b"first")
    answer = service.admin.upload(image["id"], b"second")
    assert answer.status_code == 409
    assert service.admin.get(f"/v2/images/{image['id']}/file").content == b"first"


def test_data_must_be_said_to_be_octets(service: Asked) -> None:
    image = service.admin.image()
    path = f"/v2/images/{image['id']}/file"
    assert service.admin.request("PUT", path, content=b"x").status_code == 415
    assert service.admin.shown(image["id"])["status"] == "queued"


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=5-9", slice(5, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=0-999999999", slice(0, None)),
        ("bytes=-999999999", slice(0, None)),
    ],
)
def test_a_range_is_a_part_of_the_whole(service: Asked, asked: str, part: slice) -> None:
    data = random.Random(1).randbytes(3 << 20)
    image = service.admin.active(data)
    answer = service.admin.get(f"/v2/images/{image['id']}/file", headers={"range": asked})
    assert answer.status_code == 206
    assert answer.content == data[part]
    start = data.index(data[part][:100]) if part.start else 0
    end = start + len(data[part]) - 1
    assert answer.headers["content-range"] == f"bytes {start}-{end}/{len(data)}"


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=5-3", "bytes=x-y", "bytes=-0", "lines=1-2"])
def test_a_range_outside_of_the_data_is_refused(service: Asked, asked: str) -> None:
    image = service.admin.active(b"0123456789")
    answer = service.admin.get(f"/v2/images/{image['id']}/file", headers={"range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */10"


def test_a_client_that_has_it_gets_nothing(service: Asked) -> None:
    path = f"/v2/images/{service.admin.active(b'data')['id']}/file"
    tag = service.admin.get(path).headers["etag"]
    answer = service.admin.get(path, headers={"if-none-match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert service.admin.get(path, headers={"if-match": '"another"'}).status_code == 412
    other = service.admin.get(path, headers={"range": "bytes=1-2", "if-range": '"another"'})
    assert (other.status_code, other.content) == (200, b"data")


def test_head_tells_the_size_and_sends_nothing(service: Asked, qcow2: Path) -> None:
    image_id = uploaded(service.admin, qcow2, "qcow2")
    for query in ("", "?format=vhdx"):
        path = f"/v2/images/{image_id}/file{query}"
        whole = service.admin.get(path)
        answer = service.admin.request("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(whole.content))
        assert answer.headers["etag"] == whole.headers["etag"]


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("format", ["raw", "qcow2", "vhdx", "vmdk", "vdi", "vpc", "parallels"])
@pytest.mark.parametrize("stored", ["raw", "qcow2"])
def test_an_image_comes_in_any_format(
    service: Asked, disk: Path, qcow2: Path, tmp_path: Path, stored: str, format: str
) -> None:
    image_id = uploaded(service.admin, disk if stored == "raw" else qcow2, stored)
    answer = service.admin.get(f"/v2/images/{image_id}/file?format={format}")
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(answer.content))
    got = tmp_path / "got"
    got.write_bytes(answer.content)
    peers.run("qemu-img", "compare", "-f", format, "-F", "raw", got, disk)


def test_parts_of_another_format_are_parts_of_the_same_file(service: Asked, qcow2: Path) -> None:
    image_id = uploaded(service.admin, qcow2, "qcow2")
    path = f"/v2/images/{image_id}/file?format=vhdx&block_size=1M"
    whole = service.admin.get(path).content
    chance = random.Random(7)
    for _ in range(20):
        start = chance.randrange(len(whole))
        end = chance.randrange(start, len(whole))
        answer = service.admin.get(path, headers={"range": f"bytes={start}-{end}"})
        assert answer.status_code == 206
        assert answer.content == whole[start : end + 1]


@pytest.mark.peer("qemu-img")
def test_a_compressed_format_streams_without_a_length(
    service: Asked, disk: Path, qcow2: Path, tmp_path: Path
) -> None:
    image_id = uploaded(service.admin, qcow2, "qcow2")
    for query in ("format=vmdk&subformat=streamOptimized", "format=qcow2&compress=true"):
        answer = service.admin.get(f"/v2/images/{image_id}/file?{query}")
        assert answer.status_code == 200
        assert "content-length" not in answer.headers
        got = tmp_path / "got"
        got.write_bytes(answer.content)
        assert got.stat().st_size < 8 << 20
        peers.run("qemu-img", "compare", got, disk)


@pytest.mark.parametrize("query", ["format=ova", "format=ova&compress=true"])
def test_an_image_comes_as_an_appliance(
    service: Asked, disk: Path, qcow2: Path, tmp_path: Path, query: str
) -> None:
    image = service.admin.active(
        qcow2.read_bytes(), disk_format="qcow2", name="web", min_ram=2048, hw_cpu_cores="2",
        hw_firmware_type="uefi", hw_vif_model="vmxnet3",
    )  # fmt: skip
    answer = service.admin.get(f"/v2/images/{image['id']}/file?{query}")
    assert answer.status_code == 200
    assert ("content-length" in answer.headers) == ("compress" not in query)
    got = tmp_path / "web.ova"
    got.write_bytes(answer.content)
    assert vmimg.compare(got, disk).identical
    with vmimg.open_bundle(got) as bundle:
        [machine] = bundle.machines
    assert (machine.name, machine.memory, machine.cpus.count) == ("web", 2 << 30, 2)
    assert (machine.firmware.kind, machine.networks[0].model) == ("uefi", "vmxnet3")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("format=floppy", 400),
        ("format=vhdx&format=raw", 400),
        ("format=vhdx&block_size=7", 400),
        ("format=vmdk&subformat=twoGbMaxExtentSparse", 400),
    ],
)
def test_a_format_that_there_is_not_is_told(
    service: Asked, qcow2: Path, query: str, status: int
) -> None:
    image_id = uploaded(service.admin, qcow2, "qcow2")
    answer = service.admin.get(f"/v2/images/{image_id}/file?{query}")
    assert answer.status_code == status
    assert "Traceback" not in answer.text


def test_what_is_no_disk_comes_as_it_is_only(service: Asked) -> None:
    initrd = gzip.compress(b"070701" + bytes(1000))
    image = service.admin.active(initrd, disk_format="ari", container_format="ari")
    assert service.admin.get(f"/v2/images/{image['id']}/file?format=qcow2").status_code == 409


# What is refused


def refused(service: Asked, data: bytes, **fields: str) -> str:
    """The reason for which the image of these bytes is refused; nothing of it is stored."""
    image = service.admin.image(**fields)
    answer = service.admin.upload(image["id"], data)
    assert answer.status_code == 415, answer.text
    shown = service.admin.shown(image["id"])
    assert (shown["status"], shown["size"]) == ("queued", None)
    assert shown["message"].startswith("The image is refused: ")
    assert list(service.service.stores["default"].list()) == []
    return str(shown["message"])


def test_a_qcow2_that_is_called_raw_is_refused(service: Asked, qcow2: Path) -> None:
    assert "qcow2" in refused(service, qcow2.read_bytes(), disk_format="raw")


def test_a_raw_disk_that_is_called_qcow2_is_refused(service: Asked, disk: Path) -> None:
    assert "declared-wrong" in refused(service, disk.read_bytes(), disk_format="qcow2")


def test_a_hidden_backing_file_is_refused(service: Asked, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    vmimg.create(
        tmp_path / "thief.qcow2", 1 << 20, format="qcow2", backing="secret", backing_format="raw"
    )
    told = refused(service, (tmp_path / "thief.qcow2").read_bytes(), disk_format="qcow2")
    assert "backing-file" in told


def test_a_file_of_two_formats_is_refused(service: Asked, qcow2: Path, tmp_path: Path) -> None:
    data = bytearray(qcow2.read_bytes())
    # A VHD's footer behind it: another reader takes that for what the file is.
    footer = vhd_footer(tmp_path)
    assert "several-formats" in refused(service, bytes(data) + footer, disk_format="qcow2")


def vhd_footer(folder: Path) -> bytes:
    """The last sector of a fixed VHD."""
    path = folder / "fixed.vhd"
    vmimg.create(path, 1 << 20, format="vhd", options={"subformat": "fixed"})
    return path.read_bytes()[-512:]


def test_who_was_refused_may_try_again(service: Asked, qcow2: Path) -> None:
    image = service.admin.image(disk_format="qcow2")
    assert service.admin.upload(image["id"], b"not a qcow2 at all").status_code == 415
    assert service.admin.upload(image["id"], qcow2.read_bytes()).status_code == 204
    shown = service.admin.shown(image["id"])
    assert shown["status"] == "active"
    assert "message" not in shown


@pytest.mark.parametrize("said", [{"limits": {"image_size": 1000}}])
def test_an_image_above_the_limit_is_refused(service: Asked) -> None:
    image = service.admin.image()
    assert service.admin.upload(image["id"], b"x" * 1001).status_code == 413
    pieces = (b"x" * 100 for _ in range(11))
    answer = service.admin.request(
        "PUT", f"/v2/images/{image['id']}/file", content=pieces, headers=OCTETS
    )
    assert answer.status_code == 413
    assert service.admin.upload(image["id"], b"x" * 1000).status_code == 204


@pytest.mark.parametrize("said", [{"limits": {"virtual_size": 1 << 20}}])
def test_a_disk_above_the_limit_is_refused(service: Asked, qcow2: Path) -> None:
    assert "virtual size" in refused(service, qcow2.read_bytes(), disk_format="qcow2")


@pytest.mark.parametrize("said", [{"vetting": {"policy": ""}}])
def test_without_a_policy_everything_is_stored(service: Asked, qcow2: Path) -> None:
    image = service.admin.active(qcow2.read_bytes(), disk_format="raw")
    assert image["status"] == "active"


# What is learned


@pytest.fixture
def uefi(tmp_path: Path) -> bytes:
    """A disk that boots by UEFI, with the root of an x86-64."""
    peers.require("sgdisk")
    path = tmp_path / "uefi.raw"
    with open(path, "wb") as file:
        file.truncate(16 << 20)
    peers.run("sgdisk", "-n", "1:0:+4M", "-t", "1:ef00", "-n", "2:0:0", "-t", "2:8304", path)
    return path.read_bytes()


def test_the_firmware_is_read_from_the_partition_table(service: Asked, uefi: bytes) -> None:
    image = service.admin.active(uefi)
    assert image["hw_firmware_type"] == "uefi"
    assert image["architecture"] == "x86_64"
    owned = service.admin.active(uefi, hw_firmware_type="bios")
    assert owned["hw_firmware_type"] == "bios"


@pytest.mark.parametrize("said", [{"vetting": {"learn": False}}])
def test_properties_are_the_owners_alone_where_the_settings_say_so(
    service: Asked, uefi: bytes
) -> None:
    image = service.admin.active(uefi, os_version="12")
    assert image["os_version"] == "12"
    assert not {"hw_firmware_type", "architecture", "os_distro"} & image.keys()


# Who may


def test_a_deactivated_image_is_for_administrators(service: Asked) -> None:
    blue = service.caller("blue")
    image = blue.active(b"data")
    assert blue.post(f"/v2/images/{image['id']}/actions/deactivate").status_code == 204
    path = f"/v2/images/{image['id']}/file"
    assert blue.get(path).status_code == 403
    assert service.admin.get(path).content == b"data"


def test_another_project_has_no_part_in_it(service: Asked) -> None:
    blue, red = service.caller("blue"), service.caller("red")
    image = blue.active(b"data")
    assert red.get(f"/v2/images/{image['id']}/file").status_code == 404
    queued = blue.image()
    assert red.upload(queued["id"], b"x").status_code == 404


def test_deleted_data_is_gone(service: Asked) -> None:
    image = service.admin.active(b"data")
    assert len(list(service.service.stores["default"].list())) == 1
    assert service.admin.delete(f"/v2/images/{image['id']}").status_code == 204
    assert list(service.service.stores["default"].list()) == []
    assert service.admin.get(f"/v2/images/{image['id']}/file").status_code == 404
