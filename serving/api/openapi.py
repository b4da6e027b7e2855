"""The OpenAPI 3.1 document of ``/v1``: schemas from the pydantic models, limits from the settings."""

from __future__ import annotations

from typing import Any

from ibt_deploy import __version__
from ibt_deploy.predictions import NOTICE
from ibt_deploy.types import TASKS, Task
from serving.api import examples
from serving.api.models import (
    ExplainedFindings,
    ExplainedRisk,
    Findings,
    NextHours,
    ProblemDetails,
    Recording,
    Risk,
    RiskAndState,
    RiskAndVitals,
    Risks,
    Row,
    StayByColumns,
    StayByRows,
    Stays,
    ref,
    schemas,
)
from serving.http.fhir import FHIR
from serving.http.problems import MEDIA_TYPE, TITLES
from serving.models import Models
from serving.score import cds_hooks
from serving.score.answers import EXPLAINED_HOURS, EXPLAINED_SECONDS
from serving.score.next_hour import FRAMED
from serving.settings import Settings

Part = dict[str, Any]
BASE = "http://127.0.0.1:3000"
_NEXT = f"""curl -s --json '{{"rows": [{{"ICULOS": 1, "HR": 92, "Temp": 38.4, "Resp": 24, "Age": 67}}]}}' \\
  {BASE}/v1/sepsis/next > hour-1.json
python3 -c 'import json; print(json.dumps({{"rows": [{{"ICULOS": 2, "HR": 104}}],
  "state": json.load(open("hour-1.json"))["state"]}}))' > hour-2.json
curl -s --json @hour-2.json {BASE}/v1/sepsis/next"""

_RESOURCE = {
    "type": "object",
    "description": "A FHIR R4 resource (https://hl7.org/fhir/R4).",
    "properties": {"resourceType": {"type": "string"}},
    "required": ["resourceType"],
}
_SIGNAL = {
    "name": "signal",
    "in": "query",
    "description": "Add the signal to the answer, for a drawing.",
    "schema": {"type": "boolean", "default": False},
}
_EXPLAIN = {
    "name": "explain",
    "in": "query",
    "description": "Add which half seconds and leads moved the positive findings (recordings of up to "
    f"{EXPLAINED_SECONDS} s), or which hours and variables moved the highest risk (a stay of up to "
    f"{EXPLAINED_HOURS} hours, or the first of several until their squared hours add up to more). An answer "
    "past these limits says so in `not_explained`.",
    "schema": {"type": "boolean", "default": False},
}
_VITALS = {
    "name": "vitals",
    "in": "query",
    "description": "Add the vital signs to the answer, for a drawing.",
    "schema": {"type": "boolean", "default": False},
}


def document(models: Models, settings: Settings) -> Part:
    """The document, as a JSON-compatible dictionary."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ibt",
            "version": __version__,
            "summary": "Findings of 12-lead ECGs and hourly sepsis risk of ICU stays.",
            "description": f"{NOTICE} Limits of this server: bodies of {settings.body_bytes} bytes, "
            f"{settings.unpacked_bytes} once decompressed; {settings.parts} files; recordings of "
            f"{settings.record_seconds:g} s; {settings.rows} hourly rows.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}] if settings.token else [],
        "paths": _scoring(models) | _cds_hooks() | _reading(),
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _scoring(models: Models) -> Part:
    first = examples.rows(0, examples.HOURS)
    upload = {
        "schema": {
            "type": "object",
            "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            "required": ["files"],
        }
    }
    stay_example = {"rows": {"value": {"record": "p1", "rows": first}}}
    return {
        "/v1/arrhythmia": _post(
            "Findings of one ECG",
            "Upload the files of one recording under their own names: a WFDB header with its signal files, "
            "or one file of another format; .zip and .gz are unpacked. Or state the signal as JSON.",
            {
                "application/json": {
                    "schema": ref(Recording),
                    "examples": {"recording": {"value": examples.recording()}},
                },
                "multipart/form-data": upload,
            },
            [_point(models, "arrhythmia"), _SIGNAL, _EXPLAIN],
            {"anyOf": [ref(ExplainedFindings), ref(Findings)]},
            f"curl -sO {BASE}/examples/recording.hea -sO {BASE}/examples/recording.dat\n"
            f"curl -s -F files=@recording.hea -F files=@recording.dat {BASE}/v1/arrhythmia",
            fhir="A Bundle of a DiagnosticReport, an Observation for each class and the Device.",
        ),
        "/v1/sepsis": _post(
            "Hourly sepsis risk of ICU stays",
            "Rows of one stay give one answer. Rows with a column patient_id, and a list of stays, give a "
            "list under 'stays', in which a refused stay is an entry of its own.",
            {
                "application/json": {
                    "schema": {
                        "oneOf": [
                            ref(StayByRows),
                            ref(StayByColumns),
                            ref(Stays),
                            {"type": "array", "items": ref(Row)},
                        ],
                    },
                    "examples": stay_example
                    | {
                        "columns": {"value": {"columns": examples.columns()}},
                        "several": {
                            "value": {"stays": [{"record": "p1", "rows": first}, {"rows": first[:2]}]}
                        },
                    },
                },
                "text/csv": {"schema": {"type": "string"}, "examples": {"csv": {"value": examples.csv()}}},
                "text/psv": {"schema": {"type": "string"}},
                "multipart/form-data": upload,
            },
            [
                _point(models, "sepsis"),
                {
                    "name": "record",
                    "in": "query",
                    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                    "description": "Name of the one stay; no personal data.",
                },
                {
                    "name": "only",
                    "in": "query",
                    "schema": {"type": "integer", "minimum": 1},
                    "description": "Answer only the stay at this place among several, counted from 1.",
                },
                _VITALS,
                _EXPLAIN,
            ],
            {"anyOf": [ref(RiskAndVitals), ref(ExplainedRisk), ref(Risk), ref(Risks)]},
            f"curl -sO {BASE}/examples/stay.psv\n"
            f"curl -s -H 'Content-Type: text/psv' --data-binary @stay.psv {BASE}/v1/sepsis",
            fhir="A Bundle of a RiskAssessment for each hour and the Device; for several stays a Bundle of "
            "such Bundles, with an OperationOutcome for each stay that is refused.",
        ),
        "/v1/sepsis/next": _post(
            "Risk of the next hours of a stay",
            "Send the new rows with the state of the answer before. The server keeps nothing: the state is "
            "the stay so far, signed, for this model only. For speed, a line of JSON with the bytes of the "
            f"state behind it is taken and answered as {FRAMED}.",
            {
                "application/json": {
                    "schema": ref(NextHours),
                    "examples": {"first": {"value": {"rows": first[:1], "state": None}}},
                },
                FRAMED: {"schema": {"type": "string", "format": "binary"}},
            },
            [_point(models, "sepsis")],
            ref(RiskAndState),
            _NEXT,
        ),
    }


def _cds_hooks() -> Part:
    address, text = f"/cds-services/{cds_hooks.ID}", {"type": "string"}
    asked = _object(
        {
            "hook": {"const": cds_hooks.HOOK},
            "hookInstance": text,
            "context": _object({"patientId": text}, "patientId"),
            "prefetch": _object({"observations": {"type": ["object", "null"]}}),
        },
        "hook",
        "hookInstance",
        "context",
    )
    card = _object(
        {
            "summary": {"type": "string", "maxLength": 139},
            "detail": {"type": "string", "description": "Markdown"},
            "indicator": {"enum": ["info", "warning"]},
            "source": _object({"label": text}, "label"),
        },
        "summary",
        "indicator",
        "source",
    )
    cards = _object({"cards": {"type": "array", "items": card}}, "cards")
    return {
        "/cds-services": _get(
            "The services of CDS Hooks",
            _json(_object({"services": {"type": "array", "items": {"type": "object"}}}, "services")),
            example="/cds-services",
            refusals=("406",),
        ),
        address: _post(
            "A card of CDS Hooks with the sepsis risk",
            "For the hook patient-view: the risk of the latest hour, from prefetched FHIR R4 resources. No "
            "card for a patient who is not in intensive care or has no Observations. Nothing is fetched.",
            {
                "application/json": {
                    "schema": asked,
                    "examples": {"patient-view": {"value": examples.patient_view()}},
                }
            },
            [],
            cards,
            f"curl -sO {BASE}/examples/patient-view.json\ncurl -s --json @patient-view.json {BASE}{address}",
            refusals=("412",),
        ),
    }


def _object(properties: Part, *required: str) -> Part:
    return {"type": "object", "properties": properties, "required": list(required)}


def _reading() -> Part:
    text = {"schema": {"type": "string"}}
    task = {"name": "task", "in": "path", "required": True, "schema": {"type": "string", "enum": list(TASKS)}}
    card = {"text/markdown": text, "text/html": text}
    return {
        "/v1/models": _get(
            "The models that answer",
            {"application/json": {"schema": {"type": "object"}}},
            example="/v1/models",
        ),
        "/v1/models/{task}/card": _get(
            "A model card", card, parameters=[task], example="/v1/models/sepsis/card", refusals=("404",)
        ),
        "/livez": _get("Whether the process runs", {"text/plain": text}, example="/livez"),
        "/readyz": _get("Whether it takes requests", {"text/plain": text}, example="/readyz"),
        "/metrics": _get("Figures for Prometheus", {"text/plain": text}, example="/metrics"),
    }


def _post(
    summary: str,
    description: str,
    content: Part,
    parameters: list[Part],
    answer: Part,
    sample: str,
    *,
    fhir: str = "",
    refusals: tuple[str, ...] = (),
) -> Part:
    """A POST operation; ``fhir`` describes its answer to ``Accept: application/fhir+json``, if any."""
    codes = ("400", "401", "406", "408", "413", "415", "422", "429", "503", *refusals)
    answers = _json(answer) | ({FHIR: {"schema": _RESOURCE | {"description": fhir}}} if fhir else {})
    return {
        "post": {
            "summary": summary,
            "description": f"{description}\n\n```sh\n{sample}\n```",
            "parameters": parameters,
            "requestBody": {"required": True, "content": content},
            "responses": {"200": {"description": "The answer", "content": answers}} | _problems(codes),
            "x-codeSamples": [{"lang": "Shell", "source": sample}],
        }
    }


def _get(
    summary: str,
    content: Part,
    *,
    parameters: list[Part] | None = None,
    example: str,
    refusals: tuple[str, ...] = (),
) -> Part:
    return {
        "get": {
            "summary": summary,
            "parameters": parameters or [],
            "responses": {"200": {"description": "The answer", "content": content}}
            | _problems(("401", "503", *refusals)),
            "x-codeSamples": [{"lang": "Shell", "source": f"curl -s {BASE}{example}"}],
        }
    }


def _problems(statuses: tuple[str, ...]) -> Part:
    """The refusals, each with the codes possible for its status."""
    content = {
        MEDIA_TYPE: {"schema": ref(ProblemDetails)},
        FHIR: {"schema": _RESOURCE | {"description": "An OperationOutcome, where FHIR was asked for."}},
    }
    library = {"422": "; or a reason code of the library (docs/scoring.md)"}
    return {
        status: {
            "description": "Refused with the code "
            + ", ".join(f"`{code}`" for code, (number, _) in TITLES.items() if str(number) == status)
            + library.get(status, ""),
            "content": content,
        }
        for status in sorted(set(statuses))
    }


def _json(schema: Part) -> Part:
    return {"application/json": {"schema": schema}}


def _point(models: Models, task: Task) -> Part:
    bundle = models.bundles[task]
    return {
        "name": "operating_point",
        "in": "query",
        "description": "Set of thresholds: "
        + " ".join(f"{name}: {point.description}." for name, point in bundle.operating_points.items()),
        "schema": {
            "type": "string",
            "enum": sorted(bundle.operating_points),
            "default": bundle.default_operating_point,
        },
    }
