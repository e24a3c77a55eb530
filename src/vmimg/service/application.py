"""The service as an ASGI application: settings in, routes out.

Imports everything of `service`; `server` runs it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from vmimg.probe import policy as vetting
from vmimg.service.api import OPERATIONS, versions
from vmimg.service.catalogue.database import Database
from vmimg.service.catalogue.metadefs.standard import seed
from vmimg.service.data.caching import Cache, Filling
from vmimg.service.data.presenting import Presenter
from vmimg.service.data.removal import recover
from vmimg.service.http.endpoint import Endpoint
from vmimg.service.http.metrics import Metrics
from vmimg.service.http.operation import Operation
from vmimg.service.http.unrouted import Unrouted
from vmimg.service.identity import Authenticator, authenticator, unified_limits
from vmimg.service.policy import Policy
from vmimg.service.service import Service
from vmimg.service.settings import Settings
from vmimg.service.stores.file import FileStore
from vmimg.service.stores.registry import store_from
from vmimg.service.tasks.importing import put_right
from vmimg.service.tasks.running import Runner
from vmimg.service.tasks.works import WORK
from vmimg.service.upkeep import Upkeep

__all__ = ["application", "assemble"]


# Two hashes and a store for each of as many transfers as there can be progress on at once.
_THREADS: Final = 4 * (os.cpu_count() or 1) + 4
_READERS: Final = 64
_SECONDS_TO_END: Final = 10.0


def assemble(settings: Settings) -> Service:
    """Everything that handlers share, ready; nothing is listening yet.

    Raises OptionError for settings that cannot be, StorageError where a store or the database
    cannot be reached.
    """
    # Before anything is made: whoever may not serve leaves nothing behind.
    authenticate = authenticator(settings)
    database = Database(
        settings.database_url,
        pool=settings.database.pool,
        statement_seconds=settings.database.statement_seconds,
        lock_seconds=settings.database.lock_seconds,
    )
    if settings.database.migrate:
        database.migrate()
    if settings.catalogue.metadefs:
        seed(database)
    stores = {
        name: store_from(name, store.url, store.options, settings.imports)
        for name, store in settings.all_stores.items()
    }
    staging = FileStore("staging", settings.staging)
    near = FileStore("cache", settings.data / "cache")
    for store in (*stores.values(), staging, near):
        store.prepare()
    node = settings.server.node or f"{socket.gethostname()}:{settings.server.port}"
    cache = Cache(database, near, node, settings.cache.max_size, settings.cache.fill)
    judge = settings.vetting.policy
    return Service(
        settings=settings,
        authenticate=authenticate,
        database=database,
        stores=stores,
        staging=staging,
        cache=cache,
        presenter=Presenter(stores, cache),
        policy=Policy(settings.policy),
        unified=unified_limits(settings),
        vetting=vetting.Policy.load(judge) if judge else None,
        pool=ThreadPoolExecutor(_THREADS, "arriving"),
        metrics=Metrics(),
        tokens={},
        under_way=set(),
        writing=set(),
        bell=threading.Condition(),
        readers=ThreadPoolExecutor(_READERS, "leaving"),
        node=node,
    )


def application(service: Service, authenticate: Authenticator | None = None) -> Starlette:
    """The API over ``service``; who asks is found as its settings say, or by ``authenticate``."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(service.sweep)
        await run_in_threadpool(partial(recover, service, starting=True))
        upkeep = Upkeep(service)
        runner = Runner(service, WORK, put_right, service.settings.imports.workers)
        filling = Filling(service.cache, service.database, service.presenter)
        upkeep.start()
        await run_in_threadpool(filling.start)
        await run_in_threadpool(runner.start)
        yield
        await _ended(service)
        await run_in_threadpool(runner.stop)
        await run_in_threadpool(filling.stop)
        await run_in_threadpool(upkeep.stop)
        service.close()

    made = Starlette(routes=list(_routes(service, OPERATIONS, authenticate)), lifespan=lifespan)
    made.router.redirect_slashes = False
    made.router.default = Unrouted(
        service,
        authenticate or service.authenticate,
        made.router,
        versions.KNOWN,
        versions.ELSEWHERE,
    )
    return made


async def _ended(service: Service) -> None:
    """Wait for requests that were cut off: they still put right what they began."""
    until = time.monotonic() + _SECONDS_TO_END
    while service.under_way and time.monotonic() < until:
        await asyncio.sleep(0.02)


def _routes(
    service: Service, operations: Iterable[Operation], authenticate: Authenticator | None
) -> Iterable[Route]:
    authenticate = authenticate or service.authenticate
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    for path, methods in by_path.items():
        if "GET" in methods:
            methods.setdefault("HEAD", methods["GET"])
        yield Route(path, Endpoint(service, methods, authenticate), methods=None)
