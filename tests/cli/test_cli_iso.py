"""`vmimg iso`: discs from the command line, and what is said of them."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import click
import pytest

import peers
from run_vmimg import vmimg, vmimg_json
from vmimg.cli.iso import command

pytestmark = pytest.mark.peer("pycdlib")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "a file").write_text("text")
    (folder / "loader").write_bytes(bytes(4096))
    (folder / "efi.img").write_bytes(bytes(1 << 20))
    return folder


@pytest.mark.peer("xorriso")
def test_create_makes_what_info_shows(tmp_path: Path, tree: Path) -> None:
    disc = tmp_path / "a.iso"
    done = vmimg(
        "iso", "create", tree, "-o", disc, "--label", "MY DISC", "--boot-bios", "loader",
        "--boot-efi", "efi.img", "--publisher", "ME",
    )  # fmt: skip
    assert done.out.startswith(f'{disc}: iso "MY DISC", ') and "3 files, 0 directories" in done.out
    assert done.err == ""
    shown = vmimg("info", disc).out
    for line in ("MY DISC", "publisher:", "platform BIOS", "platform UEFI", "Rock Ridge"):
        assert line in shown
    peers.run("xorriso", "-osirrox", "on", "-indev", disc, "-extract", "/", tmp_path / "out")
    assert (tmp_path / "out/a file").read_text() == "text"


@pytest.mark.peer("isoinfo")
def test_seed_takes_files_and_standard_input(tmp_path: Path) -> None:
    disc, net = tmp_path / "seed.iso", tmp_path / "net"
    net.write_text("version: 2\n")
    done = vmimg(
        "iso", "seed", "--user-data", "-", "--network-config", net, "--hostname", "web1",
        "-o", disc, input=b"#cloud-config\n",
    )  # fmt: skip
    assert 'iso "CIDATA"' in done.out and "instance iid-" in done.out and done.err == ""
    assert peers.run("isoinfo", "-R", "-i", disc, "-x", "/user-data").stdout == b"#cloud-config\n"
    assert b"web1" in peers.run("isoinfo", "-J", "-i", disc, "-x", "/meta-data").stdout
    assert peers.run("isoinfo", "-R", "-i", disc, "-x", "/network-config").stdout == b"version: 2\n"


def test_json_says_what_was_made(tmp_path: Path, tree: Path) -> None:
    made = vmimg_json("iso", "create", tree, "-o", tmp_path / "a.iso")
    assert made == {
        "filename": str(tmp_path / "a.iso"),
        "size": (tmp_path / "a.iso").stat().st_size,
        "label": "CDROM",
        "files": 3,
        "directories": 0,
        "skipped": [],
    }
    (tmp_path / "user").write_text("#!/bin/sh\n")
    made = vmimg_json(
        "iso", "seed", "--user-data", tmp_path / "user", "--instance-id", "a", "-o", tmp_path / "b"
    )
    assert (made["instance-id"], made["warnings"]) == ("a", [])


def test_warnings_go_to_standard_error_and_fail_nothing(tmp_path: Path, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    done = vmimg("iso", "create", tree, "-o", tmp_path / "a.iso")
    assert done.err.startswith("Warning: ") and "pipe: left out" in done.err
    seed = ("iso", "seed", "--user-data", "-", "-o", tmp_path / "b.iso")
    done = vmimg(*seed, input=b"users: []\n\x1b[31m")
    assert "does not begin as cloud-init expects" in done.err and "\x1b" not in done.err
    done = vmimg(*seed, "--force", "-q", input=b"users: []\n")
    assert (done.out, done.err) == ("", "")


def test_progress_is_lines_for_programs(tmp_path: Path, tree: Path) -> None:
    done = vmimg("iso", "create", tree, "-o", tmp_path / "a.iso", "--progress", "json")
    last = json.loads(done.err.splitlines()[-1])
    assert last["done"] == last["total"] == (tmp_path / "a.iso").stat().st_size
    assert "100.00/100%" in vmimg("iso", "create", tree, "-o", tmp_path / "b.iso", "-p").err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("create",), 2, "vmimg iso create --help"),
        (("create", "tree"), 2, "-o"),
        (("create", "gone", "-o", "a.iso"), 1, "gone"),
        (("create", "tree/loader", "-o", "a.iso"), 1, "not a directory"),
        (("create", "tree", "-o", "there.iso"), 1, "--force"),
        (("create", "tree", "-o", "gone/a.iso"), 1, "gone"),
        (("create", "tree", "-o", "-"), 1, "standard output"),
        (("create", "tree", "-o", "a.iso", "--boot-bios", "gone"), 1, "gone"),
        (("create", "tree", "-o", "a.iso", "--hybrid"), 1, "isolinux"),
        (("create", "tree", "-o", "a.iso", "--label", "x" * 40), 1, "longer than 32"),
        (("seed", "-o", "a.iso"), 2, "--user-data"),
        (("seed", "--user-data", "gone", "-o", "a.iso"), 1, "gone"),
        (("seed", "--user-data", "tree", "-o", "a.iso"), 1, "tree"),
        (("seed", "--user-data", "tree/loader", "--hostname", "?", "-o", "a.iso"), 1, "host name"),
        (("seed", "--user-data", "tree/loader", "-o", "there.iso"), 1, "--force"),
        (("nope",), 2, "No such command 'nope'"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(
    tmp_path: Path, tree: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    (tmp_path / "there.iso").write_text("mine")
    done = vmimg("iso", *arguments, ok=(code,), cwd=tmp_path)
    assert done.err.startswith("vmimg: error: ") and done.err.count("\n") == 1
    assert says in done.err and done.raw == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.iso", "tree"]
    assert (tmp_path / "there.iso").read_text() == "mine"


def test_converting_to_iso_says_what_makes_one(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(4096))
    for arguments in (("convert", "a.raw", "b.iso"), ("create", "b.iso", "1M")):
        done = vmimg(*arguments, ok=(1,), cwd=tmp_path)
        assert "vmimg iso create" in done.err
    assert not (tmp_path / "b.iso").exists()


def test_without_pycdlib_it_says_what_to_install(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path/pycdlib.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "user").write_text("#cloud-config\n")
    for made_of in (("create", tree), ("seed", "--user-data", tmp_path / "user")):
        done = vmimg(
            *("iso", *made_of, "-o", tmp_path / "a.iso"),
            ok=(1,),
            PYTHONPATH=str(tmp_path / "path"),
        )
        assert "pip install 'vmimg[iso]'" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "a.iso").exists()


def test_help_lists_the_verbs_and_its_examples_parse() -> None:
    shown = vmimg("iso", "--help").out
    assert "create" in shown and "seed" in shown
    assert vmimg("iso", ok=(2,)).err == shown
    for name, verb in command.commands.items():
        assert verb.epilog is not None
        lines = [line.strip() for line in verb.epilog.splitlines()]
        found = [shlex.split(line) for line in lines if line.startswith("vmimg iso ")]
        assert found
        for words in found:
            assert words[2] == name
            verb.make_context(name, words[3:], parent=click.Context(command))
