"""What every request passes through: id, token, log line and figures; errors become problems."""

from __future__ import annotations

import hmac
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ibt_deploy.errors import BundleError, DeviceError, InputError, MissingExtra
from serving import metrics
from serving.bodies import discard
from serving.logs import log
from serving.problems import Problem

PROTECTED = ("/v1", "/metrics")
PROBES = ("/livez", "/readyz")
CLIENT_GONE = 499
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
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
    """Whether the service is shutting down: what it has begun is finished, nothing else is begun."""

    begun: bool = False


@dataclass(eq=False)
class _Exchange:
    """One request and what has become of it."""

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

    async def take(self) -> Message:
        self.asked = True
        message = await self.receive()
        if message["type"] == "http.request":
            self.received += len(message.get("body", b""))
        if not message.get("more_body", False):
            self.body_ended = True
        return message

    async def give(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            extra = {"x-request-id": self.request_id} | _HEADERS
            if self.scope["path"].startswith("/v1"):
                extra["cache-control"] = "no-store"
            stated = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((k.encode(), v.encode()) for k, v in extra.items() if k.encode() not in stated),
            ]
        else:
            self.sent += len(message.get("body", b""))
        await self.send(message)


class Front:
    """ASGI middleware around the routes.

    Parameters
    ----------
    app
        The routes.
    token
        That protected routes ask for; empty for none.
    drain
        Set when the service begins to shut down.
    """

    def __init__(self, app: ASGIApp, *, token: str, drain: Drain) -> None:
        self._app = app
        self._token = token.encode()
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        exchange = _Exchange(scope, receive, send, _request_id(headers))
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        code: str | None = None
        with metrics.in_flight.track_inprogress():
            try:
                self._admit(scope, headers)
                await self._app(scope, exchange.take, exchange.give)
            except ClientDisconnect:
                exchange.status = CLIENT_GONE
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a problem
                problem, place = as_problem(error), _place(error)
                # the traceback holds this frame, in a circle, and the body with it
                error.__traceback__ = error.__context__ = None
                code = problem.code
                await _refuse(exchange, problem, headers)
                if problem.status == 500:
                    log("failure", id=exchange.request_id, error=type(error).__name__, place=place)
        self._note(exchange, code)

    def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"]
        if self._drain.begun and path != "/livez":
            raise Problem("draining", "The service is shutting down.", headers={"Connection": "close"})
        if not self._token or not path.startswith(PROTECTED):
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise Problem(
                "unauthorised", "Send the header 'Authorization: Bearer TOKEN'.",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def _note(self, exchange: _Exchange, code: str | None) -> None:
        scope = exchange.scope
        route = scope.get("state", {}).get("route", "unknown")
        seconds = time.perf_counter() - exchange.began
        metrics.observe(route, _method(scope), exchange.status, seconds, code)
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
        )


def as_problem(error: Exception) -> Problem:
    """The problem that stands for what was raised."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):
        return Problem.refused(error)
    if isinstance(error, MissingExtra):
        return Problem(
            "unsupported_format", "This server lacks the library that reads this format.", status=415
        )
    if isinstance(error, BundleError | DeviceError):
        return Problem("model_failed", "The model could not be run; the log says why.")
    if isinstance(error, HTTPException):
        code = {404: "no_such_page", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return Problem(code, "See /docs for what there is.", status=error.status_code, headers=error.headers)
    return Problem("internal_error", "The service failed at this request; the log has its id.")


async def _refuse(exchange: _Exchange, problem: Problem, headers: dict[bytes, bytes]) -> None:
    if exchange.status:  # the answer has begun, nothing can be taken back
        return
    waits = b"expect" in headers and not exchange.asked
    if not exchange.body_ended and problem.headers.get("Connection") != "close" and _has_body(headers):
        ended = False if waits else await discard(exchange.receive)
        if not ended:
            problem.headers["Connection"] = "close"
    await problem.response(exchange.request_id)(exchange.scope, exchange.receive, exchange.give)


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _request_id(headers: dict[bytes, bytes]) -> str:
    stated = headers.get(b"x-request-id", b"").decode("latin-1")
    return stated if _REQUEST_ID.fullmatch(stated) else uuid.uuid4().hex


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
    return scope["method"] if scope["method"] in known else "other"


def _place(error: Exception) -> str | None:
    """File name and line where an unforeseen error was raised; messages may hold what a client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
