"""Variants of R squared, against numpy, scikit-learn and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, r2_score

from ibt_deploy.metrics.bootstrap import intervals
from training.study.measures import agreement_statistics

RNG = np.random.default_rng(0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def logits(n: int, classes: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    teacher = RNG.normal(RNG.normal(-2, 2, classes), 1, (n, classes))
    return teacher + noise * RNG.normal(size=teacher.shape), teacher


def values(student: np.ndarray, teacher: np.ndarray, thresholds: float = 0.3) -> dict[str, float]:
    patients = np.arange(len(student))
    statistics = agreement_statistics(student, teacher, thresholds, thresholds, patients)
    return {name: found.value for name, found in intervals(statistics, len(student), draws=2).items()}


def test_values_are_those_of_other_programs() -> None:
    student, teacher = logits(400, 5, 0.7)
    p, q = sigmoid(student), sigmoid(teacher)
    found = values(student, teacher)
    columns = list(zip(p.T, q.T, strict=True))
    assert found["r_squared"] == pytest.approx(np.mean([np.corrcoef(a, b)[0, 1] ** 2 for a, b in columns]))
    assert found["r_squared_pooled"] == pytest.approx(np.corrcoef(p.ravel(), q.ravel())[0, 1] ** 2)
    assert found["determination"] == pytest.approx(np.mean([r2_score(b, a) for a, b in columns]))
    by_logit = [np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(student.T, teacher.T, strict=True)]
    assert found["r_squared_logits"] == pytest.approx(np.mean(by_logit))
    assert found["same_decision"] == pytest.approx(np.mean((p >= 0.3) == (q >= 0.3)))
    expected = [cohen_kappa_score(a >= 0.3, b >= 0.3) for a, b in columns]
    assert found["kappa"] == pytest.approx(np.mean(expected))


def test_pooling_inflates() -> None:
    """Two networks that share nothing but the prevalence of the classes look alike when pooled."""
    _, first = logits(500, 8, 0.0)
    second = first[RNG.permutation(500)]
    found = values(second, first)
    assert found["r_squared"] < 0.02
    assert found["r_squared_pooled"] > 0.4
    assert found["determination"] < 0


def test_a_network_agrees_with_itself() -> None:
    _, teacher = logits(100, 3, 0.0)
    assert all(value == pytest.approx(1) for value in values(teacher, teacher).values())


def test_a_line_of_hours_is_one_class() -> None:
    student, teacher = logits(300, 1, 1.0)
    assert values(student[:, 0], teacher[:, 0]) == values(student, teacher)


def test_constant_outputs_are_left_out_and_counted() -> None:
    student, teacher = logits(200, 3, 0.5)
    student[:, 1] = -3.3
    p, q = sigmoid(student), sigmoid(teacher)
    others = [np.corrcoef(p[:, i], q[:, i])[0, 1] ** 2 for i in (0, 2)]
    assert values(student, teacher)["r_squared"] == pytest.approx(np.mean(others))
    assert np.isnan(values(np.zeros(9), np.zeros(9))["r_squared"])


def test_tiny_probabilities_keep_their_correlation() -> None:
    student, teacher = logits(300, 1, 0.5)
    a, b = sigmoid(student - 18), sigmoid(teacher - 18)
    expected = np.corrcoef(a[:, 0], b[:, 0])[0, 1] ** 2
    assert values(student - 18, teacher - 18)["r_squared"] == pytest.approx(expected)


def test_drawing_a_patient_twice_counts_the_rows_twice() -> None:
    student, teacher = logits(60, 2, 0.8)
    patients = np.repeat(np.arange(20), 3)
    statistics = agreement_statistics(student, teacher, 0.2, 0.2, patients)
    weights = np.random.default_rng(1).integers(0, 3, 20)
    rows = np.repeat(np.arange(60), weights[patients])
    again = agreement_statistics(student[rows], teacher[rows], 0.2, 0.2, np.zeros(len(rows), dtype=int))
    for name, statistic in statistics.items():
        weighted = statistic(weights[None].astype(float))[0]
        assert weighted == pytest.approx(again[name](np.ones((1, 1)))[0]), name


def test_extreme_logits_do_not_overflow() -> None:
    found = values(np.array([-2000.0, 0, 3, 2000]), np.array([-1000.0, 0, 2, 1000]))
    assert found["r_squared"] == pytest.approx(1, abs=0.01)
