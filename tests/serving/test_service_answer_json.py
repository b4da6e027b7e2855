"""Answers written by hand are, byte for byte, what the JSON library writes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bentoml", reason="the service is not installed: pip install 'ibt[serve]'")

from ibt_deploy.predictions import Model, Refusal, SepsisPrediction
from ibt_deploy.records import Notice
from serving.score.answers import answer_json

MODEL = Model("sepsis", "1", "ab" * 32, "fp32", 'utility "max"', "cpu")


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans(), st.integers(0, 2**40 - 1)), min_size=1),
    st.text(),
    st.floats(0, 1),
    st.integers(1, 300),
)
def test_hours_of_every_kind(
    rows: list[tuple[float, bool, bool, int]], text: str, threshold: float, first: int
) -> None:
    risk, alarms, inserted, missing = map(np.array, zip(*rows, strict=True))
    answer = SepsisPrediction(
        record=text,
        source=text,
        format="PSV",
        changes=(text,),
        warnings=(Notice("single_row", text),),
        model=MODEL,
        hours=np.arange(first, first + len(rows)),
        risk=risk,
        alarms=alarms,
        threshold=threshold,
        values=np.where((missing[:, None] >> np.arange(40)) & 1, np.nan, 1.0),
        inserted=inserted,
    )
    assert answer_json(answer).decode() == json.dumps(answer.to_dict(), allow_nan=False)
    for number in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="not finite"):
            answer_json(replace(answer, risk=np.append(risk[:-1], number)))


def test_a_refusal() -> None:
    refused = Refusal('a"b', "bad_hour", "é")
    assert answer_json(refused).decode() == json.dumps(refused.to_dict())
