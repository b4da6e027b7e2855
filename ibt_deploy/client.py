"""A typed client of the HTTP service, with the interface of a :class:`~ibt_deploy.predictor.Predictor`.

>>> from ibt_deploy.client import Client
>>> Client("https://ecg.example.org").predict("record.hea").findings  # doctest: +SKIP
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import secrets
import ssl
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit

import numpy as np

from ibt_deploy.errors import IbtError, InputError, ServerError, UnsupportedFormat, one_line
from ibt_deploy.files import MemoryFolder
from ibt_deploy.predictions import (
    Prediction,
    Refusal,
    SepsisPrediction,
)
from ibt_deploy.readers import read, task_of
from ibt_deploy.types import PARTS, TASKS, Floats, Task
from ibt_deploy.vocabulary import NAMES

if TYPE_CHECKING:
    from ibt_deploy.explain import Explanation

BUSY = (429, 503)
LONGEST_WAIT = 60.0
MOST_BYTES = 256 * 2**20
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Response:
    """A server's response; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests to one server, one at a time.

    An answer depends only on its request, so a request may be sent again: once and immediately if its
    connection dies before there is an answer, and after a pause if the server is busy. The pause is that of
    ``Retry-After``, else it doubles from half a second; random jitter is added, so that clients turned away
    together do not come back together. TLS certificates are always verified.

    Parameters
    ----------
    url
        ``http://`` or ``https://``, a host, and optionally a port and a path prefix.
    token
        Bearer token; empty for none.
    timeout
        Seconds to wait for a sign of life from the server.
    retries
        Number of times that a busy server is asked again.
    """

    def __init__(self, url: str, *, token: str = "", timeout: float = 60.0, retries: int = 5) -> None:
        self.url = url.rstrip("/")
        self.retries = retries
        self._headers = {"Accept": "application/json"}
        if token:
            if not _TOKEN.fullmatch(token):
                raise ServerError("the token holds characters that no bearer token has")
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection, self._prefix = _connection(url, timeout)
        weakref.finalize(self, self._connection.close)  # for callers that do not close it

    def post(self, path: str, body: bytes, content_type: str) -> Response:
        """Send a POST and return the final answer.

        Raises
        ------
        ServerError
            The server cannot be reached, or is still busy after every retry.
        """
        response = self._send(path, body, content_type)
        for tried in range(self.retries):
            if response.status not in BUSY:
                return response
            time.sleep(pause(response, tried))
            response = self._send(path, body, content_type)
        if response.status not in BUSY:
            return response
        raise ServerError(
            f"{self.url} is too busy: it answered {response.status} {self.retries + 1} times; try later"
        )

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def _send(self, path: str, body: bytes, content_type: str) -> Response:
        """One answer; over a new connection if the first dies, as it does when its worker has ended."""
        try:
            return self._exchange(path, body, content_type)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            died = isinstance(error, ConnectionError | http.client.BadStatusLine)
            if not died or isinstance(error, ConnectionRefusedError):
                raise ServerError(f"{self.url} cannot be reached: {_reason(error)}") from error
        try:
            return self._exchange(path, body, content_type)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServerError(f"{self.url} cannot be reached: {_reason(error)}") from error

    def _exchange(self, path: str, body: bytes, content_type: str) -> Response:
        connection = self._connection
        headers = self._headers | {"Content-Type": content_type}
        try:
            connection.request("POST", f"{self._prefix}{path}", body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise  # otherwise the server may have refused the body early: read why
        answer = connection.getresponse()
        content = answer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            connection.close()
            raise ServerError(f"{self.url} sent more than {MOST_BYTES // 2**20} MiB; ask for less at once")
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, content)


def pause(busy: Response, tried: int) -> float:
    """Seconds to wait before a busy server is asked again, after ``tried`` pauses."""
    seconds = _retry_after(busy.headers.get("retry-after", "")) or 0.5 * 2.0**tried
    return min(seconds, LONGEST_WAIT) * random.uniform(1.0, 1.5)


def _retry_after(value: str) -> float | None:
    """Seconds that a ``Retry-After`` asks for, as a number or as a date; None if it is neither."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _connection(url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """An unopened connection, and the path prefix of every address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ServerError(f"{url!r} is not the address of a server: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ServerError(
            f"{url!r} is not the address of a server; give one such as https://ecg.example.org:3000"
        )
    if parts.username is not None:
        raise ServerError("the address holds a name or password; set IBT_TOKEN instead")
    prefix = parts.path.rstrip("/")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout), prefix
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context), prefix


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__


@dataclass(frozen=True)
class Upload:
    """Files that are scored together, by name, and the task they are probably for."""

    task: Task
    files: Mapping[str, bytes]


def upload_of(path: Path) -> Upload:
    """The upload that a server needs to score the file at ``path``.

    A recording may consist of several files. Its reader determines which: the files that it opens here are
    those that the server will need. Whether their content is valid is left to the server.

    Raises
    ------
    InputError
        There is no such file, or it cannot be read.
    """
    task: Task = "arrhythmia"
    try:
        task = task_of(path)
    except UnsupportedFormat as error:
        if error.code != UnsupportedFormat.default_code:
            raise  # a folder or a pipe; for other codes, the server may know formats that we do not
    folder = _Folder(path)
    content = folder[path.name]
    if not PARTS[task].in_tables:
        with suppress(IbtError):
            read(MemoryFolder(folder) / path.name)
    return Upload(task, {path.name: content} | folder.opened)


class _Folder(Mapping[str, bytes]):
    """The files beside ``path`` as a mapping, which records those that were opened.

    A link out of the folder is not a file of it, unless ``path`` is itself a link and they share a target: a
    header from elsewhere must not make us upload whatever a link points to.
    """

    def __init__(self, path: Path) -> None:
        self.opened: dict[str, bytes] = {}
        self._path = path
        self._homes = (path.parent.resolve(), path.resolve().parent)

    def __getitem__(self, name: str) -> bytes:
        if name not in self:
            raise KeyError(name)
        if name not in self.opened:
            self.opened[name] = (self._path.parent / name).read_bytes()
        return self.opened[name]

    def __contains__(self, name: object) -> bool:
        plain = PurePosixPath(str(name))
        if plain.is_absolute() or ".." in plain.parts:
            return False
        file = self._path.parent / plain
        return file.is_file() and any(file.resolve().is_relative_to(home) for home in self._homes)

    def __iter__(self) -> Iterator[str]:
        return (entry.name for entry in self._path.parent.iterdir() if entry.name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def multipart(files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """Body and content type of a form that uploads ``files`` (RFC 7578)."""
    boundary = secrets.token_hex(16).encode()
    parts: list[bytes] = []
    for name, content in files.items():
        parts += [
            b'--%b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n'
            % (boundary, _quoted(name)),
            b"Content-Type: application/octet-stream\r\n\r\n",
            content,
            b"\r\n",
        ]
    body = b"".join([*parts, b"--%b--\r\n" % boundary])
    return body, f"multipart/form-data; boundary={boundary.decode()}"


def _quoted(name: str) -> bytes:
    """A file name in UTF-8, with the characters that would end it escaped as browsers do."""
    escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    return escaped.encode("utf-8", errors="replace")


__all__ = ["Client", "RemoteStep", "ServerError"]


def answer_of(entry: Mapping[str, Any], source: str) -> Prediction | Refusal:
    """The prediction or refusal whose ``to_dict()`` is ``entry``, with our own name for its source.

    Raises
    ------
    KeyError, TypeError, ValueError, IndexError
        ``entry`` does not have the form of an answer.
    """
    if entry.get("refused"):
        message = renamed(source, [str(entry["source"])], str(entry["message"]))
        return Refusal(source, str(entry["code"]), message)
    found: Prediction = PARTS[entry["task"]].prediction.load().from_dict(entry)
    return replace(found, source=source)


def explanations_of(entry: Mapping[str, Any]) -> list[Explanation]:
    """The explanations in an answer, if any. Raises as :func:`answer_of` does."""
    from ibt_deploy.explain import Explanation

    return [
        Explanation(
            output=str(e["output"]),
            starts=np.array([part["start"] for part in e["time"]], dtype=np.float64),
            ends=np.array([part["end"] for part in e["time"]], dtype=np.float64),
            over_time=np.array([part["effect"] for part in e["time"]], dtype=np.float64),
            channels=tuple(map(str, e["channels"])),
            by_channel=np.array(list(e["channels"].values()), dtype=np.float64),
        )
        for e in entry.get("explanations", ())
    ]


def renamed(source: str, theirs: Iterable[str], message: str) -> str:
    """A refusal's line with our own name for the source in place of the server's."""
    for name in theirs:
        rest = message.removeprefix(name)
        if rest != message and rest.startswith((":", ",")):
            return f"{source}{rest}"
    return f"{source}: {message}"


TOKEN = "IBT_TOKEN"
_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, IndexError, AttributeError)

Rows: TypeAlias = Floats | Sequence[Mapping[str, float | None]]


class Explained(NamedTuple):
    """A prediction with its explanations, or a refusal without any.

    Attributes
    ----------
    answer
        As returned by :meth:`Client.predict_many`.
    explanations
        Explanations of the answer; empty for a refusal, and if the server does not explain it.
    not_explained
        Why the server does not explain it, in one sentence; else None.
    """

    answer: Prediction | Refusal
    explanations: list[Explanation]
    not_explained: str | None = None


class RemoteStep(NamedTuple):
    """The answer for the new hours (and those missing since the last step), and the state to pass next."""

    prediction: SepsisPrediction
    state: str


class Client:
    """Scores files on a server, several at once in :meth:`predict_many`; to be used by one thread at a time.

    Parameters
    ----------
    url
        Address of the service, e.g. ``https://ecg.example.org`` or ``http://localhost:3000``.
    token
        Bearer token; default: the environment variable ``IBT_TOKEN``, if set.
    timeout
        Seconds to wait for a sign of life from the server.
    retries
        Number of times that a busy server (429, 503) is asked again.
    connections
        Maximum number of files that :meth:`predict_many` sends at once; one connection never keeps more than
        one worker of a server busy.

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
            When the file is refused, with the server's reason code, or holds several stays.
        ServerError
            When the server does not answer as it should.
        """
        answers = [found.answer for found in self._answers(Path(path), self._transport)]
        if len(answers) != 1:
            raise UnsupportedFormat(
                f"holds {len(answers)} stays; use predict_many", where=str(path), code="several"
            )
        if isinstance(answers[0], Refusal):
            raise InputError(answers[0].message, code=answers[0].code)
        return answers[0]

    def predict_many(self, paths: Iterable[str | Path]) -> Iterator[Prediction | Refusal]:
        """Score any number of files, in order; a refused file does not affect the others.

        Yields
        ------
        A prediction or a refusal for every recording or stay; one refusal for a file that cannot be read.

        Raises
        ------
        ServerError
            When the server does not answer as it should.
        """
        return (found.answer for found in self._many(paths, explain=False))

    def explain_many(self, paths: Iterable[str | Path]) -> Iterator[Explained]:
        """Like :meth:`predict_many`, with explanations of the findings or the highest risk.

        A server does not explain recordings of more than 60 s or stays of more than 168 hours, and of many
        stays in one file only the first; each answer says so (:attr:`Explained.not_explained`).
        """
        return self._many(paths, explain=True)

    def _many(self, paths: Iterable[str | Path], *, explain: bool) -> Iterator[Explained]:
        idle: SimpleQueue[Transport] = SimpleQueue()
        for transport in self._transports:
            idle.put(transport)

        def answers(path: str | Path) -> list[Explained]:
            transport = idle.get()
            try:
                return self._answers(Path(path), transport, explain=explain)
            finally:
                idle.put(transport)

        with ThreadPoolExecutor(len(self._transports), thread_name_prefix="ibt-client") as pool:
            waiting: deque[Future[list[Explained]]] = deque()
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
        """Risk of the next hours, without sending the earlier hours again.

        Parameters
        ----------
        rows
            New hourly rows: shape ``(new, 40)`` in the order of :data:`ibt_deploy.vocabulary.VARIABLES`, NaN
            where nothing was measured; or one mapping of names to numbers for each row.
        state
            State from the previous step; None at the start of a stay. Only the server can read it.
        record
            Name of the stay, no personal data; the same in every step. The state of one record is refused for
            another, so that patients cannot be mixed up.

        Raises
        ------
        InputError
            When the stay so far is refused; ``state`` remains usable.
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

    def _answers(self, path: Path, transport: Transport, *, explain: bool = False) -> list[Explained]:
        source = str(path)
        try:
            upload = upload_of(path)
        except InputError as error:
            return [Explained(Refusal.of(source, error.at(source)), [])]
        answer: Any = None
        for task in (upload.task, *(task for task in TASKS if task != upload.task)):
            route = f"/v1/{task}{'?explain=true' * explain}"
            answer = self._understood(transport.post(route, *multipart(upload.files)))
            if not (isinstance(answer, _Problem) and answer.code == "wrong_task"):
                break
        if isinstance(answer, _Problem):
            message = renamed(source, upload.files, answer.detail)
            return [Explained(Refusal(source, answer.code, message), [])]
        try:
            entries = answer.get("stays", [answer])
            return [
                Explained(answer_of(entry, source), explanations_of(entry), entry.get("not_explained"))
                for entry in entries
            ]
        except _NOT_UNDERSTOOD as error:
            raise self._strange(error) from error

    def _understood(self, response: Response) -> Any:
        """The JSON of an answer; a :class:`_Problem` if the request was refused because of its content."""
        url, status = self._transport.url, response.status
        if status == 401:
            raise ServerError(f"{url} requires a valid bearer token; set {TOKEN}")
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
            raise ServerError(f"{url} answered {status}, but not as an ibt service does") from error
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
    """One hourly row by name, without variables that were not measured."""
    named = row.items() if isinstance(row, Mapping) else zip(NAMES, row, strict=True)
    return {name: float(value) for name, value in named if value is not None and not np.isnan(value)}
