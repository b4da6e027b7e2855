"""A typed client of the HTTP service, with the interface of a :class:`~ibt_deploy.predictor.Predictor`.

>>> from ibt_deploy.client import Client
>>> Client("https://ecg.example.org").predict("record.hea").findings  # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from ibt_deploy.bundle import BundleClass
from ibt_deploy.classes import CLASSES
from ibt_deploy.client.transport import Response, Transport, Upload, multipart, upload_of
from ibt_deploy.errors import InputError, ServerError, UnsupportedFormat
from ibt_deploy.inputs import refusal
from ibt_deploy.predictions import ArrhythmiaPrediction, Model, Prediction, Refusal, SepsisPrediction
from ibt_deploy.preprocess.heart_rate import FrontalAxis, HeartRate
from ibt_deploy.printable import one_line
from ibt_deploy.records import Notice
from ibt_deploy.types import Floats, Task
from ibt_deploy.variables import INDEX, N_VARIABLES, NAMES

__all__ = ["Client", "RemoteStep", "ServerError"]

_CODES = {c.code: c.codes for c in CLASSES}


def answer_of(entry: Mapping[str, Any], source: str) -> Prediction | Refusal:
    """The prediction or refusal whose ``to_dict()`` is ``entry``, but with our own name for its source.

    Raises
    ------
    KeyError, TypeError, ValueError, IndexError
        ``entry`` is not the form of an answer.
    """
    if entry.get("refused"):
        message = told_of(source, [str(entry["source"])], str(entry["message"]))
        return Refusal(source, str(entry["code"]), message)
    found = _arrhythmia(entry) if entry["task"] == "arrhythmia" else _sepsis(entry)
    return replace(found, source=source)


def told_of(source: str, theirs: Iterable[str], message: str) -> str:
    """A refusal's line with our own name for the source in place of the name that the server gives it."""
    for name in theirs:
        rest = message.removeprefix(name)
        if rest != message and rest.startswith((":", ",")):
            return f"{source}{rest}"
    return f"{source}: {message}"


def _arrhythmia(entry: Mapping[str, Any]) -> ArrhythmiaPrediction:
    given, findings, windows = entry["input"], entry["findings"], entry["windows"]
    return ArrhythmiaPrediction(
        record=str(entry["record"]),
        source=str(given["source"]),
        format=str(given["format"]),
        sampling_rate=float(given["sampling_rate"]),
        duration=float(given["duration"]),
        leads=tuple(map(str, given["leads"])),
        changes=tuple(map(str, given["changes"])),
        warnings=_notices(entry["warnings"]),
        model=_model(entry),
        classes=tuple(
            BundleClass(
                str(f["code"]), str(f["abbreviation"]), str(f["name"]),
                _CODES.get(f["code"], (str(f["code"]),)), bool(f["evaluable"]), {},
            )
            for f in findings
        ),
        probabilities=np.array([f["probability"] for f in findings], dtype=np.float64),
        thresholds=np.array([f["threshold"] for f in findings], dtype=np.float64),
        positive=np.array([f["positive"] for f in findings], dtype=bool),
        alternative=np.array([f["status"] == "alternative" for f in findings], dtype=bool),
        windows=np.array([w["probabilities"] for w in windows], dtype=np.float64),
        window_starts=np.array([w["start"] for w in windows], dtype=np.float64),
        familiarity=entry.get("familiarity"),
        heart_rate=_heart_rate(entry.get("heart_rate")),
        axis=_axis(entry.get("axis")),
    )  # fmt: skip


def _heart_rate(entry: Mapping[str, Any] | None) -> HeartRate | None:
    if entry is None:
        return None
    return HeartRate(entry["bpm"], np.array(entry["r_peaks"], dtype=np.float64))


def _axis(entry: Mapping[str, Any] | None) -> FrontalAxis | None:
    return None if entry is None else FrontalAxis(entry["degrees"], entry["spread"], entry["reason"])


def _sepsis(entry: Mapping[str, Any]) -> SepsisPrediction:
    """As :func:`_arrhythmia`; ``values`` are infinite where something was measured.

    An answer states what was measured in each hour, not how much it was.
    """
    given, hours = entry["input"], entry["hours"]
    values = np.full((len(hours), N_VARIABLES), np.inf)
    for row, hour in zip(values, hours, strict=True):
        row[[INDEX[name] for name in hour["missing"]]] = np.nan
    return SepsisPrediction(
        record=str(entry["record"]),
        source=str(given["source"]),
        format=str(given["format"]),
        changes=tuple(map(str, given["changes"])),
        warnings=_notices(entry["warnings"]),
        model=_model(entry),
        hours=np.array([h["hour"] for h in hours], dtype=np.int64),
        risk=np.array([h["risk"] for h in hours], dtype=np.float64),
        alarms=np.array([h["alarm"] for h in hours], dtype=bool),
        threshold=float(hours[0]["threshold"]),
        values=values,
        inserted=np.array([h["inserted"] for h in hours], dtype=bool),
    )


def _model(entry: Mapping[str, Any]) -> Model:
    bundle = entry["bundle"]
    return Model(
        name=str(bundle["name"]),
        version=str(bundle["version"]),
        sha256=str(bundle["sha256"]),
        variant=str(bundle["variant"]),
        operating_point=str(entry["operating_point"]),
        device=str(entry["device"]),
    )


def _notices(entries: list[Mapping[str, str]]) -> tuple[Notice, ...]:
    return tuple(Notice(str(w["code"]), str(w["message"])) for w in entries)


TOKEN = "IBT_TOKEN"
_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, IndexError, AttributeError)
_OTHER: dict[Task, Task] = {"arrhythmia": "sepsis", "sepsis": "arrhythmia"}

Rows: TypeAlias = Floats | Sequence[Mapping[str, float | None]]


class RemoteStep(NamedTuple):
    """The answer for the new hours (and those missing since the last step), and what to give back next."""

    prediction: SepsisPrediction
    state: str


class Client:
    """Scores files on a server, several at once in :meth:`predict_many`; for one thread at a time.

    Parameters
    ----------
    url
        Of the service, e.g. ``https://ecg.example.org`` or ``http://localhost:3000``.
    token
        Bearer token; where left out, the environment variable ``IBT_TOKEN``, if set.
    timeout
        Seconds without a sign of the server.
    retries
        Times that a busy server (429, 503) is asked again.
    connections
        Most files that :meth:`predict_many` sends at once; one connection never keeps more than one worker
        of a server busy.

    Raises
    ------
    ServerError
        ``url`` is not the address of a server.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        connections: int = 4,
    ) -> None:
        if connections < 1:
            raise ValueError("a client needs at least one connection")
        token = os.environ.get(TOKEN, "") if token is None else token
        self._transports = [
            Transport(url, token=token, timeout=timeout, retries=retries) for _ in range(connections)
        ]
        self._transport = self._transports[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            transport.close()

    def predict(self, path: str | Path) -> Prediction:
        """Score the one recording or stay in a file; a recording's other files are found beside it.

        Raises
        ------
        InputError
            When it is refused, with the server's reason code; or holds several stays.
        ServerError
            When the server does not answer as it should.
        """
        answers = self._answers(Path(path))
        if len(answers) != 1:
            raise UnsupportedFormat(
                f"holds {len(answers)} stays; use predict_many", where=str(path), code="several"
            )
        if isinstance(answers[0], Refusal):
            raise InputError(answers[0].message, code=answers[0].code)
        return answers[0]

    def predict_many(self, paths: Iterable[str | Path]) -> Iterator[Prediction | Refusal]:
        """Score any number of files, in order; a file that is refused costs only itself.

        Yields
        ------
        A prediction or a refusal for every recording or stay; one refusal for a file that cannot be read.

        Raises
        ------
        ServerError
            When the server does not answer as it should.
        """
        idle: SimpleQueue[Transport] = SimpleQueue()
        for transport in self._transports:
            idle.put(transport)

        def answers(path: str | Path) -> list[Prediction | Refusal]:
            transport = idle.get()
            try:
                return self._answers(Path(path), transport)
            finally:
                idle.put(transport)

        with ThreadPoolExecutor(len(self._transports), thread_name_prefix="ibt-client") as pool:
            waiting: deque[Future[list[Prediction | Refusal]]] = deque()
            try:
                for path in paths:
                    waiting.append(pool.submit(answers, path))
                    if len(waiting) >= 2 * len(self._transports):
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def next(self, rows: Rows, state: str | None = None, *, record: str | None = None) -> RemoteStep:
        """Risk of the hours that follow, without sending the hours before them again.

        Parameters
        ----------
        rows
            New hourly rows: shape ``(new, 40)`` in the order of :data:`ibt_deploy.variables.VARIABLES`, NaN
            where nothing was measured; or a mapping of names to numbers for each.
        state
            Of the step before; None at the start of a stay. Only the server can read it.
        record
            Name of the stay, no personal data; the same with every step. A state of one record is refused for
            another, so that patients cannot be mixed up.

        Raises
        ------
        InputError
            When the stay up to here is refused; ``state`` stays usable.
        ServerError
            When the server does not answer as it should.
        """
        asked: dict[str, Any] = {"rows": [_row(row) for row in rows], "state": state}
        if record is not None:
            asked["record"] = record
        body = json.dumps(asked, allow_nan=False).encode()
        response = self._transport.post("/v1/sepsis/next", body, "application/json")
        answer = self._understood(response)
        if isinstance(answer, _Problem):
            raise InputError(answer.detail, code=answer.code)
        try:
            prediction, state = answer_of(answer, str(answer["input"]["source"])), str(answer["state"])
        except _NOT_UNDERSTOOD as error:
            raise self._strange(error) from error
        if not isinstance(prediction, SepsisPrediction):
            raise self._strange(TypeError(type(prediction).__name__))
        return RemoteStep(prediction, state)

    def _answers(self, path: Path, transport: Transport | None = None) -> list[Prediction | Refusal]:
        source = str(path)
        try:
            upload = upload_of(path)
        except InputError as error:
            return [refusal(source, error.at(source))]
        used = transport or self._transport
        answer = self._posted(upload, upload.task, used)
        if isinstance(answer, _Problem) and answer.code == "wrong_task":
            answer = self._posted(upload, _OTHER[upload.task], used)
        if isinstance(answer, _Problem):
            return [Refusal(source, answer.code, told_of(source, upload.files, answer.detail))]
        try:
            return [answer_of(entry, source) for entry in answer.get("stays", [answer])]
        except _NOT_UNDERSTOOD as error:
            raise self._strange(error) from error

    def _posted(self, upload: Upload, task: Task, transport: Transport) -> Any:
        return self._understood(transport.post(f"/v1/{task}", *multipart(upload.files)))

    def _understood(self, response: Response) -> Any:
        """The JSON of an answer; a :class:`_Problem` where the request was refused for what it holds."""
        url, status = self._transport.url, response.status
        if status == 401:
            raise ServerError(f"{url} asks for a token that it knows; set {TOKEN}")
        if 300 <= status < 400:
            raise ServerError(
                f"{url} points to {one_line(response.headers.get('location', 'nowhere'))}; use that"
            )
        try:
            content = json.loads(response.body)
            if status < 300:
                return content
            problem = _Problem(str(content["code"]), one_line(content["detail"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(f"{url} answered {status} and nothing that an ibt service says") from error
        if status >= 500 or status in (404, 405):
            raise ServerError(f"{url} failed: {problem.detail} [{one_line(problem.code)}]")
        return problem

    def _strange(self, error: Exception) -> ServerError:
        return ServerError(
            f"{self._transport.url} sent an answer that is not understood ({one_line(repr(error))})"
        )


class _Problem(NamedTuple):
    """Why a server refused a request."""

    code: str
    detail: str


def _row(row: Any) -> dict[str, float]:
    """One hourly row by name, without what was not measured."""
    named = row.items() if isinstance(row, Mapping) else zip(NAMES, row, strict=True)
    return {name: float(value) for name, value in named if value is not None and not np.isnan(value)}
