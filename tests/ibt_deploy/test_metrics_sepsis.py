"""The utility of the Challenge 2019 against the official evaluator and against its definition."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.metrics import sepsis

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "metric_vectors.json").read_text()
)["sepsis"]


def flat(rows: list[list[Any]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([np.asarray(r) for r in rows]), np.cumsum([0, *map(len, rows)])


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_official_numbers(case: dict[str, Any]) -> None:
    labels, offsets = flat(case["labels"])
    risk, _ = flat(case["probs"])
    result = sepsis.scores(labels, risk, offsets, case["threshold"])
    rows = sepsis.row_utilities(labels, offsets)
    observed = rows.observed(risk >= case["threshold"])
    np.testing.assert_allclose(rows.per_stay(observed), case["utility_per_patient"], rtol=0, atol=1e-9)
    for ours, theirs in [
        (result.utility, "normalized_utility"),
        (observed.sum(), "observed_total"),
        (rows.best.sum(), "best_total"),
        (rows.silence.sum(), "inaction_total"),
        (result.auroc, "auroc"),
        (result.auprc, "auprc"),
        (result.accuracy, "accuracy"),
        (result.f_measure, "f_measure"),
    ]:
        assert ours == pytest.approx(case[theirs], abs=1e-9), theirs
    assert sepsis.utility(labels, risk >= case["threshold"], offsets) == result.utility
    at = sepsis.utility_sweep(labels, risk, offsets).at([case["threshold"]])
    assert at[0] == pytest.approx(case["normalized_utility"], abs=1e-9)


def utility_by_definition(labels: list[int], alarms: list[int]) -> float:
    """The utility of the Challenge 2019, row by row."""
    onset = labels.index(1) + 6 if 1 in labels else math.inf
    total = 0.0
    for t, alarm in enumerate(alarms):
        k = t - onset
        if onset == math.inf:
            total += -0.05 if alarm else 0.0
        elif k <= -6:
            total += max((k + 12) / 6, -0.05) if alarm else 0.0
        elif k <= 3:
            total += (3 - k) / 9 if alarm else -2 * (k + 6) / 9
    return total


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[list[list[int]], list[list[float]]]:
    labels, risks = [], []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(0, 40))
        onset = draw(st.integers(0, 60))
        labels.append([int(t >= onset) for t in range(length)])
        risks.append([draw(st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.75, 1.0])) for _ in range(length)])
    return labels, risks


@settings(max_examples=100, deadline=None)
@given(cohorts(), st.floats(-0.1, 1.1))
def test_utilities_match_the_definition_at_every_threshold(
    cohort: tuple[list[list[int]], list[list[float]]], threshold: float
) -> None:
    labels, risks = cohort
    y, offsets = flat(labels)
    p, _ = flat(risks)
    alarms = [[int(v >= threshold) for v in r] for r in risks]
    expected = [utility_by_definition(a, b) for a, b in zip(labels, alarms, strict=True)]
    rows = sepsis.row_utilities(y, offsets)
    np.testing.assert_allclose(rows.per_stay(rows.observed(p >= threshold)), expected, atol=1e-12)
    sweep = sepsis.utility_sweep(y, p, offsets)
    curve = sweep.at([threshold])[0]
    if not any(map(any, labels)):
        assert math.isnan(curve)
        return
    silent = sum(utility_by_definition(a, [0] * len(a)) for a in labels)
    best = 0.0
    for row in labels:
        onset = row.index(1) + 6 if 1 in row else math.inf
        best += utility_by_definition(row, [int(-12 <= t - onset <= 3) for t in range(len(row))])
    assert curve == pytest.approx((sum(expected) - silent) / (best - silent), abs=1e-9)
    each = [sepsis.utility(y, p >= t, offsets) for t in sweep.thresholds]
    np.testing.assert_allclose(sweep.utilities, each, atol=1e-9)


def test_a_full_septic_stay_is_worth_what_the_specification_says() -> None:
    labels = np.array([0] * 20 + [1] * 10)
    rows = sepsis.row_utilities(labels, np.array([0, 30]))
    assert rows.best.sum() == pytest.approx(7.5)
    assert rows.silence.sum() == pytest.approx(-10)
    onset = 26
    gains = [(rows.alarm - rows.silence)[onset + k] for k in (-12, -9, -6, -3, 0, 3)]
    np.testing.assert_allclose(gains, [0, 0.5, 1, 4 / 3, 5 / 3, 2])
    assert sepsis.onset_rows(labels, np.array([0, 30])) == [26]


def test_without_a_septic_patient_the_utility_is_nan_and_said_to_be() -> None:
    result = sepsis.scores(np.zeros(5), np.linspace(0, 1, 5), np.array([0, 2, 5]), 0.5)
    assert math.isnan(result.utility)
    assert math.isnan(result.auroc)
    assert "none of the 2 stays is septic" in result.notes[0]
    assert math.isnan(sepsis.utility(np.zeros(3), np.zeros(3), np.array([0, 3])))


def test_risks_of_exactly_zero_and_one_do_not_spoil_the_auroc() -> None:
    labels = np.array([0, 0, 1, 1])
    result = sepsis.scores(labels, labels.astype(float), np.array([0, 4]), 0.5)
    assert result.auroc == 1.0


@pytest.mark.parametrize("offsets", [[0, 3], [1, 4], [0, 5, 4], [], [[0, 4]]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[Any]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        sepsis.utility(np.zeros(4), np.zeros(4), np.array(offsets))


def test_risk_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="without NaN"):
        sepsis.utility_sweep(np.ones(2), np.array([0.1, np.nan]), np.array([0, 2]))


def test_a_million_and_a_half_rows_take_less_than_three_seconds() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 67, size=40_000)
    offsets = np.append(0, np.cumsum(lengths))
    septic = np.repeat(rng.random(40_000) < 0.07, lengths)
    left = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
    labels, risk = septic & (left <= 9), rng.random(offsets[-1])
    assert len(labels) > 1_450_000
    start = time.process_time()
    sweep = sepsis.utility_sweep(labels, risk, offsets)
    spent = time.process_time() - start
    assert np.isfinite(sweep.utilities).all()
    assert spent < 3, f"{spent:.2f} s"
