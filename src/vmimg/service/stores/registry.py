"""A store from its URL and its options, as vmimg.toml has them.

    file:///var/lib/vmimg          capacity
    s3://bucket/prefix             endpoint, region, access_key_id, secret_access_key, ...
    gs://bucket/prefix             service_account, ...
    az://container/prefix          account_name, account_key, ...
    memory://                      gone with the process: for trying things out
    http://                        addresses of the web, read only; https:// for those alone

Options stand in the settings, or behind a ``?`` in the URL, secrets in the settings only: URLs are
shown. What is not given, AWS_ACCESS_KEY_ID and the like, obstore takes from the environment by the
names that the services' own tools use. A mistake is one OptionError that names the store and what
may stand there. Imports the stores, errors, units; nothing is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from vmimg.errors import OptionError, StorageError
from vmimg.extras import require
from vmimg.service.settings import WEB, Imports
from vmimg.service.stores.base import Store
from vmimg.service.stores.file import FileStore
from vmimg.service.stores.objects import PART, ObjectStore
from vmimg.service.stores.web import WebStore
from vmimg.units import parse_size

__all__ = ["store_from"]

_MIB: Final = 1 << 20
# S3 takes no smaller parts, but the last; beyond a GiB a part is no part.
_LEAST_PART: Final = 5 * _MIB
_MOST_PART: Final = 1 << 30
# Seconds within which a service that is restarted comes back.
_RETRY_FOR: Final = 30.0
_TIMEOUT: Final = 120.0
_CONNECT_TIMEOUT: Final = 5.0
_FIRST_PAUSE: Final = timedelta(milliseconds=200)
_LONGEST_PAUSE: Final = timedelta(seconds=3)
# Pauses grow by less than this, at random.
_GROWTH: Final = 3
# Time alone decides.
_MANY_RETRIES: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a scheme takes. ``options``: names here, and what obstore calls them."""

    store: str
    """The class of obstore."""
    bucket: str
    """What people call the first part of the URL; empty: there is none."""
    endpoint: str = ""
    """obstore's name of the option ``endpoint``."""
    options: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    together: tuple[str, str] | None = None
    """Two options of which neither is of use alone."""


# How obstore begins what it says.
_PREFIX: Final = re.compile(r"Generic \w+ error: ")
_SHARED: Final = ("part_size", "timeout", "connect_timeout", "retry_for", "ca_file")
_KINDS: Final = {
    "s3": _Kind(
        store="S3Store",
        bucket="bucket",
        endpoint="endpoint",
        options={
            "region": "region",
            "access_key_id": "access_key_id",
            "secret_access_key": "secret_access_key",
            "session_token": "session_token",
            "anonymous": "skip_signature",
            "virtual_hosted": "virtual_hosted_style_request",
            "encryption": "server_side_encryption",
            "kms_key_id": "sse_kms_key_id",
        },
        secrets=frozenset({"secret_access_key", "session_token"}),
        together=("access_key_id", "secret_access_key"),
    ),
    "gs": _Kind(
        store="GCSStore",
        bucket="bucket",
        endpoint="base_url",
        options={
            "service_account": "service_account",
            "service_account_key": "service_account_key",
            "credentials": "application_credentials",
            "bearer_token": "bearer_token",
            "anonymous": "skip_signature",
        },
        secrets=frozenset({"service_account_key", "bearer_token"}),
    ),
    "az": _Kind(
        store="AzureStore",
        bucket="container",
        endpoint="endpoint",
        options={
            "account_name": "account_name",
            "account_key": "account_key",
            "sas_token": "sas_key",
            "client_id": "client_id",
            "client_secret": "client_secret",
            "tenant_id": "tenant_id",
            "anonymous": "skip_signature",
        },
        secrets=frozenset({"account_key", "sas_token", "client_secret"}),
    ),
    "memory": _Kind(store="MemoryStore", bucket=""),
}


def store_from(
    name: str,
    url: str,
    options: Mapping[str, str] | None = None,
    rules: Imports | None = None,
) -> Store:
    """The store called ``name`` at ``url``; ``rules`` say which addresses of the web may be asked.

    Raises OptionError.
    """
    said = _Said(name, url, dict(options or {}))
    if said.scheme == "file":
        return _file_store(said)
    if said.scheme in WEB:
        return _web_store(said, rules or Imports())
    kind = _KINDS.get(said.scheme)
    if kind is None:
        known = ", ".join(f"{scheme}://" for scheme in ("file", *_KINDS, *WEB))
        raise said.wrong(f"the URL begins with none of {known}")
    return _object_store(said, kind)


class _Said:
    """The parts of a URL, and the options of both places."""

    def __init__(self, name: str, url: str, options: dict[str, str]) -> None:
        self.name = name
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise self.wrong("this is no URL") from None
        self.scheme = parts.scheme
        if parts.username or parts.password or port:
            raise self.wrong("the URL has a user, a password or a port in it; these are options")
        self.host = parts.netloc
        self.path = unquote(parts.path)
        if "\0" in self.path:
            raise self.wrong("the URL has a NUL in it")
        if parts.fragment:
            raise self.wrong("the URL has a # in it; write %23")
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        twice = sorted(self.query.keys() & options.keys())
        if twice:
            raise self.wrong(f"{twice[0]} stands in the URL and in the options")
        self.options = {**self.query, **options}

    def wrong(self, what: str) -> OptionError:
        return OptionError(f"stores.{self.name}: {what}")

    def only(self, *known: str) -> None:
        """Refuse options that are none of ``known``."""
        for option in self.options:
            if option not in known:
                there = f"there are {', '.join(known)}" if known else "there is none"
                raise self.wrong(f"there is no option {option!r}; {there}")

    def size(self, option: str, default: int | None = None) -> int | None:
        text = self.options.get(option)
        if text is None:
            return default
        try:
            return parse_size(text)
        except OptionError as error:
            raise self.wrong(f"{option}: {error}") from None

    def number(self, option: str, default: float, most: float) -> float:
        text = self.options.get(option)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= most:
            raise self.wrong(f"{option} = {text!r} is no number from 0 to {most:g}")
        return value


def _file_store(said: _Said) -> Store:
    said.only("capacity")
    if said.host not in ("", "localhost"):
        raise said.wrong(
            f"file://{said.host}{said.path} names a host; a path takes three slashes: file:///..."
        )
    if not said.path.startswith("/") or said.path == "/":
        raise said.wrong("the URL names no directory: file:///path/of/it")
    if not Path(said.path).is_absolute() or ".." in Path(said.path).parts:
        raise said.wrong(f"'{said.path}' is no absolute path")
    return FileStore(said.name, said.path, capacity=said.size("capacity"))


def _web_store(said: _Said, rules: Imports) -> Store:
    said.only()
    if said.host or said.path not in ("", "/"):
        raise said.wrong(
            f"a store of web addresses is {said.scheme}:// alone; imports.hosts says which hosts"
        )
    return WebStore(said.name, rules, WEB if said.scheme == "http" else ("https",))


def _object_store(said: _Said, kind: _Kind) -> Store:
    if kind.bucket:
        said.only("endpoint", *kind.options, *_SHARED)
    else:
        said.only("part_size")
    exposed = sorted(kind.secrets & said.query.keys())
    if exposed:
        raise said.wrong(f"{exposed[0]} is a secret, and URLs are shown: give it as an option")
    if kind.bucket and not said.host:
        raise said.wrong(f"the URL names no {kind.bucket}: {said.scheme}://{kind.bucket}/prefix")
    if any(part in (".", "..") for part in said.path.split("/")):
        raise said.wrong(f"the prefix '{said.path}' has dots for a part")
    if kind.together is not None:
        missing = [option for option in kind.together if option not in said.options]
        if len(missing) == 1:
            other = next(option for option in kind.together if option not in missing)
            raise said.wrong(f"{other} is of no use without {missing[0]}")
    part = said.size("part_size", PART) or 0
    if not _LEAST_PART <= part <= _MOST_PART:
        raise said.wrong("part_size lies between 5 MiB and 1 GiB")
    make = partial(
        _made, said.name, kind, said.host, _config(said, kind), _client(said), _retry(said)
    )
    try:
        # Not kept: it says now what is wrong.
        make()
    except StorageError as error:
        raise said.wrong(str(error)) from None
    return ObjectStore(said.name, said.scheme, said.host, said.path, make, part=part)


def _config(said: _Said, kind: _Kind) -> dict[str, str]:
    config = dict[str, str]()
    for option, called in kind.options.items():
        if option in said.options:
            config[called] = said.options[option]
    endpoint = said.options.get("endpoint")
    if endpoint is not None:
        if not _is_endpoint(endpoint):
            raise said.wrong("endpoint is no URL like https://host:port")
        config[kind.endpoint] = endpoint.rstrip("/")
    return config


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment or port == 0)
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _client(said: _Said) -> dict[str, Any]:
    client: dict[str, Any] = {
        "timeout": timedelta(seconds=said.number("timeout", _TIMEOUT, 3600)),
        "connect_timeout": timedelta(seconds=said.number("connect_timeout", _CONNECT_TIMEOUT, 600)),
        # Only where it was asked for: keys do not go over the wire in the clear, but images would.
        "allow_http": said.options.get("endpoint", "").startswith("http://"),
    }
    file = said.options.get("ca_file")
    if file is not None:
        try:
            client["root_certificate"] = Path(file).read_bytes()
        except OSError as error:
            raise said.wrong(f"ca_file {file}: {(error.strerror or str(error)).lower()}") from None
    return client


def _retry(said: _Said) -> dict[str, Any]:
    seconds = said.number("retry_for", _RETRY_FOR, 300)
    return {
        "max_retries": _MANY_RETRIES if seconds else 0,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": _FIRST_PAUSE,
            "max_backoff": _LONGEST_PAUSE,
            "base": _GROWTH,
        },
    }


def _made(
    name: str,
    kind: _Kind,
    bucket: str,
    config: dict[str, str],
    client: dict[str, Any],
    retry: dict[str, Any],
) -> Any:
    stores = require("obstore.store", "service", f"stores.{name}")
    make = getattr(stores, kind.store)
    if not kind.bucket:
        return make()
    errors = require("obstore.exceptions", "service", f"stores.{name}")
    try:
        return make(bucket, config=config, client_options=client, retry_config=retry)
    except (ValueError, OSError, errors.BaseError) as error:
        # What follows its first line repeats the settings.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(_PREFIX.sub("", reason)) from None
