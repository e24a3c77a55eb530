"""serve as a user runs it: it says where it listens, what is wrong with its settings, and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from pathlib import Path

from run_vmimg import start, vmimg

SETTINGS = """
[server]
port = "soon"
prot = 9292
[database]
pool = 0
"""


def test_it_says_where_it_listens_answers_and_ends(tmp_path: Path) -> None:
    running = start("serve", "--port", "0", "--data", tmp_path / "data", stderr=subprocess.PIPE)
    try:
        assert running.stderr is not None
        said = json.loads(running.stderr.readline())["message"]
        assert said.startswith("listening on http://127.0.0.1:")
        with urllib.request.urlopen(f"{said.split()[-1]}/v2/images", timeout=30) as answer:
            assert json.load(answer)["images"] == []
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    finally:
        running.kill()
        running.communicate()


def test_settings_that_are_right_are_told_to_be(tmp_path: Path) -> None:
    done = vmimg("serve", "--data", tmp_path / "data", "--check-config")
    assert done.out == "The settings can be used.\n"


def test_all_mistakes_in_the_settings_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "vmimg.toml"
    path.write_text(SETTINGS)
    told = vmimg("serve", "--config", path, "--check-config", ok=[1]).err
    assert len(told.splitlines()) == 1
    for words in ("server.port = 'soon'", "server.prot: there is no such setting", "database.pool"):
        assert words in told


def test_nobody_serves_a_network_without_asking_who_comes(tmp_path: Path) -> None:
    told = vmimg("serve", "--host", "0.0.0.0", "--data", tmp_path / "data", ok=[1]).err
    assert "identity.mode" in told and len(told.splitlines()) == 1
    assert not (tmp_path / "data").exists()
