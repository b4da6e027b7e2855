"""Published figures against the metric modules and scikit-learn."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.exports import reseal
from sklearn.metrics import roc_auc_score

from export.build import open_data
from export.ecg import (
    FIXED,
    EcgPart,
    ecg_decisions,
    ecg_evaluation,
    macro_auroc,
)
from export.evaluable import auroc_interval, class_entries, evaluable_classes, held_out_ranking
from export.familiarity import over_windows
from export.scored import Answers, Decisions, Judged, Point, number
from export.stay import StayPart, stay_comparison, stay_decisions, stay_evaluation
from ibt_deploy.bundle import Calibration
from ibt_deploy.calibration import FittedCalibration
from ibt_deploy.decisions import decisions as decisions_of
from ibt_deploy.errors import ExportError
from ibt_deploy.evaluation import age_bands
from ibt_deploy.metrics import arrhythmia, bootstrap
from ibt_deploy.metrics.sepsis import alarm_statistics, policy_alarms, utility
from ibt_deploy.vocabulary import CLASSES

N = 120


def ecg_part(seed: int = 0) -> EcgPart:
    rng = np.random.default_rng(seed)
    labels = np.zeros((N, 26), dtype=bool)
    labels[:, :4] = rng.random((N, 4)) < (0.3, 0.2, 0.1, 0.02)
    known = np.ones((N, 26), dtype=bool)
    known[::7, 1] = False
    return EcgPart(
        [f"r{i}" for i in range(N)],
        [np.zeros((12, 2000), dtype=np.int16)] * N,
        labels,
        known,
        np.arange(N) // 2,
        {"source": np.where(np.arange(N) < 10, "small", "large")},
    )


def decisions(n: int, thresholds: dict[str, float]) -> Decisions:
    calibration = FittedCalibration(Calibration(np.ones(n), np.zeros(n)), ("platt",) * n)
    return Decisions(calibration, {k: Point(np.full(n, t), k) for k, t in thresholds.items()})


@pytest.fixture(scope="module")
def ecg_found() -> tuple[dict[str, Any], EcgPart, np.ndarray, np.ndarray]:
    part = ecg_part()
    p = np.clip(0.3 * part.labels + np.random.default_rng(1).random((N, 26)) * 0.7, 0, 1)
    evaluable = np.arange(26) < 3
    tuned = decisions(26, {"challenge": 0.4, "f1": 0.6})
    answers = Answers(part, p, decisions_of(p, np.full(26, 0.4), evaluable), {"too_short": 2})
    return ecg_evaluation(answers, tuned, evaluable, draws=50), part, p, evaluable


def test_ecg_figures_are_those_of_the_metric_modules(ecg_found: Any) -> None:
    found, part, p, evaluable = ecg_found
    for name, threshold in ((FIXED, 0.5), ("challenge", 0.4), ("f1", 0.6)):
        outputs = decisions_of(p, np.full(26, threshold), evaluable)
        row = found["thresholds"][name]
        expected = arrhythmia.challenge_metric(part.labels, outputs, mask=part.known)
        assert row["challenge_metric"]["value"] == pytest.approx(expected, abs=1e-6)
        f = arrhythmia.f_measure(part.labels, outputs, part.known)
        assert row["f_measure"]["value"] == pytest.approx(f.mean, abs=1e-6)
        assert row["n_f_classes"] == f.n_classes
        low, high = row["challenge_metric"]["interval"]
        assert low < row["challenge_metric"]["value"] < high


def test_ranking_is_averaged_over_evaluable_classes_alone(ecg_found: Any) -> None:
    found, part, p, evaluable = ecg_found
    expected = [roc_auc_score(part.labels[part.known[:, c], c], p[part.known[:, c], c]) for c in range(3)]
    assert found["threshold_free"]["auroc"]["value"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found["threshold_free"]["n_classes"] == 3
    assert macro_auroc(part, p, evaluable) == pytest.approx(np.mean(expected))
    by_class = found["classes"]
    assert by_class[CLASSES[1].abbreviation]["auroc"]["value"] == pytest.approx(expected[1], abs=1e-6)
    assert "auroc" not in by_class[CLASSES[3].abbreviation]


def test_decisions_of_a_class_are_counted(ecg_found: Any) -> None:
    found, part, p, evaluable = ecg_found
    known = part.known[:, 1]
    labels, given = part.labels[known, 1], decisions_of(p, np.full(26, 0.4), evaluable)[known, 1]
    entry = found["classes"][CLASSES[1].abbreviation]
    right = labels & given
    assert (entry["n"], entry["positives"]) == (known.sum(), labels.sum())
    assert entry["sensitivity"]["value"] == pytest.approx(right.sum() / labels.sum(), abs=1e-6)
    assert entry["specificity"]["value"] == pytest.approx(
        (~labels & ~given).sum() / (~labels).sum(), abs=1e-6
    )
    assert entry["ppv"]["value"] == pytest.approx(right.sum() / given.sum(), abs=1e-6)


def test_refusals_unknown_labels_and_small_groups_are_reported(ecg_found: Any) -> None:
    found, part, _, _ = ecg_found
    assert found["refused"] == {"too_short": 2}
    assert found["unknown_labels"] == (~part.known).sum()
    assert found["patients"] == N // 2
    small, large = found["groups"]["source"]["small"], found["groups"]["source"]["large"]
    assert small == {"recordings": 10, "patients": 5, "n_classes": 0}
    assert large["recordings"] == N - 10
    assert large["challenge_metric"]["interval"] is not None


def stay_part(n: int = 200, seed: int = 0) -> tuple[StayPart, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, 60, n)
    labels, risk = [], []
    for i, length in enumerate(lengths):
        onset = rng.integers(0, length) if i % 4 == 0 else length
        labels.append((np.arange(length) >= onset).astype(np.int8))
        risk.append(rng.random(length) * 0.5 + 0.4 * labels[-1])
    part = StayPart(
        [f"p{i}" for i in range(n)],
        [np.zeros((length, 40), dtype=np.float32) for length in lengths],
        np.concatenate(labels),
        {"hospital": np.where(np.arange(n) < 120, "A", "B"), "sex": np.where(np.arange(n) < 8, "x", "y")},
    )
    return part, np.concatenate(risk)


def test_alarm_rates_are_those_of_the_alarm_statistics() -> None:
    part, risk = stay_part()
    for threshold in (0.3, 0.6, 0.95):
        given = policy_alarms(risk, part.offsets, threshold)
        expected = alarm_statistics(part.labels, given, part.offsets)
        everybody = np.ones((1, len(part)))
        for name, statistic in bootstrap.alarm_rates(part.labels, given, part.offsets).items():
            np.testing.assert_allclose(statistic(everybody)[0], getattr(expected, name), rtol=1e-12)


def test_stay_figures() -> None:
    part, risk = stay_part()
    answers = Answers(part, risk, risk >= 0.5, {})
    tuned = decisions(1, {"utility": 0.5, "sparing": 0.8})
    found = stay_evaluation(answers, tuned, draws=50)
    expected = utility(part.labels, risk >= 0.8, part.offsets)
    assert found["thresholds"]["sparing"]["utility"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["threshold_free"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(part.labels, risk), abs=1e-6
    )
    assert set(found["alarms"]) == {"utility", "sparing"}
    assert found["septic"] == 50
    assert sum(b["n"] for b in found["calibration"]["bins"]) == len(part.labels)
    assert found["groups"]["hospital"]["A"]["utility"]["interval"] is not None
    assert found["groups"]["sex"]["x"] == {"stays": 8, "septic": 2}


def test_decisions_of_stays_are_tuned_after_calibration() -> None:
    part, risk = stay_part()
    logits = (5 * risk - 2).astype(np.float32)
    found = stay_decisions(logits, part)
    assert list(found.points) == ["utility", "sensitivity80", "alarms_per_10_patient_days"]
    assert found.default == "utility"
    calibrated = found.calibration.calibration.probability(logits)
    assert calibrated.mean() == pytest.approx(part.labels.mean(), rel=0.02)
    best = utility(part.labels, calibrated >= found.points["utility"].thresholds[0], part.offsets)
    for threshold in np.quantile(calibrated, [0.1, 0.5, 0.9]):
        assert best >= utility(part.labels, calibrated >= threshold, part.offsets)
    entry = found.to_dict()
    assert entry["default_operating_point"] == "utility"
    assert len(entry["calibration"]["slope"]) == 1


def test_every_recording_counts_once_in_calibration() -> None:
    part = ecg_part()
    rng = np.random.default_rng(2)
    single = rng.normal(0, 1, (N, 26)).astype(np.float32)
    counts = [3 if i == 5 else 1 for i in range(N)]
    several = np.insert(single, [5, 6], 50.0, axis=0)
    evaluable = np.arange(26) < 3
    alone, windows = (ecg_decisions(z, c, part, evaluable) for z, c in ((single, [1] * N), (several, counts)))
    np.testing.assert_array_equal(alone.calibration.calibration.slope, windows.calibration.calibration.slope)


def test_windows_are_averaged_as_scoring_does() -> None:
    p = np.array([[0.2], [0.4], [0.9], [0.1]])
    np.testing.assert_allclose(over_windows(p, [1, 2, 1]), [[0.2], [0.65], [0.1]])


def test_evaluable_needs_positives_and_a_ranking_on_validation() -> None:
    n = 200
    labels = np.zeros((n, 26), dtype=bool)
    labels[:10, :4] = True
    labels[:2, 3] = True
    labels[2:, 3] = False
    known = np.ones_like(labels)
    logits = np.where(labels, 2.0, 0.0) + np.random.default_rng(0).normal(0, 0.5, (n, 26))
    logits[:, 1] = np.random.default_rng(1).normal(size=n)
    positives = labels.sum(axis=0)
    train = np.full(26, 40)
    train[2] = 4
    counts = {"train": train, "validation": positives, "test": np.zeros(26, dtype=int)}
    # class 1 is ranked at random, class 2 has 14 positives in all, class 3 two on validation, the others none
    assert np.flatnonzero(evaluable_classes(counts, held_out_ranking(labels, known, logits))).tolist() == [0]
    with pytest.raises(ExportError, match="no class is evaluable"):
        evaluable_classes(counts, held_out_ranking(labels, known, np.zeros((n, 26))))


def test_every_class_has_its_ranking_on_recordings_that_the_networks_never_saw() -> None:
    rng = np.random.default_rng(0)
    labels, others = np.zeros((60, 26), dtype=bool), np.zeros((90, 26), dtype=bool)
    labels[:4, 0], others[:12, 0] = True, True
    known = np.ones_like(others)
    known[80:, 0] = False
    logits = labels * 2 + rng.normal(size=labels.shape)
    odds = np.exp(others * 2 + rng.normal(size=others.shape))
    opinion = Judged(others, known, odds / (1 + odds))
    held_out = held_out_ranking(labels, np.ones_like(labels), logits, opinion)
    counts = {"train": others.sum(axis=0), "validation": labels.sum(axis=0)}
    evaluable = evaluable_classes(counts, held_out)
    first, second, *_ = class_entries(counts, evaluable, held_out)
    assert first["evaluable"]
    assert (first["held_out"]["n"], first["held_out"]["positives"]) == (140, 16)
    low, high = first["held_out"]["auroc"]["interval"]
    assert 0.6 < low < first["held_out"]["auroc"]["value"] < high <= 1
    assert second["held_out"] == {"n": 150, "positives": 0}
    assert "held_out" not in class_entries(counts, evaluable)[0]


def test_interval_of_an_auroc_is_hanleys_and_mcneils() -> None:
    labels = np.arange(109) < 51
    scores = np.zeros(109)
    rng = np.random.default_rng(3)
    scores[labels] = rng.normal(1.76, 1, 51)
    scores[~labels] = rng.normal(0, 1, 58)
    area = roc_auc_score(labels, scores)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 50 * (q1 - area**2) + 57 * (q2 - area**2)) / (51 * 58))
    expected = (area, area - 1.96 * error, area + 1.96 * error)
    assert auroc_interval(labels, scores) == pytest.approx(expected)
    _, low, high = auroc_interval(np.arange(50) < 3, -np.arange(50.0))
    assert low < 0.9
    assert high == 1


def test_a_model_against_itself_makes_no_difference() -> None:
    part, risk = stay_part()
    answers = Answers(part, risk, risk >= 0.5, {})
    found = stay_comparison(answers, answers, draws=20)
    expected = utility(part.labels, risk >= 0.5, part.offsets)
    assert found["teacher"]["utility"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["student_minus_teacher"]["utility"] == {
        "value": 0.0,
        "interval": [0.0, 0.0],
        "resolved": False,
    }


def test_parts_without_some_items_stay_aligned() -> None:
    stays, _ = stay_part(20)
    chosen = np.arange(20) % 3 != 0
    kept = stays.select(chosen)
    assert len(kept.labels) == kept.offsets[-1]
    expected = [stays.labels[a:b] for a, b in zip(stays.offsets[:-1], stays.offsets[1:], strict=True)]
    np.testing.assert_array_equal(
        kept.labels, np.concatenate([e for e, c in zip(expected, chosen, strict=True) if c])
    )
    ecgs = ecg_part()
    few = replace(ecgs, patients=np.arange(N) // 2 + 7).select(np.arange(N) >= 100)
    assert few.patients.tolist() == (np.arange(20) // 2).tolist()


def test_sexes_are_read_where_some_are_missing(ecgs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(ecgs, folder)
    index = folder / "index.csv"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], lines[1].replace(",Male,", ",,"), *lines[2:], ""]))
    reseal(folder)
    parts = open_data(folder).parts.values()
    sexes = [part.groups["sex"].tolist() for part in parts]
    counts = Counter(sex for part in sexes for sex in part)
    assert counts == {"male": 49, "female": 50, "unknown": 1}
    index.write_text(index.read_text().replace(",Male,", ",,").replace(",Female,", ",,"))
    reseal(folder)
    assert {sex for part in open_data(folder).parts.values() for sex in part.groups["sex"]} == {"unknown"}


def test_age_bands() -> None:
    ages = np.array([0, 39.9, 40, 64, 65, 79, 80, 120, np.nan, -1])
    assert age_bands(ages).tolist() == [
        "under 40",
        "under 40",
        "40-64",
        "40-64",
        "65-79",
        "65-79",
        "80 and over",
        "80 and over",
        "unknown",
        "unknown",
    ]


def test_undefined_numbers_are_null() -> None:
    assert [number(v) for v in (0.12345678, float("nan"), float("inf"))] == [0.123457, None, None]
