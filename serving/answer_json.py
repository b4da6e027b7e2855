"""Answers as JSON: what ``json.dumps`` writes of their ``to_dict()``, byte for byte, and sooner.

The hours of a stay, each with the names of what was not measured, are nearly all of its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import compress

import numpy as np

from ibt_deploy.predictions import DECIMALS, NOTICE, Bools, Prediction, Refusal, SepsisPrediction
from ibt_deploy.variables import NAMES

_BITS = 8
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
    threshold = repr(round(answer.threshold, DECIMALS))
    rows = zip(
        answer.hours.tolist(),
        answer.risk.tolist(),
        answer.alarms.tolist(),
        answer.inserted.tolist(),
        _listed(np.isnan(answer.values)),
        strict=True,
    )
    for hour, risk, alarm, inserted, missing in rows:
        yield (
            f'{{"hour": {hour}, "risk": {round(risk, DECIMALS)!r}, "threshold": {threshold}, '
            f'"alarm": {_WORDS[alarm]}, "inserted": {_WORDS[inserted]}, "missing": [{missing}]}}'
        )


def _listed(chosen: Bools) -> Iterator[str]:
    """The names of the chosen of the 40 variables, for each row, with commas between them."""
    packed = np.packbits(chosen, axis=1).tobytes()
    words = [[table[byte] for byte in packed[k :: len(_BY_EIGHT)]] for k, table in enumerate(_BY_EIGHT)]
    return (row[:-2] for row in map("".join, zip(*words, strict=True)))


def _by_eight() -> tuple[tuple[str, ...], ...]:
    quoted = [f"{json.dumps(name)}, " for name in NAMES]
    masks = [tuple(map(int, f"{byte:0{_BITS}b}")) for byte in range(2**_BITS)]
    return tuple(
        tuple("".join(compress(quoted[first : first + _BITS], mask)) for mask in masks)
        for first in range(0, len(quoted), _BITS)
    )


_BY_EIGHT = _by_eight()
"""For each eight of the variables the names that every byte of a packed row stands for."""
