"""JSON Schemas of what comes in and goes out, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from ibt_deploy.variables import MAX_HOURS, NAMES, VARIABLES

Schema = dict[str, Any]
NUMBER: Schema = {"type": ["number", "null"]}
TEXT: Schema = {"type": "string"}
RECORD: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": "No personal data."}


def ref(name: str) -> Schema:
    """A reference to one of :func:`components`."""
    return {"$ref": f"#/components/schemas/{name}"}


def components() -> dict[str, Schema]:
    """All schemas by name."""
    return {
        "Recording": _object(
            {
                "signal": _list(_list(NUMBER), "One list of samples for each lead; null where invalid."),
                "sampling_rate": {"type": "number", "exclusiveMinimum": 0, "description": "Hz"},
                "leads": _list(TEXT, "Lead names, in the order of the signal."),
                "unit": {"type": "string", "enum": ["mV", "uV", "V"]},
                "record": RECORD,
            },
            optional=("record",),
            closed=True,
        ),
        "Row": {
            "type": "object",
            "description": "One hour: any of the 40 variables; null or absent where not measured.",
            "properties": {
                v.name: NUMBER | {"description": _described(v.description, v.unit)} for v in VARIABLES
            }
            | {"hour": NUMBER | {"description": "The same as ICULOS."}},
        },
        "Stay": {
            "description": "One stay by rows, or by columns.",
            "oneOf": [
                _object({"rows": _list(ref("Row")), "record": RECORD}, optional=("record",), closed=True),
                _object(
                    {
                        "columns": {
                            "type": "object",
                            "properties": {name: _list(NUMBER) for name in NAMES},
                        },
                        "record": RECORD,
                    },
                    optional=("record",),
                    closed=True,
                ),
            ],
        },
        "Stays": _object({"stays": _list(ref("Stay"))}, closed=True),
        "NextHours": _object(
            {
                "rows": _list(ref("Row"), "The hours that follow; one is usual."),
                "state": {
                    "type": ["string", "null"],
                    "description": "Of the answer before; null at the start.",
                },
                "record": RECORD,
            },
            optional=("state", "record"),
            closed=True,
        ),
        **_answers(),
    }


def _answers() -> dict[str, Schema]:
    head: Schema = {
        "record": TEXT,
        "task": TEXT,
        "bundle": _object({"name": TEXT, "version": TEXT, "sha256": TEXT, "variant": TEXT}),
        "operating_point": TEXT,
        "device": TEXT,
    }
    probability: Schema = {"type": "number", "minimum": 0, "maximum": 1}
    truth: Schema = {"type": "boolean"}
    warnings = _list(_object({"code": TEXT, "message": TEXT}), "Reasons to trust the answer less.")
    hour = _object(
        {
            "hour": {"type": "integer", "minimum": 1, "maximum": MAX_HOURS},
            "risk": probability,
            "threshold": probability,
            "alarm": truth,
            "inserted": truth,
            "missing": _list(TEXT),
        }
    )
    finding = _object(
        {
            "code": TEXT | {"description": "SNOMED CT"},
            "abbreviation": TEXT,
            "name": TEXT,
            "probability": probability,
            "threshold": probability,
            "positive": truth,
            "evaluable": truth,
            "status": {"type": "string", "enum": ["positive", "alternative", "negative", "not evaluable"]},
        }
    )
    found: Schema = {"input": {"type": "object"}, "warnings": warnings, "notice": TEXT}
    stay = head | found | {"hours": _list(hour)}
    refusal = _object({"source": TEXT, "refused": {"const": True}, "code": TEXT, "message": TEXT})
    return {
        "Findings": _object(
            head
            | found
            | {"findings": _list(finding), "windows": _list({"type": "object"}), "signal": _signal()},
            optional=("signal",),
        ),
        "Risk": _object(stay),
        "Refusal": refusal,
        "Risks": _object({"stays": _list({"anyOf": [ref("Risk"), ref("Refusal")]})}),
        "RiskAndState": _object(
            stay | {"state": TEXT | {"description": "Opaque; send it with the next hour."}}
        ),
        "Problem": _object(
            {
                "type": TEXT,
                "title": TEXT,
                "status": {"type": "integer"},
                "detail": TEXT,
                "code": TEXT | {"description": "Machine-readable reason; docs/service.md lists them."},
                "request_id": TEXT,
            }
        )
        | {"description": "RFC 9457"},
    }


def _signal() -> Schema:
    number: Schema = {"type": "number", "exclusiveMinimum": 0}
    row = _list({"type": ["integer", "null"]}, "Millivolts are these times 'scale'; null where invalid.")
    schema = _object(
        {
            "sampling_rate": number | {"description": "Hz"},
            "unit": {"const": "mV"},
            "scale": number,
            "seconds": number,
            "leads": _list(TEXT),
            "missing": _list(TEXT, "Leads without any valid sample."),
            "values": _list(row, "One list for each of 'leads'."),
        }
    )
    return schema | {"description": "Only with signal=true: at most the first minute, before any filter."}


def _object(properties: Schema, *, optional: tuple[str, ...] = (), closed: bool = False) -> Schema:
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }
    return schema | {"additionalProperties": False} if closed else schema


def _list(items: Schema, description: str | None = None) -> Schema:
    schema: Schema = {"type": "array", "items": items}
    return schema if description is None else schema | {"description": description}


def _described(description: str, unit: str) -> str:
    return f"{description} ({unit})" if unit else description
