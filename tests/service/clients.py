"""OpenStack's clients, as tests drive them: one process of `client_driver` for a module's tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openstack_env import HOME, PASSWORD

__all__ = ["Clients", "Said", "driven", "no_authentication", "with_keystone"]

_OURS = "OS_", "PYTHON"
DRIVER = Path(__file__).with_name("client_driver.py")


@dataclass(frozen=True)
class Said:
    """What a program said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output of ``-f json``."""
        assert self.code == 0, self.err or self.out
        return json.loads(self.out)


class Clients:
    """The three clients of one service."""

    def __init__(self, process: subprocess.Popen[str], *, keystone: bool) -> None:
        self._process, self._keystone = process, keystone

    def openstack(self, *arguments: str | Path, stdin: bytes = b"") -> Said:
        """``openstack ARGUMENTS``."""
        return self._program("openstack", arguments, stdin)

    def glance(self, *arguments: str | Path, stdin: bytes = b"") -> Said:
        """``glance ARGUMENTS``."""
        # It knows no service without authentication, but any token does for one.
        token = () if self._keystone else ("--os-auth-type", "password", "--os-auth-token", "none")
        return self._program("glance", (*token, *arguments), stdin)

    def shown(self, *arguments: str | Path) -> Any:
        """What ``openstack ARGUMENTS -f json`` prints."""
        return self.openstack(*arguments, "-f", "json").json

    def did(self, *arguments: str | Path) -> None:
        """``openstack ARGUMENTS`` works."""
        said = self.openstack(*arguments)
        assert said.code == 0, said.err or said.out

    def table(self, *arguments: str | Path, stdin: bytes = b"") -> dict[str, str]:
        """The table of two columns that ``glance ARGUMENTS`` prints; empty if it prints none."""
        said = self.glance(*arguments, stdin=stdin)
        assert said.code == 0, said.err or said.out
        rows = [line.strip("| ").split("|") for line in said.out.splitlines() if line[:1] == "|"]
        return {row[0].strip(): row[1].strip() for row in rows[1:] if len(row) == 2}

    def sdk(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What a method of an SDK connection returns."""
        answer = self._ask({"sdk": method, "args": args, "kwargs": kwargs})
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def sdk_fails(self, method: str, *args: Any, **kwargs: Any) -> tuple[str, str]:
        """The kind and the words of the exception that a method raises."""
        answer = self._ask({"sdk": method, "args": args, "kwargs": kwargs})
        assert "error" in answer, answer
        return answer["kind"], answer["error"]

    def _program(self, name: str, arguments: tuple[str | Path, ...], stdin: bytes) -> Said:
        said = {name: [str(item) for item in arguments], "stdin": stdin.decode("latin-1")}
        answer = self._ask(said)
        assert "kind" not in answer, answer["error"]
        return Said(**answer)

    def _ask(self, said: dict[str, Any]) -> dict[str, Any]:
        asking, answering = self._process.stdin, self._process.stdout
        assert asking is not None and answering is not None
        asking.write(json.dumps(said) + "\n")
        asking.flush()
        line = answering.readline()
        assert line, "the clients' process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


def no_authentication(url: str) -> dict[str, str]:
    """The environment of clients of a service that asks nobody who he is."""
    return {"OS_AUTH_TYPE": "none", "OS_ENDPOINT": url, "OS_IMAGE_URL": url}


def with_keystone(url: str, keystone: str, user: str, project: str) -> dict[str, str]:
    """The environment of somebody whom Keystone knows."""
    return {
        "OS_AUTH_URL": f"{keystone}/v3", "OS_USERNAME": user, "OS_PASSWORD": PASSWORD,
        "OS_PROJECT_NAME": project, "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default", "OS_IDENTITY_API_VERSION": "3",
        "OS_IMAGE_ENDPOINT_OVERRIDE": url, "OS_IMAGE_URL": url,
    }  # fmt: skip


@contextlib.contextmanager
def driven(folder: Path, environment: dict[str, str]) -> Iterator[Clients]:
    """The clients, working in `folder`."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    process = subprocess.Popen(
        [str(HOME / "bin/python"), str(DRIVER)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
        stderr=(folder / "clients.log").open("wb"), env=mine | environment | {"HOME": str(folder)},
    )  # fmt: skip
    try:
        yield Clients(process, keystone="OS_AUTH_URL" in environment)
    finally:
        process.communicate(timeout=30)
