"""The packaged bundles, on this machine."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.bundles import recording, stay

from ibt_deploy.bundle import load_bundle, packaged_bundles
from ibt_deploy.golden import recomputed
from ibt_deploy.predictions import ArrhythmiaPrediction, SepsisPrediction
from ibt_deploy.predictor import Predictor, load
from ibt_deploy.streaming import RiskStream
from ibt_deploy.types import TASKS, Task
from ibt_deploy.vocabulary import N_TIME_VARYING


def packaged(task: Task) -> Predictor:
    if task not in packaged_bundles():
        pytest.skip(f"no {task} bundle is in the package")
    return load(task, device="cpu")


def risk_of(predictor: Predictor, values: np.ndarray) -> np.ndarray:
    prediction = predictor.predict(stay(len(values), values=values))
    assert isinstance(prediction, SepsisPrediction)
    return prediction.risk


@pytest.mark.parametrize("task", TASKS)
def test_golden_inputs_are_recomputed(task: Task) -> None:
    packaged(task)
    assert [c for c in recomputed(load_bundle(task)) if not c.passed] == []


@pytest.mark.parametrize("task", TASKS)
def test_the_card_and_the_contract_say_what_a_user_must_know(task: Task) -> None:
    bundle = packaged(task).bundle
    assert "not a medical device" in bundle.card
    for key in ("metrics", "training", "intended_use", "not_evaluated_on", "licences"):
        assert bundle.contract[key]


def test_recordings_are_answered_alike_in_any_company() -> None:
    predictor = packaged("arrhythmia")
    inputs = [recording(seconds, 500, seed) for seed, seconds in enumerate((10, 27, 6, 10))]
    alone = [predictor.predict(item) for item in inputs]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2, 1]):
        for i, found in zip(order, predictor.predict([inputs[i] for i in order]), strict=True):
            expected = alone[i]
            assert isinstance(found, ArrhythmiaPrediction)
            assert isinstance(expected, ArrhythmiaPrediction)
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5, rtol=0)


def test_stays_are_answered_alike_in_any_company() -> None:
    predictor = packaged("sepsis")
    inputs = [stay(hours, seed) for seed, hours in enumerate((1, 336, 40, 41))]
    for item, found in zip(inputs, predictor.predict(inputs), strict=True):
        assert isinstance(found, SepsisPrediction)
        np.testing.assert_allclose(found.risk, risk_of(predictor, item.values), atol=1e-5, rtol=0)


@pytest.mark.parametrize("hours", [2, 47, 336])
def test_changing_later_hours_leaves_earlier_risks_bit_identical(hours: int) -> None:
    predictor = packaged("sepsis")
    values = stay(hours, seed=hours).values
    before = risk_of(predictor, values)
    for first in {1, hours // 2, hours - 1}:
        changed = values.copy()
        changed[first:, :N_TIME_VARYING] = stay(hours, seed=99).values[first:, :N_TIME_VARYING]
        np.testing.assert_array_equal(risk_of(predictor, changed)[:first], before[:first])


def test_hour_by_hour_equals_the_whole_stay() -> None:
    predictor = packaged("sepsis")
    stream = RiskStream.load("sepsis", device="cpu")
    values = stay(60).values
    state, risks = None, []
    for rows in np.split(values, [1, 2, 3, 20, 59]):
        step = stream.next(rows, state)
        state, risks = step.state, [*risks, step.risk]
    np.testing.assert_allclose(np.concatenate(risks), risk_of(predictor, values), atol=1e-5, rtol=0)
