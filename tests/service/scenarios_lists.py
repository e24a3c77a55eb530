"""Scenarios: lists of images, and sharing them."""

from __future__ import annotations

import uuid
from urllib.parse import quote

from compare import Run, empty_qcow2, scenario, scenario_alone

__all__: list[str] = []


def _few(run: Run) -> None:
    """Images to look for, each of another kind; names in alphabetical order of making."""
    raw, qcow2 = {"data": bytes(512)}, {"data": empty_qcow2(), "disk_format": "qcow2"}
    for number, fields in enumerate(
        (
            {
                "name": "a",
                "min_ram": 1,
                "min_disk": 10,
                "os_distro": "debian",
                "tags": ["red", "blue"],
            },
            {"name": "b", "os_distro": "fedora", "tags": ["red"], **raw},
            {"name": "c", "visibility": "private", **qcow2},
            {"name": "d,comma", "visibility": "community", "container_format": "ova"},
            {"name": "e", "protected": True, "min_ram": 512},
            {"name": "f", "os_hidden": True},
            {"name": "a", "os_distro": "debian"},
        )
    ):
        # Chosen, so that both services sort them alike.
        chosen = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.name}/{number}"))
        data = fields.pop("data", None)
        if data is None:
            run.image(id=chosen, **fields)
        else:
            run.active(data, id=chosen, **fields)


def _queries(run: Run, *queries: str, who: str = "alice") -> None:
    for query in queries:
        # Made within one second: ties are broken by a chosen order.
        order = "" if "sort" in query else "&sort=name:asc,size:asc"
        run.ask(who, "GET", f"/v2/images?{query}{order}")


@scenario_alone
def filters(run: Run) -> None:
    _few(run)
    _queries(
        run, "", "name=b", "name=nope", "name=in:b,c", "name=in:%22d,comma%22,e", "name=in:b",
        "name=in:", "name=in:,b", "status=active", "status=queued", "status=in:active,queued",
        "status=nope", "disk_format=qcow2", "disk_format=in:raw,qcow2", "container_format=ova",
        "container_format=in:ova,bare", "visibility=private", "visibility=shared",
        f"visibility=all&owner={run.projects['one']}", "protected=true", "protected=false",
        "os_hidden=true",
        "os_hidden=false", "os_hidden=TRUE", "tag=red", "tag=red&tag=blue", "tag=none", "tag=",
        "os_distro=debian", "os_distro=nope", "nothing=like-it", "min_ram=512", "min_ram=x",
        "min_disk=10", "size=512", "size_min=512", "size_min=513", "size_max=512", "size_max=2001",
        "size_min=5&size_max=600", "size_max=-1", "size=gt:1", "deleted=true",
        "name=a&os_distro=debian",
        "os_distro=debian&tag=red", f"owner={run.projects['one']}", f"owner={run.projects['two']}",
        "checksum=nope", "os_hash_value=nope", "os_hash_algo=sha512", "id=nope", "id=in:nope,no",
        f"name={quote('d,comma')}", "is_public=true", "is_public=none", "property-os_distro=debian",
        "virtual_size=512", "schema=x", "self=x", "stores=fast", "name=b&name=c",
    )  # fmt: skip
    data = run.ask("alice", "GET", "/v2/images?name=c", record=False).json["images"][0]
    _queries(run, f"checksum={data['checksum']}", f"os_hash_value={data['os_hash_value']}")
    _queries(run, f"id={data['id']}", f"id=in:{data['id']},nope")


@scenario_alone
def filters_that_are_wrong(run: Run) -> None:
    _queries(
        run, "visibility=nope", "member_status=nope", "os_hidden=nope", "protected=nope",
        "protected=True", "changes-since=2020-01-01T00:00:00Z", "size_min=x", "size_max=x",
        "name=neq:x", "name=x:y", "status=gt:active", "id=lt:x", "name=in:%22a", "name=in:a%22b%22",
        "created_at=nope", "created_at=gt:nope", "updated_at=xx:2020-01-01T00:00:00Z",
        "created_at=in:2020-01-01", "limit=-1", "limit=x", "limit=1.5", "limit=", "marker=nope",
        "marker=", "sort=nope", "sort=name:up", "sort=name&sort_key=name", "sort_dir=up",
        "sort_key=nope", "sort_key=name&sort_dir=asc&sort_dir=desc", "sort=", "sort=name:",
        "sort_key=name&sort_key=size&sort_dir=asc&sort_dir=desc&sort_dir=asc",
    )  # fmt: skip


@scenario_alone
def filters_by_time(run: Run) -> None:
    _few(run)
    early, late = "2001-01-01T00:00:00Z", "2101-01-01T00:00:00Z"
    for field in ("created_at", "updated_at"):
        for operator in ("gt", "gte", "lt", "lte", "eq", "neq"):
            _queries(run, f"{field}={operator}:{early}", f"{field}={operator}:{late}")
        _queries(
            run, f"{field}={early}", f"{field}=gt:2001-01-01", f"{field}=gt:2001-01-01T00:00:00"
        )
        _queries(
            run, f"{field}=gt:2001-01-01T00:00:00%2B02:00", f"{field}=gt:2001-01-01T00:00:00.5Z"
        )
    made = run.ask("alice", "GET", "/v2/images?name=e", record=False).json["images"][0]
    _queries(run, f"name=e&created_at=eq:{made['created_at']}")
    _queries(
        run,
        f"name=e&created_at=gt:{made['created_at']}",
        f"name=e&created_at=lte:{made['created_at']}",
    )


@scenario_alone
def sorting_and_pages(run: Run) -> None:
    _few(run)
    orders = (
        "sort=name:asc,id:asc", "sort=size:desc,name:asc,status:asc,id:asc",
        "sort=name:desc,size:asc",
        "sort=status,name", "sort_key=name&sort_dir=asc",
        "sort_key=name&sort_key=size&sort_dir=asc",
        "sort_key=disk_format&sort_key=name&sort_dir=asc&sort_dir=desc",
        "sort=container_format:asc,name:asc",
        "sort=disk_format:desc,name:desc", "sort= name:asc , size:desc",
    )  # fmt: skip
    for order in orders:
        query = order.replace(" ", "%20")
        if "id" not in order:
            query += "&name=in:b,c,%22d,comma%22,e"
        if "size" in order:
            query += "&size_min=0"  # After an image without a size, Glance begins anew.
        run.ask("alice", "GET", f"/v2/images?{query}")
        if query.count("sort_key") > 1:
            continue  # Glance's links lose all but the last
        page = run.ask("alice", "GET", f"/v2/images?limit=2&{query}")
        for _ in range(4):
            # Both are asked as often, also when one has no more.
            more = page.json.get("next") if page.status == 200 else None
            page = run.ask("alice", "GET", more or "/v2/schemas/member")
    for query in ("limit=0", "limit=1", "limit=1000", "limit=5000", "limit=6&os_hidden=false"):
        run.ask("alice", "GET", f"/v2/images?{query}&sort=name:asc,size:asc,id:asc&name=in:b,c,e")


@scenario_alone
def newest_first(run: Run) -> None:
    # Glance has microseconds, so images made at once keep their order.
    for name in "abc":
        run.image(name=name)
    run.ask("alice", "GET", "/v2/images")
    run.ask("alice", "GET", "/v2/images?sort_dir=asc")
    run.ask("alice", "GET", "/v2/images?limit=1")
    first = run.ask("alice", "GET", "/v2/images?name=b", record=False).json["images"][0]["id"]
    run.ask("alice", "GET", f"/v2/images?marker={first}")
    run.ask("alice", "GET", f"/v2/images?marker={first}&sort_dir=asc&limit=5")
    run.ask("bob", "GET", f"/v2/images?marker={first}")


@scenario_alone
def what_others_list(run: Run) -> None:
    _few(run)
    # Images of other scenarios are public at times: by name only.
    mine = f"name=in:a,b,c,%22d,comma%22,e,f&owner={run.projects['one']}"
    for who in ("rita", "bob", "robot"):
        for query in (
            "",
            "&visibility=community",
            "&visibility=all",
            "&visibility=shared",
            "&visibility=private",
        ):
            _queries(run, mine + query, who=who)
    for query in ("", "&visibility=all", "&visibility=private", "&os_hidden=true"):
        _queries(run, mine + query, who="admin")


@scenario_alone
def sharing(run: Run) -> None:
    one, two = run.projects["one"], run.projects["two"]
    image = run.active()
    members, bobs = f"{image}/members", f"{image}/members/{two}"
    run.ask("alice", "GET", members)
    run.ask("bob", "GET", members)
    run.ask("bob", "POST", members, {"member": two})
    run.ask("alice", "POST", members, {"member": two})
    run.ask("alice", "POST", members, {"member": two})
    run.ask("alice", "POST", members, {"member": one})
    run.ask("alice", "POST", members, {"member": "anything"})
    for body in ({}, {"member": ""}, {"member": None}, ["x"], {"other": "x"}):
        run.ask("alice", "POST", members, body)
    run.ask("alice", "POST", members)
    for who in ("rita", "bob"):
        run.ask(who, "POST", members, {"member": "other"})
    for who in ("alice", "rita", "bob", "admin"):
        run.ask(who, "GET", members)
        run.ask(who, "GET", bobs)
        run.ask(who, "GET", f"{members}/{one}")
    run.ask("alice", "GET", f"{members}/nope")
    run.ask("bob", "GET", image)
    run.ask("bob", "GET", f"{image}/file")
    for status in ("all", "pending", "accepted", "rejected"):
        run.ask("bob", "GET", f"/v2/images?visibility=shared&member_status={status}")
    for who in ("alice", "rita"):
        run.ask(who, "PUT", bobs, {"status": "accepted"})
    for body in ({}, {"status": "nope"}, {"status": None}, ["x"]):
        run.ask("bob", "PUT", bobs, body)
    run.ask("bob", "PUT", bobs)
    for status in ("accepted", "rejected", "pending", "accepted"):
        run.ask("bob", "PUT", bobs, {"status": status})
        run.ask("bob", "GET", "/v2/images?visibility=shared")
    run.ask("bob", "GET", f"/v2/images?owner={one}")
    run.ask("bob", "GET", "/v2/images?visibility=shared&member_status=all")
    run.ask("bob", "PUT", f"{members}/nope", {"status": "accepted"})
    run.ask("admin", "PUT", bobs, {"status": "rejected"})
    run.ask("bob", "DELETE", image)
    run.patch("bob", image, {"op": "replace", "path": "/name", "value": "mine"})
    for who in ("bob", "rita", "alice", "alice"):
        run.ask(who, "DELETE", bobs)
    run.ask("alice", "DELETE", f"{members}/nope")
    run.ask("bob", "GET", image)


@scenario
def members_of_what_is_not_shared(run: Run) -> None:
    two = run.projects["two"]
    for visibility in ("private", "community"):
        image = run.image(visibility=visibility)
        members = f"{image}/members"
        run.ask("alice", "GET", members)
        run.ask("alice", "POST", members, {"member": two})
        for method in ("GET", "DELETE"):
            run.ask("alice", method, f"{members}/{two}")
        run.ask("bob", "PUT", f"{members}/{two}", {"status": "accepted"})
    image = run.image()
    run.ask("alice", "POST", f"{image}/members", {"member": two})
    run.patch("alice", image, {"op": "replace", "path": "/visibility", "value": "private"})
    run.ask("bob", "GET", image)
    run.patch("alice", image, {"op": "replace", "path": "/visibility", "value": "shared"})
    run.ask("bob", "GET", image)
    run.ask("alice", "GET", f"{image}/members")
    run.ask("alice", "POST", f"{image}/members", {"member": 5})
    run.ask("alice", "GET", "/v2/images/nope/members")
    run.ask("alice", "POST", "/v2/images/nope/members", {"member": two})
