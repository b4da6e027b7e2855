"""The ASGI application: routes, wired to the models, the threads and the limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from serving import metrics
from serving.bodies import Memory
from serving.front import Drain, Front
from serving.models import Models
from serving.openapi import document
from serving.pages import Pages
from serving.pool import Pool
from serving.predict import Scorer
from serving.settings import Settings

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
CPU_BATCH, GPU_BATCH = 8, 32


class Application:
    """Everything that one worker serves; an ASGI application.

    Parameters
    ----------
    settings
        Of the service.

    Raises
    ------
    BundleError, DeviceError
        A model cannot be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self.models = Models.load(settings)
        self.drain = Drain()
        batch = settings.batch or (GPU_BATCH if self.models.on_gpu else CPU_BATCH)
        self.pool = Pool(settings.computing_threads, batch, settings.queue)
        scorer = Scorer(settings, self.models, self.pool, Memory(settings.memory_bytes))
        pages = Pages(self.models, document(self.models, settings), self.drain)
        router = Router(_routes(scorer, pages), redirect_slashes=False)
        self._front = Front(router, token=settings.token, drain=self.drain)
        for (task, point), predictor in self.models.predictors.items():
            if point == predictor.bundle.default_operating_point:
                model = predictor.model
                metrics.shown_model(
                    task, model.name, model.version, model.sha256, model.variant, model.device
                )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # the router raises for addresses that it does not know only within an application
        await self._front({**scope, "app": self}, receive, send)

    def close(self) -> None:
        """Finish what is waiting and end the threads."""
        self.drain.begun = True
        self.pool.close()


def application(settings: Settings | None = None) -> Application:
    """The application; settings are those of the environment where left out."""
    return Application(settings or Settings.from_environment())


def _routes(scorer: Scorer, pages: Pages) -> list[Route]:
    get: list[tuple[str, Endpoint]] = [
        ("/", pages.index),
        ("/docs", pages.documentation),
        ("/docs.css", pages.style),
        ("/openapi.json", pages.openapi),
        ("/livez", pages.live),
        ("/readyz", pages.ready),
        ("/metrics", pages.figures),
        ("/v1/models", pages.list_models),
        ("/v1/models/{task}/card", pages.card),
        ("/examples/{name}", pages.example),
        ("/{name}", pages.asset),
    ]
    post: list[tuple[str, Endpoint]] = [
        ("/v1/arrhythmia", scorer.arrhythmia),
        ("/v1/sepsis", scorer.sepsis),
        ("/v1/sepsis/next", scorer.sepsis_next),
    ]
    return [
        Route(path, _named(path, endpoint), methods=[method])
        for method, routes in (("POST", post), ("GET", get))
        for path, endpoint in routes
    ]


def _named(path: str, endpoint: Endpoint) -> Endpoint:
    """``endpoint``, telling the front the template of its route: a path may hold anything, logs must not."""

    async def named(request: Request) -> Response:
        request.scope["state"]["route"] = path
        return await endpoint(request)

    return named
