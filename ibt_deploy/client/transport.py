"""Requests to one server over a kept connection: what is sent, time limits, retries of a busy server."""

from __future__ import annotations

import http.client
import random
import re
import secrets
import ssl
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ibt_deploy.errors import IbtError, ServerError, UnsupportedFormat
from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read, task_of
from ibt_deploy.types import Task

BUSY = (429, 503)
LONGEST_WAIT = 60.0
MOST_BYTES = 256 * 2**20
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Response:
    """What a server answered; names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Requests to one server, one after the other.

    An answer depends on nothing but its request, so a request may be sent again: once and at once if its
    connection dies before there is an answer, and after a pause if the server is busy. The pause is what
    ``Retry-After`` says, else it doubles from half a second on; a random share is added, so that clients
    which were turned away together do not come back together. TLS certificates are always verified.

    Parameters
    ----------
    url
        ``http://`` or ``https://``, a host, and perhaps a port and a path that stands before every address.
    token
        Bearer token; empty for none.
    timeout
        Seconds without a sign of the server.
    retries
        Times that a busy server is asked again.
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
        weakref.finalize(self, self._connection.close)  # for those who do not close it

    def post(self, path: str, body: bytes, content_type: str) -> Response:
        """The final answer to a POST.

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
        """One answer; over a new connection if the first dies, as one does whose worker ended."""
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
                raise  # else the server may have refused the body before it had all of it: read why
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
    """Seconds that a ``Retry-After`` asks for, as a number or as a date; None where it states nothing."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _connection(url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection, not yet opened, and the path that stands before every address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ServerError(f"{url!r} is no address of a server: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ServerError(f"{url!r} is no address of a server; give one such as https://ecg.example.org:3000")
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
    """What a server needs to score the file at ``path``.

    A recording may consist of several files. Which, its reader knows: what it opens when it reads the
    recording here is what it will need there. Whether the content is any good is for the server to say.

    Raises
    ------
    InputError
        There is no such file, or it is none that can be read.
    """
    task: Task = "arrhythmia"
    try:
        task = task_of(path)
    except UnsupportedFormat as error:
        if error.code != UnsupportedFormat.default_code:
            raise  # a folder or a pipe; but the server may know formats that we do not
    folder = _Folder(path)
    content = folder[path.name]
    if task == "arrhythmia":
        with suppress(IbtError):
            read(MemoryFolder(folder) / path.name)
    return Upload(task, {path.name: content} | folder.opened)


class _Folder(Mapping[str, bytes]):
    """The files beside ``path`` as a mapping, and those of them that were opened.

    A link out of the folder is not a file of it, unless ``path`` is itself a link and they share a target: a
    header from elsewhere shall not make us send away whatever a link names.
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
    """A file name in UTF-8, with what would end it escaped as browsers do."""
    escaped = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    return escaped.encode("utf-8", errors="replace")
