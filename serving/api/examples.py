"""The examples of the documentation; the service answers every one of them unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.files import MemoryFolder
from ibt_deploy.readers import read
from ibt_deploy.records import Recording, Stay
from ibt_deploy.vocabulary import NAMES

FILES = ("recording.hea", "recording.dat")
LEADS = ("I", "II", "V2")
SECONDS, RATE = 10, 50
HOURS = 3


def recording() -> dict[str, Any]:
    """Ten seconds of three leads of the example recording, coarse enough to be readable in a document."""
    folder = MemoryFolder({name: _content(name) for name in FILES})
    (found,) = read(folder / FILES[0])
    assert isinstance(found, Recording)
    per_sample = round(found.sampling_rate) // RATE
    rows = found.signal[[found.leads.index(lead) for lead in LEADS], : SECONDS * RATE * per_sample]
    coarse = rows.reshape(len(LEADS), SECONDS * RATE, per_sample).mean(axis=2) * 1000
    return {
        "record": "example",
        "sampling_rate": RATE,
        "leads": list(LEADS),
        "unit": "uV",
        "signal": np.rint(coarse).astype(int).tolist(),
    }


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Hours of the example stay, with the values measured in each and all demographics."""
    (found,) = read(MemoryFolder({"stay.psv": _content("stay.psv")}) / "stay.psv")
    assert isinstance(found, Stay)
    return [
        {name: _plain(value) for name, value in zip(NAMES, row, strict=True) if not math.isnan(value)}
        for row in found.values[first : first + count].tolist()
    ]


def columns() -> dict[str, Any]:
    """The same hours as columns."""
    given = rows(0, HOURS)
    names = list(dict.fromkeys(name for row in given for name in row))
    return {name: [row.get(name) for row in given] for name in names}


def csv() -> str:
    """The same hours as CSV."""
    by_name = columns()
    lines = [",".join(by_name)]
    lines += [
        ",".join("" if v is None else str(v) for v in row) for row in zip(*by_name.values(), strict=True)
    ]
    return "\n".join(lines) + "\n"


def patient_view() -> dict[str, Any]:
    """A CDS Hooks request with the same hours as FHIR R4."""
    return dict(json.loads(_content("patient-view.json")))


def _content(name: str) -> bytes:
    return (Path(__file__).parents[1] / "examples" / name).read_bytes()


def _plain(value: float) -> int | float:
    return int(value) if value == int(value) else value
