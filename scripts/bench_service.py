"""The bench of the image service: ours and a Glance, in turn, with the same image.

    upload and download   of one image, as fast as it goes: A B, B A; both hash what they get
    many at once          uploads and downloads at the same time, and what memory that takes
    list                  a page of 1,000 images out of 100,000 on PostgreSQL
    first byte            of an image in another format than it is stored in

Everything lies in memory where there is room. Imports nothing of what it measures.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bench_client as client
import bench_servers as servers
from bench import GIB, MIB, compile_bytecode, describe_machine, parse_size, say, stop, work_folder

# Of Glance's time, at most; MiB; seconds.
UPLOAD_RATIO = 5.0
DOWNLOAD_RATIO = 1.0
MEMORY_MIB = 600
LIST_S = 0.05
PAGE, IMAGES = 1000, 100_000
HOME = Path(__file__).resolve().parent.parent / ".venv-openstack"
# Deleted files give their memory back in the background.
SETTLE_S = 1.0


def main() -> int:
    """Measure; 0 unless something failed. A missed target is shown, and is no failure."""
    options = arguments()
    # A polite kill must not leave gigabytes in memory behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows: list[dict[str, Any]] = []
    compile_bytecode(options.vmimg)
    need = max(3 * options.size, (options.clients + 2) * options.each)
    with work_folder(options.dir, need + GIB // 4) as (folder, storage):
        report: dict[str, Any] = {
            "machine": describe_machine(storage, options.vmimg),
            "image": {"bytes": options.size},
            "runs": options.runs,
            "load_before": round(os.getloadavg()[0], 1),
            "rows": rows,
        }
        for case in (one, many, listing, first_byte):
            if options.case in (None, case.__name__):
                rows.extend(case(folder, options))
        report["load_after"] = round(os.getloadavg()[0], 1)
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure vmimg serve against Glance.")
    parser.add_argument("--vmimg", default=shutil.which("vmimg"), help="the vmimg to measure")
    parser.add_argument("--openstack", type=Path, default=HOME, help="an environment with a Glance")
    parser.add_argument("--runs", type=int, default=3, help="of each server (default 3)")
    parser.add_argument(
        "--size", type=parse_size, default=2 * GIB, help="of the image (default 2G)"
    )
    parser.add_argument("--each", type=parse_size, default=128 * MIB, help="of many (128M)")
    parser.add_argument("--clients", type=int, default=64, help="up and down each (default 64)")
    parser.add_argument("--case", choices=("one", "many", "listing", "first_byte"))
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument(
        "--dir", type=Path, help="where to work (default: memory, if there is room)"
    )
    options = parser.parse_args()
    if options.vmimg is None:
        stop("vmimg is not on PATH; say where it is with --vmimg")
    options.vmimg = str(Path(options.vmimg).absolute())
    options.openstack = options.openstack.absolute()
    return options


# The cases ----------------------------------------------------------------------------------------


def one(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One image up and down, ours and Glance in turn."""
    say("one image, ours and Glance's")
    if not (options.openstack / "bin" / "gunicorn").exists():
        stop(f"no Glance in {options.openstack.name}; `make bench-service` installs one")
    with source(folder, options.size) as (path, digest), contextlib.ExitStack() as running:
        ours = running.enter_context(servers.vmimg(options.vmimg, folder / "ours"))
        theirs = running.enter_context(servers.glance(options.openstack, folder / "glance"))
        figures = {kind: {server: list[Figure]() for server in (ours, theirs)} for kind in KINDS}
        for turn in range(options.runs):
            for server in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
                made = client.image(server.port)
                upload = measure(server, partial(client.upload, server.port, made, path))
                data = f"/v2/images/{made}/file"
                shown = client.ask(server.port, "GET", f"/v2/images/{made}")
                if (shown["checksum"], len(shown["os_hash_value"])) != (digest, 128):
                    stop("what was stored is not what was sent")
                if turn == 0 and client.download(server.port, data, "digest")[1] != digest:
                    stop("what came back is not what was sent")
                # A download takes a moment: several make one figure.
                download = partial(downloaded, server.port, data)
                times = [measure(server, download) for _ in range(3)]
                figures["upload"][server].append(upload)
                figures["download"][server].extend(times)
                client.ask(server.port, "DELETE", f"/v2/images/{made}")
                time.sleep(SETTLE_S)
        for kind, least in KINDS.items():
            mine, other = (median(figures[kind][server]) for server in (ours, theirs))
            ratio = other[0] / mine[0]
            yield {
                "case": f"{kind} of one image",
                "vmimg": f"{options.size / MIB / mine[0]:.0f} MiB/s",
                "glance": f"{options.size / MIB / other[0]:.0f} MiB/s",
                "ratio": round(ratio, 2),
                "target": f"≥ {least:g}",
                "met": ratio >= least,
                "vmimg_runs_s": [round(figure[0], 3) for figure in figures[kind][ours]],
                "glance_runs_s": [round(figure[0], 3) for figure in figures[kind][theirs]],
                "vmimg_cpu_s_per_gib": round(mine[1] / options.size * GIB, 2),
                "glance_cpu_s_per_gib": round(other[1] / options.size * GIB, 2),
                "vmimg_mib": round(ours.peak_mib()),
                "glance_mib": round(theirs.peak_mib()),
            }


def many(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Uploads and downloads at the same time: memory, and bytes per second of both together."""
    count = options.clients
    say(f"{count} uploads and {count} downloads at once")
    with (
        source(folder, options.each) as (path, _),
        servers.vmimg(options.vmimg, folder / "many") as server,
    ):
        stored = client.image(server.port)
        client.upload(server.port, stored, path)
        before = server.peak_mib()
        data = f"/v2/images/{stored}/file"
        made = [client.image(server.port) for _ in range(count)]
        began = time.perf_counter()
        ways = [partial(downloaded, server.port, data)] * count
        ways += [partial(client.upload, server.port, each, path) for each in made]
        together(ways)
        seconds = time.perf_counter() - began
        peak = server.peak_mib()
    yield {
        "case": f"{count} uploads and {count} downloads of {options.each // MIB} MiB at once",
        "vmimg": f"{peak:.0f} MiB of memory",
        "target": f"< {MEMORY_MIB} MiB",
        "met": peak < MEMORY_MIB,
        "vmimg_mib": round(peak),
        "vmimg_mib_before": round(before),
        "seconds": round(seconds, 2),
        "mib_s": round(2 * count * options.each / MIB / seconds),
    }


def listing(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A page out of many images, first and further on."""
    say(f"a page of {PAGE} images out of {IMAGES}")
    with (
        servers.postgresql(folder) as database,
        servers.vmimg(options.vmimg, folder / "listing", database=database) as server,
    ):
        fill(database)
        for what, path in (
            ("list", f"/v2/images?limit={PAGE}"),
            ("list, by name after a marker", f"/v2/images?limit={PAGE}&sort=name:asc&marker="),
        ):
            if path.endswith("="):
                path += client.ask(server.port, "GET", "/v2/images?name=image-50000")["images"][0][
                    "id"
                ]
            page = client.ask(server.port, "GET", path)
            if len(page["images"]) != PAGE:
                stop(f"a page of {len(page['images'])} images")
            times = sorted(client.download(server.port, path, "body")[0] for _ in range(20))
            seconds = statistics.median(times)
            yield {
                "case": f"{what}: {PAGE:,} images of {IMAGES:,}, PostgreSQL",
                "vmimg": f"{seconds * 1000:.0f} ms",
                "target": f"≤ {LIST_S * 1000:.0f} ms",
                "met": seconds <= LIST_S,
                "best_ms": round(times[0] * 1000, 1),
                "vmimg_runs_s": [round(each, 4) for each in times],
            }


def first_byte(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How soon a conversion begins to come."""
    say("the first byte of another format")
    with servers.vmimg(options.vmimg, folder / "formats") as server:
        made = client.image(server.port, "qcow2")
        with source(folder, options.size) as (path, _):
            image = folder / "image.qcow2"
            line = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(path), str(image)]
            subprocess.run(line, check=True)
        client.upload(server.port, made, image)
        image.unlink()
        data = f"/v2/images/{made}/file?format=vhdx"
        first = client.download(server.port, data, "first_byte")[0]
        times = [client.download(server.port, data, "first_byte")[0] for _ in range(10)]
        whole = client.download(server.port, data)[0]
    yield {
        "case": f"first byte of ?format=vhdx, of a qcow2 of {options.size / GIB:g} GiB",
        "vmimg": f"{first * 1000:.0f} ms",
        "target": "",
        "met": None,
        "again_ms": round(statistics.median(times) * 1000, 1),
        "whole_mib_s": round(options.size / MIB / whole),
    }


# What they are made of ----------------------------------------------------------------------------

KINDS = {"upload": UPLOAD_RATIO, "download": DOWNLOAD_RATIO}
Figure = tuple[float, float]
"""Seconds that a client waited, and CPU seconds that the server took."""


def downloaded(port: int, path: str) -> float:
    """Seconds until all of it was there."""
    return client.download(port, path)[0]


def measure(server: servers.Server, run: Callable[[], float]) -> Figure:
    """One run."""
    before = server.cpu_seconds()
    seconds = run()
    return seconds, server.cpu_seconds() - before


def median(figures: list[Figure]) -> Figure:
    """Of each of the two."""
    return statistics.median(f[0] for f in figures), statistics.median(f[1] for f in figures)


@contextlib.contextmanager
def source(folder: Path, size: int) -> Iterator[tuple[Path, str]]:
    """A file of random bytes, the same each time, and its MD5."""
    path = folder / "source"
    block = random.Random(7).randbytes(16 * MIB)
    hashed = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for at in range(0, size, len(block)):
            piece = block[: size - at]
            file.write(piece)
            hashed.update(piece)
    try:
        yield path, hashed.hexdigest()
    finally:
        path.unlink()


def together(ways: Sequence[Callable[[], Any]]) -> None:
    """Each in a thread of its own; raises what one of them met."""
    failed: list[BaseException] = []

    def run(way: Callable[[], Any]) -> None:
        try:
            way()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


# Images as they come from a distribution's mirror: a few owners, all formats, some properties.
FILL = f"""
INSERT INTO images (id, name, owner, visibility, status, disk_format, container_format, size,
    virtual_size, checksum, os_hash_algo, os_hash_value, min_disk, min_ram, protected, os_hidden,
    properties, tags, created_at, updated_at)
SELECT md5('id' || n)::uuid::text, 'image-' || n, 'project-' || n % 100,
    (ARRAY['public', 'shared', 'private', 'community'])[1 + n % 4], 'active',
    (ARRAY['raw', 'qcow2', 'vhdx', 'vmdk'])[1 + n % 4], 'bare', n * 1000, n * 2000, md5('' || n),
    'sha512', repeat(md5('' || n), 4), 0, 0, false, false,
    jsonb_build_object('os_distro', 'debian', 'hw_disk_bus', 'virtio', 'build', n::text),
    jsonb_build_array('tag-' || n % 50), timestamp '2026-01-01' + n * interval '1 minute',
    timestamp '2026-01-01' + n * interval '1 minute'
FROM generate_series(1, {IMAGES}) AS n;
INSERT INTO image_locations (image_id, store, key, metadata)
SELECT id, 'default', id, '{{}}' FROM images;
ANALYZE;
"""


def fill(database: str) -> None:
    """Many images, by SQL."""
    line = ["psql", "-q", "-v", "ON_ERROR_STOP=1", database]
    done = subprocess.run(line, input=FILL, capture_output=True, text=True, check=False)
    if done.returncode:
        stop(f"psql: {done.stderr.strip()}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
