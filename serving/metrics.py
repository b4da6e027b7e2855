"""What Prometheus may know: counts and durations by route, status and reason; nothing about patients.

With ``PROMETHEUS_MULTIPROC_DIR`` set, as BentoML and ``ibt serve --workers`` do, the figures of all workers
are added up; it must be set before this module is imported.
"""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["CONTENT_TYPE", "exposition", "in_flight", "observe", "queued", "shown_model"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_requests = Counter("ibt_requests", "Requests by route, method and status.", ("route", "method", "status"))
_refusals = Counter("ibt_refusals", "Refused requests by reason code.", ("route", "code"))
_seconds = Histogram(
    "ibt_request_seconds", "From the request's head to its answer.", ("route",), buckets=_BUCKETS
)
in_flight = Gauge("ibt_requests_in_flight", "Requests that are being answered.", multiprocess_mode="livesum")
queued = Gauge("ibt_requests_queued", "Requests that wait for a thread.", multiprocess_mode="livesum")
_model = Gauge(
    "ibt_model",
    "The models that answer; always 1.",
    ("task", "name", "version", "sha256", "precision", "device"),
    multiprocess_mode="liveall",
)


def observe(route: str, method: str, status: int, seconds: float, code: str | None) -> None:
    """Count one answered request."""
    _requests.labels(route, method, str(status)).inc()
    _seconds.labels(route).observe(seconds)
    if code is not None:
        _refusals.labels(route, code).inc()


def shown_model(task: str, name: str, version: str, sha256: str, precision: str, device: str) -> None:
    """Say which model answers."""
    _model.labels(task, name, version, sha256, precision, device).set(1)


def exposition() -> bytes:
    """Everything, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
