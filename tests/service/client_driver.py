"""Runs OpenStack's clients in one interpreter of .venv-openstack: each would start for seconds.

Reads a line of JSON for each call from standard input, writes one for each answer:

    {"openstack": [arguments]}  or  {"glance": [arguments]}      the programs, by their `main`
    {"sdk": "image.get_image", "args": [...], "kwargs": {...}}   a method of an SDK connection

and answers {"code": ..., "out": ..., "err": ...} or {"value": ...} or {"error": ..., "kind": ...}.
The environment says where the service is, as for the programs. Nothing of vmimg is imported.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import sys
import traceback
from typing import Any


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _program(name: str, arguments: list[str], given: bytes) -> dict[str, Any]:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    before = sys.stdin
    # Without data there is a terminal: `openstack image create` would upload what is no terminal.
    sys.stdin = io.TextIOWrapper(io.BytesIO(given), "utf-8") if given else _Terminal()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = _MAINS[name]()(arguments)
            except SystemExit as ended:
                code = ended.code
                if isinstance(code, str):
                    err.write(code)
    finally:
        sys.stdin = before
    for stream in (out, err):
        stream.flush()
    return {
        "code": int(code or 0) if not isinstance(code, str) else 1,
        "out": out.buffer.getvalue().decode("utf-8", "replace"),
        "err": err.buffer.getvalue().decode("utf-8", "replace"),
    }


@functools.cache
def _openstack() -> Any:
    from openstackclient import shell

    return lambda arguments: shell.OpenStackShell().run(arguments)


@functools.cache
def _glance() -> Any:
    from glanceclient import shell

    def main(arguments: list[str]) -> None:
        # As glanceclient's own main does.
        try:
            shell.OpenStackImagesShell().main(arguments)
        except Exception as error:
            sys.exit(f"{error}")

    return main


_MAINS = {"openstack": _openstack, "glance": _glance}


@functools.cache
def _connection() -> Any:
    import openstack

    return openstack.connect()


def _sdk(path: str, arguments: list[Any], named: dict[str, Any]) -> dict[str, Any]:
    target: Any = _connection()
    for name in path.split("."):
        target = getattr(target, name)
    try:
        arguments = [_meant(item) for item in arguments]
        return {"value": _plain(target(*arguments, **named))}
    except Exception as error:
        return {"error": str(error), "kind": type(error).__name__}


def _meant(item: Any) -> Any:
    """``{"image": id}`` stands for the image as the SDK has it."""
    return _connection().image.get_image(item["image"]) if isinstance(item, dict) else item


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict(computed=False)
    if inspect.isgenerator(value) or isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "status_code"):
        return {"status": value.status_code, "content": value.content.decode("latin-1")}
    return value


def main() -> None:
    """Answer until there is no more to read."""
    asking, answering = sys.stdin, sys.stdout
    sys.stdout = sys.stderr
    for line in asking:
        said = json.loads(line)
        try:
            if "sdk" in said:
                answer = _sdk(said["sdk"], said.get("args", []), said.get("kwargs", {}))
            else:
                (name,) = set(said) & set(_MAINS)
                answer = _program(name, said[name], said.get("stdin", "").encode("latin-1"))
        except Exception:
            answer = {"error": traceback.format_exc(), "kind": "driver"}
        answering.write(json.dumps(answer, default=str) + "\n")
        answering.flush()


if __name__ == "__main__":
    main()
