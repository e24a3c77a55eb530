"""Runs what Nova and Cinder ask an image service with, in an interpreter of .venv-openstack.

    compute_driver.py nova|cinder URL CONFIGURATION

One of them to a process, for their options clash. URL is where the image service is by Keystone's
catalogue. Reads a line of JSON for each call from standard input:

    {"call": "api.get", "as": {"user": ..., "project": ..., "token": ...}, "args": [...], ...}

``{"file": PATH}`` among the arguments stands for the open file. Writes {"value": ...}, or
{"error": ..., "kind": ...}. Nothing of vmimg is imported.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

warnings.simplefilter("ignore")  # eventlet says at each start that it is old


def _nova(configuration: str) -> tuple[Any, dict[str, Any]]:
    from nova import conf, config, context, objects
    from nova.image import glance
    from nova.virt import images

    objects.register_all()
    config.parse_args(["nova", "--config-file", configuration], configure_db=False, init_rpc=False)
    assert conf.CONF.glance.region_name
    # A compute node fetches with `images`, the rest of Nova asks by `api`.
    return context.RequestContext, {"api": glance.API(), "images": images}


def _cinder(configuration: str) -> tuple[Any, dict[str, Any]]:
    # They import each other: the other way around it fails.
    from cinder.image import image_utils

    # isort: split
    from cinder import context, objects
    from cinder.common import config
    from cinder.image import glance

    objects.register_all()
    config.CONF(["--config-file", configuration], project="cinder")
    service = glance.get_default_image_service()

    def with_service(name: str) -> Callable[..., Any]:
        called = getattr(image_utils, name)
        return lambda asking, *args, **kwargs: called(asking, service, *args, **kwargs)

    utils = {name: with_service(name) for name in ("fetch", "upload_volume")}
    return context.RequestContext, {"api": service, **utils}


def _found(tools: dict[str, Any], path: str) -> Any:
    first, *rest = path.split(".")
    target = tools[first]
    for name in rest:
        target = getattr(target, name)
    return target


def _answer(make_context: Any, tools: dict[str, Any], url: str, said: dict[str, Any]) -> Any:
    who = said["as"]
    endpoint = {"region": "here", "publicURL": url, "internalURL": url, "adminURL": url}
    context = make_context(
        user_id=who["user"], project_id=who["project"], auth_token=who["token"],
        service_catalog=[{"type": "image", "name": "glance", "endpoints": [endpoint]}],
    )  # fmt: skip
    with contextlib.ExitStack() as open_files:

        def meant(item: Any) -> Any:
            if isinstance(item, dict) and item.keys() == {"file"}:
                return open_files.enter_context(open(item["file"], "rb"))
            return item

        args = [meant(item) for item in said["args"]]
        kwargs = {key: meant(item) for key, item in said["kwargs"].items()}
        return _plain(_found(tools, said["call"])(context, *args, **kwargs))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    items = list(_iterated(value))
    if items and all(isinstance(item, bytes) for item in items):
        return b"".join(items).decode("latin-1")
    return [_plain(item) for item in items]


def _iterated(value: Any) -> Iterator[Any]:
    # glanceclient's answers wrap a generator, and are no iterators of Python's own themselves.
    while True:
        try:
            yield next(value)
        except StopIteration:
            return


def main(which: str, url: str, configuration: str) -> None:
    """Answer until there is no more to read."""
    asking, answering = sys.stdin, sys.stdout
    sys.stdout = sys.stderr
    make_context, tools = {"nova": _nova, "cinder": _cinder}[which](configuration)
    for line in asking:
        try:
            answer = {"value": _answer(make_context, tools, url, json.loads(line))}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": str(error), "kind": type(error).__name__}
        answering.write(json.dumps(answer, default=str) + "\n")
        answering.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
