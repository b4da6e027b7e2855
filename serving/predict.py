"""The routes that score: ``/v1/arrhythmia``, ``/v1/sepsis`` and ``/v1/sepsis/next``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from ibt_deploy.bundle import Task
from ibt_deploy.predictor import Item
from ibt_deploy.variables import MAX_HOURS
from serving import metrics
from serving.archives import unpacked
from serving.bodies import Held, Memory, chunks, whole
from serving.fields import record_name
from serving.json_text import parsed, recording_room, stays_room
from serving.models import Models
from serving.next_hour import FRAMED, from_frame
from serving.next_hour import from_json as next_from_json
from serving.pool import Pool, Work
from serving.problems import Problem
from serving.recordings import stated_recording, uploaded_recording
from serving.settings import Settings
from serving.stays import Stays, from_json, from_text
from serving.tracing import with_tracing
from serving.uploads import uploaded
from serving.work import Asked, Call, Scoring, one, several

JSON, MULTIPART = "application/json", "multipart/form-data"
TABLES = ("text/csv", "text/psv", "text/plain", "text/tab-separated-values")


@dataclass(frozen=True, eq=False)
class Scorer:
    """Answers the requests that score.

    Attributes
    ----------
    settings, models, pool
        Of this worker.
    memory
        What bodies may take.
    """

    settings: Settings
    models: Models
    pool: Pool
    memory: Memory

    async def arrhythmia(self, request: Request) -> Response:
        """Findings of one recording, with its signal where that is asked for."""
        point = self._point("arrhythmia", request, {"operating_point", "signal"})
        drawn = _flag(request, "signal")
        kind = _kind(request, JSON, MULTIPART)
        depth = self.settings.json_depth
        self.pool.admit()
        with self.memory.hold() as held:
            if kind == JSON:
                body = await whole(request, self.settings, held)

                def read() -> Asked:
                    return _one_of(
                        stated_recording(parsed(body, recording_room(depth)), self.settings), drawn
                    )
            else:
                files = await self._files(request, held)

                def read() -> Asked:
                    return _one_of(uploaded_recording(unpacked(files, self.settings), self.settings), drawn)

            return await self._answer(Scoring(self.models.predictors["arrhythmia", point], read))

    async def sepsis(self, request: Request) -> Response:
        """Hourly risk of one stay, or of several."""
        point = self._point("sepsis", request, {"operating_point", "record"})
        kind = _kind(request, JSON, MULTIPART, *TABLES)
        record = request.query_params.get("record")
        name = record_name(record, "stay")
        room = stays_room(self.settings.json_depth, self.settings.rows)
        self.pool.admit()
        with self.memory.hold() as held:
            files = await self._files(request, held) if kind == MULTIPART else {}
            body = b"" if kind == MULTIPART else await whole(request, self.settings, held)

            def read() -> Asked:
                if kind == JSON:
                    return _asked(from_json(parsed(body, room), self.settings, record))
                if kind == MULTIPART:
                    return _asked(from_text(*_only(unpacked(files, self.settings)), self.settings))
                return _asked(from_text(name, body, self.settings))

            return await self._answer(Scoring(self.models.predictors["sepsis", point], read))

    async def sepsis_next(self, request: Request) -> Response:
        """Risk of the next hours, and the state after them."""
        point = self._point("sepsis", request, {"operating_point"})
        kind = _kind(request, JSON, FRAMED)
        self.pool.admit()
        stream, predictor = self.models.streams[point], self.models.predictors["sepsis", point]
        key = self.settings.state_key.encode()
        room = stays_room(self.settings.json_depth, MAX_HOURS)
        with self.memory.hold() as held:
            body = await whole(request, self.settings, held)

            def call() -> bytes:
                if kind == FRAMED:
                    return from_frame(body, room, stream, predictor, key)
                return next_from_json(parsed(body, room), stream, predictor, key)

            return await self._answer(Call(call), kind)

    def _point(self, task: Task, request: Request, known: set[str]) -> str:
        stated = request.query_params
        if not known >= stated.keys() or len(stated.multi_items()) > len(stated.keys()):
            raise Problem("bad_request", f"The query knows, once each: {', '.join(sorted(known))}.")
        return self.models.point(task, stated.get("operating_point"))

    async def _files(self, request: Request, held: Held) -> dict[str, bytes]:
        body = chunks(request, self.settings, held)
        return await uploaded(request.headers["content-type"], body, self.settings.parts)

    async def _answer(self, work: Work, kind: str = JSON) -> Response:
        try:
            body = await self.pool.answer(work, self.settings.answer_seconds)
        finally:
            metrics.queued.set(self.pool.waiting)
        return Response(body, media_type=kind)


def _kind(request: Request, *known: str) -> str:
    """The content type, without its parameters; raises a Problem unless it is one of ``known``."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in known:
        raise Problem(
            "unsupported_media_type",
            f"Content-Type must be {' or '.join(known)}.",
            headers={"Accept-Post": ", ".join(known)},
        )
    return kind


def _only(files: dict[str, bytes]) -> tuple[str, bytes]:
    if len(files) != 1:
        raise Problem("bad_multipart", f"The upload holds {len(files)} files; send one table of stays.")
    return next(iter(files.items()))


def _asked(stays: Stays) -> Asked:
    return Asked(stays.items, several if stays.several else one)


def _one_of(items: Sequence[Item], drawn: bool) -> Asked:
    return Asked(items, partial(with_tracing, items[0]) if drawn else one)


def _flag(request: Request, name: str) -> bool:
    stated = request.query_params.get(name, "false")
    if stated not in ("true", "false"):
        raise Problem("bad_request", f"'{name}' must be true or false.")
    return stated == "true"
