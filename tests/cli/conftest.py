"""Images that qemu-img made, of every kind that the verbs have something different to say about."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import peers


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of run_vmimg.NAMES. For reading: a test that writes takes a copy."""
    peers.require("qemu-img", "qemu-io")
    folder = tmp_path_factory.mktemp("images")

    def create(name: str, *options: str) -> None:
        peers.run("qemu-img", "create", "-q", "-f", "qcow2", *options, name, cwd=folder)

    def change(name: str, *commands: str) -> None:
        format = "raw" if name.endswith(".raw") else "qcow2"
        switches = [word for command in commands for word in ("-c", command)]
        peers.run("qemu-io", "-f", format, *switches, name, cwd=folder)

    def convert(source: str, name: str, *options: str) -> None:
        peers.run("qemu-img", "convert", "-O", "qcow2", *options, source, name, cwd=folder)

    peers.run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "10M", cwd=folder)
    change("base.qcow2", "write -P 1 0 1M", "write -P 0 1M 64k", "write -z 2M 64k")
    peers.run("qemu-img", "snapshot", "-c", "before", "base.qcow2", cwd=folder)
    change("base.qcow2", "write -P 2 3M 128k", "write -z 0 64k")
    peers.run("qemu-img", "snapshot", "-c", "1", "base.qcow2", cwd=folder)  # a name like an id
    create("overlay.qcow2", "-b", "base.qcow2", "-F", "qcow2")
    change("overlay.qcow2", "write -P 3 5M 128k", "write -z 128k 64k")
    create("top.qcow2", "-b", "overlay.qcow2", "-F", "qcow2", "-o", "size=12M")
    change("top.qcow2", "write -P 4 6M 4k", "write -P 4 11M 64k")
    convert("base.qcow2", "compressed.qcow2", "-c")
    convert("base.qcow2", "old.qcow2", "-o", "compat=0.10,cluster_size=4k")
    create("subclusters.qcow2", "-o", "extended_l2=on,cluster_size=128k,size=4M")
    change("subclusters.qcow2", "write -P 5 8k 4k", "write -P 5 1M 256k", "write -z 64k 8k")
    create("external.qcow2", "-o", "data_file=external.data,data_file_raw=on,size=4M")
    change("external.qcow2", "write -P 6 1M 64k")
    create("empty.qcow2", "-o", "size=1T,cluster_size=2M")
    peers.run("qemu-img", "create", "-q", "-f", "raw", "sparse.raw", "2M", cwd=folder)
    change("sparse.raw", "write -P 7 64k 64k", "write -P 7 1M 4k")
    create("over-raw.qcow2", "-b", "sparse.raw", "-F", "raw", "-o", "size=3M")
    change("over-raw.qcow2", "write -P 8 512k 64k")
    create("bitmap.qcow2", "-o", "size=2M")
    peers.run("qemu-img", "bitmap", "--add", "bitmap.qcow2", "dirty", cwd=folder)
    return folder


@pytest.fixture
def copies(images: Path, tmp_path: Path) -> Path:
    """The same images, to be written to."""
    folder = tmp_path / "copies"
    shutil.copytree(images, folder)
    return folder
