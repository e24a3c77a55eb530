"""Tasks in the database: work that one process claims, and another goes on with if that one dies.

    pending -> processing -> success | failure

Functions over a connection; `vmimg.service.tasks` does the work.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from vmimg.service.catalogue import tables
from vmimg.service.catalogue.database import now

__all__ = ["TaskRecord", "alive", "claim", "create", "find", "finish", "of_image", "release"]

_SILENCE: Final = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task; fields as in the table."""

    id: str
    type: str
    status: str
    owner: str | None
    user_id: str | None
    request_id: str | None
    image_id: str | None
    input: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    message: str | None
    done: int
    total: int | None
    step: Mapping[str, Any] | None
    node: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


_NAMES: Final = tuple(field.name for field in fields(TaskRecord))


def record_of(row: Row[Any]) -> TaskRecord:
    """The record in a row."""
    return TaskRecord(**{name: getattr(row, name) for name in _NAMES})


def create(connection: Connection, type: str, **values: Any) -> str:
    """A new task, pending; its id."""
    task_id = str(uuid.uuid4())
    time = now()
    connection.execute(
        insert(tables.tasks).values(
            id=task_id, type=type, status="pending", created_at=time, updated_at=time, **values
        )
    )
    return task_id


def find(connection: Connection, task_id: str) -> TaskRecord | None:
    """The task of that id."""
    row = connection.execute(select(tables.tasks).where(tables.tasks.c.id == task_id)).first()
    return record_of(row) if row is not None else None


def of_image(connection: Connection, image_id: str, *, running: bool = False) -> list[TaskRecord]:
    """The image's tasks, newest first; ``running``: those that have not ended."""
    t = tables.tasks
    asked = select(t).where(t.c.image_id == image_id).order_by(t.c.created_at.desc(), t.c.id)
    if running:
        asked = asked.where(t.c.status.in_(("pending", "processing")))
    return [record_of(row) for row in connection.execute(asked)]


def page(
    connection: Connection,
    *,
    status: str | None,
    type: str | None,
    sort_key: str,
    descending: bool,
    after: str | None,
    limit: int,
) -> list[TaskRecord] | None:
    """At most ``limit`` tasks in the order of ``sort_key``, those behind the task ``after``; None
    where there is no such task.
    """
    t = tables.tasks
    key: Any = t.c[sort_key]
    if sort_key == "expires_at":
        key = func.coalesce(key, datetime.max)
    asked = select(t)
    if status is not None:
        asked = asked.where(t.c.status == status)
    if type is not None:
        asked = asked.where(t.c.type == type)
    if after is not None:
        marker = find(connection, after)
        if marker is None:
            return None
        value = getattr(marker, sort_key)
        value = datetime.max if value is None else value
        here, there = tuple_(key, t.c.id), tuple_(literal(value), literal(marker.id))
        asked = asked.where(here < there if descending else here > there)
    order = (key.desc(), t.c.id.desc()) if descending else (key, t.c.id)
    return [record_of(row) for row in connection.execute(asked.order_by(*order).limit(limit))]


def claim(connection: Connection, node: str) -> TaskRecord | None:
    """The task that waits longest; it is this node's from now on. None if there is none."""
    t = tables.tasks
    waiting = select(t).where(t.c.status == "pending").order_by(t.c.updated_at, t.c.id).limit(1)
    row = connection.execute(waiting.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    time = now()
    taken = connection.execute(
        update(t)
        .where(t.c.id == row.id, t.c.status == "pending")
        .values(status="processing", node=node, alive_at=time, updated_at=time)
    )
    return find(connection, row.id) if taken.rowcount == 1 else None


def save(connection: Connection, task_id: str, **values: Any) -> None:
    """What a process needs to go on with it, and how far it is."""
    time = now()
    connection.execute(
        update(tables.tasks)
        .where(tables.tasks.c.id == task_id)
        .values(updated_at=time, alive_at=time, **values)
    )


def finish(
    connection: Connection,
    task_id: str,
    status: str,
    hours: int,
    *,
    message: str = "",
    result: Mapping[str, Any] | None = None,
) -> None:
    """It ended; it is forgotten after so many ``hours``."""
    save(
        connection,
        task_id,
        status=status,
        message=message,
        result=dict(result) if result is not None else None,
        expires_at=now() + timedelta(hours=hours),
        step=None,
    )


def alive(connection: Connection, node: str) -> None:
    """What ``node`` works on goes on."""
    t = tables.tasks
    mine = and_(t.c.node == node, t.c.status == "processing")
    connection.execute(update(t).where(mine).values(alive_at=now()))


def release(connection: Connection, node: str | None = None) -> int:
    """Tasks of processes that are silent wait again, those of ``node`` too; how many."""
    t = tables.tasks
    whose = or_(t.c.alive_at.is_(None), t.c.alive_at < now() - _SILENCE)
    if node is not None:
        whose = or_(whose, t.c.node == node)
    done = connection.execute(
        update(t)
        .where(t.c.status == "processing", whose)
        .values(status="pending", node=None, updated_at=now())
    )
    return done.rowcount


def park(connection: Connection, task_id: str) -> None:
    """The process stops: another one, or the next, goes on with it."""
    t = tables.tasks
    connection.execute(
        update(t)
        .where(t.c.id == task_id, t.c.status == "processing")
        .values(status="pending", node=None, updated_at=now())
    )


def forget(connection: Connection) -> int:
    """Delete tasks whose time is over; how many."""
    t = tables.tasks
    done = connection.execute(
        delete(t).where(t.c.status.in_(("success", "failure")), t.c.expires_at < now())
    )
    return done.rowcount
