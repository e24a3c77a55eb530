"""PageCache: a bounded cache of table pages, read when needed.

Allocation tables are too large to hold (a qcow2 of 16 TiB has 2 GiB of them), so layers keep the
pages they used last. One object serves many threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["PageCache"]

Page = TypeVar("Page")


class PageCache(Generic[Page]):
    """The ``capacity`` most recently used pages, by key; ``load(key)`` fetches a missing one."""

    def __init__(self, load: Callable[[int], Page], capacity: int) -> None:
        self._load = load
        self._capacity = max(1, capacity)
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: int) -> Page:
        """The page of ``key``, loaded if it is not held. Errors of the loader pass through."""
        with self._lock:
            page = self._pages.get(key)
            if page is not None:
                self._pages.move_to_end(key)
                return page
        page = self._load(key)  # outside the lock: two threads may both read, and both are right
        self.put(key, page)
        return page

    def put(self, key: int, page: Page) -> None:
        """Hold ``page`` as the newest."""
        with self._lock:
            self._pages[key] = page
            self._pages.move_to_end(key)
            while len(self._pages) > self._capacity:
                self._pages.popitem(last=False)

    def drop(self, key: int) -> None:
        """Forget a page that is no longer true."""
        with self._lock:
            self._pages.pop(key, None)
