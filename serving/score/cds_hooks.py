"""CDS Hooks 2.0: the sepsis risk of the patient whose record is opened, as a card.

The client sends what the card needs as prefetched FHIR R4 resources (https://cds-hooks.hl7.org/2.0/). No
address in a request is ever fetched: ``fhirServer``, ``fhirAuthorization`` and links are ignored. A Bundle
whose links show that data are missing is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

from ibt_deploy.bundle import Bundle
from ibt_deploy.predictions import NOTICE, Refusal, SepsisPrediction
from ibt_deploy.standards.fhir_answers import HORIZON_HOURS, SNOMED
from ibt_deploy.standards.fhir_observations import PatientStay, patient_stay
from serving.http.problems import Problem
from serving.score.answers import as_json
from serving.score.batching import Answers, ToScore

ID, HOOK = "ibt-sepsis", "patient-view"
PREFETCH = {
    "patient": "Patient/{{context.patientId}}",
    "encounter": "Encounter/{{context.encounterId}}",
    "observations": "Observation?patient={{context.patientId}}&category=vital-signs,laboratory",
}
_NO_CARDS = as_json({"cards": []})
_FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


def discovery() -> bytes:
    """The available services."""
    service = {
        "hook": HOOK,
        "id": ID,
        "title": "Sepsis risk in intensive care",
        "description": "Estimates the probability that a patient in intensive care has or develops sepsis "
        f"within {HORIZON_HOURS} hours, from vital signs and laboratory values. {NOTICE}",
        "prefetch": PREFETCH,
        "usageRequirements": "The prefetched data must be complete: the service fetches nothing.",
    }
    return as_json({"services": [service]})


def asked(value: Any, bundle: Bundle, point: str) -> ToScore:
    """Read the stay to score from a call of the service.

    Parameters
    ----------
    value
        Parsed JSON of the request; fields that the card does not need are ignored.
    bundle, point
        The model and the operating point, both named on the card.

    Raises
    ------
    Problem
        The request is not one of ``patient-view``, or prefetched data are missing or incomplete.
    InputError
        The resources are refused.
    """
    patient, prefetch = _checked(value)
    observations, encounter = prefetch["observations"], prefetch.get("encounter")
    if observations is None or not list(_entries(observations)):
        return ToScore((), lambda _: _NO_CARDS)
    resources = [found for found in (prefetch.get("patient"), encounter, observations) if found is not None]
    found = patient_stay(resources, patient)
    left = found.ends is not None and found.ends < datetime.now(UTC).replace(tzinfo=None)
    if left or (encounter is not None and not found.in_icu):
        return ToScore((), lambda _: _NO_CARDS)
    return ToScore((found.stay,), partial(_cards, found=found, bundle=bundle, point=point))


def _checked(value: Any) -> tuple[str, dict[str, Any]]:
    """The id of the patient, and the prefetched resources."""
    if not isinstance(value, dict) or value.get("hook") != HOOK:
        raise Problem("bad_fields", f"The body must be a JSON object whose 'hook' is {HOOK}.")
    if not isinstance(value.get("hookInstance"), str):
        raise Problem("bad_fields", "Missing: 'hookInstance'.")
    context = value.get("context")
    patient = context.get("patientId") if isinstance(context, dict) else None
    if not isinstance(patient, str) or not _FHIR_ID.fullmatch(patient):
        raise Problem("bad_fields", "'context' must have a 'patientId', the id of a FHIR resource.")
    prefetch = value.get("prefetch")
    if not isinstance(prefetch, dict) or "observations" not in prefetch:
        raise Problem(
            "prefetch_missing",
            "The request must prefetch 'observations'; this service fetches nothing itself.",
        )
    for name in PREFETCH:
        if not isinstance(prefetch.get(name), dict | None):
            raise Problem("bad_fields", f"'{name}' must be a FHIR resource or null.")
    observations = prefetch["observations"]
    if observations is not None and observations.get("resourceType") != "Bundle":
        raise Problem("prefetch_missing", "'observations' must be a Bundle of Observations.")
    _check_complete(observations or {})
    return patient, prefetch


def _check_complete(bundle: dict[str, Any]) -> None:
    """Refuse one page of several: with values missing, the risk would be silently wrong."""
    links = bundle.get("link") or []
    pages = isinstance(links, list) and any(
        isinstance(link, dict) and link.get("relation") == "next" for link in links
    )
    total = bundle.get("total")
    matches = sum(_mode(entry) == "match" for entry in _entries(bundle))
    if pages or (isinstance(total, int) and total > matches):
        raise Problem(
            "prefetch_incomplete",
            "'observations' is one page of several; send all Observations in one Bundle.",
        )


def _entries(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    entries = bundle.get("entry") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Problem("bad_fields", "'entry' of a Bundle must be a list of objects.")
    yield from entries


def _mode(entry: dict[str, Any]) -> Any:
    search = entry.get("search")
    return search.get("mode", "match") if isinstance(search, dict) else "match"


def _cards(answers: Answers, found: PatientStay, bundle: Bundle, point: str) -> bytes:
    (answer,) = answers
    if isinstance(answer, Refusal):
        raise Problem.refused(answer)
    assert isinstance(answer, SepsisPrediction)
    risk, threshold = _percent(float(answer.risk[-1])), _percent(answer.threshold)
    alarm, hour = bool(answer.alarms[-1]), int(answer.hours[-1])
    highest = int(answer.risk.argmax())
    side = "at or above" if alarm else "below"
    where = "of the stay in intensive care" if found.in_icu else "since the first value"
    summary = f"Sepsis risk {risk} in hour {hour}, {side} the alarm threshold of {threshold}"
    detail = [
        f"**Risk {risk}** in hour {hour} {where}, from values up to {found.last:%Y-%m-%d %H:%M} UTC: the "
        f"estimated probability that the patient has or develops sepsis within {HORIZON_HOURS} hours. The "
        f"highest so far was {_percent(float(answer.risk[highest]))} in hour {int(answer.hours[highest])}.",
        f"**Operating point {point}**: alarm from {threshold} "
        f"({bundle.operating_points[point].description}).",
        *(f"- {text}" for text in (*answer.changes, *(warning.message for warning in answer.warnings))),
        f"**Source**: {bundle.name} {bundle.version}, sha256 {bundle.sha256}. {NOTICE}",
    ]
    card = {
        "summary": summary,
        "detail": "\n\n".join(detail),
        "indicator": "warning" if alarm else "info",
        "source": {
            "label": f"ibt, {bundle.name} {bundle.version} ({NOTICE[0].lower()}{NOTICE[1:].rstrip('.')})",
            "topic": {"system": SNOMED, "code": "91302008", "display": "Sepsis"},
        },
    }
    return as_json({"cards": [card]})


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
