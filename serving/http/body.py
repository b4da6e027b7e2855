"""Request bodies: received within limits of size, speed and memory.

The event loop only receives; decompression and parsing happen on the threads that compute answers.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from ibt_deploy.device import of_c_library
from serving.http.problems import Problem
from serving.input.uploads import inflated, unpacked_too_large
from serving.settings import Settings

FIRST_SECONDS = 0.9
LINGER_SECONDS = 0.3
LINGER_BYTES = 16 * 2**20
_COMPRESSED = ("gzip", "x-gzip", "deflate")


class Memory:
    """Budget shared by all bodies held at the same time.

    Parameters
    ----------
    limit
        Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._lock = threading.Lock()
        self._trimmer = Trimmer()

    def reserve(self) -> Reservation:
        """An empty reservation; use it in a ``with`` block on the event loop."""
        return Reservation(self)

    def take(self, size: int) -> None:
        """Reserve ``size`` more bytes; raises a Problem if there is no room for them."""
        with self._lock:
            if size > self._left:
                raise Problem(
                    "no_memory",
                    "Too many large bodies are held at once; try again.",
                    headers={"Retry-After": "1"},
                )
            self._left -= size

    def release(self, size: int) -> None:
        """Release ``size`` bytes; called on the event loop."""
        with self._lock:
            self._left += size
        self._trimmer.after(size)


class Reservation:
    """The bytes that one request holds, released at the end of ``with``; other threads may add to it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._size = 0
        self._ended = False

    def add(self, size: int) -> None:
        """Hold ``size`` more bytes; raises a Problem if there is no room, or the request has ended."""
        with self._lock:
            if self._ended:
                raise Problem("too_slow", "The client no longer waits for the answer.")
            self._memory.take(size)
            self._size += size

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._ended = True
        self._memory.release(self._size)


@dataclass(frozen=True, eq=False)
class Body:
    """A request body as received.

    Attributes
    ----------
    chunks
        Chunks as they arrived, possibly compressed.
    compressed
        Whether ``Content-Encoding`` is gzip or deflate.
    settings, reservation
        Limits on the decompressed content.
    """

    chunks: list[bytes]
    compressed: bool
    settings: Settings
    reservation: Reservation

    def pieces(self) -> Iterator[bytes]:
        """Parts of the decompressed body; each can be consumed only once.

        Raises
        ------
        Problem
            The content is damaged or too large, or there is no memory for it.
        """
        if not self.compressed:
            yield from self._received()
            return
        size = 0
        for piece in inflated(self._received()):
            size += len(piece)
            if size > self.settings.unpacked_bytes:
                raise unpacked_too_large(self.settings)
            self.reservation.add(len(piece))
            yield piece

    def whole(self) -> bytes:
        """The decompressed body; errors as for :meth:`pieces`."""
        return b"".join(self.pieces())

    def _received(self) -> Iterator[bytes]:
        self.chunks.reverse()
        while self.chunks:
            yield self.chunks.pop()


async def received(request: Request, settings: Settings, reservation: Reservation) -> Body:
    """Receive the body of a request.

    Raises
    ------
    Problem
        The body is too large or too slow, there is no memory for it, or its encoding is unknown.
    starlette.requests.ClientDisconnect
        The client has disconnected.
    """
    compressed = _is_compressed(request)
    stated = request.headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > settings.body_bytes:
        raise _too_large(settings)
    began = asyncio.get_running_loop().time()
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await _next_message(request.receive, settings, began, size)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > settings.body_bytes:
            raise _too_large(settings)
        if not compressed and size > settings.unpacked_bytes:
            raise unpacked_too_large(settings)
        reservation.add(len(chunk))
        chunks.append(chunk)
    return Body(chunks, compressed, settings, reservation)


async def discard(receive: Receive) -> bool:
    """Read the rest of a refused body, within bounds; return whether it ended.

    A client that is still sending would not read the answer, and closing its connection would reset it.
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


def _too_large(settings: Settings) -> Problem:
    return Problem("body_too_large", f"The body is larger than {settings.body_bytes} bytes.")


def _is_compressed(request: Request) -> bool:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return False
    if encoding in _COMPRESSED:
        return True
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


WORTH_IT = 2**20
DELAY_SECONDS = 0.5


class Trimmer:
    """Releases, after a large request, the memory that the C library keeps for the next one.

    glibc keeps freed memory per thread: after consecutive bodies of 15 MB a worker held 381 MiB without
    this and 305 MiB with it. On other C libraries nothing is done.
    """

    def __init__(self) -> None:
        self._due = False

    def after(self, size: int) -> None:
        """A request that held ``size`` bytes is over; called in the event loop."""
        if size >= WORTH_IT and not self._due and of_c_library("malloc_trim") is not None:
            self._due = True
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self._begin)

    def _begin(self) -> None:
        self._due = False
        # ctypes releases the interpreter lock meanwhile
        threading.Thread(target=_trim, name="trim", daemon=True).start()


def _trim() -> None:
    gc.collect(1)  # errors and their frames form cycles that hold what was read
    trim = of_c_library("malloc_trim")
    if trim is not None:
        trim(0)
