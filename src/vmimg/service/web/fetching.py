"""Fetching from an address that a user gave, without becoming the user's arm in this network.

Scheme, host and port are checked against the settings; the host's name is looked up once, each of
its addresses must be one of the public Internet (unless the settings allow others), and the
connection goes to the address that was checked, so that a name which answers differently the next
time gains nothing. Redirects pass the same. No proxies, no credentials, no compression, bounded in
size and in time. Imports and stores of web addresses have no other way to the network. Imports
settings; else the standard library only.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from vmimg.errors import StorageError, UnsafeImage
from vmimg.service.settings import Imports
from vmimg.service.web.patience import Patience

__all__ = ["Answered", "Fetched", "LookUp", "NoAnswer", "Part", "check_url", "fetch", "plain"]

LookUp = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo`, or what tests have for it."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 5
_PIECE: Final = 1 << 20
_CONNECT_SECONDS: Final = 15.0
_SECONDS: Final = 60.0
_LEAST_SPEED: Final = 1024
_MOST_ADDRESSES: Final = 8
_MOST_TOLD: Final = 300
_PORTS: Final = {"http": 80, "https": 443}
_MOST_URL: Final = 4096
_MOST_VERSION: Final = 256
_LARGEST: Final = 1 << 63
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# The only IPv6 addresses of hosts that may be public; what else there is, is mapped, compatible,
# local or multicast.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
# Beyond what Python of every release knows (IANA's special-purpose registries): tunnels' ends,
# documentation, protocols.
_OTHERS: Final = tuple(
    ipaddress.ip_network(each)
    for each in ("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "2001::/23", "3fff::/20")
)
# How a browser would tell: a host whose last part begins like a number is an IPv4 address, in one
# of the notations that resolvers take and nobody means.
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)")


class NoAnswer(StorageError):
    """Nobody answers, or not to the end: the same may go well a little later."""


class Answered(StorageError):
    """The server answers that it does not give it; ``status`` says why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Part:
    """Of ``total`` bytes those from ``start`` to before ``end``, as the server says."""

    start: int
    end: int
    total: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is coming: ``length`` in bytes if the server says so, and the pieces."""

    length: int | None
    pieces: Iterator[bytes]
    part: Part | None = None
    """Which part of it; None: all, also where a part was asked for."""
    version: str = ""
    """The server's validator, ETag or time; another one means that the bytes are others."""


def check_url(url: str, rules: Imports, what: str = "web-download") -> SplitResult:
    """The parts of an address that may be asked, as far as that is known without asking anybody.

    ``what`` wants to ask. Raises UnsafeImage.
    """
    refused = f"URI for {what} does not pass filtering: {url[:_MOST_URL]}"
    if len(url) > _MOST_URL or any(not 0x20 < ord(each) < 0x7F for each in url):
        raise UnsafeImage(refused)
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise UnsafeImage(refused) from None
    host = (parts.hostname or "").rstrip(".").lower()
    if (
        parts.scheme not in rules.schemes
        or parts.scheme not in _PORTS
        or not host
        or parts.username is not None
        or parts.password is not None
        or (port not in rules.ports and f"{host}:{port}" not in rules.hosts)
        or (rules.hosts and host not in rules.hosts and f"{host}:{port}" not in rules.hosts)
    ):
        raise UnsafeImage(refused)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if _NUMBER.fullmatch(host):
            raise UnsafeImage(refused) from None
        return parts
    if not rules.hosts and not _is_allowed(address, rules):
        raise UnsafeImage(refused)
    return parts


@contextmanager
def fetch(
    url: str,
    rules: Imports,
    *,
    headers: Mapping[str, str] | None = None,
    trusted: bool = False,
    part: tuple[int, int] | None = None,
    what: str = "web-download",
    look_up: LookUp = socket.getaddrinfo,
    seconds: float = _SECONDS,
) -> Iterator[Fetched]:
    """What is at ``url``.

    ``trusted``: the address is the operator's, not a user's, and is not filtered; redirects of it
    are not followed. ``part``: from which byte to before which; a server may send everything all
    the same. ``what`` wants to have it. ``seconds``: how long an answer may take to begin, and each
    piece to come. Raises UnsafeImage for what may not be asked, StorageError where it cannot be
    had: NoAnswer, Answered.
    """
    wanted = dict(headers or {})
    if part is not None:
        wanted["range"] = f"bytes={part[0]}-{part[1] - 1}"
    for _ in range(_MOST_REDIRECTS + 1):
        parts = urlsplit(url) if trusted else _checked(url, rules, what)
        with _connected(parts, rules, trusted, look_up, seconds) as (connection, patience):
            response = _ask(connection, parts, wanted, patience)
            if trusted or response.status not in _REDIRECTS:
                came = _part(response, url) if part is not None else None
                if response.status != 200 and came is None:
                    said = f"{plain(url)}: the server answers {response.status}"
                    raise Answered(said, response.status)
                length = response.length
                if length is not None and length >= _LARGEST:
                    raise StorageError(f"{plain(url)}: the server says a size that is none")
                pieces = _pieces(response, plain(url), patience, seconds)
                yield Fetched(length, pieces, came, _version(response))
                return
            try:
                url = urljoin(url, response.headers.get("location", ""))
            except ValueError:
                raise StorageError(f"{plain(url)}: redirects to no address") from None
    raise StorageError(f"{plain(url)}: redirects too often")


def _part(response: http.client.HTTPResponse, url: str) -> Part | None:
    """What part of it comes; None where that is no answer of a part."""
    if response.status != http.client.PARTIAL_CONTENT:
        return None
    said = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if said is not None:
        first, last, total = (int(each) for each in said.groups())
        if first <= last < total < _LARGEST:
            return Part(first, last + 1, total)
    raise StorageError(f"{plain(url)}: the server does not say what part of it comes")


def _version(response: http.client.HTTPResponse) -> str:
    said = response.headers.get("etag") or response.headers.get("last-modified") or ""
    if len(said) <= _MOST_VERSION and said.isprintable():
        return str(said)
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()


def _checked(url: str, rules: Imports, what: str) -> SplitResult:
    """`check_url`, for messages that are kept and logged."""
    try:
        return check_url(url, rules, what)
    except UnsafeImage:
        raise UnsafeImage(f"URI for {what} does not pass filtering: {plain(url)}") from None


def plain(url: str) -> str:
    """An address for messages: what stands behind the question mark may be somebody's key."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:_MOST_TOLD]


@contextmanager
def _connected(
    parts: SplitResult, rules: Imports, trusted: bool, look_up: LookUp, seconds: float
) -> Iterator[tuple[http.client.HTTPConnection, Patience]]:
    """Connected to an address of the host that may be asked."""
    host = parts.hostname or ""
    port = parts.port or _PORTS.get(parts.scheme, 80)
    reached = _reached(host, port, _addresses(host, port, rules, trusted, look_up))
    connection = http.client.HTTPConnection(host, port)
    connection.sock = reached
    try:
        reached.settimeout(seconds)
        with Patience(reached, seconds) as patience:
            if parts.scheme == "https":
                _secure(connection, host, patience)
            yield connection, patience
    finally:
        connection.close()


def _addresses(host: str, port: int, rules: Imports, trusted: bool, look_up: LookUp) -> list[str]:
    """Where the host is, in numbers; looked up once."""
    try:
        found = look_up(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NoAnswer(f"{host}: there is no such host") from error
    addresses = [str(each[4][0]) for each in found]
    if not trusted and rules.hosts == ():
        for each in addresses:
            if not _is_allowed(ipaddress.ip_address(each.partition("%")[0]), rules):
                raise UnsafeImage(f"{host}: its address is not one of the public Internet")
    return addresses


def _reached(host: str, port: int, addresses: list[str]) -> socket.socket:
    failure: OSError | None = None
    for address in list(dict.fromkeys(addresses))[:_MOST_ADDRESSES]:
        try:
            return socket.create_connection((address, port), _CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise NoAnswer(f"{host}: cannot be reached") from failure


def _secure(connection: http.client.HTTPConnection, host: str, patience: Patience) -> None:
    context = ssl.create_default_context()
    try:
        secured = context.wrap_socket(
            connection.sock, server_hostname=host, do_handshake_on_connect=False
        )
        connection.sock = secured
        patience.watch(secured)
        secured.do_handshake()
    except (OSError, ValueError) as error:
        raise NoAnswer(f"{host}: no safe connection: {error}") from error


def _is_allowed(address: _Address, rules: Imports) -> bool:
    """Whether an address may be asked: one of the public Internet, also where it is an IPv4 address
    in an IPv6 one.
    """
    if rules.private_addresses:
        return not address.is_multicast and not address.is_unspecified
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_allowed(inner, rules)
        if address not in _UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _OTHERS)
    )


def _ask(
    connection: http.client.HTTPConnection,
    parts: SplitResult,
    headers: Mapping[str, str],
    patience: Patience,
) -> http.client.HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    told = {"user-agent": "vmimg", "accept-encoding": "identity", **headers}
    try:
        connection.request("GET", target, headers=told)
        return connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as error:
        # What the server says instead of an answer is not for the one who asked.
        why = "took too long" if patience.is_over else type(error).__name__
        raise NoAnswer(f"{parts.hostname}: no answer: {why}") from error


def _pieces(
    response: http.client.HTTPResponse, name: str, patience: Patience, seconds: float
) -> Iterator[bytes]:
    """All of it; StorageError where it ends early, or comes slower than anybody waits for."""
    came = 0
    expected = response.length
    began = time.monotonic()
    gathered = bytearray()
    while True:
        patience.more()
        try:
            piece = response.read1(_PIECE)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAnswer(f"{name}: the transfer broke off after {came} bytes") from error
        if not piece:
            break
        came += len(piece)
        # A server that drips bytes would hold a worker for ever: 1 KiB/s after the first minute.
        passed = time.monotonic() - began
        if passed > seconds and came < (passed - seconds) * _LEAST_SPEED:
            raise NoAnswer(f"{name}: comes too slowly")
        gathered += piece
        if len(gathered) >= _PIECE or passed > seconds:
            patience.rest()
            yield bytes(gathered)
            gathered.clear()
    if patience.is_over or (expected is not None and came != expected):
        raise NoAnswer(f"{name}: the transfer broke off after {came} bytes")
    patience.rest()
    if gathered:
        yield bytes(gathered)
