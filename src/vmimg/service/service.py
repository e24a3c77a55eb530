"""What all handlers share: the settings, and what was made of them at the start."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmimg.probe import policy as vetting
from vmimg.service.catalogue.database import Database
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.data.caching import Cache
from vmimg.service.data.judging import Judge
from vmimg.service.data.presenting import Presenter
from vmimg.service.http.metrics import Metrics
from vmimg.service.identity import Authenticator
from vmimg.service.policy import Policy
from vmimg.service.settings import Settings
from vmimg.service.stores.base import Store
from vmimg.service.stores.file import FileStore

if TYPE_CHECKING:
    from vmimg.service.identity.unified import UnifiedLimits

__all__ = ["Service"]


@dataclass(frozen=True, slots=True)
class Service:
    """One running service. ``stores`` are those that images lie in; staging is none of them."""

    settings: Settings
    authenticate: Authenticator
    """Says who sent a request."""
    database: Database
    stores: Mapping[str, Store]
    policy: Policy
    unified: UnifiedLimits | None
    """Keystone says what projects may take; None: the settings do."""
    staging: FileStore
    """Where bytes wait that are uploaded to be imported."""
    cache: Cache
    """Copies of what lies far away."""
    presenter: Presenter
    vetting: vetting.Policy | None
    """How uploads are judged; None: not at all."""
    pool: Executor
    """Threads for hashing and storing what arrives."""
    readers: Executor
    """Threads that read what goes out, and wait for stores and clients."""
    metrics: Metrics
    tokens: dict[str, str]
    """Tokens of tasks that ask other services in a caller's name; in memory only."""
    bell: threading.Condition
    """Rung when there is a task to do."""
    under_way: set[object]
    """Requests that are being answered."""
    writing: set[str]
    """Keys under which this process writes just now; what is noted besides was given up."""
    node: str
    """Who this process is among those that share the database."""

    def judge(self, record: ImageRecord) -> Judge:
        """For bytes that come for this image."""
        return self.judge_as(record.disk_format, record.container_format)

    def judge_as(self, disk_format: str | None, container_format: str | None) -> Judge:
        """For bytes that are said to be of these formats."""
        limit = self.settings.limits.virtual_size
        learn = self.settings.vetting.learn
        return Judge(self.vetting, disk_format, container_format, limit, learn=learn)

    def store(self, name: str) -> Store | None:
        """A store by name, the staging area among them."""
        return self.staging if name == self.staging.name else self.stores.get(name)

    def sweep(self) -> None:
        """Remove what uploads that were killed left in the stores, at the start."""
        for store in (*self.stores.values(), self.staging):
            store.sweep()

    def close(self) -> None:
        """Give everything back; what still runs is finished first."""
        self.pool.shutdown(cancel_futures=True)
        self.readers.shutdown(cancel_futures=True)
        self.presenter.close()
        self.database.close()
