"""An image as it is stored, or as any other format, ready to be read at any offset.

What is asked for in another format is a virtual file (`vmimg.transfer.virtual`): it is made as it
is read, with an exact size and the same bytes each time, and nothing is written. Making its map
takes a moment, so a few maps are kept for the ranges that come next. Imports formats, transfer.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import vmimg
from vmimg.errors import OptionError, UnsupportedFeature, VmimgError
from vmimg.formats.opening import open_storage_disk
from vmimg.formats.registry import FORMATS, find
from vmimg.service.catalogue.images import ImageRecord, Location
from vmimg.service.data.describing import machine_of
from vmimg.service.http.errors import HTTPError, bad_request
from vmimg.service.stores.base import NotFound, Store, StoreUnreachable, Unusable
from vmimg.service.stores.web import WebStore, version_in
from vmimg.storage.base import Buffer, Storage
from vmimg.storage.slice import SliceStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmimg.disk.stack import Disk
    from vmimg.service.data.caching import Cache

__all__ = ["Presented", "Presenter", "Wanted", "asked_for", "etag"]

_log: Final = logging.getLogger("vmimg.service")
# Maps that are kept: a 2 TiB disk in pieces takes some 50 MiB, most take next to nothing.
_KEPT: Final = 8
_KEPT_BYTES: Final = 64 << 20
_OVA: Final = "ova"
# Glance's words for formats that have another name here.
_NAMES: Final[Mapping[str, str]] = {"ploop": "parallels", "ami": "raw", "iso": "raw"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A format, and options of it as `vmimg convert -o` takes them."""

    format: str
    options: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """For caches and tags: the same for the same bytes."""
        return ",".join([self.format, *(f"{key}={value}" for key, value in self.options)])


def etag(record: ImageRecord, wanted: Wanted | None, layout: str = "") -> str:
    """The strong entity tag of an image's bytes in a format; it changes when they do.

    ``layout``: where a virtual image has which blocks, which depends on where its source has holes.
    """
    if wanted is None:
        return f'"{record.os_hash_value or record.checksum or record.id}"'
    made_of = f"{record.os_hash_value}:{wanted.name}:{layout}:{vmimg.__version__}"
    return f'"{hashlib.sha256(made_of.encode()).hexdigest()[:40]}"'


class Presented:
    """Something to read: its ``storage`` stays open until the last `release`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._users = 1
        self._lock = threading.Lock()

    @property
    def layout(self) -> str:
        """What of a virtual image's bytes does not follow from its disk and its options."""
        return str(getattr(self.storage, "layout", ""))

    def hold(self) -> Presented:
        """One more who reads."""
        with self._lock:
            self._users += 1
        return self

    def release(self) -> None:
        """One less."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.storage.close()


class Presenter:
    """Opens images of ``stores``, or of the ``cache`` if they are there."""

    def __init__(self, stores: Mapping[str, Store], cache: Cache | None = None) -> None:
        self._stores = stores
        self._cache = cache
        self._kept: OrderedDict[tuple[str, str], Presented] = OrderedDict()
        self._lock = threading.Lock()

    def stored(self, record: ImageRecord) -> Storage:
        """The image's bytes, from the cache or from its stores. Raises like `far`."""
        near = self._cache.open(record) if self._cache is not None else None
        return near or self.far(record)

    def far(self, record: ImageRecord) -> Storage:
        """The image's bytes, from the first of its places that has them.

        Raises HTTPError: 503 where no store answers, 502 where what is there is not the image.
        """
        silent: StoreUnreachable | None = None
        unusable: Unusable | None = None
        for location in record.locations:
            try:
                return self._open(location)
            except StoreUnreachable as error:
                silent = error
            except Unusable as error:
                unusable = error
            except NotFound:
                continue
        if silent is not None:
            raise HTTPError(503, "The store of the image does not answer.") from silent
        if unusable is not None:
            raise _changed(record, unusable) from unusable
        raise HTTPError(404, f"The data of image {record.id} is in none of its stores.")

    def first(self, record: ImageRecord) -> Store | None:
        """The store that is asked first for the image's bytes."""
        return self._stores.get((record.locations[0].store if record.locations else "") or "")

    def _open(self, location: Location) -> Storage:
        store = self._stores.get(location.store or "")
        if isinstance(store, WebStore) and location.url is not None:
            return store.opened(location.url, version_in(location.metadata))
        if store is None or location.key is None:
            raise NotFound(f"no store is called {location.store}")
        return store.open(location.key)

    def presented(self, record: ImageRecord, wanted: Wanted | None) -> Presented:
        """The image as ``wanted``; release it after use.

        Raises HTTPError 400 for a format or an option that there is not, 409 for what cannot be
        given at any offset (`stream` can).
        """
        if wanted is None:
            return Presented(self.stored(record))
        key = (record.id, wanted.name)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                return kept.hold()
        made = Presented(self._virtual(record, wanted))
        if getattr(made.storage, "held", 0) <= _KEPT_BYTES:
            self._keep(key, made.hold())
        return made

    def forget(self, image_id: str) -> None:
        """Let go of an image that is deleted."""
        with self._lock:
            gone = [self._kept.pop(key) for key in list(self._kept) if key[0] == image_id]
        for each in gone:
            each.release()

    def close(self) -> None:
        """Let go of everything that is kept."""
        with self._lock:
            gone = list(self._kept.values())
            self._kept.clear()
        for each in gone:
            each.release()

    def stream(self, record: ImageRecord, wanted: Wanted, send: Callable[[Buffer], object]) -> None:
        """Send the image as ``wanted``, from its beginning to its end, of a size not known before.

        What ``send`` raises stops it. Raises like `presented`.
        """
        from vmimg.transfer.streamed import streamed_image

        options = dict(wanted.options)
        compress = _is_yes(options.pop("compress", ""))
        with self._opened(record) as disk, _told():
            if wanted.format == _OVA:
                from vmimg.bundles.virtual import streamed_ova

                machine = machine_of(record)
                streamed_ova([disk], send, name=_ova_name(record), machine=machine)
            else:
                streamed_image(disk, wanted.format, send, options, compress=compress)

    def is_stream(self, record: ImageRecord, wanted: Wanted) -> bool:
        """Whether ``wanted`` has a size only when it has been sent. Raises HTTPError 400."""
        if _is_yes(dict(wanted.options).get("compress", "")):
            return True
        if wanted.format == _OVA:
            return False
        from vmimg.transfer.virtual import has_map

        with _told():
            size = record.virtual_size or 1 << 20
            return not has_map(wanted.format, dict(wanted.options), size)

    def _virtual(self, record: ImageRecord, wanted: Wanted) -> Storage:
        from vmimg.transfer.virtual import virtual_image

        disk = self._opened(record)
        try:
            with _told():
                if wanted.format == _OVA:
                    return _Appliance(record, disk)
                return virtual_image(
                    disk, wanted.format, dict(wanted.options), name=record.id, owns=True
                )
        except BaseException:
            disk.close()
            raise

    def _opened(self, record: ImageRecord) -> Disk:
        name = _NAMES.get(record.disk_format or "", record.disk_format or "")
        try:
            format = find(name).name
        except OptionError:
            raise HTTPError(
                409, f"An image of disk_format {record.disk_format} is no disk to convert."
            ) from None
        if record.container_format not in (None, "bare"):
            raise HTTPError(
                409, f"An image in a container ({record.container_format}) must be imported first."
            )
        storage = self.stored(record)
        try:
            return open_storage_disk(storage, format=format)
        except StoreUnreachable:
            raise
        except Unusable as error:
            raise _changed(record, error) from error
        except VmimgError as error:
            raise HTTPError(409, f"The image cannot be read as {format}: {error}") from error

    def _keep(self, key: tuple[str, str], made: Presented) -> None:
        gone = []
        with self._lock:
            before = self._kept.pop(key, None)
            if before is not None:
                gone.append(before)
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                gone.append(self._kept.popitem(last=False)[1])
        for each in gone:
            each.release()


def asked_for(query: list[tuple[str, str]]) -> Wanted | None:
    """The format that a query names: ``format=vhdx&subformat=fixed``; None for what is stored.

    Raises HTTPError 400 for one that there is not.
    """
    said = [(key, value) for key, value in query if key != "prefer"]
    names = [value for key, value in said if key == "format"]
    if not names:
        return None
    if len(names) > 1:
        raise bad_request("One format can be asked for at a time.")
    name = _NAMES.get(names[0], names[0])
    if name == _OVA:
        options = tuple((key, value) for key, value in said if key == "compress")
        if len(options) != len(said) - 1:
            raise bad_request("An ova has one option here: compress.")
        return Wanted(_OVA, options)
    try:
        format = find(name).name
    except OptionError:
        known = ", ".join(sorted((*FORMATS, _OVA)))
        raise bad_request(f"There is no format {names[0]!r}; there are {known}.") from None
    return Wanted(format, tuple(sorted((k, v) for k, v in said if k != "format")))


def _changed(record: ImageRecord, why: Unusable) -> HTTPError:
    """502. Where the image lies is not for everybody who may read it: that is for the log."""
    _log.warning("an image cannot be read: %s", why, extra={"image": record.id})
    return HTTPError(502, "What lies at the image's location is not the image any more.")


class _Appliance(SliceStorage):
    """A disk as an appliance, with what the image's properties say of its machine."""

    def __init__(self, record: ImageRecord, disk: Disk) -> None:
        from vmimg.bundles.virtual import virtual_ova

        made = virtual_ova([disk], name=_ova_name(record), machine=machine_of(record))
        super().__init__(made, 0, made.size, owns=True)
        self.layout = made.layout
        self._disk = disk

    def close(self) -> None:
        super().close()
        self._disk.close()


def _ova_name(record: ImageRecord) -> str:
    return f"{record.id}.ova"


def _is_yes(said: str) -> bool:
    return said not in ("", "false", "no", "off", "0")


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (OptionError, UnsupportedFeature) as error:
        raise bad_request(str(error)) from error
