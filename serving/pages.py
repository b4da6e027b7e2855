"""What scores nothing: the web page, models and cards, examples, documentation, probes, figures."""

from __future__ import annotations

import html
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from ibt_deploy.bundle import Bundle
from ibt_deploy.predictions import NOTICE
from serving import metrics
from serving.documentation import page as documentation_page
from serving.front import Drain
from serving.models import Models
from serving.problems import Problem

HERE = Path(__file__).parent
_TYPES = {
    ".hea": "text/plain",
    ".psv": "text/plain",
    ".dat": "application/octet-stream",
    ".js": "text/javascript",
}


@dataclass(frozen=True, eq=False)
class Pages:
    """Answers the requests that score nothing.

    Attributes
    ----------
    models
        Of this worker.
    document
        The OpenAPI document.
    drain
        Whether the service is shutting down.
    """

    models: Models
    document: dict[str, Any]
    drain: Drain

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        """The process runs."""
        return PlainTextResponse("alive\n")

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        """The models are loaded; the front refuses while the service shuts down."""
        return PlainTextResponse("ready\n")

    async def figures(self, request: Request) -> Response:  # noqa: ARG002
        """What Prometheus collects."""
        return Response(metrics.exposition(), headers={"content-type": metrics.CONTENT_TYPE})

    async def list_models(self, request: Request) -> Response:  # noqa: ARG002
        """The models that answer."""
        return JSONResponse({"models": [self._summary(bundle) for bundle in self.models.bundles.values()]})

    async def card(self, request: Request) -> Response:
        """A model card, as Markdown or, for who asks for it, as HTML."""
        bundle = next(
            (b for task, b in self.models.bundles.items() if task == request.path_params["task"]), None
        )
        if bundle is None:
            raise Problem("no_such_page", f"There are cards of: {', '.join(self.models.bundles)}.")
        headers = {"Vary": "Accept"}
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_as_html(bundle), headers=headers)
        return PlainTextResponse(bundle.card, headers=headers, media_type="text/markdown")

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        """The OpenAPI document."""
        return JSONResponse(self.document)

    async def documentation(self, request: Request) -> Response:
        """The same for people."""
        return HTMLResponse(documentation_page(self.document, str(request.base_url)))

    async def style(self, request: Request) -> Response:  # noqa: ARG002
        """How documentation and cards look."""
        return _packaged("", "docs.css")

    async def index(self, request: Request) -> Response:  # noqa: ARG002
        """The page that draws."""
        return _packaged("page", "index.html")

    async def asset(self, request: Request) -> Response:
        """What the pages consist of."""
        name = request.path_params["name"]
        return _packaged("page", name) if name in _names("page") else _missing()

    async def example(self, request: Request) -> Response:
        """An example recording or stay."""
        name = request.path_params["name"]
        return _packaged("examples", name) if name in _names("examples") else _missing()

    def _summary(self, bundle: Bundle) -> dict[str, Any]:
        predictor = self.models.predictors[bundle.task, bundle.default_operating_point]
        return {
            "task": bundle.task,
            "name": bundle.name,
            "version": bundle.version,
            "created": bundle.created,
            "sha256": bundle.sha256,
            "precision": predictor.variant,
            "device": predictor.device,
            "operating_points": {
                name: {"description": point.description, "thresholds": [float(t) for t in point.thresholds]}
                for name, point in bundle.operating_points.items()
            },
            "default_operating_point": bundle.default_operating_point,
            "metrics": bundle.contract.get("metrics", {}).get("headline", []),
            "not_evaluable": [c.abbreviation for c in bundle.classes if not c.evaluable],
            "intended_use": bundle.contract.get("intended_use", ""),
            "card": f"/v1/models/{bundle.task}/card",
            "notice": NOTICE,
        }


@cache
def _names(folder: str) -> frozenset[str]:
    return frozenset(entry.name for entry in (HERE / folder).iterdir() if entry.is_file())


def _packaged(folder: str, name: str) -> Response:
    suffix = name[name.rfind(".") :]
    kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(
        (HERE / folder / name).read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"}
    )


def _missing() -> Response:
    raise Problem("no_such_page", "There is no such file.")


def _as_html(bundle: Bundle) -> str:
    from markdown_it import MarkdownIt

    text = MarkdownIt("commonmark", {"html": False}).enable("table").render(bundle.card)
    title = html.escape(f"{bundle.name} {bundle.version}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="/docs.css"></head><body><main>{text}</main></body></html>'
    )
