"""What a deployment says of itself: vmimg.toml, and the environment above it.

    [server]    host, port, public_url
    [database]  url
    [catalogue] metadefs = true
    [stores.NAME]  url, description, weight   and   [stores] default = NAME
    [identity]  mode = "none" | "keystone"
    [formats]   disk, container
    ...

Each key can be set by the environment too: ``VMIMG_SERVER__PORT=9292``. A mistake is told with the
key, what stands there, and what may: `SettingsError`. Imports pydantic-settings only.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from vmimg.errors import OptionError

__all__ = ["WEB", "Settings", "SettingsError", "load"]

# What Glance's documentation sets as the convention: Disk and Container Formats.
_DISK_FORMATS: Final = (
    *("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"),
)
_CONTAINER_FORMATS: Final = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")


WEB: Final = ("http", "https")
"""Schemes of stores that hold nothing: images lie where users say."""


class SettingsError(OptionError):
    """The settings of the service are wrong; the message has a line for each mistake."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Section):
    """Where the service listens, and what it tells of itself."""

    host: str = "127.0.0.1"
    port: int = Field(default=9292, ge=0, le=65535)
    public_url: str = ""
    """What clients are told instead of the host that they asked."""
    shutdown_seconds: float = Field(default=30, ge=0)
    """How long transfers may go on when the service is told to stop."""
    idle_seconds: float = Field(default=300, ge=0)
    """How long a client may send or take nothing in the middle of a request; 0 is forever."""
    upkeep_seconds: float = Field(default=20, gt=0, le=60)
    """How often the service looks for what was left behind, by itself and others."""
    node: str = ""
    """The name of this process among those that share a database; empty: the host's name."""


class Database(_Section):
    """The catalogue."""

    url: str = ""
    """``postgresql://user@host/name`` or ``sqlite:///file``; empty: SQLite in `Settings.data`."""
    pool: int = Field(default=10, ge=1, le=200)
    migrate: bool = True
    """Bring the tables up to date at the start."""
    statement_seconds: float = Field(default=30, ge=0, le=86_400)
    """How long PostgreSQL may take for one statement, but for those of `migrate`; 0 is forever."""
    lock_seconds: float = Field(default=10, ge=0, le=86_400)
    """How much of that it may wait for what others hold."""


class Catalogue(_Section):
    """What is in the database from the start."""

    metadefs: bool = True
    """The standard metadata definitions, of OpenStack's services; each is put in once."""
    keep_deleted_seconds: float = Field(default=0, ge=0, le=366 * 86_400)
    """How long the data of deleted images stays, so that administrators can take it back."""


class Store(_Section):
    """A place for bytes."""

    url: str
    description: str = ""
    weight: int = 0
    options: dict[str, str] = Field(default_factory=dict)

    @property
    def read_only(self) -> bool:
        """Whether nothing can be stored there."""
        return self.url.partition(":")[0].lower() in WEB


class Logging(_Section):
    """What the service writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    form: Literal["json", "text"] = "json"


class Identity(_Section):
    """Who may ask."""

    mode: Literal["none", "keystone"] = "none"
    allow_anyone: bool = False
    """``none`` beyond loopback: whoever reaches the port is an administrator."""
    keystone: dict[str, Any] = Field(default_factory=dict)
    """Options of keystonemiddleware's auth_token, by their names there."""


class Formats(_Section):
    """The disk and container formats that images may declare."""

    disk: tuple[str, ...] = _DISK_FORMATS
    container: tuple[str, ...] = _CONTAINER_FORMATS


class KeystoneLimits(_Section):
    """Whose limits they are in Keystone: those of an endpoint of this service, by its id, or by
    its service, region and interface.
    """

    endpoint_id: str = ""
    service_type: str = "image"
    service_name: str = ""
    region: str = ""
    interface: Literal["public", "internal", "admin"] = "public"
    auth: dict[str, Any] = Field(default_factory=dict)
    """Who asks: options of keystoneauth, in place of those of ``identity.keystone``."""
    cache_seconds: float = Field(default=10, ge=0, le=3600)
    """How long an answer is believed."""


class Limits(_Section):
    """What one request, and one project, may ask for. Sizes are in bytes; 0 is no limit."""

    body_size: int = Field(default=1 << 20, ge=1024)
    image_size: int = Field(default=1 << 40, ge=0)
    virtual_size: int = Field(default=64 << 40, ge=0)
    list_default: int = Field(default=25, ge=1)
    list_max: int = Field(default=1000, ge=1)
    properties: int = Field(default=128, ge=0)
    tags: int = Field(default=128, ge=0)
    members: int = Field(default=128, ge=0)
    locations: int = Field(default=10, ge=0)
    project_size: int = Field(default=0, ge=0)
    project_staging: int = Field(default=0, ge=0)
    project_count: int = Field(default=0, ge=0)
    project_uploads: int = Field(default=0, ge=0)
    quotas: Literal["settings", "keystone"] = "settings"
    """Who says what a project may take: ``project_*`` here, or Keystone's unified limits."""
    keystone: KeystoneLimits = KeystoneLimits()


class Vetting(_Section):
    """How images from strangers are judged."""

    policy: str = "openstack"
    """A built-in policy of vmimg vet, or the file of one; empty: images are stored unseen."""
    hash: Literal["sha256", "sha384", "sha512"] = "sha512"
    learn: bool = True
    """Fill in the properties that an image's content says beyond doubt."""


class Imports(_Section):
    """Where images may be fetched from, and how they are made."""

    methods: tuple[str, ...] = ("glance-direct", "web-download", "copy-image", "glance-download")
    schemes: tuple[str, ...] = ("http", "https")
    ports: tuple[int, ...] = (80, 443)
    hosts: tuple[str, ...] = ()
    """The only hosts that may be asked; empty: any but private ones."""
    private_addresses: bool = False
    """Addresses that are not of the public Internet may be asked."""
    regions: dict[str, str] = Field(default_factory=dict)
    """Other image services that ``glance-download`` may ask: their addresses, by region."""
    output_format: str = ""
    """The disk format that imported disks are converted to; empty: they stay what they are."""
    decompress: bool = True
    """Imported images of container format ``compressed`` are unpacked."""
    unpack: bool = True
    """The disk of an imported OVA becomes the image, what it says of its machine properties."""
    workers: int = Field(default=2, ge=1, le=64)
    task_hours: int = Field(default=48, ge=1)


class Cache(_Section):
    """Copies of images near this process."""

    max_size: int = Field(default=10 << 30, ge=0)
    """Bytes; what was not used for long goes. 0: there is no cache."""
    fill: Literal["remote", "all", "asked"] = "remote"
    """Which images come there once they were downloaded: those of stores that are no directories,
    all, or none but those that administrators ask for.
    """


class Settings(BaseSettings):
    """All of it; see the parts."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="VMIMG_", env_nested_delimiter="__"
    )

    data: Path = Path("vmimg-data")
    """The directory of what is not said: the SQLite file, the store ``default``, staging."""
    server: Server = Server()
    database: Database = Database()
    catalogue: Catalogue = Catalogue()
    stores: dict[str, Store] = Field(default_factory=dict)
    default_store: str = ""
    """The store of images that ask for none; empty: the first."""
    logging: Logging = Logging()
    identity: Identity = Identity()
    policy: dict[str, str] = Field(default_factory=dict)
    """Rules by name, in place of the defaults; `policy` has the language."""
    formats: Formats = Formats()
    limits: Limits = Limits()
    vetting: Vetting = Vetting()
    imports: Imports = Imports()
    cache: Cache = Cache()
    show_locations: bool = False
    """Tell owners where their bytes lie: ``direct_url`` and ``locations``."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment counts more than the file."""
        return env_settings, init_settings

    @property
    def database_url(self) -> str:
        """The database, also where none is named."""
        return self.database.url or f"sqlite:///{self.data.absolute() / 'catalogue.db'}"

    @property
    def all_stores(self) -> dict[str, Store]:
        """The stores, also where none is named."""
        return self.stores or {"default": Store(url=f"file://{self.data.absolute() / 'images'}")}

    @property
    def first_store(self) -> str:
        """The store of images that ask for none."""
        return self.default_store or self.writable_stores[0]

    @property
    def writable_stores(self) -> tuple[str, ...]:
        """The names of those that images can be put into."""
        return tuple(name for name, store in self.all_stores.items() if not store.read_only)

    @property
    def staging(self) -> Path:
        """Where bytes wait that are uploaded to be imported."""
        return self.data.absolute() / "staging"


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """The settings of the file at ``path``, of the environment, and ``overrides`` by section.

    Raises SettingsError, with one line for each mistake.
    """
    said: dict[str, Any] = {}
    if path is not None:
        try:
            said = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not TOML: {error}") from error
    for section, values in overrides.items():
        if isinstance(values, dict):
            said[section] = {**said.get(section, {}), **values}
        else:
            said[section] = values
    try:
        settings = Settings(**said)
    except ValidationError as error:
        where = f"{path}: " if path else ""
        lines = [where + _told(mistake) for mistake in error.errors()]
        raise SettingsError("\n".join(lines)) from error
    if settings.default_store and settings.default_store not in settings.all_stores:
        known = ", ".join(settings.all_stores)
        raise SettingsError(f"default_store = {settings.default_store!r}: there are {known}")
    _check_quotas(settings)
    if not settings.writable_stores:
        raise SettingsError("stores: none of them can be written to")
    if settings.default_store and settings.default_store not in settings.writable_stores:
        raise SettingsError(f"default_store = {settings.default_store!r}: it is read-only")
    return settings


def _check_quotas(settings: Settings) -> None:
    limits = settings.limits
    mistakes = []
    if limits.quotas == "keystone":
        if settings.identity.mode != "keystone":
            mistakes.append("limits.quotas = 'keystone': identity.mode must be 'keystone' too")
        mistakes += [
            f"limits.{name}: quotas are Keystone's; leave it out, or set limits.quotas = 'settings'"
            for name in ("project_size", "project_staging", "project_count", "project_uploads")
            if getattr(limits, name)
        ]
        where = limits.keystone
        if not (where.endpoint_id or where.service_type or where.service_name):
            mistakes.append(
                "limits.keystone: set endpoint_id, or service_type, or service_name: limits are "
                "those of a service"
            )
    elif "keystone" in limits.model_fields_set:
        mistakes.append("limits.keystone: it counts only with limits.quotas = 'keystone'")
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _told(mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    if mistake["type"] == "missing":
        return f"{where}: must be set"
    return f"{where} = {mistake['input']!r}: {mistake['msg'].lower()}"
