"""The signal of a recording for who draws it, beside the answer: ``POST /v1/arrhythmia?signal=true``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ibt_deploy.leads import LEADS
from ibt_deploy.predictions import Refusal
from ibt_deploy.predictor import Item
from ibt_deploy.preprocess.ecg import SAMPLING_RATE, standardise
from ibt_deploy.records import Recording
from serving.problems import Problem
from serving.work import Answers, as_json

MOST_SECONDS = 60
STEP = 0.001
"""Millivolts; finer than any ECG amplifier resolves."""


def with_tracing(item: Item, answers: Answers) -> bytes:
    """The one answer with its recording's signal under ``signal``; raises a Problem where it is refused."""
    (answer,) = answers
    if isinstance(answer, Refusal):
        raise Problem.refused(answer)
    assert isinstance(item, Recording)  # whatever else is refused as being for another task
    return as_json(answer.to_dict() | {"signal": tracing(item)})


def tracing(recording: Recording) -> dict[str, Any]:
    """At most the first minute of the 12 leads at 200 Hz before any filter, in whole microvolts."""
    standard = standardise(recording)
    shown = standard.signal[:, : MOST_SECONDS * SAMPLING_RATE]
    return {
        "sampling_rate": SAMPLING_RATE,
        "unit": "mV",
        "scale": STEP,
        "seconds": shown.shape[1] / SAMPLING_RATE,
        "leads": list(LEADS),
        "missing": list(standard.missing_leads),
        "values": np.rint(shown / STEP).astype(int).tolist(),
    }
