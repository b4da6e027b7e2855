"""Heads are bounded, and requests that come before their turn are told apart from the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

pytest.importorskip("httptools", reason="the service is not installed: pip install 'ibt[serve]'")

import uvicorn
from uvicorn.server import ServerState

from serving import heads
from serving.bodies import LINGER_SECONDS
from serving.heads import LONGEST_HEAD, BoundedHeads

BODY = 100_000
FIRST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BODY + b"x" * BODY
NEXT = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def app(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answers the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await asyncio.sleep(1.0 if scope["path"] == "/slow" else 0.02)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"%06d" % size})


def answers(reads: Iterable[bytes | float]) -> Transport:
    """What is written for a connection that is read in these pieces, with pauses of so many seconds."""
    transport = Transport()

    async def main() -> None:
        config = uvicorn.Config(app, http=BoundedHeads, lifespan="off", log_config=None)
        config.load()
        protocol = BoundedHeads(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(transport)
        for read in reads:
            if isinstance(read, bytes):
                protocol.data_received(read)
            else:
                await asyncio.sleep(read)
        await asyncio.sleep(LINGER_SECONDS + 0.2)
        protocol.connection_lost(ConnectionResetError())  # and closes nothing itself

    asyncio.run(main())
    return transport


@pytest.mark.parametrize("cut", [1, 9, len(NEXT) - 1, len(NEXT)])
def test_a_body_read_with_the_next_head_is_no_head(cut: int) -> None:
    written = answers([FIRST[:1000], FIRST[1000:] + NEXT[:cut], NEXT[cut:]]).written
    assert written.count(b"HTTP/1.1 200 ") == 2
    assert written.index(b"100000") < written.index(b"000000")
    assert b"HTTP/1.1 4" not in written


LONG = [b"GET / HTTP/1.1\r\nX: ", *[b"a" * 1000] * (LONGEST_HEAD // 1000 + 1)]


def test_a_head_without_end_is_refused() -> None:
    transport = answers(LONG)
    assert transport.written.startswith(b"HTTP/1.1 431 ")
    assert transport.closed


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    for refused in (LONG, [b"no HTTP\r\n\r\n"]):
        for before in ([FIRST], [FIRST, NEXT]):
            transport = answers([*before, *refused])
            assert transport.written.count(b"HTTP/1.1 ") == len(before)
            assert transport.written.startswith(b"HTTP/1.1 200 ")
            assert transport.closed


def test_a_request_that_is_broken_is_refused_itself() -> None:
    begun = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    transport = answers([begun, b"no number\r\n"])
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert transport.closed


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("before", [[], [NEXT, 0.15]], ids=["first", "later"])
def test_a_slow_head_is_refused(before: list[bytes | float]) -> None:
    transport = answers([*before, b"GET / HT", 0.07, b"TP/1.1\r\n", 0.07, b"Host: a\r\n\r\n"])
    assert transport.written.count(b"HTTP/1.1 200 ") == len(before) // 2
    assert b"HTTP/1.1 408 " in transport.written
    assert b'"code": "slow_head"' in transport.written
    assert transport.closed


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [[], [NEXT, 0.1, b"\r\n"]], ids=["nothing", "a blank line"])
def test_a_connection_without_a_request_is_closed(sent: list[bytes | float]) -> None:
    transport = answers(sent)
    assert transport.closed
    assert b"HTTP/1.1 4" not in transport.written


def test_a_head_that_is_not_read_for_want_of_answers_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.4)
    slow = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    transport = answers([slow, 0.05, NEXT + NEXT[:9], 1.05, NEXT[9:]])
    assert transport.written.count(b"HTTP/1.1 200 ") == 3
    assert b"HTTP/1.1 4" not in transport.written


@pytest.mark.usefixtures("impatient")
def test_only_heads_must_hurry() -> None:
    transport = answers([NEXT, 0.25, FIRST[:1000], 0.25, FIRST[1000:]])
    assert transport.written.count(b"HTTP/1.1 200 ") == 2, "neither a rest between requests nor a body"
    assert not transport.closed
