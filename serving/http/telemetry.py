"""Telemetry for operators: Prometheus metrics, and one line of JSON per request on standard error.

Neither ever holds a file name, a value, a message or anything else about a patient. With
``PROMETHEUS_MULTIPROC_DIR`` set, as BentoML and ``ibt serve`` do before they start a worker, the metrics of
all workers are summed.

The metrics with BentoML's names (``bentoml_service_...``), which dashboards read, are ours: BentoML 1.4.39
labels its own with the path as sent, so that anyone could fill the memory with paths, and a patient's
name in a path would end up in a metric.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ibt_deploy import __version__
from ibt_deploy.predictions import ArrhythmiaPrediction, Prediction, Refusal, SepsisPrediction

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_requests = Counter("ibt_requests", "Requests by route, method and status.", ("route", "method", "status"))
_refusals = Counter("ibt_refusals", "Refused requests by reason code.", ("route", "code"))
_seconds = Histogram(
    "ibt_request_seconds", "From the request's head to its answer.", ("route",), buckets=_BUCKETS
)
_in_flight = Gauge("ibt_requests_in_flight", "Requests that are being answered.", multiprocess_mode="livesum")
queued = Gauge("ibt_requests_queued", "Requests that wait for a thread.", multiprocess_mode="livesum")
_findings = Counter(
    "ibt_findings", "Findings of scored ECGs, by class and status.", ("abbreviation", "status")
)
_hours = Counter("ibt_stay_hours", "Scored hours of stays, and those with an alarm.", ("alarm",))
_refused = Counter("ibt_refused_inputs", "Recordings and stays without a score.", ("task", "code"))
_batch = Histogram(
    "ibt_batch_requests", "Requests that shared a run.", ("task",), buckets=(1, 2, 4, 8, 16, 32)
)
_phase = Histogram(
    "ibt_phase_seconds", "Time of a batch by phase: reading inputs, or scoring them.", ("task", "phase"),
    buckets=_BUCKETS,
)  # fmt: skip
_model = Gauge(
    "ibt_model",
    "The models that answer; always 1.",
    ("task", "name", "version", "sha256", "precision", "device"),
    multiprocess_mode="liveall",
)


_SERVICE = {"service_name": "ibt", "service_version": __version__, "runner_name": "ibt"}
_BENTOML_LABELS = ("endpoint", "http_response_code", *_SERVICE)
_bentoml_total = Counter(
    "bentoml_service_request_total", "Requests, as BentoML counts them.", _BENTOML_LABELS
)
_bentoml_seconds = Histogram(
    "bentoml_service_request_duration_seconds", "Durations, as BentoML measures them.", _BENTOML_LABELS,
    buckets=_BUCKETS,
)  # fmt: skip
_bentoml_in_progress = Gauge(
    "bentoml_service_request_in_progress",
    "Requests that are being answered, as BentoML counts them.",
    tuple(_SERVICE),
    multiprocess_mode="livesum",
)


@contextlib.contextmanager
def in_flight() -> Iterator[None]:
    """Count a request while it is being answered."""
    with _in_flight.track_inprogress(), _bentoml_in_progress.labels(**_SERVICE).track_inprogress():
        yield


def observe(route: str, method: str, status: int, seconds: float, code: str | None) -> None:
    """Count one answered request."""
    _requests.labels(route, method, str(status)).inc()
    _seconds.labels(route).observe(seconds)
    labels = {"endpoint": route, "http_response_code": str(status)} | _SERVICE
    _bentoml_total.labels(**labels).inc()
    _bentoml_seconds.labels(**labels).observe(seconds)
    if code is not None:
        _refusals.labels(route, code).inc()


def observe_batch(
    task: str, requests: int, reading: float, scoring: float, answers: Sequence[Prediction | Refusal]
) -> None:
    """Record the cost of one batch of requests, and its outcomes."""
    _batch.labels(task).observe(requests)
    _phase.labels(task, "read").observe(reading)
    _phase.labels(task, "score").observe(scoring)
    for answer in answers:
        if isinstance(answer, Refusal):
            _refused.labels(task, answer.code).inc()
        elif isinstance(answer, ArrhythmiaPrediction):
            for finding in answer.findings:
                _findings.labels(finding.abbreviation, finding.status).inc()
        elif isinstance(answer, SepsisPrediction):
            alarms = int(answer.alarms.sum())
            _hours.labels("yes").inc(alarms)
            _hours.labels("no").inc(len(answer.alarms) - alarms)


def shown_model(task: str, name: str, version: str, sha256: str, precision: str, device: str) -> None:
    """Record which model answers."""
    _model.labels(task, name, version, sha256, precision, device).set(1)


def forget_dead_workers() -> None:
    """Remove the activity of killed workers from the metrics; every worker does so when it starts."""
    folder = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", ""))
    pids = {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*_*.db")}
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        except PermissionError:
            pass


def exposition() -> bytes:
    """All metrics, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def log(event: str, **fields: Any) -> None:
    """Write one line; fields that are None are left out."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    line = {"time": stamp, "event": event} | {k: v for k, v in fields.items() if v is not None}
    with contextlib.suppress(OSError, ValueError):  # an unread log is no reason to fail a request
        sys.stderr.write(json.dumps(line) + "\n")


def take_over() -> None:
    """From now on, also log what libraries log or warn about as lines of JSON.

    They hold the place but not the message, which may contain client data. Call this once the service is
    ready: until then the operator needs to see why it fails.
    """
    root = logging.getLogger()
    known = [entry for entry in root.manager.loggerDict.values() if isinstance(entry, logging.Logger)]
    for logger in (root, *known):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
    root.addHandler(_Lines(logging.WARNING))
    # these only repeat, in less detail, the log line of the request
    for name in ("python_multipart", "uvicorn.error", "bentoml.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.showwarning = _warned


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Log the logger's name, the place, and the kind of error."""
        raised = record.exc_info[0] if record.exc_info else None
        log(
            "library",
            logger=record.name,
            level=record.levelname,
            place=f"{record.filename}:{record.lineno}",
            error=None if raised is None else raised.__name__,
        )


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    del message
    log("warning", kind=category.__name__, place=f"{Path(filename).name}:{lineno}")
