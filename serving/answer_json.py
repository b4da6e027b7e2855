"""Answers as JSON: what ``json.dumps`` writes of their ``to_dict()``, byte for byte, and sooner.

The hours of a stay, each with the names of what was not measured, are nearly all of its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import compress

import numpy as np

from ibt_deploy.predictions import DECIMALS, NOTICE, Prediction, Refusal, SepsisPrediction
from ibt_deploy.variables import NAMES

_QUOTED = tuple(map(json.dumps, NAMES))
_WORDS = {False: "false", True: "true"}
_NOTICE = json.dumps(NOTICE)


def answer_json(answer: Prediction | Refusal) -> bytes:
    """One answer; raises ValueError for a number that JSON does not have."""
    if not isinstance(answer, SepsisPrediction):
        return json.dumps(answer.to_dict(), allow_nan=False).encode()
    if not np.isfinite(answer.risk).all():
        raise ValueError("a risk is not finite")
    begin = json.dumps(answer.before_hours(), allow_nan=False)
    return f'{begin[:-1]}, "hours": [{", ".join(_hours(answer))}], "notice": {_NOTICE}}}'.encode()


def _hours(answer: SepsisPrediction) -> Iterator[str]:
    threshold = round(answer.threshold, DECIMALS)
    rows = zip(
        answer.hours.tolist(),
        answer.risk.tolist(),
        answer.alarms.tolist(),
        answer.inserted.tolist(),
        np.isnan(answer.values).tolist(),
        strict=True,
    )
    for hour, risk, alarm, inserted, missing in rows:
        yield (
            f'{{"hour": {hour}, "risk": {round(risk, DECIMALS)!r}, "threshold": {threshold!r}, '
            f'"alarm": {_WORDS[alarm]}, "inserted": {_WORDS[inserted]}, '
            f'"missing": [{", ".join(compress(_QUOTED, missing))}]}}'
        )
