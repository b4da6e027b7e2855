"""Routes that score nothing: the web page, models and cards, examples, documentation and probes."""

from __future__ import annotations

import html
import importlib.util
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from ibt_deploy.bundle import Bundle
from ibt_deploy.predictions import NOTICE
from serving.http import telemetry
from serving.http.problems import Problem
from serving.models import Models

HERE = Path(__file__).parents[1]
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
        Models of this worker.
    document
        The OpenAPI document.
    """

    models: Models
    document: dict[str, Any]

    async def live(self, request: Request) -> Response:  # noqa: ARG002
        """Liveness probe."""
        return PlainTextResponse("alive\n")

    async def figures(self, request: Request) -> Response:  # noqa: ARG002
        """Metrics for Prometheus."""
        return Response(telemetry.exposition(), headers={"content-type": telemetry.CONTENT_TYPE})

    async def list_models(self, request: Request) -> Response:  # noqa: ARG002
        """The models in service."""
        return JSONResponse({"models": [self._summary(bundle) for bundle in self.models.bundles.values()]})

    async def card(self, request: Request) -> Response:
        """A model card, as Markdown, or as HTML if the client asks for it."""
        bundle = next(
            (b for task, b in self.models.bundles.items() if task == request.path_params["task"]), None
        )
        if bundle is None:
            raise Problem("no_such_page", f"Cards exist for: {', '.join(self.models.bundles)}.")
        headers = {"Vary": "Accept"}
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_as_html(bundle), headers=headers)
        return PlainTextResponse(bundle.card, headers=headers, media_type="text/markdown")

    async def openapi(self, request: Request) -> Response:  # noqa: ARG002
        """The OpenAPI document."""
        return JSONResponse(self.document)

    async def documentation(self, request: Request) -> Response:  # noqa: ARG002
        """The documentation as Swagger UI, from the assets shipped with BentoML."""
        return _packaged("docs", "index.html")

    async def documentation_asset(self, request: Request) -> Response:
        """An asset of the documentation."""
        name = request.url.path.rpartition("/")[2]
        if name in SWAGGER:
            return _file(_swagger_folder() / name)
        return _packaged("docs", name)

    @property
    def assets(self) -> frozenset[str]:
        """Names of the page's asset files."""
        return _names("page")

    @property
    def documentation_assets(self) -> frozenset[str]:
        """Names of the documentation's asset files."""
        return _names("docs") | SWAGGER

    async def index(self, request: Request) -> Response:  # noqa: ARG002
        """The web page."""
        return _packaged("page", "index.html")

    async def asset(self, request: Request) -> Response:
        """An asset of the pages."""
        return _packaged("page", request.url.path[1:])

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


SWAGGER = frozenset(("swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"))


@cache
def _swagger_folder() -> Path:
    """Folder of Swagger UI in BentoML, found without importing BentoML."""
    spec = importlib.util.find_spec("bentoml")
    if spec is None or spec.origin is None:
        raise Problem("no_such_page", "The documentation page needs BentoML; see /openapi.json.")
    return Path(spec.origin).parent / "_internal" / "server" / "static_content"


@cache
def _names(folder: str) -> frozenset[str]:
    return frozenset(entry.name for entry in (HERE / folder).iterdir() if entry.is_file())


def _packaged(folder: str, name: str) -> Response:
    return _file(HERE / folder / name)


def _file(path: Path) -> Response:
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})


def _missing() -> Response:
    raise Problem("no_such_page", "There is no such file.")


def _as_html(bundle: Bundle) -> str:
    from markdown_it import MarkdownIt

    text = MarkdownIt("commonmark", {"html": False}).enable("table").render(bundle.card)
    title = html.escape(f"{bundle.name} {bundle.version}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="/docs/docs.css"></head><body><main>{text}</main></body></html>'
    )
