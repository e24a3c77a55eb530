"""What docs/untrusted-images.md and docs/findings.md tell people to do, done as it stands there.

Linux only: the examples ask for all of the sandbox.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmimg.formats.vetting import CODES
from vmimg.probe.policy import Policy
from vmimg.transfer.create import create

DOCS = Path(__file__).resolve().parents[2] / "docs"
MIB = 1 << 20

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in: a good upload, and one that names a file of ours."""
    monkeypatch.chdir(tmp_path)
    create("upload", MIB, format="qcow2")
    image = bytearray(Path("upload").read_bytes())
    image[8:20] = (4096).to_bytes(8, "big") + (11).to_bytes(4, "big")
    image[4096:4107] = b"/etc/passwd"
    Path("upload.qcow2").write_bytes(image)
    (tmp_path / "incoming").mkdir()
    yield tmp_path


@linux
def test_the_handler_takes_what_is_good_and_nothing_else(uploads: Path) -> None:
    vetted, receiving, handling = blocks("untrusted-images.md", "python")
    names: dict[str, Any] = {
        "Refused": type("Refused", (Exception,), {}),
        "next_place": lambda: uploads / "accepted.qcow2",
        "path": "upload",
    }
    for code in (vetted, receiving, handling.replace("/srv/incoming", "incoming")):
        exec(compile(code, "untrusted-images.md", "exec"), names)
    assert names["report"].clean and not names["confinement"].missing
    answers = []

    def upload(data: bytes) -> bytes:
        environment = {"wsgi.input": io.BytesIO(data)}
        body = names["application"](environment, lambda status, _: answers.append(status))
        return b"".join(body)

    assert b"backing-file-outside" in upload((uploads / "upload.qcow2").read_bytes())
    assert b"not a format" in upload(b"root:x:0:0:root:/root:/bin/sh\n" * 100)
    assert not (uploads / "accepted.qcow2").exists()
    assert upload((uploads / "upload").read_bytes()) == b""
    assert [answer[:3] for answer in answers] == ["422", "422", "201"]
    assert (uploads / "accepted.qcow2").exists() and not list((uploads / "incoming").iterdir())


def run(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A line for the shell, with this vmimg as ``vmimg``."""
    program = f'vmimg() {{ "{sys.executable}" -m vmimg "$@"; }}\n'
    values = "".join(f"{name}={value}\n" for name, value in variables.items())
    return subprocess.run(
        ["sh", "-c", program + values + line], capture_output=True, text=True, timeout=60
    )


@linux
def test_the_safe_way_to_write_it_is_safe(uploads: Path) -> None:
    vetting, converting = blocks("untrusted-images.md", "sh")
    assert run(vetting, file="upload", format="qcow2").returncode == 0
    for file, format in (("upload", "raw"), ("upload.qcow2", "qcow2"), ("gone", "qcow2")):
        assert run(vetting, file=file, format=format).returncode == 1
    assert run(converting, file="upload", format="qcow2").returncode == 0
    assert (uploads / "accepted.qcow2").exists()


@linux
@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq")
def test_the_lines_for_jq_are_right(uploads: Path) -> None:
    pages = "".join((DOCS / page).read_text() for page in ("untrusted-images.md", "findings.md"))
    lines = re.findall(r"^\$ (vmimg .*\| jq .*)$", pages, re.MULTILINE)
    assert len(lines) == 3
    said = [run(line).stdout for line in lines]
    assert json.loads(said[0]) == {"safe": True, "clean": True, "codes": []}
    assert json.loads(said[1])["complete"] is True
    assert said[2].startswith("error backing-file-outside its backing file is '/etc/passwd'")


@pytest.mark.parametrize("page", ["untrusted-images.md", "findings.md"])
def test_the_policies_are_policies(page: str) -> None:
    (text,) = blocks(page, "toml")
    policy = Policy.parse(text.encode(), "ours.toml")
    assert policy.subformats["vmdk"] == ("streamOptimized",) and policy.max_virtual_size == 2 << 40


def test_every_code_is_in_the_table() -> None:
    table = (DOCS / "findings.md").read_text()
    assert not [code for code in CODES if f"| `{code}` |" not in table]
