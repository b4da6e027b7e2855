"""Middleware for every request: id, token, Host, log line and metrics; errors become problems."""

from __future__ import annotations

import hmac
import json
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ibt_deploy.errors import BundleError, DeviceError, InputError, MissingExtra
from serving.http import telemetry
from serving.http.body import discard
from serving.http.fhir import FHIR, outcome, wants_fhir
from serving.http.problems import MEDIA_TYPE, Problem
from serving.http.telemetry import log

PROTECTED = ("/v1", "/metrics", "/arrhythmia", "/sepsis", "/cds-services")
"""Prefixes of the routes that a token protects."""
PROBES = ("/livez", "/readyz", "/healthz")
BENTOML = ("/schema.json", "/docs.json", *PROBES)
"""Routes that BentoML answers itself."""
CLIENT_GONE = 499
_KEPT = ("allow", "retry-after")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass
class Drain:
    """Whether the service is shutting down: it finishes requests in progress and accepts no others."""

    begun: bool = False


@dataclass(eq=False)
class Exchange:
    """One request and its progress.

    Attributes
    ----------
    problem
        Why it is refused, set by code that cannot raise it here (a method of the BentoML service).
    """

    scope: Scope
    receive: Receive
    send: Send
    request_id: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    asked: bool = False
    body_ended: bool = False
    received: int = 0
    sent: int = 0
    problem: Problem | None = None
    _foreign: bytearray | None = None
    _foreign_status: int = 0
    _foreign_headers: dict[str, str] = field(default_factory=dict)

    async def take(self) -> Message:
        """Receive the next message from the client."""
        self.asked = True
        message = await self.receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        if not message.get("more_body", False):
            self.body_ended = True
        return message

    async def give(self, message: Message) -> None:
        """Send a message on; an error that is not yet a problem is held back and becomes one."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400 and not _is_problem(message):
                self._foreign, self._foreign_status = bytearray(), message["status"]
                stated = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
                self._foreign_headers = {name: stated[name] for name in _KEPT if name in stated}
                return
            self.status = message["status"]
            extra = {"x-request-id": self.request_id} | _HEADERS
            if self.scope["path"].startswith(PROTECTED):
                extra["cache-control"] = "no-store"
            given = {name for name, _ in message["headers"]}
            message["headers"] = [
                *((k, v) for k, v in message["headers"] if k != b"server"),
                *((k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in given),
            ]
        elif self._foreign is not None:
            self._foreign += message.get("body", b"")
            if not message.get("more_body", False):
                body, self._foreign = bytes(self._foreign), None
                raise self.problem or _foreign_problem(self._foreign_status, body, self._foreign_headers)
            return
        else:
            self.sent += len(message.get("body", b""))
        await self.send(message)


current: ContextVar[Exchange] = ContextVar("exchange")
"""The exchange of the running request."""


class Middleware:
    """ASGI middleware around all routes, BentoML's and ours.

    Parameters
    ----------
    app
        The routes.
    token
        Token that protected routes require; empty for none.
    drain
        Set when the service begins to shut down.
    guard
        Replaces ``receive``, by path, for JSON routes of BentoML, which reads bodies whole.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        drain: Drain,
        guard: Callable[[Scope, Receive], Any] | None = None,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._drain = drain
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        exchange = Exchange(scope, receive, send, _request_id(headers))
        state = scope.setdefault("state", {})
        state["request_id"] = exchange.request_id
        if scope["path"] in BENTOML:
            state["route"] = scope["path"]
        current.set(exchange)
        code: str | None = None
        with telemetry.in_flight():
            try:
                self._admit(scope, headers)
                if self._guard is None:
                    await self._app(scope, exchange.take, exchange.give)
                else:
                    async with self._guard(scope, exchange.take) as guarded:
                        await self._app(scope, guarded, exchange.give)
            except ClientDisconnect:
                await _let_go(exchange)
                exchange.status = CLIENT_GONE
            except Exception as error:  # noqa: BLE001 - the client gets a problem in any case
                problem, place = as_problem(error), _place(error)
                # the traceback holds this frame, in a cycle, and the body with it
                error.__traceback__ = error.__context__ = None
                code = problem.code
                await _refuse(exchange, problem, headers)
                if problem.status == 500:
                    log("failure", id=exchange.request_id, error=type(error).__name__, place=place)
        self._note(exchange, code, _trace(headers))

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"]
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if scope["http_version"] != "1.0" and (len(hosts) != 1 or not hosts[0]):
            raise Problem("bad_request", "Send exactly one Host header.", headers={"Connection": "close"})
        if self._drain.begun and path not in ("/livez", "/healthz"):
            raise Problem("draining", "The service is shutting down.", headers={"Connection": "close"})
        if not self._token or not path.startswith(PROTECTED):
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise Problem(
                "unauthorised", "Send the header 'Authorization: Bearer TOKEN'.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def _note(self, exchange: Exchange, code: str | None, trace: str | None) -> None:
        scope = exchange.scope
        route = scope.get("state", {}).get("route", "unknown")
        seconds = time.perf_counter() - exchange.began
        telemetry.observe(route, _method(scope), exchange.status, seconds, code)
        if route in PROBES and exchange.status < 400:
            return
        log(
            "request",
            id=exchange.request_id,
            method=_method(scope),
            route=route,
            status=exchange.status,
            ms=round(seconds * 1e3, 2),
            received=exchange.received,
            sent=exchange.sent,
            code=code,
            trace=trace,
        )


def as_problem(error: Exception) -> Problem:
    """The problem for an exception."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):
        return Problem.refused(error)
    if isinstance(error, MissingExtra):
        return Problem(
            "unsupported_format",
            "The library that reads this format is not installed on this server.",
            status=415,
        )
    if isinstance(error, BundleError | DeviceError):
        return Problem("model_failed", "The model could not be run; the log says why.")
    if isinstance(error, HTTPException):
        return _of_status(error.status_code, dict(error.headers or {}))
    return Problem("internal_error", "The service failed; the log has the id of this request.")


def _of_status(status: int, headers: dict[str, str] | None = None) -> Problem:
    if status >= 500:
        code = "draining" if status == 503 else "internal_error"
        return Problem(code, "The service cannot answer this request.", status=status)
    code = {404: "no_such_page", 405: "method_not_allowed"}.get(status, "bad_request")
    return Problem(code, "/docs lists what this service offers.", status=status, headers=headers)


def _foreign_problem(status: int, body: bytes, headers: dict[str, str]) -> Problem:
    """The problem in place of an error of BentoML or Starlette; pydantic's errors are listed by position.

    Only positions and pydantic's own sentences are repeated, not what was sent, nor unknown names.
    """
    try:
        stated = json.loads(body)["detail"]
        found = "; ".join(
            f"{'.'.join(map(str, e['loc'])) if e['type'] != 'extra_forbidden' else 'a field'}: {e['msg']}"
            for e in stated[:5]
        )
    except (ValueError, KeyError, TypeError):
        return _of_status(status, headers)
    return Problem("bad_fields", f"{found}.")


def _is_problem(message: Message) -> bool:
    kinds = (MEDIA_TYPE.encode(), FHIR.encode())
    return any(name == b"content-type" and value in kinds for name, value in message["headers"])


async def _refuse(exchange: Exchange, problem: Problem, headers: dict[bytes, bytes]) -> None:
    if exchange.status:  # the answer has begun and cannot be taken back
        return
    waits = b"expect" in headers and not exchange.asked
    if not exchange.body_ended and problem.headers.get("Connection") != "close" and _has_body(headers):
        ended = False if waits else await discard(exchange.receive)
        if not ended:
            problem.headers["Connection"] = "close"
    form = outcome if wants_fhir(exchange.scope["headers"]) else Problem.response
    await form(problem, exchange.request_id)(exchange.scope, exchange.receive, exchange.give)


async def _let_go(exchange: Exchange) -> None:
    """End the connection of a client that is gone, or that granian reports as gone.

    It also reports clients whose bodies it breaks off, such as one with endless trailers, and holds their
    connections until there is an answer.
    """
    if not exchange.status:
        head = [(b"connection", b"close"), (b"content-length", b"0")]
        with suppress(OSError, RuntimeError):  # the client is gone
            await exchange.send({"type": "http.response.start", "status": 400, "headers": head})
            await exchange.send({"type": "http.response.body", "body": b""})


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _request_id(headers: dict[bytes, bytes]) -> str:
    stated = headers.get(b"x-request-id", b"").decode("latin-1")
    return stated if _REQUEST_ID.fullmatch(stated) else uuid.uuid4().hex


def _trace(headers: dict[bytes, bytes]) -> str | None:
    """The trace id of a ``traceparent`` (W3C Trace Context), if there is a valid one."""
    found = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    return found[1].decode() if found else None


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
    return scope["method"] if scope["method"] in known else "other"


def _place(error: Exception) -> str | None:
    """Function and line where an unexpected error was raised; messages may hold client data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
