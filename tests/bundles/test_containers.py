"""Container images: KubeVirt's disks made for and read from OCI layouts and Docker's archives."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boxes_by_hand import MACHINE, SIZE, content, disk_file, opened, pack, tar_file, tree

import peers
from samples import awkward_disk
from vmimg.errors import FormatError, OptionError, StorageError, UnsafeImage, VmimgError
from vmimg.machines.losses import without

DISK = awkward_disk(SIZE, seed=5)
RAW = bytes(512) + b"a disk of a container".ljust(512, b".") + bytes(63 << 10)


def _layer(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _descriptor(data: bytes, media: str) -> dict[str, Any]:
    return {"mediaType": media, "digest": _sha(data), "size": len(data)}


def _oci(
    layers: list[bytes], packing: Callable[[bytes], bytes] = bytes, **index: Any
) -> dict[str, bytes]:
    """An OCI layout after the image specification: ``layers`` from the lowest on, each packed."""
    packed = [packing(layer) for layer in layers]
    config = json.dumps(
        {
            "architecture": "arm64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [_sha(layer) for layer in layers]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": _descriptor(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [
                _descriptor(layer, "application/vnd.oci.image.layer.v1.tar") for layer in packed
            ],
        }
    ).encode()
    entry = _descriptor(manifest, "application/vnd.oci.image.manifest.v1+json") | index
    blobs = [*packed, config, manifest]
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        **{"blobs/" + _sha(blob).replace(":", "/"): blob for blob in blobs},
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }


@pytest.mark.peer("skopeo", "umoci")
def test_skopeo_and_umoci_unpack_the_disk_of_a_containerdisk(tmp_path: Path) -> None:
    target = tmp_path / "disk.tar"
    pack("containerdisk", target, [disk_file(tmp_path)], tag="disks/server:1")

    told = peers.run_json("skopeo", "inspect", f"oci-archive:{target}")
    assert (told["Os"], told["Architecture"], len(told["Layers"])) == ("linux", "amd64", 1)
    # It verifies every digest and the diffIDs on the way.
    peers.run("skopeo", "copy", f"oci-archive:{target}", f"oci:{tmp_path}/layout:x")
    peers.run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:x", tmp_path / "un")
    image = tmp_path / "un/rootfs/disk/server-disk1.qcow2"
    peers.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "disk.raw", image)


@pytest.mark.peer("skopeo")
def test_skopeo_takes_the_docker_archive(tmp_path: Path) -> None:
    target = tmp_path / "disk.tar"
    pack("docker", target, [disk_file(tmp_path)], tag="disks/server:1")

    peers.run("skopeo", "copy", f"docker-archive:{target}", f"dir:{tmp_path}/copy")
    listed = peers.run_json("skopeo", "list-tags", f"docker-archive:{target}")
    assert [tag.removeprefix("docker.io/") for tag in listed["Tags"]] == ["disks/server:1"]


@pytest.mark.peer("skopeo")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_disk_is_read_in_a_layer_that_another_program_packed(
    tmp_path: Path, compression: str
) -> None:
    target = tmp_path / "disk.tar"
    pack("oci", target, [disk_file(tmp_path)])
    layout = tmp_path / "layout"
    peers.run(
        "skopeo", "copy", "--dest-compress", "--dest-compress-format", compression,
        f"oci-archive:{target}", f"oci:{layout}:x",
    )  # fmt: skip

    with opened(layout) as bundle:
        assert content(bundle) == DISK
        assert {verdict.state for verdict in bundle.verify()} == {"good"}


@pytest.mark.peer("tar")
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_the_file_in_the_layer_belongs_to_qemu(tmp_path: Path, kind: str) -> None:
    pack(kind, tmp_path / "disk.tar", [disk_file(tmp_path)])
    with opened(tmp_path / "disk.tar") as bundle:
        layer = bundle.images[0].layers[0].member
    peers.run("tar", "-xf", tmp_path / "disk.tar", "-C", tmp_path, layer)

    with tarfile.open(tmp_path / layer) as archive:
        folder, file = archive.getmembers()
    assert (folder.name, folder.isdir(), folder.uid) == ("disk", True, 107)
    assert (file.name, file.uid, file.gid) == ("disk/server-disk1.qcow2", 107, 107)
    assert file.mode == 0o440


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_what_is_packed_is_read_and_verified_in_place(
    tmp_path: Path, kind: str, format: str
) -> None:
    made = pack(kind, tmp_path / "disk.tar", [disk_file(tmp_path)], format=format)

    assert made.size == (tmp_path / "disk.tar").stat().st_size
    with opened(tmp_path / "disk.tar") as bundle:
        assert bundle.kind == kind
        assert content(bundle) == DISK
        assert {verdict.state for verdict in bundle.verify()} == {"good"}
        assert bundle.facts["platforms"] == ["linux/amd64"]


def test_the_archive_is_the_same_whoever_packs_it_when(tmp_path: Path) -> None:
    for number in (1, 2):
        pack("oci", tmp_path / f"{number}.tar", [disk_file(tmp_path)], threads=number)
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_all_of_the_machine_but_its_architecture_is_listed_as_lost(tmp_path: Path) -> None:
    made = pack("oci", tmp_path / "disk.tar", [disk_file(tmp_path)])
    left = without(MACHINE, made.losses)
    assert (left.architecture, left.memory, left.networks) == ("x86_64", 0, ())


def test_a_disk_of_another_program_is_found_below_disk(tmp_path: Path) -> None:
    layers = [_layer({"etc/os-release": b"ID=x\n"}), _layer({"disk/alpine.img": RAW})]
    with opened(tar_file(tmp_path / "image.tar", _oci(layers))) as bundle:
        assert [disk.name for disk in bundle.disks] == ["alpine"]
        assert content(bundle) == RAW
        assert bundle.facts["platforms"] == ["linux/arm64"]
        assert [machine.architecture for machine in bundle.machines] == ["aarch64"]


def test_what_a_build_attests_beside_the_image_is_no_layer(tmp_path: Path) -> None:
    files = _oci([_layer({"disk/x.img": RAW})])
    more = _oci([b'{"_type": "https://in-toto.io/Statement/v0.1"}'])
    index = json.loads(files["index.json"])
    (entry,) = json.loads(more.pop("index.json"))["manifests"]
    # BuildKit's: a manifest like others, but for the type of its layers.
    name = "blobs/" + entry["digest"].replace(":", "/")
    said = more.pop(name).replace(b"vnd.oci.image.layer.v1.tar", b"vnd.in-toto+json")
    index["manifests"].append(entry | {"digest": _sha(said), "size": len(said)})
    files |= more | {"blobs/" + _sha(said).replace(":", "/"): said}
    files["index.json"] = json.dumps(index).encode()
    with opened(tar_file(tmp_path / "image.tar", files)) as bundle:
        assert len(bundle.images) == 2
        assert content(bundle) == RAW


def test_an_upper_layer_hides_the_disk_of_a_lower_one(tmp_path: Path) -> None:
    layers = [_layer({"disk/old.img": RAW}), _layer({"disk/.wh.old.img": b""})]
    with opened(tar_file(tmp_path / "hidden.tar", _oci(layers))) as bundle:
        assert bundle.disks == ()

    layers = [_layer({"disk/a.img": RAW}), _layer({"disk/a.img": RAW[::-1]})]
    with opened(tar_file(tmp_path / "replaced.tar", _oci(layers))) as bundle:
        assert content(bundle) == RAW[::-1]


def test_an_image_without_a_disk_says_so(tmp_path: Path) -> None:
    path = tar_file(tmp_path / "image.tar", _oci([_layer({"bin/sh": b"#!"})]))
    with opened(path) as bundle, pytest.raises(OptionError, match="there is no disk in it"):
        bundle.open_disk()


def test_dockers_old_archives_are_read(tmp_path: Path) -> None:
    layer = _layer({"disk/x.img": RAW})
    config = json.dumps({"architecture": "amd64", "os": "linux",
                         "rootfs": {"diff_ids": [_sha(layer)]}}).encode()  # fmt: skip
    name = _sha(config).removeprefix("sha256:") + ".json"
    said = [{"Config": name, "RepoTags": ["x:1"], "Layers": ["0123/layer.tar"]}]
    files = {"0123/layer.tar": layer, name: config, "manifest.json": json.dumps(said).encode()}
    with opened(tar_file(tmp_path / "x.tar", files)) as bundle:
        assert bundle.facts["tags"] == ["x:1"]
        assert content(bundle) == RAW
        states = {(verdict.subject, verdict.what): verdict.state for verdict in bundle.verify()}
    assert states == {
        (name, "sha256"): "good",
        ("0123/layer.tar", ""): "unlisted",
        ("0123/layer.tar", "diff_id"): "good",
    }


def test_an_archive_that_is_docker_and_oci_is_dockers(tmp_path: Path) -> None:
    layer = _layer({"disk/x.img": RAW})
    files = _oci([layer])
    config = next(name for name, data in files.items() if b'"diff_ids"' in data)
    said = {
        "Config": config,
        "RepoTags": ["x:2"],
        "Layers": ["blobs/" + _sha(layer).replace(":", "/")],
    }
    files["manifest.json"] = json.dumps([said]).encode()
    with opened(tar_file(tmp_path / "x.tar", files)) as bundle:
        assert (bundle.kind, bundle.facts["tags"]) == ("docker", ["x:2"])
        assert content(bundle) == RAW
        assert {verdict.state for verdict in bundle.verify()} == {"good"}


def test_a_blob_that_is_not_what_its_name_says_is_found(tmp_path: Path) -> None:
    files = _oci([_layer({"disk/x.img": RAW})])
    name = next(name for name in files if name.startswith("blobs/"))
    files[name] = files[name][:-1] + b"\1"
    with opened(tar_file(tmp_path / "x.tar", files)) as bundle:
        bad = [verdict for verdict in bundle.verify() if verdict.state == "bad"]
    assert [verdict.subject for verdict in bad] == [name, name]
    assert [verdict.what for verdict in bad] == ["sha256", "diff_id"]


def test_a_blob_that_is_missing_is_told(tmp_path: Path) -> None:
    files = _oci([_layer({"disk/x.img": RAW}), _layer({"more": b"x"})])
    name = [name for name in files if name.startswith("blobs/")][1]
    del files[name]
    with opened(tree(tmp_path / "layout", files)) as bundle:
        states = {verdict.subject: verdict.state for verdict in bundle.verify()}
        assert states[name] == "missing"
        assert content(bundle) == RAW


def test_two_disks_make_no_containerdisk(tmp_path: Path) -> None:
    disks = [disk_file(tmp_path), disk_file(tmp_path, "more.raw")]
    with pytest.raises(OptionError, match="one disk"):
        pack("oci", tmp_path / "x.tar", disks)
    assert not (tmp_path / "x.tar").exists()


def _index(**entry: Any) -> dict[str, bytes]:
    files = _oci([_layer({"disk/x.img": RAW})])
    index = json.loads(files["index.json"])
    index["manifests"][0] |= entry
    return files | {"index.json": json.dumps(index).encode()}


HOSTILE: dict[str, dict[str, bytes]] = {
    "a digest that climbs out": _index(digest="sha256:../../../etc/passwd"),
    "a digest that is a number": _index(digest=7),
    "a size that is none": _index(size="many"),
    "a negative size": _index(size=-1),
    "an index that is a list": _oci([]) | {"index.json": b"[]"},
    "an index without manifests": _oci([]) | {"index.json": b"{}"},
    "no JSON": _oci([]) | {"index.json": b"{" * 100_000},
    "a million manifests": _oci([]) | {"index.json": b'{"manifests": [' + b"{}," * 9999 + b"{}]}"},
    "a manifest in itself": _oci([]) | {"index.json": b'{"manifests": [{"digest": 1}]}'},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_layout_that_was_made_to_do_harm_is_an_error_of_one_line(
    tmp_path: Path, name: str
) -> None:
    path = tree(tmp_path / "layout", HOSTILE[name])
    with pytest.raises((FormatError, UnsafeImage)) as caught, opened(path) as bundle:
        list(bundle.verify())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"Config": "../../etc/shadow", "Layers": []},
        {"Config": "/etc/shadow", "Layers": []},
        {"Config": "c.json", "Layers": ["../layer.tar"]},
        {"Config": "c.json", "Layers": [7]},
        {"Config": "gone.json", "Layers": []},
        {"Config": "c.json", "Layers": ["l"] * 2000},
        "nothing",
    ],
    ids=str,
)
def test_a_manifest_of_docker_that_leads_out_is_refused(tmp_path: Path, said: Any) -> None:
    from vmimg.bundles.archives import open_folder
    from vmimg.bundles.containers import docker
    from vmimg.probe.claims import Claim
    from vmimg.storage import open as open_storage

    files = {"c.json": b"{}", "manifest.json": json.dumps([said]).encode()}
    folder = open_folder(open_storage(tar_file(tmp_path / "x.tar", files)))
    with pytest.raises((FormatError, UnsafeImage, StorageError)):
        docker.open(folder, Claim("docker", "bundle", "", 100))
    folder.close()


def test_a_packed_layer_that_is_corrupt_is_an_error(tmp_path: Path) -> None:
    import gzip

    def broken(layer: bytes) -> bytes:
        packed = bytearray(gzip.compress(layer, mtime=0))
        packed[len(packed) // 2] ^= 0xFF
        return bytes(packed)

    noise = awkward_disk(1 << 20, seed=9)
    files = _oci([_layer({"disk/x.img": noise})], broken)
    with opened(tree(tmp_path / "layout", files)) as bundle:
        states = {verdict.what: verdict.state for verdict in bundle.verify()}
        assert states["diff_id"] in ("unknown", "bad")
        with pytest.raises(VmimgError):
            content(bundle)


@pytest.mark.peer("skopeo")
def test_skopeo_agrees_that_a_changed_layer_is_bad(tmp_path: Path) -> None:
    files = _oci([_layer({"disk/x.img": RAW})])
    name = next(name for name in files if name.startswith("blobs/"))
    files[name] = files[name][:-1] + b"\1"
    path = tar_file(tmp_path / "x.tar", files)
    program = peers.find("skopeo")
    assert program is not None
    done = subprocess.run(
        [program, "copy", f"oci-archive:{path}", f"dir:{tmp_path}/copy"], capture_output=True
    )
    assert done.returncode != 0 and b"igest" in done.stderr
