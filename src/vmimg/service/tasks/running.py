"""Runs tasks: some threads that claim what waits in the database, and do it.

A task is a function of (service, task, control). It calls `Control.progress` often, which stops it
by Parked when the service stops; what it needs to go on later it keeps with `Control.save`. A task
that was begun too often, since it takes its process down each time, fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from vmimg.errors import StorageError, VmimgError
from vmimg.service.catalogue import tasks
from vmimg.service.catalogue.database import DatabaseGone
from vmimg.service.catalogue.tasks import TaskRecord
from vmimg.service.http.errors import HTTPError
from vmimg.service.quota import QuotasUnknown
from vmimg.service.service import Service
from vmimg.service.stores.base import StoreUnreachable

__all__ = ["Control", "Parked", "Runner", "Work"]

_log: Final = logging.getLogger("vmimg.service")
# Without a wake-up call: from another process that shares the database.
_EVERY_SECONDS: Final = 5.0
_PROGRESS_SECONDS: Final = 1.0
_MOST_BEGINNINGS: Final = 5
_PAUSE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 10.0


class Parked(Exception):
    """The service stops; the task goes on with the next one."""


class Control:
    """What a task sees of the one who runs it."""

    def __init__(self, service: Service, task: TaskRecord, stopped: threading.Event) -> None:
        self._service = service
        self._stopped = stopped
        self._told = 0.0
        self.task = task
        self.step: dict[str, Any] = dict(task.step or {})
        """What was kept when the task was begun before."""

    def progress(self, done: int, total: int | None = None) -> None:
        """So far. Raises Parked when the service stops."""
        if self._stopped.is_set():
            raise Parked
        if time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._told = time.monotonic()
            try:
                with self._service.database.begin() as connection:
                    tasks.save(connection, self.task.id, done=done, total=total)
            except DatabaseGone:
                pass  # nobody is told for a while; it may be back before there is more to say

    def save(self, **step: Any) -> None:
        """Keep these for whoever goes on with the task."""
        self.step |= step
        with self._service.database.begin() as connection:
            tasks.save(connection, self.task.id, step=self.step)


Work = Callable[[Service, TaskRecord, Control], Mapping[str, Any]]
"""Does a task; its result. What it raises is the task's failure."""


class Runner:
    """``count`` threads for tasks of the types in ``work``; from `start` to `stop`.

    ``failed`` hears of each task that failed, with its reason, to put right what it left.
    """

    def __init__(
        self,
        service: Service,
        work: Mapping[str, Work],
        failed: Callable[[Service, TaskRecord, str], None],
        count: int,
    ) -> None:
        self._service = service
        self._work = work
        self._failed = failed
        self._stopped = threading.Event()
        self._wake = service.bell
        self._threads = [
            threading.Thread(target=self._run, name=f"task-{n}", daemon=True) for n in range(count)
        ]

    def start(self) -> None:
        """Begin, with what was left behind."""
        with self._service.database.begin() as connection:
            tasks.release(connection, self._service.node)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End: what runs is parked at its next sign of progress.

        What gives none for a while, since somebody else's server is silent, is left behind; the
        next process of this name goes on with it.
        """
        self._stopped.set()
        with self._wake:
            self._wake.notify_all()
        until = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._service.database.begin() as connection:
                    task = tasks.claim(connection, self._service.node)
            except Exception as error:
                _log.warning("tasks must wait: %s", error)
                task = None
            if task is not None:
                self._do(task)
                continue
            with self._wake:
                if not self._stopped.is_set():
                    self._wake.wait(_EVERY_SECONDS)

    def _do(self, task: TaskRecord) -> None:
        control = Control(self._service, task, self._stopped)
        begun = int(control.step.get("begun", 0)) + 1
        extra = {"task": task.id, "image": task.image_id}
        try:
            if begun > _MOST_BEGINNINGS:
                raise HTTPError(500, "The task was begun too often, and never ended.")
            control.save(begun=begun)
            result = self._work[task.type](self._service, task, control)
        except Parked:
            self._park(task, control, begun - 1)
            _log.info("a task is parked", extra=extra)
        except (DatabaseGone, StoreUnreachable, QuotasUnknown) as error:
            _log.warning("a task must wait: %s", error, extra=extra)
            self._stopped.wait(_PAUSE_SECONDS)
            self._park(task, control, begun - 1)
        except Exception as error:
            if self._stopped.is_set():
                # What it needs is being taken apart: no failure of its own.
                self._park(task, control, begun)
                return
            self._fail(task, _reason(error, extra))
        else:
            self._end(task, "success", result=result)

    def _park(self, task: TaskRecord, control: Control, begun: int) -> None:
        """Let it wait."""
        control.step["begun"] = begun

        def park() -> None:
            with self._service.database.begin() as connection:
                tasks.save(connection, task.id, step=control.step)
                tasks.park(connection, task.id)

        self._insist(park)

    def _fail(self, task: TaskRecord, reason: str) -> None:
        _log.warning("a task failed: %s", reason, extra={"task": task.id, "image": task.image_id})

        def put_right() -> None:
            with self._service.database.read() as connection:
                found = tasks.find(connection, task.id) or task
            self._failed(self._service, found, reason)

        if self._insist(put_right):
            self._end(task, "failure", message=reason)

    def _end(self, task: TaskRecord, status: str, **said: Any) -> None:
        hours = self._service.settings.imports.task_hours

        def finish() -> None:
            with self._service.database.begin() as connection:
                tasks.finish(connection, task.id, status, hours, **said)

        self._insist(finish)
        self._service.metrics.tasks.labels(task.type, status).inc()

    def _insist(self, note: Callable[[], None]) -> bool:
        """Note what has to be in the database, when it takes that.

        False if the service ends first: then the next process of this name goes on with the task,
        which does again what was done, and changes nothing by it.
        """
        while True:
            try:
                note()
                return True
            except StorageError as error:
                _log.warning("tasks must wait: %s", error)
                if self._stopped.wait(_PAUSE_SECONDS):
                    return False


def _reason(error: Exception, extra: Mapping[str, Any]) -> str:
    if isinstance(error, HTTPError):
        return error.message
    if isinstance(error, VmimgError):
        return str(error)
    _log.error("a task failed", exc_info=error, extra=extra)
    return "It failed for a reason that is in the service's log."
