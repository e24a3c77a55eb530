"""The standard catalogue: what is in it, and that it stays out of an operator's way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import delete

import openstack_env
import peers
from asking import Asked
from postgres import databases
from vmimg.service.api.metadefs import reading
from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import Database
from vmimg.service.catalogue.metadefs.standard import namespaces_of_the_catalogue, seed

ALL = "/v2/metadefs/namespaces"
GLANCE = openstack_env.HOME / "etc" / "glance" / "metadefs"

# Where Glance's files are wrong of fact: MySQL listens on 3306, DB2 on 50000.
CORRECTED = {"sw_database_mysql_listen_port": "3306", "sw_database_db2_port": "50000"}
FACTS = ("type", "enum", "minimum", "maximum", "pattern", "operators", "readonly", "items")


def properties_of(namespace: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from namespace.get("properties", {}).items()
    for given in namespace.get("objects", ()):
        for name, definition in given["properties"].items():
            yield f"{given['name']}/{name}", definition


def facts(namespace: dict[str, Any]) -> dict[str, Any]:
    """What a program reads of a namespace; lists of choices without what is said twice."""
    found: dict[str, Any] = {}
    for name, definition in properties_of(namespace):
        said = {key: definition[key] for key in FACTS if key in definition}
        if "default" in definition:
            said["default"] = CORRECTED.get(name.split("/")[-1], str(definition["default"]))
        for part in (said, said.get("items", {})):
            part.update({k: sorted(set(part[k])) for k in ("enum", "operators") if k in part})
        found[name] = said
    found["protected"] = namespace["protected"]
    found["for"] = sorted(
        (link["name"], link.get("prefix"), link.get("properties_target"))
        for link in namespace.get("resource_type_associations", ())
    )
    return found


def wiped(service: Asked) -> Database:
    """The service's database as one that was never seeded."""
    database = service.service.database
    with database.begin() as connection:
        connection.execute(delete(tables.metadef_namespaces))
        connection.execute(delete(tables.metadef_seeds))
    return database


def test_each_file_is_what_a_client_could_post(service: Asked) -> None:
    wiped(service)
    for said in namespaces_of_the_catalogue():
        reading.NAMESPACE.check(said)
        answer = service.admin.post(ALL, said)
        assert answer.status_code == 201, (said["namespace"], answer.text)
        shown = answer.json()
        assert shown.get("properties", {}) == said.get("properties", {})
        assert shown.get("objects", []) == said.get("objects", [])


def test_everything_is_described_in_a_sentence_or_two() -> None:
    for said in namespaces_of_the_catalogue():
        for name, definition in [("", said), *properties_of(said)]:
            assert 10 < len(definition["description"]) < 300, (said["namespace"], name)


def glance() -> dict[str, dict[str, Any]]:
    if not GLANCE.is_dir():
        peers.require("glance")
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(GLANCE.glob("*.json")):
        said = json.loads(path.read_text("utf-8"))
        found[said["namespace"]] = said
    assert len(found) > 30
    return found


def test_all_that_glance_defines_is_in_it() -> None:
    theirs = glance()
    ours = {said["namespace"]: said for said in namespaces_of_the_catalogue()}
    assert set(theirs) <= set(ours)
    for name in theirs:
        assert facts(ours[name]) == facts(theirs[name]), name
        assert ours[name]["visibility"] == theirs[name].get("visibility", "public")


def test_the_words_are_not_glances() -> None:
    ours = {said["namespace"]: said for said in namespaces_of_the_catalogue()}
    for name, said in glance().items():
        theirs = dict(properties_of(said))
        for key, definition in properties_of(ours[name]):
            assert definition["description"] != theirs[key]["description"]


@databases
def test_a_new_service_has_the_catalogue(service: Asked) -> None:
    shown = service.caller("blue").get(f"{ALL}/OS::Compute::VirtCPUTopology").json()
    assert shown["owner"] == "admin"
    assert shown["protected"] is True
    assert shown["properties"]["cpu_sockets"]["type"] == "integer"
    path = f"{ALL}/OS::Compute::VirtCPUTopology/properties/hw:cpu_cores"
    assert service.caller("blue").get(f"{path}?resource_type=OS::Nova::Flavor").status_code == 200
    listed = service.caller("blue").get(f"{ALL}?limit=100").json()["namespaces"]
    assert len(listed) == len(list(namespaces_of_the_catalogue()))
    quota = service.admin.get(f"{ALL}/OS::Compute::Quota").json()
    assert [given["name"] for given in quota["objects"]] == [
        *("CPU Limits", "Disk QoS", "Virtual Interface QoS"),
    ]


@databases
def test_it_is_put_in_once(service: Asked) -> None:
    database = wiped(service)
    assert seed(database) == len(list(namespaces_of_the_catalogue()))
    assert seed(database) == 0


@databases
def test_two_services_that_start_at_once_put_it_in_once(service: Asked) -> None:
    database = wiped(service)
    with ThreadPoolExecutor(3) as pool:
        counts = list(pool.map(seed, [database] * 3))
    assert sorted(counts) == [0, 0, len(list(namespaces_of_the_catalogue()))]
    topology = service.admin.get(f"{ALL}/OS::Compute::VirtCPUTopology").json()
    assert len(topology["properties"]) == 6


@databases
def test_what_an_operator_did_to_it_stays(service: Asked) -> None:
    database = wiped(service)
    mine = {"namespace": "OS::Compute::TPM", "description": "Mine."}
    assert service.admin.post(ALL, mine).status_code == 201
    seed(database)
    changed = f"{ALL}/OS::Compute::Quota"
    service.admin.put(changed, {"namespace": "OS::Compute::Quota", "description": "Ours."})
    service.admin.delete(f"{changed}/objects")
    gone = f"{ALL}/OS::Compute::XenAPI"
    service.admin.put(gone, {"namespace": "OS::Compute::XenAPI"})
    assert service.admin.delete(gone).status_code == 204
    seed(database)
    assert service.admin.get(f"{ALL}/OS::Compute::TPM").json()["description"] == "Mine."
    assert "properties" not in service.admin.get(f"{ALL}/OS::Compute::TPM").json()
    assert service.admin.get(changed).json()["description"] == "Ours."
    assert "objects" not in service.admin.get(changed).json()
    assert service.admin.get(gone).status_code == 404


def test_a_deployment_may_do_without(tmp_path: Path) -> None:
    from vmimg.service.application import assemble
    from vmimg.service.settings import load

    for wanted in (False, True):
        folder = tmp_path / str(wanted)
        service = assemble(load(None, data=folder, catalogue={"metadefs": wanted}))
        with service.database.read() as connection:
            found = connection.execute(tables.metadef_namespaces.select()).all()
        service.pool.shutdown()
        service.database.close()
        assert bool(found) is wanted
