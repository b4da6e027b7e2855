"""The BentoML service: ``bentoml serve serving.service:Scoring``.

Its methods take and return the JSON of :mod:`serving.api.models`. Uploads, and everything else below ``/v1``,
are handled by an ASGI application mounted here: BentoML renames uploaded files, whose names a WFDB header
needs, and its file fields fetch any address that a client writes in place of a file.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import bentoml
from bentoml.exceptions import BentoMLException
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.types import Receive, Scope

from ibt_deploy.device import keep_small_blocks
from serving import forbid_usage_reports
from serving.api.models import (
    ArrhythmiaRequest,
    Findings,
    Risk,
    RiskAndState,
    SepsisNextRequest,
    SepsisRequest,
)
from serving.http import telemetry
from serving.http.app import Application
from serving.http.middleware import Drain, Middleware, as_problem, current
from serving.score.batching import Job, ScoreJob, SingleJob
from serving.settings import PREFIX, Settings, share_state_key

GRACE_SECONDS = 5.0
"""BentoML's timeout is this much longer than that of the service, which answers with a problem."""
MOST_REQUESTS = 1024
"""Requests that a worker holds at once, including bodies still arriving; the queue is shorter."""
SWITCH_SECONDS = 0.0005
"""Time for which a computing thread may keep the interpreter from the one that accepts requests."""

forbid_usage_reports()
share_state_key()
_settings = Settings.from_environment()
_workers = int(os.environ.get(f"{PREFIX}WORKERS", "1"))
_drain = Drain()
_mounted = Starlette()
"""Receives the routes of the worker's application once its models are loaded."""
_mounted.middleware_stack = _mounted.router  # errors are handled by our middleware, not by Starlette
_worker: list[Application] = []
T = TypeVar("T", bound=BaseModel)


class Refused(BentoMLException):
    """A method's refusal, with the status of its problem."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code, error_code=HTTPStatus(status))


@bentoml.service(
    name="ibt",
    workers=_workers,
    resources={"cpu": str(_workers), "memory": f"{_workers}Gi"},
    traffic={
        "timeout": _settings.body_seconds + _settings.answer_seconds + GRACE_SECONDS,
        "max_concurrency": _workers * MOST_REQUESTS,
    },
    metrics={"enabled": False},  # ours replace them: see serving.http.telemetry
    # if spans are off (serving/__init__.py), OpenTelemetry need not look at requests either
    tracing={"excluded_urls": [".*"] if os.environ.get("OTEL_SDK_DISABLED") == "true" else []},
    logging={"access": {"enabled": False}},
    endpoints={"livez": "/livez", "readyz": "/readyz"},
    envs=[
        {"name": "BENTOML_DO_NOT_TRACK", "value": "True"},
        {"name": "ORT_DISABLE_TELEMETRY", "value": "1"},
    ],
    labels={"licence": "Apache-2.0", "medical-device": "no"},
)
@bentoml.asgi_app(_mounted, path="/", name="http")
class Scoring:
    """Findings of ECGs and hourly sepsis risk of ICU stays; research software, not a medical device."""

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self.application = Application(_settings, _drain)
        _worker[:] = [self.application]
        _mounted.router.routes[:] = self.application.routes
        keep_small_blocks()
        gc.collect()
        gc.freeze()  # objects so far are permanent and need not be traversed again
        telemetry.forget_dead_workers()
        telemetry.take_over()

    @bentoml.api(input_spec=ArrhythmiaRequest)  # type: ignore[untyped-decorator]
    async def arrhythmia(self, **recording: Any) -> Findings:
        """Findings of one ECG."""
        scorer = self.application.scorer

        def job(point: str) -> Job:
            return ScoreJob(
                scorer.models.predictors["arrhythmia", point], partial(scorer.recording, recording)
            )

        return Findings.model_validate(await self._answer("arrhythmia", recording, job))

    @bentoml.api(input_spec=SepsisRequest)  # type: ignore[untyped-decorator]
    async def sepsis(self, **stay: Any) -> Risk:
        """Hourly sepsis risk of one ICU stay."""
        scorer = self.application.scorer

        def job(point: str) -> Job:
            return ScoreJob(scorer.models.predictors["sepsis", point], partial(scorer.stays, stay))

        return Risk.model_validate(await self._answer("sepsis", stay, job))

    @bentoml.api(input_spec=SepsisNextRequest)  # type: ignore[untyped-decorator]
    async def sepsis_next(self, **hours: Any) -> RiskAndState:
        """Risk of the next hours of a stay, and the state to send with the hours after them."""
        scorer = self.application.scorer

        def job(point: str) -> Job:
            return SingleJob(partial(scorer.next_hours(point).from_json, hours))

        return RiskAndState.model_validate(await self._answer("sepsis", hours, job))

    async def __is_ready__(self) -> bool:
        """Whether the models are loaded and the service is not shutting down."""
        return not _drain.begun

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish pending work."""
        self.application.close()

    async def _answer(self, task: Any, given: dict[str, Any], job: Callable[[str], Job]) -> Any:
        """The parsed answer to a method's arguments; a refusal becomes a problem of the middleware."""
        exchange = current.get()
        application = self.application
        try:
            point = application.models.point(task, given.pop("operating_point"))
            _leave_out_what_is_not_stated(given)
            seconds = application.scorer.settings.answer_seconds
            return json.loads(await application.pool.answer(job(point), seconds, exchange.take))
        except Exception as error:  # noqa: BLE001 - the client gets a problem in any case
            exchange.problem = problem = as_problem(error)
            raise Refused(problem.status, problem.code) from None


def _leave_out_what_is_not_stated(given: dict[str, Any]) -> None:
    """Turn models into plain JSON, in place, without the fields that the client did not send."""
    for name, value in list(given.items()):
        if value is None:
            del given[name]
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            given[name] = [row.model_dump(exclude_unset=True) for row in value]


@asynccontextmanager
async def _guard(scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
    async with _worker[0].guard(scope, receive) as guarded:
        yield guarded


Scoring.add_asgi_middleware(  # type: ignore[attr-defined]
    Middleware, token=_settings.token, drain=_drain, guard=_guard
)


def asgi() -> Callable[..., Awaitable[None]]:
    """The service as an ASGI application, for the server of ``ibt serve``."""
    end_with_parent()
    _stop_at_the_first_signal(asyncio.get_event_loop())
    app: Callable[..., Awaitable[None]] = Scoring.to_asgi(is_main=True)  # type: ignore[attr-defined]
    return app


def _stop_at_the_first_signal(loop: asyncio.AbstractEventLoop) -> None:
    """Ignore signals after the first SIGINT or SIGTERM.

    Ctrl-C and systemd signal every process, and the supervisor of this worker then signals it
    again. In granian 2.8.9 a second signal to a worker that is stopping deadlocks it.
    """
    add, stopping = loop.add_signal_handler, False

    def add_for_once(number: int, callback: Callable[..., object], *arguments: Any) -> None:
        def once() -> None:
            nonlocal stopping
            if not stopping:
                stopping = True
                callback(*arguments)

        add(number, once)

    loop.add_signal_handler = add_for_once  # type: ignore[method-assign, assignment]


def end_with_parent() -> None:
    """Have the system kill this worker if its supervisor is killed (Linux).

    SIGTERM would not do: nothing would be left to kill a worker that ignores it.
    """
    import ctypes
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if not parent.is_alive():
        sys.exit(1)
