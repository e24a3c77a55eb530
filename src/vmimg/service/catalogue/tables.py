"""The tables of the catalogue. Migrations make them; `database` opens them.

Times are UTC without a zone. Sizes are in bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

__all__ = [
    "cache",
    "images",
    "journal",
    "locations",
    "members",
    "metadata",
    "metadef_associations",
    "metadef_namespaces",
    "metadef_objects",
    "metadef_properties",
    "metadef_resource_types",
    "metadef_seeds",
    "metadef_tags",
    "tasks",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives out row numbers for INTEGER keys only.
_Number = BigInteger().with_variant(Integer(), "sqlite")
_Json = JSON().with_variant(JSONB(), "postgresql")


def _of_image() -> Column[str]:
    return Column(
        "image_id", String(36), ForeignKey("images.id", ondelete="CASCADE"), nullable=False
    )


images = Table(
    "images",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", String(255)),
    Column("owner", String(255)),
    Column("visibility", String(16), nullable=False),
    Column("status", String(24), nullable=False),
    Column("disk_format", String(32)),
    Column("container_format", String(32)),
    Column("size", BigInteger),
    Column("virtual_size", BigInteger),
    Column("checksum", String(32)),
    Column("os_hash_algo", String(64)),
    Column("os_hash_value", String(128)),
    Column("min_disk", Integer, nullable=False, default=0),
    Column("min_ram", Integer, nullable=False, default=0),
    Column("protected", Boolean, nullable=False, default=False),
    Column("os_hidden", Boolean, nullable=False, default=False),
    Column("message", Text),
    Column("properties", _Json, nullable=False, default=dict),
    Column("tags", _Json, nullable=False, default=list),
    Column("created_at", DateTime, nullable=False),
    Column("updated_at", DateTime, nullable=False),
    Column("deleted_at", DateTime),
)
"""A deleted image leaves its row: its identifier is not given out again.

Custom properties and tags lie in the row, so that a page of a thousand images is one query; that
PostgreSQL finds images by them with indexes of its own.
"""

_LIVE: Final = images.c.deleted_at.is_(None)


def _order(*names: str) -> None:
    """An index of the images that are not deleted, in the order of a listing.

    Nothing comes before everything, as in SQLite; PostgreSQL has to be told.
    """
    name = f"ix_images_{'_'.join(names)}_live"
    columns = [images.c[column] for column in names]
    Index(name, *columns, sqlite_where=_LIVE).ddl_if(dialect="sqlite")
    ordered = [column.asc().nulls_first() if column.nullable else column for column in columns]
    Index(name, *ordered, postgresql_where=_LIVE).ddl_if(dialect="postgresql")


for _key in ("updated_at", "name", "status", "disk_format", "container_format", "size"):
    _order(_key, "created_at", "id")
for _key in ("owner", "visibility"):
    _order(_key, "created_at", "id")
_order("created_at", "id")
_order("checksum")
_order("os_hash_value")

for _key in ("properties", "tags"):
    Index(
        f"ix_images_{_key}_live",
        images.c[_key],
        postgresql_using="gin",
        postgresql_ops={_key: "jsonb_path_ops"},
        postgresql_where=_LIVE,
    ).ddl_if(dialect="postgresql")

members = Table(
    "image_members",
    metadata,
    _of_image(),
    Column("member", String(255), nullable=False),
    Column("status", String(20), nullable=False, default="pending"),
    Column("created_at", DateTime, nullable=False),
    Column("updated_at", DateTime, nullable=False),
    UniqueConstraint("image_id", "member"),
    Index(None, "member", "status", "image_id"),
)

locations = Table(
    "image_locations",
    metadata,
    Column("id", _Number, primary_key=True),
    _of_image(),
    Column("store", String(64)),
    Column("key", String(64)),
    Column("url", Text),
    Column("metadata", JSON, nullable=False, default=dict),
    Index(None, "image_id"),
    Index(None, "store", "key"),
)
"""Where an image's bytes are: a key in one of our stores, or an address that a user gave."""

journal = Table(
    "journal",
    metadata,
    Column("store", String(64), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("image_id", String(36), nullable=False, index=True),
    Column("purpose", String(16), nullable=False),
    Column("node", String(255), nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("alive_at", DateTime, nullable=False),
)
"""Bytes that are no image's: being written, or to be deleted. A row is there before the bytes are,
and goes in the transaction that makes them an image's; so whatever happens, no byte is lost track
of."""

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("type", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("owner", String(255)),
    Column("user_id", String(255)),
    Column("request_id", String(64)),
    Column("image_id", String(36), index=True),
    Column("input", JSON),
    Column("result", JSON),
    Column("message", Text),
    Column("done", BigInteger, nullable=False, default=0),
    Column("total", BigInteger),
    Column("step", JSON),
    Column("node", String(255)),
    Column("alive_at", DateTime),
    Column("created_at", DateTime, nullable=False),
    Column("updated_at", DateTime, nullable=False),
    Column("expires_at", DateTime),
    Index(None, "status", "created_at"),
    Index(None, "owner", "created_at"),
)
"""Work in the background. ``step`` is what a process needs to go on where another one stopped."""

# The cache ----------------------------------------------------------------------------------------

cache = Table(
    "image_cache",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("node", String(255), nullable=False),
    Column("image_id", String(36), nullable=False),
    Column("state", String(16), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("checksum", String(32)),
    Column("hits", BigInteger, nullable=False),
    Column("modified_at", DateTime, nullable=False),
    Column("used_at", DateTime, nullable=False),
    UniqueConstraint("node", "image_id"),
)
"""Images that processes have near, or are to have."""

# Metadata definitions ----------------------------------------------------------------------------


def _stamps() -> tuple[Column[datetime], Column[datetime]]:
    return (
        Column("created_at", DateTime, nullable=False),
        Column("updated_at", DateTime, nullable=False),
    )


def _of_namespace() -> tuple[Column[int], Column[int], Column[str]]:
    return (
        Column("id", _Number, primary_key=True),
        Column(
            "namespace_id",
            _Number,
            ForeignKey("metadef_namespaces.id", ondelete="CASCADE"),
            nullable=False,
        ),
        Column("name", String(80), nullable=False),
    )


metadef_namespaces = Table(
    "metadef_namespaces",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("namespace", String(80), nullable=False, unique=True),
    Column("display_name", String(80)),
    Column("description", Text),
    Column("visibility", String(16), nullable=False),
    Column("protected", Boolean, nullable=False),
    Column("owner", String(255)),
    *_stamps(),
    Index(None, "created_at", "id"),
    Index(None, "owner"),
)

metadef_properties = Table(
    "metadef_properties",
    metadata,
    *_of_namespace(),
    Column("definition", JSON, nullable=False),
    *_stamps(),
    UniqueConstraint("namespace_id", "name"),
)

metadef_objects = Table(
    "metadef_objects",
    metadata,
    *_of_namespace(),
    Column("definition", JSON, nullable=False),
    *_stamps(),
    UniqueConstraint("namespace_id", "name"),
)
"""``definition`` has the object's description, properties and required names, as far as given."""

metadef_tags = Table(
    "metadef_tags",
    metadata,
    *_of_namespace(),
    *_stamps(),
    UniqueConstraint("namespace_id", "name"),
)

metadef_resource_types = Table(
    "metadef_resource_types",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("name", String(80), nullable=False, unique=True),
    *_stamps(),
)

metadef_associations = Table(
    "metadef_associations",
    metadata,
    Column("id", _Number, primary_key=True),
    Column(
        "namespace_id",
        _Number,
        ForeignKey("metadef_namespaces.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("resource_type_id", _Number, ForeignKey("metadef_resource_types.id"), nullable=False),
    Column("prefix", String(80)),
    Column("properties_target", String(80)),
    *_stamps(),
    UniqueConstraint("namespace_id", "resource_type_id"),
    Index(None, "resource_type_id"),
)

metadef_seeds = Table(
    "metadef_seeds",
    metadata,
    Column("namespace", String(80), primary_key=True),
    Column("seeded_at", DateTime, nullable=False),
)
"""Namespaces of the standard catalogue that were put in: once, whatever became of them since."""
