"""What a running service does by itself, now and then.

It says that it is alive, ends what others left behind that are not, and deletes what waits for it,
or was kept for long enough.
One thread, one round at a time. Imports data and the catalogue.
"""

from __future__ import annotations

import logging
import threading

from vmimg.errors import StorageError
from vmimg.service.catalogue import journal, tasks
from vmimg.service.data.removal import purge, recover
from vmimg.service.service import Service

__all__ = ["Upkeep"]

_log = logging.getLogger(__name__)


class Upkeep:
    """Runs from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin; the first round is after a while."""
        self._thread.start()

    def stop(self) -> None:
        """End with the round that runs."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._service.settings.server.upkeep_seconds):
            try:
                self.round()
            except StorageError as error:
                _log.warning("upkeep must wait: %s", error)
            except Exception:
                _log.exception("upkeep failed")

    def round(self) -> None:
        """Everything once."""
        with self._service.database.begin() as connection:
            journal.alive(connection, self._service.node)
            tasks.alive(connection, self._service.node)
            tasks.release(connection)
            tasks.forget(connection)
        purge(self._service)
        recover(self._service)
        self._service.cache.clean()
