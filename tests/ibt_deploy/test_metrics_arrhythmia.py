"""The measures of the Challenge 2021 against the official evaluator."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ibt_deploy.metrics import arrhythmia
from ibt_deploy.metrics.ranking import auprc, auroc, per_class
from ibt_deploy.vocabulary import CLASSES

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "metric_vectors.json").read_text())
CASES: list[dict[str, Any]] = VECTORS["ecg"]
COHORT = arrays(bool, (6, 26), elements=st.booleans())


def matrix(indices: list[list[int]]) -> np.ndarray:
    out = np.zeros((len(indices), 26), dtype=bool)
    for row, classes in enumerate(indices):
        out[row, classes] = True
    return out


def by_definition(labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> float:
    """The metric of the Challenge 2021, with the matrix A spelt out."""

    def total(given: np.ndarray) -> float:
        a = np.zeros((26, 26))
        for y, p in zip(labels, given, strict=True):
            n = max(int((y | p).sum()), 1)
            for j in np.flatnonzero(y):
                for k in np.flatnonzero(p):
                    a[j, k] += 1 / n
        return float((a * weights).sum())

    normal = np.zeros_like(labels)
    normal[:, 14] = True
    inactive, correct = total(normal), total(labels)
    return (total(outputs) - inactive) / (correct - inactive) if correct != inactive else 0.0


def test_class_order_is_the_official_one() -> None:
    assert [c.split("|")[0] for c in VECTORS["class_order"]] == [c.code for c in CLASSES]
    weights = arrhythmia.official_weights()
    assert weights.shape == (26, 26)
    assert (np.diag(weights) == 1).all()
    assert (weights == weights.T).all()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_official_numbers(case: dict[str, Any]) -> None:
    labels, outputs = matrix(case["labels"]), matrix(case["outputs"])
    assert arrhythmia.challenge_metric(labels, outputs) == pytest.approx(case["challenge_metric"], abs=1e-9)
    assert arrhythmia.f_measure(labels, outputs).mean == pytest.approx(case["macro_f"], abs=1e-9)
    assert arrhythmia.accuracy(labels, outputs) == pytest.approx(case["accuracy"], abs=1e-9)
    if "scores" in case:
        probabilities = np.array(case["scores"])
        assert per_class(auroc, labels, probabilities).mean == pytest.approx(case["macro_auroc"], abs=1e-9)
        assert per_class(auprc, labels, probabilities).mean == pytest.approx(case["macro_auprc"], abs=1e-9)
        everything = arrhythmia.scores(labels, probabilities, outputs)
        assert everything.auroc.mean == pytest.approx(case["macro_auroc"], abs=1e-9)
        assert everything.challenge_metric == pytest.approx(case["challenge_metric"], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(COHORT, COHORT)
def test_challenge_metric_matches_the_definition(labels: np.ndarray, outputs: np.ndarray) -> None:
    expected = by_definition(labels, outputs, arrhythmia.official_weights())
    assert arrhythmia.challenge_metric(labels, outputs) == pytest.approx(expected, abs=1e-9)


def test_a_record_without_a_label_changes_nothing() -> None:
    labels, outputs = matrix([[0], [1, 5]]), matrix([[0], [1]])
    more = np.vstack([labels, np.zeros((1, 26), bool)]), np.vstack([outputs, matrix([[3, 4]])])
    assert arrhythmia.challenge_metric(*more) == arrhythmia.challenge_metric(labels, outputs)


def test_nan_weights_are_skipped() -> None:
    labels, outputs = matrix([[0], [1]]), matrix([[1], [1]])
    weights = arrhythmia.official_weights().copy()
    weights[0, 1] = np.nan
    zero = np.nan_to_num(weights)
    assert arrhythmia.challenge_metric(labels, outputs, weights) == arrhythmia.challenge_metric(
        labels, outputs, zero
    )


@settings(max_examples=50, deadline=None)
@given(COHORT, COHORT, st.integers(0, 25), st.booleans(), st.booleans())
def test_an_unknown_label_has_no_influence(
    labels: np.ndarray, outputs: np.ndarray, column: int, label: bool, output: bool
) -> None:
    mask = np.ones((6, 26), dtype=bool)
    mask[2, column] = False
    changed_labels, changed_outputs = labels.copy(), outputs.copy()
    changed_labels[2, column], changed_outputs[2, column] = label, output
    for measure in (
        lambda y, p: arrhythmia.challenge_metric(y, p, mask=mask),
        lambda y, p: arrhythmia.f_measure(y, p, mask).mean,
        lambda y, p: arrhythmia.accuracy(y, p, mask),
    ):
        assert measure(labels, outputs) == pytest.approx(
            measure(changed_labels, changed_outputs), nan_ok=True
        )
    if column != 14:  # if sinus rhythm itself is unknown, the inactive model changes too
        assert arrhythmia.challenge_metric(labels, outputs, mask=mask) == pytest.approx(
            arrhythmia.challenge_metric(mask & labels, mask & outputs)
        )


def test_classes_that_never_occur_are_left_out_of_macro_f_and_named() -> None:
    labels, outputs = matrix([[0], [1]]), matrix([[0], [2]])
    result = arrhythmia.f_measure(labels, outputs)
    assert result.n_classes == 3
    assert result.mean == pytest.approx(1 / 3)
    assert np.isnan(result.per_class[3:]).all()
    silent = arrhythmia.f_measure(np.zeros((2, 26)), np.zeros((2, 26)))
    assert math.isnan(silent.mean)
    assert silent.n_classes == 0
    notes = arrhythmia.scores(labels, outputs.astype(float), outputs).notes
    assert "not evaluated" in notes[0]
    assert "TInv" in notes[0]


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        arrhythmia.challenge_metric(np.zeros((2, 25)), np.zeros((2, 25)))
