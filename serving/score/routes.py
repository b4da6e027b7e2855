"""The routes that score: ``/v1/arrhythmia``, ``/v1/sepsis``, ``/v1/sepsis/next`` and CDS Hooks.

A route checks its query and content type, receives the body within limits, and leaves everything else to a
job on a computing thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ibt_deploy.predictor import Predictor
from ibt_deploy.types import Task
from ibt_deploy.vocabulary import MAX_HOURS
from serving.http.body import Body, Memory, received
from serving.http.fhir import FHIR, answer_fhir, check_acceptable, wants_fhir
from serving.http.problems import Problem
from serving.input.ecg import stated_recording, uploaded_recording
from serving.input.json_text import Room, fhir_room, parsed, record_name, recording_room, stays_room
from serving.input.stays import Stays, from_json, from_text
from serving.input.uploads import unpacked, uploaded
from serving.models import Models
from serving.score import cds_hooks
from serving.score.answers import Extras, one, several
from serving.score.batching import Job, Pool, ScoreJob, SingleJob, ToScore
from serving.score.next_hour import FRAMED, NextHours
from serving.settings import Settings

JSON, MULTIPART = "application/json", "multipart/form-data"
TABLES = ("text/csv", "text/psv", "text/plain", "text/tab-separated-values")


@dataclass(frozen=True, eq=False)
class Scorer:
    """Answers the requests that score.

    Attributes
    ----------
    settings, models, pool
        Those of this worker.
    memory
        Memory budget for bodies.
    """

    settings: Settings
    models: Models
    pool: Pool
    memory: Memory

    async def arrhythmia(self, request: Request) -> Response:
        """Findings of one recording, with its signal and an explanation if the query asks for them."""
        point = self._point("arrhythmia", request, {"operating_point", "signal", "explain"})
        predictor = self.models.predictors["arrhythmia", point]
        extras, form = _extras(request, "signal", predictor)
        kind = content_kind(request, JSON, MULTIPART)

        def read(body: Body) -> ToScore:
            if kind == JSON:
                asked = self.recording(parsed(body.whole(), self.rooms["arrhythmia"]))
            else:
                files = unpacked(self._files(request, body), self.settings)
                asked = ToScore(uploaded_recording(files, self.settings), one)
            return _in_form(asked, form, extras)

        return await self._answered(
            request,
            lambda body: ScoreJob(predictor, partial(read, body)),
            form,
        )

    async def sepsis(self, request: Request) -> Response:
        """Hourly risk of one stay, or of several."""
        point = self._point("sepsis", request, {"operating_point", "record", "only", "vitals", "explain"})
        predictor = self.models.predictors["sepsis", point]
        extras, form = _extras(request, "vitals", predictor)
        kind = content_kind(request, JSON, MULTIPART, *TABLES)
        record = request.query_params.get("record")
        name = record_name(record, "stay")

        def read(body: Body) -> ToScore:
            if kind == JSON:
                asked = self.stays(parsed(body.whole(), self.rooms["sepsis"]), record)
            elif kind == MULTIPART:
                files = unpacked(self._files(request, body), self.settings)
                asked = _to_score(from_text(*_only(files), self.settings))
            else:
                asked = _to_score(from_text(name, body.whole(), self.settings))
            return _in_form(_alone(asked, request.query_params.get("only")), form, extras)

        return await self._answered(
            request,
            lambda body: ScoreJob(predictor, partial(read, body)),
            form,
        )

    async def sepsis_next(self, request: Request) -> Response:
        """Risk of the next hours, and the state after them."""
        check_acceptable(request.headers.raw, fhir=False)
        point = self._point("sepsis", request, {"operating_point"})
        kind = content_kind(request, JSON, FRAMED)
        following, room = self.next_hours(point), self.rooms["sepsis_next"]

        def call(body: Body) -> bytes:
            if kind == FRAMED:
                return following.from_frame(body.whole(), room)
            return following.from_json(parsed(body.whole(), room))

        return await self._answered(request, lambda body: SingleJob(partial(call, body)), kind)

    async def cds_services(self, request: Request) -> Response:
        """The services of CDS Hooks."""
        check_acceptable(request.headers.raw, fhir=False)
        return Response(cds_hooks.discovery(), media_type=JSON)

    async def cds_sepsis(self, request: Request) -> Response:
        """Cards of CDS Hooks with the risk of the latest hour."""
        check_acceptable(request.headers.raw, fhir=False)
        point = self._point("sepsis", request, set())
        content_kind(request, JSON)
        room = fhir_room(self.settings.json_depth, self.settings.rows)
        predictor = self.models.predictors["sepsis", point]

        def read(body: Body) -> ToScore:
            return cds_hooks.asked(parsed(body.whole(), room), predictor.bundle, point)

        return await self._answered(request, lambda body: ScoreJob(predictor, partial(read, body)))

    @property
    def rooms(self) -> dict[str, Room]:
        """JSON limits of each route."""
        depth = self.settings.json_depth
        return {
            "arrhythmia": recording_room(depth),
            "sepsis": stays_room(depth, self.settings.rows),
            "sepsis_next": stays_room(depth, MAX_HOURS),
        }

    def recording(self, value: Any) -> ToScore:
        """Read a recording from parsed JSON; raises a Problem or InputError."""
        return ToScore(stated_recording(value, self.settings), one)

    def stays(self, value: Any, record: str | None = None) -> ToScore:
        """Read stays from parsed JSON; raises a Problem or InputError."""
        return _to_score(from_json(value, self.settings, record))

    def next_hours(self, point: str) -> NextHours:
        """Scorer that continues stays under an operating point."""
        settings = self.settings
        stream, predictor = self.models.streams[point], self.models.predictors["sepsis", point]
        return NextHours(stream, predictor, settings.state_keys, settings.state_seconds)

    async def _answered(self, request: Request, job: Callable[[Body], Job], kind: str = JSON) -> Response:
        self.pool.admit()
        with self.memory.reserve() as reservation:
            body = await received(request, self.settings, reservation)
            answer = await self.pool.answer(job(body), self.settings.answer_seconds, request.receive)
        return Response(answer, media_type=kind, headers={"Vary": "Accept"})

    def _point(self, task: Task, request: Request, known: set[str]) -> str:
        stated = request.query_params
        if not known >= stated.keys() or len(stated.multi_items()) > len(stated.keys()):
            names = ", ".join(sorted(known)) or "none"
            raise Problem("bad_request", f"The query parameters are, once each: {names}.")
        return self.models.point(task, stated.get("operating_point"))

    def _files(self, request: Request, body: Body) -> dict[str, bytes]:
        return uploaded(request.headers["content-type"], body.pieces(), self.settings.parts)


def content_kind(request: Request, *known: str) -> str:
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


def _form(request: Request) -> str:
    """Media type of the answer; raises a Problem if the client accepts neither FHIR R4 nor JSON."""
    check_acceptable(request.headers.raw)
    return FHIR if wants_fhir(request.headers.raw) else JSON


def _extras(request: Request, drawn: str, predictor: Predictor) -> tuple[Extras, str]:
    """The extras that the query requests, and the media type of the answer."""
    extras = Extras(_flag(request, drawn), predictor if _flag(request, "explain") else None)
    form = _form(request)
    if extras and form == FHIR:
        raise Problem("bad_request", f"'{drawn}' and 'explain' add to answers in plain JSON only.")
    return extras, form


def _in_form(asked: ToScore, form: str, extras: Extras) -> ToScore:
    is_list = asked.write is several
    if extras:
        return asked._replace(write=partial(extras.written, asked.items, is_list))
    return asked if form == JSON else asked._replace(write=partial(answer_fhir, several=is_list))


def _to_score(stays: Stays) -> ToScore:
    return ToScore(stays.items, several if stays.several else one)


def _alone(asked: ToScore, place: str | None) -> ToScore:
    """Only the stay at ``place``, counted from 1; all of them if it is None."""
    if place is None:
        return asked
    places = {str(n): item for n, item in enumerate(asked.items, 1)}
    if place not in places:
        raise Problem("bad_request", f"'only' must be a whole number from 1 to {len(places)}, the last stay.")
    return ToScore([places[place]], one)


def _flag(request: Request, name: str) -> bool:
    stated = request.query_params.get(name, "false")
    if stated not in ("true", "false"):
        raise Problem("bad_request", f"'{name}' must be true or false.")
    return stated == "true"
