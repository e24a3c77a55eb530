"""Bytes from one place of the service to another, hashed on the way, in the thread of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from vmimg.service.data.arriving import PIECE, Arrived, Intake
from vmimg.service.http.errors import HTTPError
from vmimg.service.http.receiving import Piece
from vmimg.service.stores.base import Store
from vmimg.storage.base import Storage

if TYPE_CHECKING:
    from vmimg.service.service import Service

__all__ = ["copy", "pieces_of"]

Progress = Callable[[int, int | None], None]


def pieces_of(storage: Storage) -> Iterator[bytes]:
    """All of ``storage``, from the front."""
    at = 0
    while at < storage.size:
        length = min(PIECE, storage.size - at)
        yield storage.read(at, length)
        at += length


def copy(
    service: Service,
    pieces: Iterable[bytes],
    store: Store,
    key: str,
    *,
    size: int | None = None,
    most: int | None = None,
    look: Callable[[Piece], None] | None = None,
    progress: Progress | None = None,
) -> Arrived:
    """Put ``pieces`` into ``store``, durable there; what they were.

    ``size``: how many they are said to be; ``most``: how many there may be, besides the limit of
    images. Raises HTTPError 413 above that, what the pieces and the store raise.
    """
    limit = min(filter(None, (service.settings.limits.image_size, most)), default=0)
    if size is not None and limit and size > limit:
        raise HTTPError(413, f"The image is larger than the limit of {limit} bytes.")
    with store.put(key, size) as putting:
        intake = Intake(
            putting,
            service.pool,
            algorithm=service.settings.vetting.hash,
            limit=limit,
            look=look,
        )
        try:
            for piece in pieces:
                intake.take(piece)
                if progress is not None:
                    progress(intake.size, size)
        finally:
            intake.settle()
        return intake.arrived()
