"""Answers as JSON, with the requested extras: the tracing of an ECG, vital signs of a stay, explanations.

A stay's answer is exactly what ``json.dumps`` writes for its ``to_dict()``, but faster: its hours, each
with the names of the unmeasured variables, are nearly all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from ibt_deploy.predictions import (
    DECIMALS,
    NOTICE,
    ArrhythmiaPrediction,
    Prediction,
    Refusal,
    SepsisPrediction,
)
from ibt_deploy.predictor import Item, Predictor
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, standardise
from ibt_deploy.records import Recording, Stay
from ibt_deploy.types import Bools
from ibt_deploy.vocabulary import LEADS, N_VITALS, NAMES, VARIABLES
from serving.http.problems import Problem
from serving.score.batching import Answers

TRACING_SECONDS = 60
EXPLAINED_SECONDS, EXPLAINED_HOURS = 60, 168
"""An explanation runs the graph 33 times per 10 s, and once for every hour and variable of a stay.

So its cost is quadratic in the hours. The stays of a request share the budget of one stay of this length.
"""

TRACING_STEP = 0.001
"""Millivolts; finer than any ECG amplifier resolves."""

_BITS = 8
_WORDS = {False: "false", True: "true"}
_NOTICE = json.dumps(NOTICE)


def one(answers: Answers) -> bytes:
    """The answer to a single request; raises a Problem if it is refused."""
    (answer,) = answers
    if isinstance(answer, Refusal):
        raise Problem.refused(answer)
    return answer_json(answer) + b"\n"


def several(answers: Answers) -> bytes:
    """An answer or a refusal for each stay, in order."""
    return b'{"stays": [' + b", ".join(map(answer_json, answers)) + b"]}\n"


def as_json(value: Any) -> bytes:
    """``value`` as one line of JSON, as ``ibt predict --json`` writes it."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Extras:
    """Optional additions to answers.

    Attributes
    ----------
    drawn
        The signal of a recording under ``signal``, the vital signs of a stay under ``vitals``.
    explainer
        Computes ``explanations``; None adds none.
    """

    drawn: bool = False
    explainer: Predictor | None = None

    def __bool__(self) -> bool:
        return self.drawn or self.explainer is not None

    def written(self, items: Sequence[Item], is_list: bool, answers: Answers) -> bytes:
        """The single answer with the extras, or a list; raises a Problem if the single one is refused."""
        if not is_list and isinstance(answers[0], Refusal):
            raise Problem.refused(answers[0])
        whole = list(map(self._whole, items, answers, unexplained(answers)))
        return as_json({"stays": whole} if is_list else whole[0])

    def _whole(self, item: Item, answer: Prediction | Refusal, unexplained: str | None) -> dict[str, Any]:
        whole = answer.to_dict()
        if isinstance(answer, Refusal):
            return whole
        assert isinstance(item, Recording | Stay)  # anything else is refused
        if self.drawn:
            whole |= {"signal": tracing(item)} if isinstance(item, Recording) else vitals(answer)
        if self.explainer is None:
            return whole
        if unexplained is not None:
            return whole | {"explanations": [], "not_explained": unexplained}
        return whole | {"explanations": [e.to_dict() for e in self.explainer.explain(item)]}


def unexplained(answers: Answers) -> Iterator[str | None]:
    """For each answer the reason why it is not explained (it would block a thread for long), else None."""
    left = EXPLAINED_HOURS**2
    for answer in answers:
        work = len(answer.hours) ** 2 if isinstance(answer, SepsisPrediction) else 0
        if isinstance(answer, ArrhythmiaPrediction) and answer.duration > EXPLAINED_SECONDS:
            yield f"A recording of more than {EXPLAINED_SECONDS} s is not explained."
        elif work > EXPLAINED_HOURS**2:
            yield f"A stay of more than {EXPLAINED_HOURS} hours is not explained."
        elif work > left:
            yield "The stays before it used up the limit of one request; ask for this one alone."
        else:
            left -= work
            yield None


def vitals(answer: Prediction) -> dict[str, Any]:
    """The vital signs of a stay as the model read them, None where there is no value."""
    assert isinstance(answer, SepsisPrediction)
    columns = answer.values[:, :N_VITALS].T.tolist()
    return {
        "vitals": [
            {
                "name": variable.name,
                "unit": variable.unit,
                "values": [None if math.isnan(value) else round(value, DECIMALS) for value in column],
            }
            for variable, column in zip(VARIABLES[:N_VITALS], columns, strict=True)
        ]
    }


def tracing(recording: Recording) -> dict[str, Any]:
    """At most the first minute of the 12 leads at 200 Hz before any filter, in whole microvolts."""
    standard = standardise(recording)
    shown = standard.signal[:, : TRACING_SECONDS * SAMPLING_RATE]
    return {
        "sampling_rate": SAMPLING_RATE,
        "unit": "mV",
        "scale": TRACING_STEP,
        "seconds": shown.shape[1] / SAMPLING_RATE,
        "leads": list(LEADS),
        "missing": list(standard.missing_leads),
        "values": np.rint(shown / TRACING_STEP).astype(int).tolist(),
    }


def answer_json(answer: Prediction | Refusal) -> bytes:
    """One answer; raises ValueError for a number that JSON cannot represent."""
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
    """The names of the chosen ones of the 40 variables, for each row, separated by commas."""
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
"""For each group of eight variables, the names selected by every byte of a packed row."""
