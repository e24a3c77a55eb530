"""Keystone says what projects may take: its unified limits, as oslo.limit reads them for Glance.

A registered limit is what a project has of which nothing else is said, a limit that of one project.
Both belong to a service and a region, which those of an endpoint are:

    GET /v3/limits/model                                        only `flat` is known
    GET /v3/endpoints/ID                                        or services, and endpoints of one
    GET /v3/registered_limits?service_id=...&region_id=...
    GET /v3/limits?service_id=...&region_id=...&project_id=...

What is registered nowhere is 0: nothing is allowed. -1 is no limit. Sizes are in MiB.

oslo.limit has one connection and one configuration for all of a process, and needs openstacksdk;
these are four requests by keystoneauth, which comes with keystonemiddleware.
https://docs.openstack.org/api-ref/identity/v3/#unified-limits
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from vmimg.errors import OptionError
from vmimg.extras import require
from vmimg.service.quota import RESOURCES, SIZES, Allowed, QuotasUnknown
from vmimg.service.settings import KeystoneLimits

__all__ = ["UnifiedLimits"]

_log: Final = logging.getLogger("vmimg.service")
_MOST_KEPT: Final = 10_000
_SECONDS_TO_ANSWER: Final = 10.0
_MIB: Final = 1 << 20
# Of options of keystonemiddleware: where a token is good. One that is asked for replaces all.
_SCOPE: Final = frozenset(
    {
        "domain_id", "domain_name", "project_domain_id", "project_domain_name", "project_id",
        "project_name", "system_scope", "tenant_id", "tenant_name", "trust_id",
    }
)  # fmt: skip
# Of keystoneauth's session, by their names in keystonemiddleware.
_SESSION: Final = frozenset({"cafile", "certfile", "insecure", "keyfile"})
# Roles to which Keystone shows limits of all projects; a token of the system sees them as well.
_SEE_ALL: Final = frozenset({"admin", "service"})

# What an answer that is not Keystone's raises when it is read.
_NONSENSE: Final = (KeyError, TypeError, ValueError)


class _Wrong(Exception):
    """Something of the settings, or in Keystone, that time does not mend; the message says what."""


class _Ground(NamedTuple):
    """What is the same for all projects."""

    service: str
    region: str | None
    registered: Mapping[str, int]
    until: float


class UnifiedLimits:
    """``where`` limits are found; ``options`` of keystonemiddleware, by which tokens are checked.

    Raises OptionError where nobody could ask with them. Keystone is not asked yet.
    """

    def __init__(self, where: KeystoneLimits, options: Mapping[str, Any]) -> None:
        require("keystoneauth1", "service", "limits of Keystone")
        from keystoneauth1.adapter import Adapter
        from keystoneauth1.plugin import AUTH_INTERFACE
        from keystoneauth1.session import Session

        said = _options(where.auth, options)
        cert: Any = said.get("certfile")
        at_login: Any = AUTH_INTERFACE
        self._where = where
        self._plugin = _plugin(said, where.auth)
        session = Session(
            verify=False if _is_true(said.get("insecure")) else said.get("cafile") or True,
            cert=(cert, said["keyfile"]) if said.get("keyfile") else cert,
            timeout=_SECONDS_TO_ANSWER,
            app_name="vmimg",
        )
        self._http = Adapter(
            session, service_type="identity", interface=at_login, min_version="3",
            max_version="3.latest", auth=self._plugin, connect_retries=1,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._ground: _Ground | None = None
        self._seen: dict[str | None, tuple[float, Allowed]] = {}

    def of(self, project: str | None, *, kept: bool = False) -> Allowed:
        """What the project may take, as Keystone said it not long ago; ``kept``: at any time.

        Raises QuotasUnknown where Keystone does not say it; the log says why.
        """
        with self._lock:
            until, allowed = self._seen.get(project, (0.0, None))
        if allowed is not None and (kept or time.monotonic() < until):
            return allowed
        from keystoneauth1.exceptions import ClientException

        try:
            allowed = self._ask(project)
        except (ClientException, _Wrong, *_NONSENSE) as error:
            _log.error("Keystone does not say what projects may take: %s", _why(error))
            raise QuotasUnknown from error
        with self._lock:
            if len(self._seen) >= _MOST_KEPT:
                self._seen.clear()
            self._seen[project] = (time.monotonic() + self._where.cache_seconds, allowed)
        return allowed

    def check(self) -> None:
        """Ask Keystone, for --check-config. Raises OptionError, which says what is wrong."""
        from keystoneauth1 import exceptions

        try:
            access = self._plugin.get_access(self._http.session)
            ground = self._asked_ground()
        except (exceptions.ClientException, _Wrong, *_NONSENSE) as error:
            raise OptionError(_why(error)) from error
        if not (access.system_scoped or _SEE_ALL & {role.lower() for role in access.role_names}):
            raise OptionError(
                f"limits.keystone.auth: Keystone shows {access.username} its own project's limits "
                'only: it needs the role reader on the system, with system_scope = "all"'
            )
        missing = [name for name in RESOURCES if name not in ground.registered]
        if missing:
            region = f" --region {ground.region}" if ground.region else ""
            raise OptionError(
                f"limits.quotas: Keystone has no registered limit {', '.join(missing)}, so that "
                "projects may take nothing: openstack registered limit create --service "
                f"{ground.service}{region} --default-limit N {missing[0]}"
            )

    def _ask(self, project: str | None) -> Allowed:
        ground = self._ground
        if ground is None or time.monotonic() >= ground.until:
            self._ground = ground = self._asked_ground()
        limits = dict(ground.registered)
        if project is not None:
            found = self._of_service("limits", "resource_limit", ground, project_id=project)
            limits |= found
        return Allowed(*(_in_bytes(name, limits.get(name, 0)) for name in RESOURCES))

    def _asked_ground(self) -> _Ground:
        model = self._get("/limits/model")["model"]["name"]
        if model != "flat":
            raise _Wrong(f"limits.quotas: Keystone enforces limits by {model!r}; it must be 'flat'")
        endpoint = self._endpoint()
        ground = _Ground(endpoint["service_id"], endpoint.get("region_id"), {}, 0.0)
        registered = self._of_service("registered_limits", "default_limit", ground)
        until = time.monotonic() + self._where.cache_seconds
        return ground._replace(registered=registered, until=until)

    def _endpoint(self) -> Mapping[str, Any]:
        from keystoneauth1.exceptions import NotFound

        where = self._where
        if where.endpoint_id:
            try:
                found: Mapping[str, Any] = self._get(f"/endpoints/{where.endpoint_id}")["endpoint"]
            except NotFound:
                raise _Wrong(
                    f"limits.keystone.endpoint_id = {where.endpoint_id!r}: Keystone has no such "
                    "endpoint"
                ) from None
            return found
        asked = {"type": where.service_type, "name": where.service_name}
        service = _only(
            self._get("/services", **asked)["services"],
            f"service of type {where.service_type!r}"
            + (f" and name {where.service_name!r}" if where.service_name else ""),
            "service_name",
        )
        asked = {
            "service_id": service["id"], "interface": where.interface, "region_id": where.region
        }  # fmt: skip
        return _only(
            self._get("/endpoints", **asked)["endpoints"],
            f"{where.interface} endpoint of it" + (f" in {where.region}" if where.region else ""),
            "region or endpoint_id",
        )

    def _of_service(self, what: str, key: str, ground: _Ground, **asked: str) -> Mapping[str, int]:
        rows = self._get(
            f"/{what}", service_id=ground.service, region_id=ground.region or "", **asked
        )[what]
        return {
            row["resource_name"]: int(row[key])
            for row in rows
            if all(row[name] == value for name, value in asked.items())
        }

    def _get(self, path: str, **asked: str) -> Mapping[str, Any]:
        params = {name: value for name, value in asked.items() if value}
        said: Mapping[str, Any] = self._http.get(path, params=params).json()
        return said


def _why(error: Exception) -> str:
    from keystoneauth1 import exceptions

    if isinstance(error, _Wrong):
        return str(error)
    if isinstance(error, exceptions.Unauthorized):
        return f"limits.keystone.auth: Keystone takes no such login: {error}"
    if isinstance(error, exceptions.Forbidden):
        return (
            "limits.keystone.auth: Keystone tells this user nothing of endpoints and services: it "
            'needs the role reader on the system, and system_scope = "all"'
        )
    if isinstance(error, _NONSENSE):
        return f"limits.quotas = 'keystone': what answers is no Keystone ({type(error).__name__})"
    return f"limits.quotas = 'keystone': Keystone cannot be asked: {error}"


def _in_bytes(name: str, limit: int) -> int | None:
    if limit < 0:
        return None
    return limit * _MIB if name in SIZES else limit


def _only(found: list[Mapping[str, Any]], what: str, narrower: str) -> Mapping[str, Any]:
    if not found:
        raise _Wrong(f"limits.keystone: Keystone has no {what}")
    if len(found) > 1:
        raise _Wrong(f"limits.keystone: Keystone has more than one {what}; set {narrower}")
    return found[0]


def _options(auth: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What ``auth`` says, and of ``options`` what it leaves open."""
    said = dict(options)
    if "auth_type" in auth and auth["auth_type"] != options.get("auth_type"):
        said = {name: said[name] for name in ("auth_url", *_SESSION) if name in said}
    if _SCOPE & auth.keys():
        said = {name: value for name, value in said.items() if name not in _SCOPE}
    return {**said, **auth}


def _is_true(said: Any) -> bool:
    return str(said).strip().lower() in ("1", "on", "true", "yes")


def _plugin(said: Mapping[str, Any], auth: Mapping[str, Any]) -> Any:
    from keystoneauth1 import exceptions, loading

    name = str(said.get("auth_type") or said.get("auth_plugin") or "")
    try:
        loader: Any = loading.get_plugin_loader(name)
        known = {
            alias.dest: option.dest
            for option in loader.get_options()
            for alias in (option, *option.deprecated)
        }
        for key in auth:
            if key not in known and key not in _SESSION and key != "auth_type":
                raise OptionError(
                    f"limits.keystone.auth.{key}: there is no such option of {name!r}"
                )
        given = {known[key]: value for key, value in said.items() if key in known}
        plugin = loader.load_from_options(**given)
    except exceptions.NoMatchingPlugin as error:
        raise OptionError(f"limits.keystone.auth.auth_type = {name!r}: it is not known") from error
    except exceptions.MissingRequiredOptions as error:
        missing = ", ".join(option.dest for option in error.options)
        raise OptionError(f"limits.keystone.auth: {missing} must be set") from error
    if not hasattr(plugin, "get_access"):
        raise OptionError(f"limits.keystone.auth.auth_type = {name!r}: it logs in nowhere")
    return plugin
