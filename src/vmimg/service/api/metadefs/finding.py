"""The namespace that a request is about, if the caller may know of it.

What he may not see is not there: 404. What he may see, but not do: 403.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Table

from vmimg.service.catalogue.metadefs import contents, namespaces
from vmimg.service.catalogue.metadefs.contents import Content
from vmimg.service.catalogue.metadefs.namespaces import Exists, NamespaceRecord
from vmimg.service.http.errors import HTTPError, conflict, forbidden, not_found
from vmimg.service.http.operation import Call
from vmimg.service.policy import Target

__all__ = [
    *("content_for", "missing", "namespace_for", "own", "permit", "protect", "target_of", "unique"),
]

_WORDS = {
    "metadef_properties": "property",
    "metadef_objects": "metadata object",
    "metadef_tags": "metadata tag",
}


def missing(namespace: str) -> HTTPError:
    """404; the same for what is not there and for what is not the caller's."""
    return not_found(f"Namespace {namespace} not found")


def own(call: Call) -> Target:
    """What rules look at where there is no namespace: the caller's project."""
    return Target(owner=call.caller.project)


def target_of(record: NamespaceRecord) -> Target:
    """What rules look at."""
    return Target(owner=record.owner, visibility=record.visibility)


def permit(call: Call, rule: str, target: Target) -> None:
    """Raises HTTPError unless ``rule`` allows it: 403, or 404 if he may not even see namespaces."""
    if call.allows(rule, target):
        return
    if rule == "get_metadef_namespace" or not call.allows("get_metadef_namespace", target):
        raise not_found("The resource could not be found.")
    raise forbidden(f"You are not authorized to complete {rule} action.")


def namespace_for(
    call: Call, connection: Connection, *rules: str, lock: bool = False
) -> NamespaceRecord:
    """The namespace in the path.

    Raises HTTPError: 404 if the caller may not see it, 403 if one of ``rules`` says no.
    """
    name = call.path["namespace"]
    record = namespaces.find(connection, name, lock=lock)
    if record is None or not _visible(call, record):
        raise missing(name)
    for rule in rules:
        permit(call, rule, target_of(record))
    return record


def content_for(connection: Connection, kind: Table, record: NamespaceRecord, name: str) -> Content:
    """The property, object or tag of this name.

    Raises HTTPError 404.
    """
    found = contents.find(connection, kind, record.id, name)
    if found is None:
        raise not_found(f"Could not find {_WORDS[kind.name]} {name}")
    return found


def protect(record: NamespaceRecord, what: str, name: str) -> None:
    """Raises HTTPError 403 if the namespace is protected: nothing of it can be deleted."""
    if record.protected:
        raise forbidden(f"Metadata definition {what} {name} is protected and cannot be deleted.")


@contextmanager
def unique(what: str, namespace: str) -> Iterator[None]:
    """Raises HTTPError 409 where something of this name is in the namespace."""
    try:
        yield
    except Exists as error:
        raise conflict(
            f"A metadata definition {what} with name={error.name} already exists in "
            f"namespace={namespace}."
        ) from None


def _visible(call: Call, record: NamespaceRecord) -> bool:
    caller = call.caller
    if caller.is_admin or record.visibility == "public" or record.owner is None:
        return True
    return caller.project is not None and caller.project == record.owner
