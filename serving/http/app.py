"""The application of one worker: models, threads, limits and routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from serving.api.openapi import document
from serving.http import telemetry
from serving.http.body import Memory, received
from serving.http.middleware import Drain, Middleware
from serving.http.pages import Pages
from serving.input.json_text import parsed
from serving.models import Models
from serving.score import cds_hooks
from serving.score.batching import Pool
from serving.score.routes import JSON, Scorer, content_kind
from serving.settings import Settings

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
CPU_BATCH, GPU_BATCH = 8, 32


class Application:
    """Everything that one worker serves; an ASGI application that also runs without BentoML.

    Parameters
    ----------
    settings
        Settings of the service.

    Attributes
    ----------
    routes
        All routes except BentoML's own.
    scorer
        Called by the routes that score and by the methods of the BentoML service.

    Raises
    ------
    BundleError, DeviceError
        A model cannot be loaded.
    """

    def __init__(self, settings: Settings, drain: Drain | None = None) -> None:
        self.models = Models.load(settings)
        self.drain = drain or Drain()
        batch = settings.batch or (GPU_BATCH if self.models.on_gpu else CPU_BATCH)
        self.pool = Pool(settings.computing_threads, batch, settings.queue, telemetry.queued.set)
        self.scorer = Scorer(settings, self.models, self.pool, Memory(settings.memory_bytes))
        pages = Pages(self.models, document(self.models, settings))
        self.routes = _scoring(self.scorer) + _reading(pages)
        router = Router(self.routes + _probes(pages), redirect_slashes=False)
        self._whole = Middleware(router, token=settings.token, drain=self.drain)
        for (task, point), predictor in self.models.predictors.items():
            if point == predictor.bundle.default_operating_point:
                model = predictor.model
                telemetry.shown_model(
                    task, model.name, model.version, model.sha256, model.variant, model.device
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # the router raises for unknown addresses only within an application
        await self._whole({**scope, "app": self}, receive, send)

    @asynccontextmanager
    async def guard(self, scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
        """Wrap ``receive`` for BentoML's own JSON routes, whose bodies get the limits and checks of ``/v1``.

        BentoML reads a body whole and then parses it on the event loop; here it is first received within the
        limits, and refused on another thread unless it is strict JSON.
        """
        name = scope["path"].removeprefix("/")
        if scope["method"] != "POST" or name not in self.scorer.rooms:
            yield receive
            return
        scope["state"]["route"] = scope["path"]
        request = Request(scope, receive)
        content_kind(request, JSON)
        self.pool.admit()
        with self.scorer.memory.reserve() as reservation:
            body = await received(request, self.scorer.settings, reservation)
            content = await run_in_threadpool(body.whole)
            await run_in_threadpool(parsed, content, self.scorer.rooms[name])
            scope["headers"] = [(k, v) for k, v in scope["headers"] if k != b"content-encoding"]
            waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

            async def replay() -> Message:
                return waiting.pop() if waiting else await receive()

            yield replay

    def close(self) -> None:
        """Finish pending work and end the threads."""
        self.drain.begun = True
        self.pool.close()


def application(settings: Settings | None = None) -> Application:
    """The application; settings default to those of the environment."""
    return Application(settings or Settings.from_environment())


def _scoring(scorer: Scorer) -> list[Route]:
    return [
        _route("POST", "/v1/arrhythmia", scorer.arrhythmia),
        _route("POST", "/v1/sepsis", scorer.sepsis),
        _route("POST", "/v1/sepsis/next", scorer.sepsis_next),
        _route("GET", "/cds-services", scorer.cds_services),
        _route("POST", f"/cds-services/{cds_hooks.ID}", scorer.cds_sepsis),
    ]


def _reading(pages: Pages) -> list[Route]:
    return [
        _route("GET", "/", pages.index),
        *(_route("GET", f"/{name}", pages.asset) for name in pages.assets),
        _route("GET", "/docs", pages.documentation),
        *(_route("GET", f"/docs/{name}", pages.documentation_asset) for name in pages.documentation_assets),
        _route("GET", "/openapi.json", pages.openapi),
        _route("GET", "/v1/models", pages.list_models),
        _route("GET", "/v1/models/{task}/card", pages.card),
        _route("GET", "/examples/{name}", pages.example),
        _route("GET", "/metrics", pages.figures),
    ]


def _probes(pages: Pages) -> list[Route]:
    """Routes that BentoML answers itself."""
    return [
        _route("GET", "/livez", pages.live),
        _route("GET", "/healthz", pages.live),
        _route("GET", "/readyz", pages.live),
    ]


def _route(method: str, path: str, endpoint: Endpoint) -> Route:
    """A route that reports its template to the middleware: a path may hold anything, logs must not."""

    async def named(request: Request) -> Response:
        request.scope["state"]["route"] = path
        return await endpoint(request)

    return Route(path, named, methods=[method])
