"""Lists of images: filters, order, pages, who sees what; PostgreSQL reads no whole table."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import ClauseElement, Connection, Executable, insert, select, text
from sqlalchemy.ext.compiler import compiles

from asking import Asked, Client
from postgres import databases
from vmimg.service.catalogue import listing, tables
from vmimg.service.catalogue.listing import Order, Viewer, Wanted

_BEGIN = datetime(2026, 1, 1)


def _put(service: Asked, rows: Iterable[dict[str, Any]]) -> None:
    """Images as they would be after a while: straight into the catalogue."""
    plain = {
        "name": None, "owner": "blue", "visibility": "private", "status": "active",
        "disk_format": None, "container_format": None, "size": None, "checksum": None,
        "os_hash_algo": None, "os_hash_value": None, "os_hidden": False, "protected": False,
        "min_ram": 0, "message": None, "properties": {}, "tags": [],
    }  # fmt: skip
    made = []
    for number, row in enumerate(rows):
        image_id = uuid.UUID(bytes=hashlib.md5(str(number).encode()).digest())
        time = _BEGIN + timedelta(seconds=number)
        made.append({**plain, "id": str(image_id), "created_at": time, "updated_at": time, **row})
    with service.service.database.begin() as connection:
        connection.execute(insert(tables.images), made)


def _named(service: Asked, *rows: dict[str, Any]) -> None:
    _put(service, ({"name": chr(ord("a") + n), **row} for n, row in enumerate(rows)))


def _found(asking: Client, query: str) -> str:
    """The names, sorted: what a filter lets through."""
    return "".join(sorted(name for name in asking.names(query)))


@databases
def test_filters_let_through_what_they_name(service: Asked) -> None:
    _named(
        service,
        {"size": 10, "disk_format": "raw", "tags": ["x", "y"], "properties": {"os": "debian"}},
        {"size": 20, "disk_format": "qcow2", "tags": ["x"], "properties": {"os": "debi"}},
        {"status": "queued", "properties": {"os": "debian", 'odd"na\\me': "ü"}, "min_ram": 512},
        {"protected": True, "checksum": "0" * 32, "os_hash_algo": "sha512"},
        {"owner": "green", "visibility": "public", "os_hash_value": "1" * 128},
        {"os_hidden": True},
    )
    blue = service.caller("blue")
    for query, names in (
        ("", "abcde"),
        ("name=a", "a"),
        ("name=in:a,b,nothing", "ab"),
        ("name=eq:c", "c"),
        ("status=queued", "c"),
        ("status=in:queued,active", "abcde"),
        ("disk_format=raw", "a"),
        ("disk_format=in:raw,qcow2", "ab"),
        ("container_format=bare", ""),
        ("owner=green", "e"),
        ("protected=true", "d"),
        ("protected=false", "abce"),
        ("os_hidden=true", "f"),
        ("os_hidden=False", "abcde"),
        ("size_min=10", "ab"),
        ("size_min=11", "b"),
        ("size_max=10", "a"),
        ("size_min=10&size_max=15", "a"),
        ("size=20", "b"),
        ("size=99999999999999999999999", ""),
        ("size_max=99999999999999999999999", "ab"),
        ("size_min=-99999999999999999999999", "ab"),
        ("size=many", ""),
        ("min_ram=512", "c"),
        ("min_ram_min=1", "c"),
        (f"checksum={'0' * 32}", "d"),
        ("os_hash_algo=sha512", "d"),
        (f"os_hash_value={'1' * 128}", "e"),
        ("tag=x", "ab"),
        ("tag=x&tag=y", "a"),
        ("tag=%20x%20", "ab"),
        ("tag=z", ""),
        ("os=debian", "ac"),
        ("os=debian&tag=x", "a"),
        (f"{quote(chr(111) + 'dd') + quote(chr(34) + 'na' + chr(92) + 'me')}=%C3%BC", "c"),
        ("nothing=x", ""),
        ("visibility=public", "e"),
        ("visibility=private&disk_format=raw", "a"),
    ):
        assert (_found(blue, query), query) == (names, query)


@databases
def test_values_with_commas_stand_in_quotes(service: Asked) -> None:
    _put(service, [{"name": name} for name in ("a,b", "c", 'd"e', "f:g")])
    blue = service.caller("blue")
    assert blue.names(f"name=in:{quote(chr(34) + 'a,b' + chr(34) + ',c')}&sort=name:asc") == [
        "a,b",
        "c",
    ]
    assert blue.names(f"name={quote('a,b')}") == ["a,b"]
    assert blue.names("name=eq:f:g") == ["f:g"]
    for wrong in ('in:"a', 'in:a"b"', 'in:"a"b', "f:g", "gt:a"):
        assert blue.get(f"/v2/images?name={quote(wrong)}").status_code == 400


@databases
def test_times_are_compared_as_they_are_shown(service: Asked) -> None:
    half = timedelta(milliseconds=500)
    _named(service, *({"created_at": _BEGIN + timedelta(hours=n) + half} for n in range(4)))
    blue = service.caller("blue")
    for query, names in (
        ("created_at=2026-01-01T01:00:00Z", "b"),
        ("created_at=eq:2026-01-01T01:00:00Z", "b"),
        ("created_at=neq:2026-01-01T01:00:00Z", "acd"),
        ("created_at=gt:2026-01-01T01:00:00Z", "cd"),
        ("created_at=gte:2026-01-01T01:00:00Z", "bcd"),
        ("created_at=lt:2026-01-01T01:00:00Z", "a"),
        ("created_at=lte:2026-01-01T01:00:00Z", "ab"),
        ("created_at=gt:2026-01-01T02:00:00%2B01:00", "cd"),
        ("created_at=lte:2025-12-31T20:00:00-05:00", "ab"),
        ("created_at=gt:2026-01-01T01:00:00.4Z", "bcd"),
        ("created_at=gte:20260101T020000Z", "cd"),
        ("created_at=gt:2025", "abcd"),
        ("created_at=lt:2026-01-01", ""),
        ("created_at=gt:9999-12-31T23:59:59Z", ""),
        ("updated_at=gte:2026-01-01T00:00:00Z&created_at=lt:2026-01-01T00:59:59Z", "a"),
    ):
        assert (_found(blue, query), query) == (names, query)
    for wrong in ("x", "gt:x", "odd:2026-01-01T00:00:00Z", "in:2026-01-01T00:00:00Z", ""):
        assert blue.get(f"/v2/images?created_at={wrong}").status_code == 400


def test_queries_that_cannot_be_are_refused(service: Asked) -> None:
    for query, why in (
        ("limit=-1", "limit param must be positive"),
        ("limit=x", "limit param must be an integer"),
        ("limit=1.5", "limit param must be an integer"),
        ("sort_key=nothing", "Invalid sort key: nothing."),
        ("sort=name:up", "Invalid sort direction: up"),
        ("sort=", "Invalid sort key"),
        ("sort=name&sort_key=size", "Old and new sorting syntax cannot be combined"),
        ("sort_key=name&sort_dir=asc&sort_dir=desc", "Number of sort dirs does not match"),
        ("visibility=odd", "Invalid visibility value: odd"),
        ("member_status=odd", "Invalid status: odd"),
        ("os_hidden=maybe", "for 'os_hidden' filter"),
        ("protected=True", "for 'protected' filter"),
        ("size_min=x", "Unable to filter on a range with a non-numeric value."),
        ("changes-since=2020-01-01T00:00:00Z", "no longer available on v2"),
        ("marker=nothing", "No image found with ID nothing"),
        ("marker=", "No image found with ID"),
        ("name=%00", "NUL"),
        ("&".join(f"a{n}=b" for n in range(100)), "filters"),
    ):
        answer = service.admin.get(f"/v2/images?{query}")
        assert (answer.status_code, why in answer.text, query) == (400, True, query), answer.text


@databases
def test_who_finds_what(service: Asked) -> None:
    blue, green, admin = service.caller("blue"), service.caller("green"), service.admin
    for visibility in ("private", "shared", "community", "public"):
        admin.image(name=f"blue {visibility}", owner="blue", visibility=visibility)
        admin.image(name=f"green {visibility}", owner="green", visibility=visibility)
    admin.image(name="nobody's", owner=None)
    for asked, mine, others in (
        ("", ["community", "private", "public", "shared"], ["public"]),
        ("visibility=all", ["community", "private", "public", "shared"], ["community", "public"]),
        ("visibility=public", ["public"], ["public"]),
        ("visibility=community", ["community"], ["community"]),
        ("visibility=shared", ["shared"], []),
        ("visibility=private", ["private"], []),
    ):
        wanted = {f"blue {one}" for one in mine} | {f"green {one}" for one in others}
        assert set(blue.names(asked)) == wanted
    everything = {
        f"{owner} {visibility}"
        for owner in ("blue", "green")
        for visibility in ("private", "shared", "community", "public")
    } | {"nobody's"}
    assert set(admin.names("visibility=all")) == everything
    # Without being asked for, community images of others are not even an administrator's.
    assert set(admin.names()) == everything - {"blue community", "green community"}
    assert set(service.caller(None, "reader").names()) == {"blue public", "green public"}
    shared = next(i for i in admin.get("/v2/images?name=blue%20shared").json()["images"])
    blue.post(f"/v2/images/{shared['id']}/members", {"member": "green"})
    assert "blue shared" not in green.names()
    assert "blue shared" in green.names("member_status=all")
    green.put(f"/v2/images/{shared['id']}/members/green", {"status": "accepted"})
    assert "blue shared" in green.names()
    assert green.names("visibility=shared&sort=name:asc") == ["blue shared", "green shared"]
    assert "blue shared" not in service.caller("red").names("member_status=all")


@pytest.mark.parametrize(
    "said", [{"policy": {"get_image": "role:admin or (role:reader and public)"}}]
)
def test_a_stricter_policy_shortens_lists_too(service: Asked) -> None:
    blue = service.caller("blue")
    service.admin.image(name="mine", owner="blue")
    service.admin.image(name="public", visibility="public")
    assert blue.names() == ["public"]


def test_deleted_images_are_in_no_list(service: Asked) -> None:
    image = service.admin.image(name="gone", tags=["t"])
    service.admin.delete(f"/v2/images/{image['id']}")
    for query in ("", "name=gone", "tag=t", f"id={image['id']}", "deleted=true"):
        assert service.admin.names(query) == []
    assert service.admin.get(f"/v2/images?marker={image['id']}").status_code == 400


def test_a_marker_that_is_hidden_is_as_good_as_none(service: Asked) -> None:
    hidden = service.caller("green").image(visibility="private")["id"]
    answer = service.caller("blue").get(f"/v2/images?marker={hidden}")
    assert (answer.status_code, f"No image found with ID {hidden}" in answer.text) == (400, True)


_KEYS = ("name", "size", "disk_format", "created_at", "status", "updated_at")
_SORTS = [
    *(f"sort={key}:{way}" for key in _KEYS for way in ("asc", "desc")),
    "sort=disk_format:asc,size:desc",
    "sort=size:desc,name:asc",
    "sort=status:desc,disk_format:asc,name:desc",
    "sort_key=name&sort_key=size&sort_dir=asc",
    "sort_key=size&sort_dir=desc",
    "sort=id:asc",
    "",
]


@databases
def test_pages_are_the_list_cut_up_whatever_the_order(service: Asked) -> None:
    """Also where values are equal, and where there are none."""
    combined = itertools.product(
        (None, "a", "b"), (None, 1, 2), (None, "raw"), ("active", "queued")
    )
    _put(
        service,
        (
            {"name": name, "size": size, "disk_format": disk, "status": status,
             "created_at": _BEGIN + timedelta(seconds=number % 4),
             "owner": ("blue", "green")[number % 2],
             "visibility": ("public", "private")[number % 3 == 0]}
            for number, (name, size, disk, status) in enumerate(combined)
        ),
    )  # fmt: skip
    for asking in (service.admin, service.caller("blue")):
        for sort in _SORTS:
            whole = [i["id"] for i in asking.get(f"/v2/images?limit=100&{sort}").json()["images"]]
            pages, link = [], f"/v2/images?limit=7&{sort}"
            while link:
                page = asking.get(link).json()
                pages += [image["id"] for image in page["images"]]
                link = page.get("next")
            assert (pages, sort) == (whole, sort)
            assert len(set(whole)) == len(whole) > 20


@databases
def test_nothing_comes_before_everything(service: Asked) -> None:
    _put(service, [{"name": name} for name in ("b", None, "a")])
    blue = service.caller("blue")
    assert blue.names("sort=name:asc") == [None, "a", "b"]
    assert blue.names("sort=name:desc") == ["b", "a", None]


def test_the_newest_comes_first_unless_said_otherwise(service: Asked) -> None:
    _named(service, {}, {}, {})
    blue = service.caller("blue")
    assert blue.names() == ["c", "b", "a"]
    assert blue.names("sort_dir=asc") == ["a", "b", "c"]
    assert blue.names("sort=name") == ["c", "b", "a"]


def test_links_keep_the_query(service: Asked) -> None:
    _named(service, {"tags": ["x", "y"]}, {"tags": ["x", "y"]})
    page = service.caller("blue").get("/v2/images?tag=x&tag=y&limit=1&sort=name:asc").json()
    last = page["images"][0]["id"]
    assert page["first"] == "/v2/images?tag=x&tag=y&limit=1&sort=name%3Aasc"
    assert page["next"] == f"/v2/images?tag=x&tag=y&limit=1&sort=name%3Aasc&marker={last}"
    assert page["schema"] == "/v2/schemas/images"
    following = service.caller("blue").get(page["next"]).json()
    assert [image["name"] for image in following["images"]] == ["b"]
    assert following["first"] == page["first"]
    last_page = service.caller("blue").get(following["next"]).json()
    assert (last_page["images"], "next" in last_page) == ([], False)


@pytest.mark.parametrize("said", [{"limits": {"list_default": 2, "list_max": 3}}])
def test_pages_have_a_size(service: Asked) -> None:
    _named(service, *({} for _ in range(5)))
    blue = service.caller("blue")
    sizes = {limit: len(blue.names(limit)) for limit in ("", "limit=1", "limit=3", "limit=99")}
    assert sizes == {"": 2, "limit=1": 1, "limit=3": 3, "limit=99": 3}
    empty = blue.get("/v2/images?limit=0").json()
    assert (empty["images"], "next" in empty) == ([], False)


_PLANS: list[tuple[str, dict[str, Any]]] = [
    ("everything", {}),
    ("by name", {"order": (Order("name", False), Order("created_at", False), Order("id", False))}),
    ("by size", {"order": (Order("size", True), Order("created_at", True), Order("id", True))}),
    ("changed last", {"order": (Order("updated_at", True), Order("id", True))}),
    ("public", {"visibility": "public"}),
    ("community", {"visibility": "community"}),
    ("shared", {"visibility": "shared"}),
    ("named", {"conditions": (listing.equals("name", "image-17"),)}),
    ("some named", {"conditions": (listing.one_of("name", ["image-17", "image-4"]),)}),
    ("of a state", {"conditions": (listing.equals("status", "queued"),)}),
    ("of a project", {"conditions": (listing.equals("owner", "project-7"),)}),
    ("one", {"conditions": (listing.equals("id", "x"),)}),
    ("of a checksum", {"conditions": (listing.equals("checksum", "17"),)}),
    ("of a hash", {"conditions": (listing.equals("os_hash_value", "17"),)}),
    ("large", {"conditions": (listing.at_least("size", 19_999),)}),
    ("new", {"conditions": (listing.when("created_at", "gt", _BEGIN + timedelta(hours=5)),)}),
    ("tagged", {"conditions": (listing.with_tag("t17", "postgresql"),)}),
    ("with a property", {"conditions": (listing.with_property("build", "17", "postgresql"),)}),
]  # fmt: skip


@databases
@pytest.mark.parametrize("said", [{}, {"show_locations": True}], ids=["", "locations"])
def test_an_image_in_a_list_is_as_it_is_alone(service: Asked) -> None:
    blue = service.caller("blue")
    odd = {'odd"na\\me': "ü\n", "empty": "", "none": None, "number": "9" * 30}
    _put(
        service,
        [
            {"name": 'ü"\\', "properties": odd, "tags": ["ü", 'a"b'], "message": "no: ü"},
            {"properties": {"os_glance_import_task": "x", "os_glance_secret": "y", "z": "1"}},
            {"properties": {"os_glance_secret": "y"}, "size": 2**62, "checksum": "0" * 32},
        ],
    )
    stored = blue.active(b"x" * 512, name="stored")
    out_of_use = blue.active(b"y" * 512, name="out of use")
    assert service.admin.post(f"/v2/images/{out_of_use['id']}/actions/deactivate").is_success
    for who in (blue, service.admin):
        listed = who.get("/v2/images?visibility=all").json()["images"]
        assert len(listed) == 5
        for each in listed:
            assert each == who.shown(each["id"])
        assert [each["stores"] for each in listed if each["id"] == stored["id"]] == ["default"]


@pytest.mark.peer("postgres", "initdb")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_reads_no_whole_table_for_a_page(service: Asked) -> None:
    visibilities = itertools.cycle(["private"] * 6 + ["shared"] * 2 + ["public", "community"])
    _put(
        service,
        (
            {"name": f"image-{n}", "owner": f"project-{n % 97}", "visibility": next(visibilities),
             "status": "queued" if n % 50 == 0 else "active", "size": n, "checksum": str(n),
             "os_hash_value": str(n), "tags": [f"t{n % 999}"], "properties": {"build": str(n)}}
            for n in range(20_000)
        ),
    )  # fmt: skip
    with service.service.database.begin() as connection:
        connection.execute(text("ANALYZE"))
        marker = connection.execute(
            select(tables.images).where(tables.images.c.name == "image-10000")
        ).one()
        for viewer in (Viewer("project-7"), Viewer("admins", is_admin=True)):
            for what, wanted in _PLANS:
                for after in (None, marker) if "conditions" not in wanted else (None,):
                    page = Wanted(viewer, 100, marker=after, **wanted)
                    plan = _plan(connection, page)
                    assert "Seq Scan on images" not in plan, f"{what}\n{plan}"
                    assert "Index" in plan, f"{what}\n{plan}"


@pytest.mark.peer("postgres", "initdb")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_page_is_planned_for_others_that_look_different(service: Asked) -> None:
    """PostgreSQL makes a plan for any values of a statement that is prepared; that of a page reads
    whole tables.
    """
    _put(service, [{}, {}])
    with service.service.database.read() as connection:
        for _ in range(12):
            assert len(listing.page(connection, Wanted(Viewer("blue"), 1000))) == 2
        prepared = connection.execute(text("SELECT count(*) FROM pg_prepared_statements"))
        assert prepared.scalar() == 0


def _plan(connection: Connection, wanted: Wanted) -> str:
    query = listing.query(wanted, "postgresql")
    return "\n".join(row[0] for row in connection.execute(_Explain(query)))


class _Explain(Executable, ClauseElement):
    """What PostgreSQL would do."""

    inherit_cache = False

    def __init__(self, query: ClauseElement) -> None:
        self.query = query


@compiles(_Explain, "postgresql")
def _explained(element: _Explain, compiler: Any, **how: Any) -> str:
    return f"EXPLAIN {compiler.process(element.query, **how)}"
