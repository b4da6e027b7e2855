"""A low-overhead load generator: requests are encoded once, connections reused, answers barely parsed.

A closed load keeps a number of clients busy, each with one request at a time; an open load sends a fixed
number of requests per second, whatever comes back.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
REFUSED = (429, 503)
MOST_REQUESTS = 2_000_000


@dataclass
class Outcome:
    """Outcome of the requests of one phase.

    Attributes
    ----------
    ended, seconds, status
        Time at which an answer was complete (``time.perf_counter``), its duration, and its status; 0 for a
        broken connection.
    skipped
        Requests of an open load that were not sent, because all connections were busy.
    """

    ended: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    skipped: int = 0

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.array(self.ended), np.array(self.seconds), np.array(self.status)


def request_of(path: str, body: bytes, content_type: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One persistent connection; calls ``answered`` when an answer is complete or the connection broke."""

    def __init__(self, answered: Callable[[_Connection, int, float], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.busy = False
        self.began = 0.0
        self._answered = answered
        self._head = b""
        self._missing = -1
        self._status = 0
        self._wait = 0.0
        self._close = False

    def send(self, request: bytes) -> None:
        assert self.transport is not None
        self.busy, self.began = True, time.perf_counter()
        self.transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._head += data
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            length, wait = _LENGTH.search(head), _RETRY_AFTER.search(head)
            assert length is not None, head
            self._status = int(head[9:12])
            self._wait = float(wait[1]) if wait else 0.0
            self._close = _CLOSE.search(head) is not None
            self._missing = int(length[1])
            self._head = b""
            data = rest
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = -1
            self.busy = False
            if self._close and self.transport is not None:
                self.transport.close()
                self.transport = None
            self._answered(self, self._status, self._wait)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.transport = None
        if self.busy:
            self.busy = False
            self._answered(self, 0, 0.0)


class _Load:
    """Connections to a local port, and the record of their answers."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port = port
        self.outcome = Outcome()
        self.running = True
        self._requests = requests
        self._sent = 0
        self._opening: set[asyncio.Task[None]] = set()

    def next_request(self) -> bytes:
        self._sent += 1
        if self._sent >= MOST_REQUESTS:
            self.running = False
        return self._requests[self._sent % len(self._requests)]

    def note(self, connection: _Connection, status: int) -> None:
        now = time.perf_counter()
        self.outcome.ended.append(now)
        self.outcome.seconds.append(now - connection.began)
        self.outcome.status.append(status)

    async def connect(self, answered: Callable[[_Connection, int, float], None]) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(answered), "127.0.0.1", self.port)
        return connection

    def spawn(self, opening: asyncio.Task[None]) -> None:
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)


async def closed_load(
    port: int, requests: list[bytes], clients: int, seconds: float, *, patient: bool = True
) -> Outcome:
    """Run ``clients`` that each send the next request as soon as the last is answered.

    A patient client that is refused waits as long as the server says; an impatient one does not wait.
    """
    load = _Load(port, requests)
    loop = asyncio.get_running_loop()
    connections: list[_Connection] = []

    def go_on(connection: _Connection) -> None:
        if not load.running:
            return
        if connection.transport is None:
            load.spawn(loop.create_task(begin()))
        else:
            connection.send(load.next_request())

    def answered(connection: _Connection, status: int, wait: float) -> None:
        load.note(connection, status)
        if status == 200 or (status in REFUSED and not patient):
            go_on(connection)
        else:
            loop.call_later(wait if status else 0.05, go_on, connection)

    async def begin() -> None:
        try:
            connection = await load.connect(answered)
        except OSError:
            await asyncio.sleep(0.2)
            if load.running:
                load.spawn(loop.create_task(begin()))
            return
        connections.append(connection)
        go_on(connection)

    await asyncio.gather(*(begin() for _ in range(clients)))
    await asyncio.sleep(seconds)
    load.running = False
    await _drain(connections)
    return load.outcome


async def open_load(
    port: int, requests: list[bytes], per_second: float, seconds: float, most: int = 512
) -> Outcome:
    """Send ``per_second`` requests a second, on as many connections as needed, up to ``most``."""
    load = _Load(port, requests)
    idle: list[_Connection] = []
    everyone: list[_Connection] = []

    def answered(connection: _Connection, status: int, _wait: float) -> None:
        load.note(connection, status)
        if connection.transport is None:
            everyone.remove(connection)
        else:
            idle.append(connection)

    began = time.perf_counter()
    due = 0
    while load.running and (now := time.perf_counter() - began) < seconds:
        while due < now * per_second:
            due += 1
            connection = idle.pop() if idle else None
            if connection is not None and connection.transport is None:
                everyone.remove(connection)
                connection = None
            if connection is None and len(everyone) < most:
                try:
                    connection = await load.connect(answered)
                    everyone.append(connection)
                except OSError:
                    connection = None
            if connection is None:
                load.outcome.skipped += 1
            else:
                connection.send(load.next_request())
        await asyncio.sleep(0.002)
    await _drain(everyone)
    return load.outcome


async def _drain(connections: list[_Connection], seconds: float = 20.0) -> None:
    """Wait for pending requests, then close."""
    end = time.perf_counter() + seconds
    while any(c.busy for c in connections) and time.perf_counter() < end:
        await asyncio.sleep(0.02)
    for connection in connections:
        connection.busy = False
        if connection.transport is not None:
            connection.transport.abort()
