"""The data of images: uploaded, staged, and downloaded in the format that is asked for."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from vmimg.service import quota
from vmimg.service.api.finding import image_for
from vmimg.service.catalogue import images, journal
from vmimg.service.catalogue.images import ImageRecord
from vmimg.service.data.arriving import PIECE, Arrived, Intake, take_all
from vmimg.service.data.departing import RangeResponse, StreamResponse
from vmimg.service.data.judging import Judge
from vmimg.service.data.presenting import Presented, Wanted, asked_for, etag
from vmimg.service.data.ranges import is_unchanged, wanted
from vmimg.service.data.uploading import abandon, reserve, settle
from vmimg.service.http.errors import HTTPError, bad_request, conflict, forbidden, not_found
from vmimg.service.http.operation import Call, Operation, Parameter
from vmimg.service.http.receiving import pieces
from vmimg.service.stores.base import Putting, Store, StoreFull

__all__ = ["OPERATIONS"]

_OCTETS: Final = "application/octet-stream"


async def upload(call: Call) -> Response:
    """Take the image's data: hashed, inspected and stored as it comes; then it is active."""
    name = call.headers.get("x-image-meta-store", call.service.settings.first_store)
    store = call.service.stores.get(name)
    if store is None:
        raise bad_request(f"Store identifier {name} is not configured.")
    length = _length(call)
    record, key, most = await run_in_threadpool(_begin, call, store, length)
    judge = call.service.judge(record)

    async def take() -> None:
        came = await _take(call, store, key, length, most, judge)
        judgement = await run_in_threadpool(_judged, store, key, judge)
        await run_in_threadpool(settle, call.service, record.id, name, key, came, judgement)

    await _or_abandon(take, partial(abandon, call.service, record.id, name, key))
    return Response(status_code=204)


async def stage(call: Call) -> Response:
    """Take the image's data to the staging area, for an import."""
    if "glance-direct" not in call.service.settings.imports.methods:
        raise not_found("'glance-direct' method is not available at this site.")
    length = _length(call)
    staging = call.service.staging
    record, key, most = await run_in_threadpool(_begin, call, staging, length)
    judge = call.service.judge(record)

    async def take() -> None:
        came = await _take(call, staging, key, length, most, judge)
        await run_in_threadpool(_staged, call, record.id, key, came.size)

    give_up = partial(abandon, call.service, record.id, staging.name, key, before=("uploading",))
    await _or_abandon(take, give_up)
    return Response(status_code=204)


def _length(call: Call) -> int | None:
    """How much will come, as far as the client says so.

    Raises HTTPError 415 for another media type, 400 for what is no number, 413 above the limit.
    """
    if call.media_type != _OCTETS:
        raise HTTPError(415)
    said = call.headers.get("x-openstack-image-size") or call.headers.get("content-length")
    if said is None:
        return None
    if not said.isascii() or not said.isdigit() or len(said) > 19:
        raise bad_request("Invalid or missing image size in request headers.")
    limit = call.service.settings.limits.image_size
    if limit and int(said) > limit:
        raise HTTPError(413, f"The image is larger than the limit of {limit} bytes.")
    return int(said)


def _begin(call: Call, store: Store, length: int | None) -> tuple[ImageRecord, str, int]:
    """The image, a key for its data in ``store``, and how many bytes may come; 0: no limit."""
    service, key = call.service, str(uuid.uuid4())
    allowed = quota.of_owner(service, call.path["image_id"])
    stages = store is service.staging
    rule, status = ("modify_image", "uploading") if stages else ("upload_image", "saving")
    check = quota.check_staging if stages else quota.check_size
    try:
        with service.database.begin() as connection:
            record, _ = image_for(call, connection, rule, lock=True)
            lacking = [n for n in ("disk_format", "container_format") if not getattr(record, n)]
            if lacking and not stages and record.status == "queued":
                named = ", ".join(lacking)
                raise bad_request(f"Properties {named} must be set prior to saving data.")
            quota.check_uploads(allowed, connection, record.owner)
            left = check(allowed, connection, record.owner, length or 1)
            if not images.transition(connection, record.id, ("queued",), status, message=None):
                raise conflict(
                    f"Image status transition from {record.status} to {status} is not allowed"
                )
            reserve(connection, service, record.id, store.name, key)
    except BaseException:
        service.writing.discard(key)
        raise
    return record, key, min(filter(None, (service.settings.limits.image_size, left)), default=0)


async def _take(
    call: Call, store: Store, key: str, length: int | None, most: int, judge: Judge
) -> Arrived:
    """The body, into the store, durable there."""
    service = call.service
    putting: Putting = await run_in_threadpool(store.put, key, length)
    try:
        intake = Intake(
            putting,
            service.pool,
            algorithm=service.settings.vetting.hash,
            limit=most,
            look=judge.look,
        )
        promised = call.headers.get("content-length")
        whole = None if promised is None else int(promised)
        came = await take_all(pieces(call.request, whole, PIECE, intake.spare), intake)
        if length is not None and came.size != length:
            raise bad_request(f"{came.size} bytes came, and {length} were announced.")
        await run_in_threadpool(putting.commit)
    except BaseException:
        await run_in_threadpool(putting.abort)
        raise
    return came


def _judged(store: Store, key: str, judge: Judge):  # type: ignore[no-untyped-def]
    with store.open(key) as storage:
        return judge.judge(storage)


def _staged(call: Call, image_id: str, key: str, size: int) -> None:
    allowed = quota.of_owner(call.service, image_id, kept=True)
    with call.service.database.begin() as connection:
        record = images.find(connection, image_id)
        if record is not None:
            quota.check_staging(allowed, connection, record.owner, size)
        done = images.transition(connection, image_id, ("uploading",), "uploading", size=size)
        if not done or not journal.keep(connection, call.service.staging.name, key):
            raise HTTPError(410, f"Image {image_id} was deleted while its data came.")
    call.service.writing.discard(key)


async def _or_abandon(take: Callable[[], Awaitable[None]], give_up: Callable[..., None]) -> None:
    """``take``; where it fails, the image is as before, and says why if its bytes are at fault."""
    try:
        await take()
    except HTTPError as error:
        await run_in_threadpool(give_up, error.message if error.status == 415 else None)
        raise
    except StoreFull as error:
        await run_in_threadpool(give_up)
        raise HTTPError(413, "Image storage media is full.") from error
    except ClientDisconnect as error:
        await run_in_threadpool(give_up)
        raise bad_request("The client went away.") from error
    except BaseException:
        await run_in_threadpool(give_up)
        raise


async def download(call: Call) -> Response:
    """Hand out the image's data: what is stored, or any format, made as it goes."""
    service = call.service
    record = await run_in_threadpool(_to_download, call)
    asked = asked_for(call.query)
    if asked is not None and asked.format == record.disk_format and not asked.options:
        asked = None
    if asked is not None and await run_in_threadpool(service.presenter.is_stream, record, asked):
        tag = etag(record, asked)
        if is_unchanged(call.headers, tag):
            return Response(status_code=304, headers={"etag": tag})
        produce = partial(service.presenter.stream, record, asked)
        then = _cache_it(call, record)
        return StreamResponse(produce, service.readers, headers={"etag": tag}, then=then)
    presented = await run_in_threadpool(service.presenter.presented, record, asked)
    try:
        return await run_in_threadpool(_part, call, record, asked, presented)
    except BaseException:
        presented.release()
        raise


def _part(
    call: Call, record: ImageRecord, asked: Wanted | None, presented: Presented
) -> RangeResponse:
    """What the client wants of it: all, or a range. Raises HTTPError where it is nothing."""
    tag = etag(record, asked, presented.layout)
    headers = {"etag": tag, "accept-ranges": "bytes"}
    if is_unchanged(call.headers, tag):
        raise HTTPError(304, headers=headers)
    if asked is None and record.checksum:
        headers["content-md5"] = record.checksum
    size = presented.storage.size
    part = wanted(call.headers, size, tag)
    start, end = part or (0, size)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    return RangeResponse(
        presented, start, end, call.service.readers,
        status=200 if part is None else 206, headers=headers,
        then=_cache_it(call, record) if part is None else None,
    )  # fmt: skip


def _cache_it(call: Call, record: ImageRecord) -> Callable[[], None] | None:
    """What is to be done when all of the image was sent: it will be asked for again."""
    cache = call.service.cache
    if not cache.wants(record, call.service.presenter.first(record)):
        return None
    return partial(cache.ask, record.id)


def _to_download(call: Call) -> ImageRecord:
    said = [value for key, value in call.query if key == "prefer"]
    preferred = [name.strip() for value in said for name in value.split(",") if name.strip()]
    with call.service.database.read() as connection:
        record, _ = image_for(call, connection, "download_image")
        if preferred:
            image_for(call, connection, "download_from_store")
    if record.status == "deactivated" and not call.caller.is_admin:
        raise forbidden(
            "The requested image has been deactivated. Image data download is forbidden."
        )
    if not record.locations:
        raise HTTPError(204)
    for name in preferred:
        if name not in call.service.stores:
            raise bad_request(f"Store '{name}' is not configured.")
    nearest_first = sorted(record.locations, key=lambda place: place.store not in preferred)
    return record._replace(locations=nearest_first)


_UPLOADED: Final = {
    204: "stored", 400: "the client sent less than it said", 409: "it has data, or gets some",
    410: "it was deleted meanwhile", 413: "too large, or no space", 415: "refused by the vetting",
}  # fmt: skip
_SIZE: Final = Parameter("x-openstack-image-size", "how many bytes will come", "header", "integer")
_STORE: Final = Parameter("x-image-meta-store", "the store to keep it in", "header")
_FORMAT: Final = Parameter(
    "format", "a format of vmimg to hand the image out in; its options are parameters too"
)
_PREFER: Final = Parameter("prefer", "the stores to read from, if it is there: names, by commas")

OPERATIONS = (
    Operation(
        "PUT", "/v2/images/{image_id}/file", upload, "Upload an image's data", _UPLOADED,
        media=(_OCTETS,), parameters=(_STORE, _SIZE),
    ),
    Operation(
        "PUT", "/v2/images/{image_id}/stage", stage, "Upload data to be imported", _UPLOADED,
        media=(_OCTETS,), parameters=(_SIZE,),
    ),
    Operation(
        "GET", "/v2/images/{image_id}/file", download, "Download an image's data",
        {
            200: "the data", 204: "there is none", 206: "the range", 304: "the client has it",
            403: "deactivated", 409: "it cannot be given in this format", 416: "no such range",
            502: "it lies elsewhere, and is not there as it was",
        },
        parameters=(_FORMAT, _PREFER),
    ),
)  # fmt: skip
