"""Quotas that Keystone has: asked of the real one, and held as a Glance that asks it holds them."""

from __future__ import annotations

import contextlib
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import vmimg.service.settings as vmimg_settings
from accepted_differences import unaccepted
from asking import Asked
from compare import OCTETS, Run, differences
from glance_peer import Openstack
from scenarios_limits import LIMITS
from test_imports import begin, ended, imported
from trouble import waited
from unified_limits import NAMES, Registry
from vmimg.errors import OptionError
from vmimg.service.identity.unified import UnifiedLimits

pytestmark = pytest.mark.peer("keystone", "glance")

MIB = 1 << 20
PROJECTS = {"one": "one-15", "two": "two-15", "admin": "admin"}
PEOPLE = {"alice": "one", "rita": "one", "bob": "two", "admin": "admin"}
_PLAIN = {"username": "alice", "project_name": "one-14", "project_domain_id": "default"}
_KEYSTONE = {"identity": {"mode": "keystone", "keystone": {"auth_url": "http://keystone"}}}


@pytest.fixture(scope="module")
def registry(openstack: Openstack) -> Iterator[Registry]:
    """Each project may have 2 MiB stored, 2 staged, 2 images, and 2 coming."""
    with contextlib.closing(Registry(openstack)) as made:
        made.register(**dict.fromkeys(NAMES, 2))
        yield made


@pytest.fixture(scope="module")
def empty_registry(openstack: Openstack) -> Iterator[Registry]:
    """Nothing is registered, and there are two endpoints of the service."""
    with contextlib.closing(Registry(openstack)) as made:
        made.another_endpoint()
        yield made


# Beside Glance


@pytest.mark.slow
def test_keystones_limits_are_held_as_by_glance(openstack: Openstack, tmp_path: Path) -> None:
    with contextlib.closing(Registry(openstack)) as registry:
        _hold_as_glance(openstack, registry, tmp_path)


def _hold_as_glance(openstack: Openstack, registry: Registry, tmp_path: Path) -> None:
    auth = ", ".join(f'{name} = "{value}"' for name, value in registry.login.items())
    more = (
        '[limits]\nquotas = "keystone"\n[limits.keystone]\ncache_seconds = 1\n'
        f'endpoint_id = "{registry.endpoint["id"]}"\nauth = {{ {auth} }}\n'
    )
    asked = {"X-Auth-Token": openstack.token("alice", PROJECTS["one"])}
    with registry.glance() as glance, openstack.serving(tmp_path, more) as ours:
        urls = glance, ours.url

        def usage() -> httpx.Response:
            return ours.http.get("/v2/info/usage", headers=asked)

        registry.register(image_size_total=5, image_stage_total=5)
        said = _compared(openstack, urls, "limits_that_are_not_registered")
        registry.register(image_count_total=3, image_count_uploading=1)
        others = (name for name in NAMES if name != "image_count_total")
        registry.limit(PROJECTS["two"], image_count_total=1, **dict.fromkeys(others, -1))
        waited(lambda: usage().json()["usage"]["image_count_uploading"]["limit"] == 1)
        said += _compared(openstack, urls, "limits_of_keystone")
        with registry.away():
            waited(lambda: usage().status_code != 200)
            said += _compared(openstack, urls, "limits_of_a_keystone_that_is_away")
        assert usage().json()["usage"]["image_count_total"] == {"usage": 3, "limit": 3}
    assert not said, "\n".join(said)


def _compared(openstack: Openstack, urls: tuple[str, str], name: str) -> list[str]:
    runs = []
    for url in urls:
        run = Run(
            url,
            lambda who: openstack.token(who, PROJECTS[PEOPLE[who]]),
            {side: openstack.projects[project] for side, project in PROJECTS.items()},
            users=openstack.users,
            name=name,
        )
        try:
            LIMITS[name](run)
        finally:
            run.close()
        runs.append(run)
    left, unused = unaccepted(name, differences(*runs))
    return [*map(str, left), *(f"not needed any more: {row}" for row in unused)]


# Ours alone


@pytest.fixture
def said(registry: Registry, openstack: Openstack, tmp_path: Path) -> dict[str, Any]:
    """Keystone's limits count; the service's own projects are Keystone's."""
    return {
        "stores": {name: {"url": f"file://{tmp_path}/{name}"} for name in ("fast", "slow")},
        "identity": {"mode": "keystone", "keystone": registry.login},
        "limits": {"quotas": "keystone", "keystone": registry.told},
    }


def usage_of(service: Asked, project: str) -> dict[str, Any]:
    answer = service.caller(project).get("/v2/info/usage")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["usage"]
    return found


def test_a_changed_limit_counts_from_the_next_request_on(
    service: Asked, registry: Registry, openstack: Openstack
) -> None:
    one = openstack.projects["one-14"]
    assert usage_of(service, one)["image_count_total"] == {"usage": 0, "limit": 2}
    registry.limit("one-14", image_count_total=0, image_size_total=-1)
    assert usage_of(service, one)["image_count_total"] == {"usage": 0, "limit": 0}
    assert usage_of(service, one)["image_size_total"] == {"usage": 0, "limit": -1}
    refused = service.caller(one).post("/v2/images", {})
    assert refused.status_code == 413
    assert "image_count_total" in refused.text and one in refused.text
    assert service.caller(openstack.projects["two-14"]).post("/v2/images", {}).status_code == 201


def test_an_answer_is_believed_for_a_while(registry: Registry, openstack: Openstack) -> None:
    where = vmimg_settings.KeystoneLimits(**registry.told | {"cache_seconds": 600})
    limits = UnifiedLimits(where, {})
    before = limits.of("somebody")
    with registry.away():
        assert limits.of("somebody") == before == (2 * MIB, 2 * MIB, 2, 2)


def test_without_keystone_nothing_is_taken_and_the_client_may_try_again(
    service: Asked, registry: Registry
) -> None:
    caller = service.caller("somebody")
    image = caller.image()
    with registry.away():
        for answer in (
            caller.get("/v2/info/usage"),
            caller.post("/v2/images", {}),
            caller.upload(image["id"], b"x"),
            caller.request("PUT", f"/v2/images/{image['id']}/stage", content=b"x", headers=OCTETS),
        ):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert caller.get(f"/v2/images/{image['id']}").json()["status"] == "queued"
    assert caller.upload(image["id"], b"x").status_code == 204


def test_an_upload_that_has_begun_ends_without_keystone(service: Asked, registry: Registry) -> None:
    caller = service.caller("somebody")
    image = caller.image()
    away = registry.away()

    def body() -> Iterator[bytes]:
        yield b"x" * 512
        away.__enter__()
        yield b"x" * 512

    answer = caller.request("PUT", f"/v2/images/{image['id']}/file", content=body(), headers=OCTETS)
    assert answer.status_code == 204
    away.__exit__(None, None, None)


def test_a_body_of_unknown_size_ends_at_the_limit(service: Asked, registry: Registry) -> None:
    caller = service.caller("somebody")
    image = caller.image()
    answer = caller.request(
        "PUT",
        f"/v2/images/{image['id']}/file",
        content=iter([b"x" * MIB, b"x" * MIB, b"x"]),
        headers=OCTETS,
    )
    assert answer.status_code == 413
    assert caller.upload(image["id"], b"x" * 2 * MIB).status_code == 204


def test_an_import_waits_for_keystone_after_a_restart(
    service: Asked, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    away = registry.away()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # As if the service had begun anew: nothing of Keystone's is known any more.
            where = vmimg_settings.KeystoneLimits(**registry.told)
            object.__setattr__(service.service, "unified", UnifiedLimits(where, {}))
            away.__enter__()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(512))

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.handle_request)
        thread.start()
        rules = {"private_addresses": True, "hosts": ("127.0.0.1",), "ports": (web.server_port,)}
        imports = service.service.settings.imports.model_copy(update=rules)
        object.__setattr__(service.service.settings, "imports", imports)
        image_id = service.admin.image()["id"]
        uri = f"http://127.0.0.1:{web.server_port}/disk"
        assert begin(service.admin, image_id, "web-download", uri=uri).status_code == 202
        waited(lambda: "a task must wait" in caplog.text)
        assert service.admin.shown(image_id)["status"] == "importing"
        away.__exit__(None, None, None)
        assert ended(service.admin, image_id)["status"] == "success"
        thread.join()


def test_copies_count_for_the_project_that_has_the_image(
    service: Asked, registry: Registry
) -> None:
    image = service.caller("somebody").active(bytes(MIB))
    other = service.caller("somebody").active(bytes(512))
    assert begin(service.admin, image["id"], "copy-image", stores=["slow"]).status_code == 413
    imported(service.admin, other["id"], "copy-image", stores=["slow"])
    assert usage_of(service, "somebody")["image_size_total"] == {"usage": 1, "limit": 2}
    assert usage_of(service, "admins")["image_size_total"] == {"usage": 0, "limit": 2}


# What --check-config says


def test_the_settings_are_told_to_be_good(registry: Registry) -> None:
    where = {"service_type": registry.type, "region": "here", "auth": {"system_scope": "all"}}
    login = registry.login | {"system_scope": "", "project_name": "admin"}
    UnifiedLimits(vmimg_settings.KeystoneLimits(**where), login).check()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"endpoint_id": "0123"}, "endpoint_id = '0123': Keystone has no such endpoint"),
        ({"endpoint_id": "", "service_type": "nope"}, "Keystone has no service of type 'nope'"),
        ({"endpoint_id": "", "region": "there"}, "no public endpoint of it in there"),
        ({"endpoint_id": ""}, "more than one public endpoint of it; set region or endpoint_id"),
        ({"auth": {"password": "wrong"}}, "takes no such login"),
        ({"auth": _PLAIN}, "needs the role reader on the system"),
        ({"auth": {"auth_url": "http://127.0.0.1:1"}}, "Keystone cannot be asked"),
        ({}, "registered limit image_size_total, image_stage_total, image_count_total, image_cou"),
    ],
)
def test_what_would_go_wrong_is_told(
    empty_registry: Registry, wrong: dict[str, Any], words: str
) -> None:
    said = {"service_type": empty_registry.type, **empty_registry.told, **wrong}
    with pytest.raises(OptionError, match=re.escape(words)):
        UnifiedLimits(vmimg_settings.KeystoneLimits(**said), empty_registry.login).check()


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ({"pasword": "secret"}, "limits.keystone.auth.pasword: there is no such option"),
        ({"auth_type": "nope"}, "limits.keystone.auth.auth_type = 'nope': it is not known"),
        ({"auth_type": "none"}, "limits.keystone.auth.auth_type = 'none': it logs in nowhere"),
    ],
)
def test_a_login_that_cannot_be_is_told_at_the_start(auth: dict[str, Any], words: str) -> None:
    login = {"auth_url": "http://127.0.0.1:1", "auth_type": "password"}
    with pytest.raises(OptionError, match=re.escape(words)):
        UnifiedLimits(vmimg_settings.KeystoneLimits(auth=auth), login)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"limits": {"quotas": "keystone"}}, "identity.mode must be 'keystone' too"),
        (
            {"limits": {"quotas": "keystone", "project_count": 3}, **_KEYSTONE},
            "limits.project_count: quotas are Keystone's",
        ),
        (
            {"limits": {"quotas": "keystone", "keystone": {"service_type": ""}}, **_KEYSTONE},
            "limits.keystone: set endpoint_id, or service_type",
        ),
        ({"limits": {"keystone": {"region": "here"}}}, "only with limits.quotas = 'keystone'"),
    ],
)
def test_settings_that_contradict_each_other_are_told(said: dict[str, Any], words: str) -> None:
    with pytest.raises(vmimg_settings.SettingsError, match=re.escape(words)):
        vmimg_settings.load(None, **said)


def test_check_config_asks_keystone(empty_registry: Registry, tmp_path: Path) -> None:
    config = tmp_path / "vmimg.toml"
    auth = ", ".join(f'{name} = "{value}"' for name, value in empty_registry.login.items())
    config.write_text(
        f'data = "{tmp_path}/data"\n[identity]\nmode = "keystone"\nkeystone = {{ {auth} }}\n'
        f'[limits]\nquotas = "keystone"\n[limits.keystone]\n'
        f'endpoint_id = "{empty_registry.endpoint["id"]}"\n'
    )
    arguments = ("serve", "--config", str(config), "--check-config")
    command = [sys.executable, "-m", "vmimg", *arguments]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "no registered limit image_size_total" in refused.stderr
    assert "Traceback" not in refused.stderr
