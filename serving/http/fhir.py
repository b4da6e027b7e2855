"""FHIR R4 over HTTP: content negotiation, and answers and refusals as resources.

A client asks with ``Accept: application/fhir+json``. The resources themselves are those of
:mod:`ibt_deploy.standards`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.responses import Response

from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.standards.fhir_answers import MEDIA_TYPE, fhir_resource
from serving.http.problems import Problem

FHIR = MEDIA_TYPE
VERSIONS = frozenset({"", "4.0", "4.0.1"})
"""Values of the parameter ``fhirVersion``; empty if a client omits it."""
ALSO_JSON = frozenset({"application/json", "application/*", "*/*"})
ISSUES = {
    401: "login",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    408: "timeout",
    412: "required",
    413: "too-long",
    415: "not-supported",
    429: "throttled",
    500: "exception",
    503: "transient",
}
"""Status and FHIR's IssueType; ``invalid`` for any other (https://hl7.org/fhir/R4/codesystem-issue-type.html)."""

Headers = Iterable[tuple[bytes, bytes]]


def wants_fhir(headers: Headers) -> bool:
    """Whether the ``Accept`` among the raw headers prefers FHIR R4 to plain JSON."""
    weights = {"fhir": 0.0, "json": 0.0}
    for kind, version, weight in _ranges(headers):
        if kind == FHIR and version in VERSIONS:
            weights["fhir"] = max(weights["fhir"], weight)
        elif kind == "application/json":
            weights["json"] = max(weights["json"], weight)
    return weights["fhir"] > 0 and weights["fhir"] >= weights["json"]


def check_acceptable(headers: Headers, *, fhir: bool = True) -> None:
    """Raise a Problem if the client accepts only a form of FHIR that this route does not provide.

    Parameters
    ----------
    headers
        Raw headers of the request.
    fhir
        Whether the route can answer with FHIR R4 as JSON.
    """
    ranges = [(kind, version) for kind, version, weight in _ranges(headers) if weight > 0]
    named = any(kind.startswith("application/fhir") for kind, _ in ranges)
    if not named or any(kind in ALSO_JSON for kind, _ in ranges) or (fhir and wants_fhir(headers)):
        return
    stated = f"{FHIR} (FHIR R4) or application/json" if fhir else "application/json"
    raise Problem("not_acceptable", f"This route answers {stated}.")


def answer_fhir(answers: Sequence[Prediction | Refusal], several: bool) -> bytes:
    """One resource: that of the only answer, or a Bundle with one entry per stay, in order.

    Raises
    ------
    Problem
        The only recording or stay is refused.
    """
    if several:
        return _line({"resourceType": "Bundle", "type": "collection", "entry": [*map(_entry, answers)]})
    (answer,) = answers
    if isinstance(answer, Refusal):
        raise Problem.refused(answer)
    return _line(fhir_resource(answer))


def outcome(problem: Problem, request_id: str) -> Response:
    """A problem as an OperationOutcome, with the status and the headers of the problem."""
    issue = {
        "severity": "error",
        "code": ISSUES.get(problem.status, "invalid"),
        "details": {"coding": [{"code": problem.code}], "text": problem.detail},
        "diagnostics": f"request {request_id}",
    }
    content = _line({"resourceType": "OperationOutcome", "issue": [issue]})
    return Response(content, problem.status, problem.headers, FHIR)


def _entry(answer: Prediction | Refusal) -> dict[str, Any]:
    resource = fhir_resource(answer)
    name = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(resource, sort_keys=True))
    return {"fullUrl": f"urn:uuid:{name}", "resource": resource}


def _line(resource: dict[str, Any]) -> bytes:
    return json.dumps(resource, allow_nan=False).encode() + b"\n"


def _ranges(headers: Headers) -> Iterator[tuple[str, str, float]]:
    """Media type, ``fhirVersion`` and weight of each range of ``Accept`` (RFC 9110, 12.5.1)."""
    accept = ",".join(value.decode("latin-1") for name, value in headers if name == b"accept")
    for stated in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in stated.split(";"))
        known = {
            name.strip(): value.strip().strip('"')
            for name, _, value in (p.partition("=") for p in parameters)
        }
        try:
            weight = float(known.get("q", "1"))
        except ValueError:
            weight = 0.0
        yield kind, known.get("fhirversion", ""), weight
