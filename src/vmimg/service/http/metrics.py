"""What a service counts, for Prometheus. Imports prometheus_client."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


class Metrics:
    """One registry for each service, so that two in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vmimg_requests_total",
            "Requests that were answered.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "vmimg_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("method", "path"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.received = Counter(
            "vmimg_received_bytes_total", "Bytes of requests' bodies.", registry=self.registry
        )
        self.sent = Counter(
            "vmimg_sent_bytes_total", "Bytes of answers' bodies.", registry=self.registry
        )
        self.under_way = Gauge(
            "vmimg_requests_under_way", "Requests that are being answered.", registry=self.registry
        )
        self.refused = Counter(
            "vmimg_refused_images_total",
            "Images that the vetting refused.",
            ("code",),
            registry=self.registry,
        )
        self.tasks = Counter(
            "vmimg_tasks_total", "Tasks that ended.", ("type", "status"), registry=self.registry
        )

    def text(self) -> bytes:
        """Everything, in Prometheus' format."""
        return generate_latest(self.registry)
