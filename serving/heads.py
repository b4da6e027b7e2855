"""HTTP as uvicorn and httptools speak it, with heads that end and answers that are sent in one piece."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving import metrics
from serving.bodies import LINGER_SECONDS
from serving.logs import log
from serving.problems import Problem

LONGEST_HEAD = 2**16
HEAD_SECONDS = 10.0


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose request's head grows beyond 64 KiB (and what was read with its beginning).

    Or is not whole after ten seconds: from the opening of the connection, or from what came of it first.
    Between requests a connection may rest for longer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._within_head = False
        self._head_bytes = self._reading = 0
        self._refused = False
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self.transport = Joined(transport, self.loop)  # type: ignore[assignment]
        self._patience = self.loop.call_later(HEAD_SECONDS, self._end_waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._await_head(False)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        # what is being read may be the body of the request before, nearly all of it
        self._within_head, self._head_bytes = True, -self._reading
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is whole."""
        self._within_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the connection has been refused already."""
        if self._refused or self.transport.is_closing():
            return
        self._reading = len(data)
        super().data_received(data)
        if self._within_head:
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD and not self._refused:
                self._refuse(Problem("head_too_large", f"A head may have {LONGEST_HEAD} bytes."))
        self._await_head(self._within_head or self.cycle is None or self.cycle.response_complete)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what is no HTTP, or not within the bounds of its parser."""
        self._refuse(Problem("bad_request", "This is not a request of HTTP/1.1."))

    def _refuse(self, problem: Problem) -> None:
        """Answer, and close a little later: who is still sending would be reset before reading why.

        While a request before it has no answer yet, this one gets none, lest it be taken for the other's:
        the connection ends with the last that is due.
        """
        self._refused = True
        request_id = uuid.uuid4().hex
        if self._owes_an_answer():
            self.cycle.keep_alive = False
        else:
            self.transport.write(problem.bare(request_id))
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        metrics.observe("unknown", "other", problem.status, 0.0, problem.code)
        log(
            "request",
            id=request_id,
            method="other",
            route="unknown",
            status=problem.status,
            code=problem.code,
        )

    def _await_head(self, awaited: bool) -> None:
        """Be patient for as long as a head may take, once; or for as long as it likes again."""
        if awaited and self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._end_waiting)
        elif not awaited and self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _end_waiting(self) -> None:
        self._patience = None
        if self._refused or self.transport.is_closing():
            return
        if self.flow.read_paused:  # the rest may have come: it is read once the answers before it are sent
            self._await_head(True)
        elif self._within_head:
            self._refuse(Problem("slow_head", f"A head may take {HEAD_SECONDS:g} s."))
        else:
            self.transport.close()

    def _owes_an_answer(self) -> bool:
        """Whether a request that came as a whole waits for its answer, or any has a part of it."""
        latest = self.cycle
        if latest is None or latest.response_complete:
            return False
        return bool(self.pipeline) or latest.response_started or not latest.more_body


class Joined:
    """A transport that sends in one piece what is written in one go: head and body of an answer.

    Each piece costs the system, and the client, about as much again.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send ``data`` before anything else happens."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held:
            self._transport.write(b"".join(held))
