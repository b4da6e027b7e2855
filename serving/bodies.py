"""Request bodies: decompressed as they come, and ended as soon as one is too large, too many or too slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from serving.inflate import Inflater
from serving.problems import Problem
from serving.settings import Settings
from serving.trimming import Trimmer

FIRST_SECONDS = 0.9
LINGER_SECONDS = 0.3
LINGER_BYTES = 16 * 2**20


class Memory:
    """What the bodies that are held at once may take together; used by the event loop alone."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._trimmer = Trimmer()

    def hold(self) -> Held:
        """A reservation, of nothing yet."""
        return Held(self)

    def take(self, size: int) -> None:
        """Count ``size`` bytes more; raises a Problem where there is no room for them."""
        if size > self._left:
            raise Problem(
                "no_memory",
                "Too many large bodies are held at once; try again.",
                headers={"Retry-After": "1"},
            )
        self._left -= size

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self._left += size
        self._trimmer.after(size)


class Held:
    """The bytes that one request holds, given back at the end of ``with``."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.size = 0

    def add(self, size: int) -> None:
        """Hold ``size`` bytes more."""
        self._memory.take(size)
        self.size += size

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.give_back(self.size)


async def chunks(request: Request, settings: Settings, held: Held) -> AsyncIterator[bytes]:
    """Parts of the body, decompressed.

    Raises
    ------
    Problem
        The body is too large, too slow, damaged, or of an encoding that is not known.
    starlette.requests.ClientDisconnect
        Nobody waits for an answer any more.
    """
    inflater = _inflater(request)
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > settings.body_bytes:
        raise _too_large(settings)
    began = asyncio.get_running_loop().time()
    received = unpacked = 0
    more = True
    while more:
        message = await _next_message(request.receive, settings, began, received)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > settings.body_bytes:
            raise _too_large(settings)
        for piece in inflater.pieces(chunk) if inflater else (chunk,):
            unpacked += len(piece)
            if unpacked > settings.unpacked_bytes:
                raise unpacked_too_large(settings)
            held.add(len(piece))
            yield piece
    if inflater:
        inflater.finish()


async def whole(request: Request, settings: Settings, held: Held) -> bytes:
    """The body, decompressed; errors as for :func:`chunks`."""
    return b"".join([chunk async for chunk in chunks(request, settings, held)])


async def discard(receive: Receive) -> bool:
    """Read what is left of a refused body, within bounds; whether it came to its end.

    A client that is still sending would not read the answer, and a connection that is closed while it sends
    is reset.
    """
    size = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while size <= LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return True
                size += len(message.get("body", b""))
    except TimeoutError:
        pass
    return False


def unpacked_too_large(settings: Settings) -> Problem:
    """The problem of content that grows too much."""
    return Problem(
        "unpacked_too_large",
        f"Decompressed, the content is larger than {settings.unpacked_bytes} bytes.",
    )


def _too_large(settings: Settings) -> Problem:
    return Problem("body_too_large", f"The body is larger than {settings.body_bytes} bytes.")


def _inflater(request: Request) -> Inflater | None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Inflater()
    raise Problem(
        "unsupported_encoding",
        "Content-Encoding must be gzip, deflate or identity.",
        headers={"Accept-Encoding": "gzip, deflate, identity"},
    )


async def _next_message(receive: Receive, settings: Settings, began: float, received: int) -> Message:
    passed = asyncio.get_running_loop().time() - began
    enough = FIRST_SECONDS + received / settings.body_rate
    left = min(settings.body_seconds, enough) - passed
    try:
        async with asyncio.timeout(max(0.0, min(left, settings.idle_seconds))):
            return await receive()
    except TimeoutError:
        raise Problem(
            "slow_body", "The body came too slowly or paused too long.", headers={"Connection": "close"}
        ) from None
