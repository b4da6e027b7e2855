"""The decision rule: always an output at the Challenge point, no contradictions at the clinical one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.decisions import COMBINED, EXCLUDES, combined, decided, decided_over_windows, decisions
from ibt_deploy.vocabulary import CLASSES

INDEX = {name: i for i, c in enumerate(CLASSES) for name in c.abbreviation.split("|")}


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coarse probabilities and thresholds, so that there are ties, and evaluable classes."""
    rng = np.random.default_rng(seed)
    evaluable = rng.random(26) < 0.8
    evaluable[3] = True
    return np.round(rng.random((20, 26)), 1), np.round(rng.uniform(0.2, 1, 26), 1), evaluable


def called(**probabilities: float) -> tuple[set[str], set[str]]:
    """Names of the findings and of the alternatives at thresholds of 0.2."""
    p = np.zeros((1, 26))
    for name, value in probabilities.items():
        p[0, INDEX[name]] = value
    found = decided(p, np.full(26, 0.2), exclusive=True)
    names = [min(c.abbreviation.split("|"), key=len) for c in CLASSES]
    return tuple({names[i] for i in np.flatnonzero(row[0])} for row in found)  # type: ignore[return-value]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_decisions_follow_the_rule_and_are_never_none(seed: int) -> None:
    p, theta, evaluable = drawn(seed)
    outputs = decisions(p, theta, evaluable)
    for row, given_out in zip(p, outputs, strict=True):
        reached = [i for i in range(26) if evaluable[i] and row[i] >= theta[i]]
        nearest = max((i for i in range(26) if evaluable[i]), key=lambda i: row[i] / theta[i])
        assert np.flatnonzero(given_out).tolist() == (reached or [nearest])
    assert outputs.any(axis=1).all()
    assert not outputs[:, ~evaluable].any()
    assert decisions(p, theta).any(axis=1).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_exclusive_findings_never_contradict_each_other_and_nothing_is_lost(seed: int) -> None:
    p, theta, evaluable = drawn(seed)
    positive, alternative = decided(p, theta, evaluable, exclusive=True)
    np.testing.assert_array_equal(positive | alternative, (p >= theta) & evaluable)
    assert not (positive & alternative).any()
    for row, chosen, others in zip(p, positive, alternative, strict=True):
        for a, b in itertools.combinations(np.flatnonzero(chosen), 2):
            assert not EXCLUDES[a, b]
        for other in np.flatnonzero(others):
            rivals = np.flatnonzero(chosen & EXCLUDES[other])
            assert (row[rivals] / theta[rivals]).max() >= row[other] / theta[other]


@pytest.mark.parametrize(
    ("probabilities", "positive", "alternative"),
    [
        ({"NSR": 0.5, "AF": 0.31}, {"NSR"}, {"AF"}),
        ({"AF": 0.9, "NSR": 0.5, "RBBB": 0.4}, {"AF", "RBBB"}, {"NSR"}),
        ({"SA": 0.4, "SB": 0.5}, {"SA", "SB"}, set()),
        ({"SA": 0.4, "NSR": 0.5}, {"SA", "NSR"}, set()),
        ({"SA": 0.4, "AFL": 0.5}, {"AFL"}, {"SA"}),
        ({"Brady": 0.4, "AF": 0.5}, {"AF", "Brady"}, set()),
        ({"Brady": 0.4, "STach": 0.5}, {"STach"}, {"Brady"}),
        ({"LAD": 0.4, "RAD": 0.3, "LAnFB": 0.25}, {"LAD", "LAnFB"}, {"RAD"}),
        ({"LBBB": 0.4, "LAnFB": 0.3, "NSIVCB": 0.3, "IRBBB": 0.3}, {"LBBB"}, {"LAnFB", "NSIVCB", "IRBBB"}),
        ({"IAVB": 0.3, "AF": 0.5}, {"AF"}, {"IAVB"}),
        ({"NSR": 0.19}, set(), set()),
    ],
)
def test_contradictions_become_alternatives(
    probabilities: dict[str, float], positive: set[str], alternative: set[str]
) -> None:
    assert called(**probabilities) == (positive, alternative)


def test_what_loses_to_a_loser_stays() -> None:
    """RAD excludes LAnFB and LAD; LAnFB falls to LBBB, so RAD, which only LAnFB would exclude, stays."""
    assert called(LBBB=0.5, LAnFB=0.4, RAD=0.3) == ({"LBBB", "RAD"}, {"LAnFB"})


def test_every_class_has_one_way_to_combine_windows() -> None:
    names = [name for listed, _, _ in COMBINED for name in listed.split()]
    assert sorted(INDEX[name] for name in names) == list(range(26))


@pytest.mark.parametrize("exclusive", [False, True])
def test_thirty_seconds_of_fibrillation_in_ten_minutes_show(exclusive: bool) -> None:
    """Three of sixty windows, with the probabilities of the report: 0.68 in the worst, a mean near 0.09."""
    windows = np.full((60, 26), 0.01)
    windows[:, INDEX["NSR"]] = 0.8
    windows[:, INDEX["AF"]] = 0.06
    windows[30:33, INDEX["AF"]], windows[30:33, INDEX["NSR"]] = 0.68, 0.3
    windows[10, INDEX["LAD"]] = 0.9
    found = decided_over_windows(windows, np.full(26, 0.25), exclusive=exclusive)
    assert set(np.flatnonzero(found.positive[0])) == {INDEX["AF"], INDEX["NSR"]}
    assert not found.alternative.any()
    assert combined(windows)[INDEX["AF"]] == 0.68


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_one_window_is_decided_like_a_recording(seed: int, exclusive: bool) -> None:
    p, theta, evaluable = drawn(seed)
    expected = decided(p[:1], theta, evaluable, exclusive=exclusive)
    found = decided_over_windows(p[:1], theta, evaluable, exclusive=exclusive)
    np.testing.assert_array_equal(found.positive, expected.positive)
    np.testing.assert_array_equal(found.alternative, expected.alternative)


def test_classes_exclude_each_other_and_never_themselves() -> None:
    np.testing.assert_array_equal(EXCLUDES, EXCLUDES.T)
    assert not EXCLUDES.diagonal().any()
    rhythms = [INDEX[name] for name in ("NSR", "AF", "AFL", "SB", "STach", "PR")]
    assert all(EXCLUDES[a, b] for a, b in itertools.combinations(rhythms, 2))
