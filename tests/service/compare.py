"""Ask Glance and ours the same, and say where the answers differ.

    a scenario        a function of a `Run`, which sends requests; `scenario` registers it
    a `Run`           one scenario against one service: every answer is recorded
    `differences`     of two runs, answer by answer and field by field, after `Names` made equal
                      what must differ: identifiers, times, hosts, where bytes lie

Words of error messages are each service's own; that there are words, where they stand, and in
which of the three shapes (text, HTML, JSON, by Accept), is compared.
"""

from __future__ import annotations

import http.client
import json
import re
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ALONE",
    "OCTETS",
    "OLD_PATCH",
    "PATCH",
    "SCENARIOS",
    "VISIBLE",
    "Answer",
    "Difference",
    "Run",
    "differences",
    "scenario",
    "scenario_alone",
    "scenario_visible",
]

OCTETS = {"Content-Type": "application/octet-stream"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
OLD_PATCH = {"Content-Type": "application/openstack-images-v2.0-json-patch"}

_DATA = b"0123456789abcdef" * 32
SCENARIOS: dict[str, Callable[[Run], None]] = {}
"""By name."""
VISIBLE: dict[str, Callable[[Run], None]] = {}
"""By name, those that are asked of services which show where images lie."""
ALONE: list[str] = []
"""Those whose lists or sums would see what others make: each has a pair of projects for itself."""


def scenario(function: Callable[[Run], None]) -> Callable[[Run], None]:
    """Register a scenario under its function's name."""
    assert function.__name__ not in SCENARIOS
    SCENARIOS[function.__name__] = function
    return function


def scenario_visible(function: Callable[[Run], None]) -> Callable[[Run], None]:
    """Register a scenario for services that show where images lie."""
    VISIBLE[function.__name__] = function
    return function


def scenario_alone(function: Callable[[Run], None]) -> Callable[[Run], None]:
    """Register a scenario which must not see what others make."""
    ALONE.append(function.__name__)
    return scenario(function)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    asked: str
    """For messages: who, what, where, and what was sent."""

    @property
    def json(self) -> Any:
        """The body, if it is JSON."""
        return json.loads(self.body)

    @property
    def id(self) -> str:
        """The identifier of what was made."""
        assert self.status in (200, 201), (self.status, self.body[:500])
        return str(self.json["id"])


@dataclass
class Run:
    """One scenario against one service."""

    url: str
    tokens: Callable[[str], str | None]
    """A token for one of the people, or None: nobody is asked who he is."""
    projects: dict[str, str]
    """``one`` and ``two``: the identifiers of this scenario's projects."""
    files: str = ""
    files_folder: str = ""
    users: dict[str, str] = field(default_factory=dict)
    name: str = ""
    """The scenario's."""
    elsewhere: str = ""
    """Another image service, which this one may fetch from."""
    failure: str | None = None
    """Why the scenario ended early, if it did."""
    answers: list[Answer] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    """Identifiers of what this scenario made, and what to call them."""
    _connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        who: str | None,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        record: bool = True,
    ) -> Answer:
        """Send a request: `body` as it is if it is bytes, else as JSON."""
        given = {"Accept": "*/*"} | (headers or {})  # as all clients do
        sent = body
        if body is not None and not isinstance(body, bytes):
            sent = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        token = self.tokens(who) if who else None
        if token:
            given["X-Auth-Token"] = token
        given = {name: value for name, value in given.items() if value}
        asked = f"{who} {method} {path} {_short(body)} {headers or ''}".strip()
        answer = self._send(method, path, sent, given, asked)
        if method == "POST" and answer.status == 201 and b'"id"' in answer.body:
            self.made.setdefault(answer.id, f"<made {len(self.made) + 1}>")
        if record:
            self.answers.append(answer)
        return answer

    def image(self, who: str = "alice", **fields: Any) -> str:
        """The path of a new image of raw data; it is not recorded."""
        said = {"name": "an image", "disk_format": "raw", "container_format": "bare"} | fields
        return f"/v2/images/{self.ask(who, 'POST', '/v2/images', said, record=False).id}"

    def active(self, data: bytes = _DATA, who: str = "alice", **fields: Any) -> str:
        """The path of a new image with data; it is not recorded."""
        path = self.image(who, **fields)
        answer = self.ask(who, "PUT", f"{path}/file", data, OCTETS, record=False)
        assert answer.status == 204, (answer.status, answer.body)
        return path

    def patch(self, who: str, path: str, *changes: dict[str, Any] | str) -> Answer:
        """Change an image."""
        return self.ask(who, "PATCH", path, json.dumps(changes).encode(), PATCH)

    def until(
        self, who: str, path: str, done: Callable[[dict[str, Any]], bool], seconds: float = 30
    ) -> Answer:
        """Ask until the answer is as wanted; record that one."""
        end = time.monotonic() + seconds
        while True:
            answer = self.ask(who, "GET", path, record=False)
            if (answer.status == 200 and done(answer.json)) or time.monotonic() > end:
                self.answers.append(answer)
                return answer
            time.sleep(0.05)

    def settled(self, who: str, path: str) -> Answer:
        """The image once no import of it runs."""
        return self.until(
            who, path,
            lambda image: (
                image["status"] != "importing"
                and not image.get("os_glance_import_task")
                and not image.get("os_glance_importing_to_stores")
            ),
        )  # fmt: skip

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], asked: str
    ) -> Answer:
        place = urllib.parse.urlsplit(self.url)
        for again in (True, False):
            if self._connection is None:
                self._connection = http.client.HTTPConnection(place.netloc, timeout=60)
            try:
                self._connection.request(method, path, body, headers)
                reply = self._connection.getresponse()
                said = reply.read()
                named = {name.lower(): value for name, value in reply.getheaders()}
                return Answer(reply.status, named, said, asked)
            except (http.client.RemoteDisconnected, ConnectionError):
                # A kept connection may have been closed meanwhile; a new one must work.
                self.close()
                if not again:
                    raise
        raise AssertionError

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def empty_qcow2(size: int = 8 << 20) -> bytes:
    """An image that is what it says: a header, and tables of one cluster each."""
    cluster = 1 << 16
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, size, 0, 1, 3 * cluster, cluster, 1, 0, 0
    )
    refcounts = struct.pack(">Q", 2 * cluster).ljust(cluster, b"\0")
    block = struct.pack(">4H", 1, 1, 1, 1).ljust(cluster, b"\0")
    return header.ljust(cluster, b"\0") + refcounts + block + bytes(cluster)


# What must differ, made equal ---------------------------------------------------------------------

_PLACES = re.compile(r"(?:file://|^)(?!/v2/)/[^\s\"]*/(fast|slow)(?:/[^\s\"]*)?$")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REPLACED = (
    (re.compile(r"req-<id>"), "<request>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d(:|%3A)\d\d(:|%3A)\d\dZ"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?"), "<time of the database>"),
)
# Seconds since 1970, and running numbers.
_NUMBERS = {"last_accessed", "last_modified"}


def _equal(run: Run, text: str) -> str:
    place = urllib.parse.urlsplit(run.url).netloc
    text = _PLACES.sub(r"<in \1>", text)
    text = text.replace(place, "<host>").replace(urllib.parse.quote(place), "<host>")
    for name, identifier in run.projects.items():
        text = text.replace(identifier, f"<project {name}>")
    for name, identifier in run.users.items():
        text = text.replace(identifier, f"<user {name}>")
    for identifier, name in run.made.items():
        text = text.replace(identifier, name)
    text = _UUID.sub("<id>", text)
    for pattern, name in _REPLACED:
        text = pattern.sub(name, text)
    return text


def _fields(run: Run, value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a JSON value, by path."""
    if isinstance(value, dict):
        if not value:
            yield path, {}
        for key, item in value.items():
            yield from _fields(run, item, f"{path}.{_equal(run, key)}")
    elif isinstance(value, list):
        if path.endswith((".tags", ".required", ".enum", ".operators")):
            value = sorted(value, key=str)  # sets
        if not value:
            yield path, []
        for number, item in enumerate(value):
            yield from _fields(run, item, f"{path}[{number}]")
    elif (name := path.rsplit(".", 1)[-1]) in _NUMBERS:
        yield path, type(value).__name__
    elif name == "description" and ".properties." in path:
        yield path, bool(value)  # of a schema: words
    else:
        yield path, _equal(run, value) if isinstance(value, str) else value


_HEADERS = (
    "accept-patch", "accept-ranges", "allow", "content-disposition", "content-md5", "content-range",
    "content-type", "etag", "location", "openstack-image-import-methods",
    "openstack-image-store-ids", "retry-after", "www-authenticate", "x-openstack-request-id",
)  # fmt: skip


def _headers(run: Run, answer: Answer) -> Iterator[tuple[str, Any]]:
    for name in _HEADERS:
        value = answer.headers.get(name)
        if value is None or (name == "content-type" and not answer.body):
            continue
        if name in ("allow", "accept-patch"):
            value = ", ".join(sorted(value.split(", ")))
        elif name == "www-authenticate":
            value = value.split("=")[0]
        elif name == "content-type":
            value = value.lower().replace("; ", ";")
        yield f"header {name}", _equal(run, value)


def _error(answer: Answer) -> Iterator[tuple[str, Any]]:
    """An error's shape, without its words."""
    kind = answer.headers.get("content-type", "")
    text = answer.body.decode("utf-8", "replace")
    if "json" in kind:
        said = json.loads(text)
        words = str(said.pop("message", ""))
        yield from ((f"error.{key}", value) for key, value in said.items())
    elif "html" in kind:
        title = re.search(r"<title>(.*?)</title>", text)
        heading = re.search(r"<h1>(.*?)</h1>(.*)</body>", text, re.DOTALL)
        yield "error.title", title.group(1) if title else None
        yield "error.heading", heading.group(1) if heading else None
        words = re.sub(r"<[^>]*>", "", heading.group(2)) if heading else ""
    else:
        status, _, words = text.partition("\n")
        yield "error.status", status
    yield "error.words", bool(words.strip())


def _view(run: Run, answer: Answer) -> dict[str, Any]:
    """Everything of an answer that is compared."""
    view: dict[str, Any] = {"status": answer.status}
    view.update(_headers(run, answer))
    kind = answer.headers.get("content-type", "")
    if answer.status >= 400:
        if answer.body:
            view.update(_error(answer))
    elif "json" in kind and answer.body:
        view.update(_fields(run, answer.json, "body"))
    else:
        view["body"] = answer.body
        if answer.status in (200, 206):
            view["header content-length"] = answer.headers.get("content-length")
    return view


@dataclass(frozen=True)
class Difference:
    """One field of one answer, as Glance has it and as we do; `Difference.MISSING` is absence."""

    step: int
    asked: str
    field: str
    glance: Any
    ours: Any

    MISSING = "<absent>"

    def __str__(self) -> str:
        values = f"Glance {_short(self.glance)}, ours {_short(self.ours)}"
        return f"{self.step:3}. {self.asked}\n       {self.field}: {values}"


def differences(glance: Run, ours: Run) -> list[Difference]:
    """All of them, in order."""
    found = []
    for step, (theirs, mine) in enumerate(zip(glance.answers, ours.answers, strict=False), 1):
        asked = _equal(glance, theirs.asked)
        there, here = _view(glance, theirs), _view(ours, mine)
        if there["status"] != here["status"]:
            said = mine.body[:300].decode("utf-8", "replace")
            found.append(
                Difference(step, asked, "status", there["status"], f"{here['status']} {said}")
            )
            continue  # the rest follows from it
        for name in sorted(there.keys() | here.keys()):
            a = there.get(name, Difference.MISSING)
            b = here.get(name, Difference.MISSING)
            if a != b or type(a) is not type(b):
                found.append(Difference(step, asked, name, a, b))
    if len(glance.answers) != len(ours.answers):
        counts = len(glance.answers), len(ours.answers)
        found.append(Difference(min(counts) + 1, "the scenario", "requests answered", *counts))
    return found


def _short(value: Any) -> str:
    if value is None:
        return ""
    said = value if isinstance(value, str) else repr(value)
    return said if len(said) <= 160 else f"{said[:150]}... ({len(said)})"
