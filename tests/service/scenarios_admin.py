"""Scenarios: what the service tells of itself, tasks, cache, schemas."""

from __future__ import annotations

import uuid

from compare import OCTETS, Run, scenario, scenario_alone

__all__: list[str] = []


@scenario
def what_is_offered(run: Run) -> None:
    for path in ("/v2/info/import", "/v2/info/stores"):
        for who in ("alice", "rita", None):
            run.ask(who, "GET", path)
    for who in ("alice", "robot", "admin", None):
        run.ask(who, "GET", "/v2/info/stores/detail")


@scenario_alone
def usage(run: Run) -> None:
    run.active(b"x" * 3_000_000)
    staged = run.image()
    run.ask("alice", "PUT", f"{staged}/stage", b"x" * 2_000_000, OCTETS, record=False)
    run.ask("alice", "GET", "/v2/info/usage")
    run.ask("bob", "GET", "/v2/info/usage")
    run.ask(None, "GET", "/v2/info/usage")


@scenario
def tasks(run: Run) -> None:
    image = run.image()
    run.ask("alice", "PUT", f"{image}/stage", bytes(1024), OCTETS)
    run.ask("alice", "POST", f"{image}/import", {"method": {"name": "glance-direct"}})
    run.settled("alice", image)
    task = run.ask("alice", "GET", f"{image}/tasks", record=False).json["tasks"][0]["id"]
    run.made[task] = "<the task>"
    where = f"/v2/tasks/{task}"
    for who in ("alice", "rita", "bob"):
        run.ask(who, "GET", "/v2/tasks")
        run.ask(who, "GET", where)
        run.ask(who, "POST", "/v2/tasks", {})
        run.ask(who, "DELETE", where)
    run.until("admin", where, lambda task: task["status"] in ("success", "failure"))
    run.ask("admin", "DELETE", where)
    run.ask("admin", "GET", "/v2/tasks/nope")
    run.ask("admin", "GET", f"/v2/tasks/{uuid.uuid4()}")
    # Tasks of other scenarios come and go: pages of none.
    for query in (
        "limit=0", "status=pending&limit=0", "status=nope", "type=import&limit=0", "type=nope",
        "sort_dir=up", "sort_key=nope", "marker=nope", "limit=x", "limit=-1",
        "sort_key=updated_at&sort_dir=asc&limit=0", f"marker={uuid.uuid4()}",
    ):  # fmt: skip
        run.ask("admin", "GET", f"/v2/tasks?{query}")
    image_properties = {"disk_format": "raw", "container_format": "bare"}
    said = {"import_from_format": "raw", "image_properties": image_properties}
    for body in (
        {}, {"type": "import"}, {"input": {}}, {"type": "import", "input": {}},
        {"type": "nope", "input": {}}, {"type": "import", "input": 5}, {"type": 5, "input": {}},
        {"type": "import", "input": said | {"import_from": "http://127.0.0.1:1/x"}},
        {"type": "import", "input": said | {"import_from": "file:///etc/passwd"}},
        {"type": "import", "input": said | {"import_from": "nonsense"}},
    ):  # fmt: skip
        run.ask("admin", "POST", "/v2/tasks", body)
    run.ask("admin", "POST", "/v2/tasks")


@scenario
def the_cache(run: Run) -> None:
    image = run.active().rsplit("/", 1)[1]
    queued = run.image().rsplit("/", 1)[1]
    run.made |= {image: "<image>", queued: "<queued>"}
    cache = "/v2/cache"
    for who in ("alice", "rita"):
        run.ask(who, "GET", cache)
        run.ask(who, "PUT", f"{cache}/{image}")
        run.ask(who, "DELETE", f"{cache}/{image}")
        run.ask(who, "DELETE", cache)
        run.ask(who, "POST", f"{cache}/clean")
        run.ask(who, "POST", f"{cache}/prune")
        run.ask(who, "GET", f"{cache}/nodes/{image}")
    run.ask("admin", "GET", cache)
    for name in (queued, "nope", str(uuid.uuid4())):
        run.ask("admin", "PUT", f"{cache}/{name}")
    run.ask("admin", "PUT", f"{cache}/{image}")
    run.until("admin", cache, lambda cache: len(cache["cached_images"]) == 1, seconds=8)
    run.ask("admin", "GET", f"{cache}/nodes/{image}")
    run.ask("admin", "GET", f"{cache}/nodes/nope")
    run.ask("alice", "GET", f"/v2/images/{image}/file")
    run.ask("admin", "DELETE", f"{cache}/{image}")
    run.ask("admin", "DELETE", f"{cache}/{image}")
    run.ask("admin", "DELETE", f"{cache}/nope")
    run.ask("admin", "GET", f"{cache}/nodes/{image}")
    for target in ("cache", "queue", "", "nope"):
        run.ask("admin", "DELETE", cache, headers={"x-image-cache-clear-target": target})
    run.ask("admin", "DELETE", cache)
    run.ask("admin", "POST", f"{cache}/clean")
    run.ask("admin", "POST", f"{cache}/prune")
    run.ask("admin", "GET", cache)


@scenario
def schemas(run: Run) -> None:
    for name in (
        "image", "images", "member", "members", "task", "tasks", "metadefs/namespace",
        "metadefs/namespaces", "metadefs/resource_type", "metadefs/resource_types",
        "metadefs/property", "metadefs/properties", "metadefs/object", "metadefs/objects",
        "metadefs/tag", "metadefs/tags",
    ):  # fmt: skip
        run.ask("alice", "GET", f"/v2/schemas/{name}")
    run.ask("alice", "GET", "/v2/schemas/nope")
    run.ask("alice", "GET", "/v2/schemas")
