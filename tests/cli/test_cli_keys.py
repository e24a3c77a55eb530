"""Passphrases: from a file, the environment or a prompt, and never shown."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

import peers
from run_vmimg import COMMAND, environment, vmimg, vmimg_json

SECRET = "correct horse battery"
CONTENT = b"what nobody else shall read ".ljust(64 << 10, b"!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw disk, the same encrypted by qemu-img, and key files."""
    peers.require("qemu-img")
    folder = tmp_path_factory.mktemp("keys")
    (folder / "key").write_text(SECRET)
    (folder / "echoed").write_text(SECRET + "\n")
    (folder / "wrong").write_text("incorrect")
    (folder / "empty").write_text("")
    (folder / "plain.raw").write_bytes(bytes(1 << 20) + CONTENT + bytes(1 << 20))
    peers.run(
        *("qemu-img", "convert", "-O", "qcow2", "--object", "secret,id=s,file=key"),
        *("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"),
        *("plain.raw", "locked.qcow2"),
        cwd=folder,
    )
    return folder


@pytest.mark.parametrize("key", ["key", "echoed"])
def test_a_key_file_opens_an_image(folder: Path, tmp_path: Path, key: str) -> None:
    out = tmp_path / "out.raw"
    vmimg("convert", "--key-file", folder / key, folder / "locked.qcow2", out)
    assert out.read_bytes() == (folder / "plain.raw").read_bytes()


def test_the_environment_may_have_the_passphrase(folder: Path, tmp_path: Path) -> None:
    changes = {"VMIMG_PASSPHRASE": SECRET}
    vmimg("convert", folder / "locked.qcow2", tmp_path / "out.raw", **changes)
    assert (tmp_path / "out.raw").read_bytes() == (folder / "plain.raw").read_bytes()
    assert "identical" in vmimg("compare", *files(folder), **changes).out
    part = tmp_path / "part.raw"
    vmimg("dd", f"if={files(folder)[1]}", f"of={part}", "bs=1M", "count=2", **changes)
    assert part.read_bytes() == (folder / "plain.raw").read_bytes()[: 2 << 20]


def files(folder: Path) -> tuple[Path, Path]:
    return folder / "plain.raw", folder / "locked.qcow2"


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "locked.qcow2", "out.raw"),
        ("compare", "plain.raw", "locked.qcow2"),
        ("measure", "-O", "raw", "locked.qcow2"),
        ("dd", "if=locked.qcow2", "of=out.raw"),
        ("create", "-f", "qcow2", "-o", "encrypt.format=luks", "out.qcow2", "1M"),
        ("convert", "-o", "encrypt.format=luks", "plain.raw", "out.qcow2"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_a_key_the_error_says_how_to_give_one(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    done = vmimg(*arguments, ok=(1, 2), cwd=folder)
    assert "--key-file" in done.err and "VMIMG_PASSPHRASE" in done.err
    assert not done.out and len(done.err.splitlines()) == 1
    assert not list(folder.glob("out.*"))


def test_what_needs_no_key_asks_for_none(folder: Path) -> None:
    info = vmimg_json("info", folder / "locked.qcow2")
    assert info["encrypted"] is True
    assert info["format-specific"]["data"]["encrypt"]["format"] == "luks"
    kinds = [extent["data"] for extent in vmimg_json("map", folder / "locked.qcow2")]
    assert kinds == [False, True, False]
    assert "No errors" in vmimg("check", folder / "locked.qcow2").out


@pytest.mark.parametrize("key", ["wrong", "empty", "missing"])
def test_a_wrong_key_is_one_clear_error(folder: Path, tmp_path: Path, key: str) -> None:
    done = vmimg(
        *("convert", "--key-file", folder / key, folder / "locked.qcow2", tmp_path / "out.raw"),
        ok=(1,),
    )
    assert {"wrong": "wrong", "empty": "empty", "missing": "no such file"}[key] in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out.raw").exists()


def test_a_passphrase_is_in_no_message(folder: Path, tmp_path: Path) -> None:
    bad = "never-to-be-seen"
    for debug in ({}, {"VMIMG_DEBUG": "1"}):
        done = subprocess.run(
            [*COMMAND, "convert", str(folder / "locked.qcow2"), str(tmp_path / "x.raw")],
            env=environment(VMIMG_PASSPHRASE=bad, **debug),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1
        assert bad.encode() not in done.stdout + done.stderr


@pytest.mark.peer("qemu-img")
def test_source_and_target_may_have_different_keys(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("another one")
    image = tmp_path / "again.qcow2"
    vmimg(
        *("convert", "--key-file", folder / "key", "--target-key-file", tmp_path / "new"),
        *("-o", "encrypt.format=luks,encrypt.iter-time=10", folder / "locked.qcow2", image),
    )
    peers.run(
        *("qemu-img", "convert", "--image-opts", "-O", "raw"),
        *("--object", f"secret,id=s,file={tmp_path / 'new'}"),
        f"driver=qcow2,encrypt.key-secret=s,file.filename={image}",
        tmp_path / "back.raw",
    )
    assert (tmp_path / "back.raw").read_bytes() == (folder / "plain.raw").read_bytes()


def on_terminal(*arguments: str | Path, answers: list[str]) -> tuple[int, str]:
    """Exit code and everything that was seen, with ``answers`` typed at the prompts."""
    pid, fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(COMMAND[0], [*COMMAND, *map(str, arguments)], environment(TERM="xterm"))
    seen, asked = b"", 0
    while True:
        try:
            piece = os.read(fd, 65536)
        except OSError:  # how Linux says that nobody has the other side open
            break
        if not piece:
            break
        seen += piece
        if seen.count(b": ") > asked and asked < len(answers):
            os.write(fd, answers[asked].encode() + b"\n")
            asked += 1
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def test_on_a_terminal_it_is_asked_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.raw"
    code, seen = on_terminal("convert", folder / "locked.qcow2", out, answers=[SECRET])
    assert code == 0, seen
    assert "Passphrase of" in seen and "locked.qcow2" in seen
    assert SECRET not in seen
    assert out.read_bytes() == (folder / "plain.raw").read_bytes()


def test_a_new_passphrase_is_asked_for_twice(folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "new.qcow2"
    code, seen = on_terminal(
        *("create", "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.iter-time=10", image, "1M"),
        answers=[SECRET, SECRET],
    )
    assert code == 0, seen
    assert seen.count(": ") >= 2 and SECRET not in seen
    vmimg("convert", "--key-file", folder / "key", image, tmp_path / "out.raw")
    assert not any((tmp_path / "out.raw").read_bytes())
