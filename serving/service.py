"""The BentoML service: ``bentoml serve serving.service:Scoring``, and what a bento runs.

BentoML gives the process, its life cycle and the bento. It would rename uploaded files, whose names a WFDB
header needs, and has probes and figures of its own; therefore every request goes to
:class:`serving.app.Application`, which is made once in each worker before it takes any.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType
from typing import Any

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import logs
from serving.app import Application, application
from serving.settings import PREFIX, Settings, share_state_key
from serving.trimming import keep_large_blocks_apart

SWITCH_SECONDS = 0.0005
"""How long a computing thread may keep the interpreter from the one that accepts and refuses requests."""

share_state_key()
_settings = Settings.from_environment()
GRACE_SECONDS = 5.0
"""So much longer than the service itself, which answers a problem, BentoML waits."""


class _Current:
    """The application of this worker, once it is there."""

    application: Application | None = None


class Takeover:
    """ASGI middleware that gives every request to the application in place of BentoML's own routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        answering = _Current.application if scope["type"] == "http" else None
        await (answering or self._app)(scope, receive, send)


@bentoml.service(
    name="ibt",
    workers=int(os.environ.get(f"{PREFIX}WORKERS", "1")),
    # BentoML keeps what it knows of a request for as long as this (1.4.39), answered or not
    traffic={"timeout": _settings.body_seconds + _settings.answer_seconds + GRACE_SECONDS},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Scoring:
    """Both models of one worker."""

    def __init__(self) -> None:
        _Current.application = application(_settings)
        _drain_at(signal.SIGTERM, _Current.application)
        keep_large_blocks_apart()
        gc.collect()
        gc.freeze()  # what is here now stays, and need not be looked through again
        logs.take_over()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Finish what is waiting."""
        if _Current.application is not None:
            _Current.application.close()


def asgi() -> ASGIApp:
    """The service as an ASGI application, for the server of ``ibt serve``.

    BentoML has the life cycle; requests go past its middlewares, which cost answers
    a second (docs/service.md).
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    return Takeover(Scoring.to_asgi(is_main=True))  # type: ignore[attr-defined]


Scoring.add_asgi_middleware(Takeover)  # type: ignore[attr-defined]


def _drain_at(number: signal.Signals, app: Application) -> None:
    """Refuse new work from the signal on; the server that is told by it, too, finishes what has begun."""
    before: Any = signal.getsignal(number)

    def begin(given: int, frame: FrameType | None) -> None:
        app.drain.begun = True
        if callable(before):
            before(given, frame)

    signal.signal(number, begin)
