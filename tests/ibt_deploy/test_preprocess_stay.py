"""Features of a stay: right at each step, causal, and the same when streamed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.errors import BadRows, BundleError
from ibt_deploy.preprocess.stay import FeatureState, StayPreprocessing, clean, featurise, featurise_next
from ibt_deploy.vocabulary import INDEX, NAMES, VARIABLES

LOG_336 = math.log1p(336)


def random_rows(seed: int, hours: int, first_hour: int = 1) -> np.ndarray:
    """Rows with gaps everywhere, some implausible values and percent FiO2."""
    rng = np.random.default_rng(seed)
    low = np.array([v.plausible_min for v in VARIABLES])
    high = np.array([v.plausible_max for v in VARIABLES])
    values = rng.uniform(low - 0.1 * (high - low), high + 0.1 * (high - low), (hours, 40))
    values[:, INDEX["FiO2"]] = rng.choice([0.2, 0.35, 21, 60, -50], hours)
    for name in ("Gender", "Unit1", "Unit2"):
        values[:, INDEX[name]] = rng.integers(0, 2, hours)
    values[rng.random((hours, 40)) < rng.uniform(0.2, 0.95)] = np.nan
    values[:, INDEX["ICULOS"]] = np.arange(first_hour, first_hour + hours)
    return values


def constants(features: str = "full") -> StayPreprocessing:
    training = np.concatenate([random_rows(seed, 40) for seed in range(10)])
    training[:, INDEX["EtCO2"]] = np.nan
    return StayPreprocessing.fit(training, features=features)


FULL, VALUES40 = constants("full"), constants("values40")


def expected_full(values: np.ndarray, fitted: StayPreprocessing) -> np.ndarray:
    """The 109 features, computed row by row with dictionaries."""
    cleaned = clean(values)[0].astype(np.float64)
    last: dict[str, tuple[float, int]] = {}
    result = []
    for row, cells in enumerate(cleaned):
        for variable, cell in zip(VARIABLES, cells, strict=True):
            if not np.isnan(cell):
                last[variable.name] = (cell, row)
        normalised, observed, since = [], [], []
        for i, variable in enumerate(VARIABLES[:34]):
            known = fitted.deviations[i] > 0 and variable.name in last
            if known:
                value, when = last[variable.name]
                value = math.log1p(value) if variable.transform == "log1p" else value
            else:
                value, when = fitted.medians[i], -1
            score = (value - fitted.means[i]) / fitted.deviations[i] if fitted.deviations[i] > 0 else 0.0
            normalised.append(min(max(score, -5.0), 5.0))
            observed.append(float(known and when == row))
            since.append(math.log1p(row - when) / LOG_336 if known else 1.0)
        units = (last.get("Unit1", (0,))[0] == 1, last.get("Unit2", (0,))[0] == 1)
        admission = last.get("HospAdmTime", (fitted.admission_time,))[0]
        result.append(
            [
                *normalised,
                *observed,
                *since,
                last.get("Age", (fitted.age,))[0] / 100,
                last.get("Gender", (0.5,))[0],
                float(units == (True, False)),
                float(units == (False, True)),
                float(units[0] == units[1]),
                math.copysign(math.log1p(abs(admission)), admission) / 9,
                math.log1p(last["ICULOS"][0]) / LOG_336,
            ]
        )
    return np.array(result)


@pytest.mark.parametrize("seed", range(8))
def test_features_equal_those_computed_row_by_row(seed: int) -> None:
    values = random_rows(seed, 60, first_hour=1 + 3 * seed)
    features = featurise(values, np.array([0, 60]), FULL)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_full(values, FULL), atol=1e-6)


def test_values40_are_the_normalised_values_of_the_full_set() -> None:
    values = random_rows(3, 50)
    span = np.array([0, 50])
    full, short = featurise(values, span, FULL), featurise(values, span, VALUES40)
    assert short.shape == (50, 40)
    columns = [FULL.feature_names.index(name) for name in NAMES if name not in ("Unit1", "Unit2")]
    np.testing.assert_array_equal(
        np.delete(short, [INDEX["Unit1"], INDEX["Unit2"]], axis=1), full[:, columns]
    )
    np.testing.assert_array_equal(short[:, INDEX["Unit1"]], full[:, FULL.feature_names.index("MICU")])


def test_names_and_counts_of_the_features() -> None:
    assert (FULL.n_features, VALUES40.n_features) == (109, 40)
    assert FULL.feature_names[:2] == ("HR", "O2Sat")
    assert FULL.feature_names[34] == "HR observed"
    assert FULL.feature_names[-1] == "ICULOS"
    assert len(set(FULL.feature_names)) == 109


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(2, 30), st.data(), st.sampled_from([FULL, VALUES40]))
def test_later_rows_never_touch_earlier_features(seed, hours, data, fitted) -> None:
    values = random_rows(seed, hours)
    cut = data.draw(st.integers(1, hours - 1))
    changed = values.copy()
    changed[cut:] = random_rows(seed + 1, hours)[cut:]
    span = np.array([0, hours])
    before, after = (featurise(v, span, fitted)[:cut] for v in (values, changed))
    assert before.tobytes() == after.tobytes()
    assert featurise(values[:cut], np.array([0, cut]), fitted).tobytes() == before.tobytes()


@pytest.mark.parametrize("constants", [FULL, replace(FULL, hidden=("ICULOS", "HR"))])
def test_rows_that_are_clean_already_need_no_cleaning(constants: StayPreprocessing) -> None:
    raw, span = random_rows(3, 50), np.array([0, 50])
    rows, _ = clean(raw)
    before = rows.copy()
    expected = featurise(raw, span, constants).tobytes()
    assert featurise(rows, span, constants, cleaned=True).tobytes() == expected
    assert featurise_next(rows, constants, cleaned=True)[0].tobytes() == expected
    np.testing.assert_array_equal(rows, before)


@given(seeds, st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([FULL, VALUES40]))
def test_streaming_equals_the_whole_stay_bit_for_bit(seed, portions, fitted) -> None:
    values = random_rows(seed, sum(portions), first_hour=5)
    whole = featurise(values, np.array([0, len(values)]), fitted)
    state, parts = None, []
    for rows in np.split(values, np.cumsum(portions)[:-1]):
        features, state = featurise_next(rows, fitted, state)
        parts.append(features)
    assert state is not None
    assert state.rows == len(values)
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@given(seeds, st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_neighbours_in_a_batch_do_not_matter(seed, lengths) -> None:
    stays = [random_rows(seed + i, length) for i, length in enumerate(lengths)]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    together = featurise(np.concatenate(stays), offsets, FULL)
    alone = [featurise(stay, np.array([0, len(stay)]), FULL) for stay in stays]
    assert together.tobytes() == np.concatenate(alone).tobytes()


def test_many_stays_are_worked_off_in_portions() -> None:
    stay = random_rows(0, 336)
    together = featurise(np.tile(stay, (120, 1)), np.arange(121) * 336, FULL)
    alone = featurise(stay, np.array([0, 336]), FULL)
    assert together.tobytes() == np.tile(alone, (120, 1)).tobytes()


def test_single_and_double_precision_input_give_the_same_features() -> None:
    values = random_rows(1, 40)
    span = np.array([0, 40])
    assert (
        featurise(values.astype(np.float32), span, FULL).tobytes() == featurise(values, span, FULL).tobytes()
    )


def test_missing_demographics_have_stated_stand_ins_until_they_are_seen() -> None:
    values = np.full((3, 40), np.nan)
    values[:, INDEX["ICULOS"]] = [1, 2, 3]
    values[1, [INDEX[name] for name in ("Age", "Gender", "HospAdmTime", "Unit2")]] = [80, 1, -9, 1]
    features = featurise(values, np.array([0, 3]), FULL)[:, -7:]
    median_admission = math.copysign(math.log1p(abs(FULL.admission_time)), FULL.admission_time) / 9
    np.testing.assert_allclose(features[0, :6], [FULL.age / 100, 0.5, 0, 0, 1, median_admission], rtol=1e-6)
    seen = [0.8, 1, 0, 1, 0, -math.log1p(9) / 9]
    np.testing.assert_allclose(features[1:, :6], [seen, seen], rtol=1e-6)


@pytest.mark.parametrize(
    ("unit1", "unit2", "expected"),
    [(1, 0, (1, 0, 0)), (0, 1, (0, 1, 0)), (1, 1, (0, 0, 1)), (0, 0, (0, 0, 1)), (1, np.nan, (1, 0, 0))],
)
def test_units(unit1: float, unit2: float, expected: tuple[int, ...]) -> None:
    values = random_rows(0, 1)
    values[0, [INDEX["Unit1"], INDEX["Unit2"]]] = unit1, unit2
    assert tuple(featurise(values, np.array([0, 1]), FULL)[0, 104:107]) == expected


def test_a_variable_that_training_never_saw_is_ignored() -> None:
    column = INDEX["EtCO2"]
    assert FULL.deviations[column] == 0
    values = random_rows(0, 4)
    values[:, column] = 35
    features = featurise(values, np.array([0, 4]), FULL)
    assert (features[:, column] == 0).all()
    assert (features[:, 34 + column] == 0).all()
    assert (features[:, 68 + column] == 1).all()


def test_hidden_variables_change_nothing_and_the_others_stay_as_they_are() -> None:
    hidden = ("HR", "Age", "Unit1", "Unit2", "HospAdmTime", "ICULOS")
    ablated = replace(FULL, hidden=hidden)
    values, span = random_rows(0, 20), np.array([0, 20])
    without = values.copy()
    without[:, [INDEX[name] for name in hidden[:-1]]] = np.nan
    without[:, INDEX["ICULOS"]] = np.arange(100, 120)
    features = featurise(values, span, ablated)
    assert features.tobytes() == featurise(without, span, ablated).tobytes()
    assert (features[:, -1] == 0).all()
    np.testing.assert_array_equal(features[:, 1:34], featurise(values, span, FULL)[:, 1:34])


def test_fit_uses_observed_plausible_transformed_values_only() -> None:
    values = np.concatenate([random_rows(seed, 30) for seed in range(4)])
    fitted = StayPreprocessing.fit(values)
    hr = values[:, INDEX["HR"]]
    hr = hr[(hr >= 20) & (hr <= 300)]
    assert fitted.means[INDEX["HR"]] == pytest.approx(hr.mean(), rel=1e-6)
    assert fitted.deviations[INDEX["HR"]] == pytest.approx(hr.std(), rel=1e-6)
    lactate = values[:, INDEX["Lactate"]]
    lactate = np.log1p(lactate[(lactate >= 0.1) & (lactate <= 40)])
    assert fitted.medians[INDEX["Lactate"]] == pytest.approx(np.median(lactate), rel=1e-6)
    age = values[:, INDEX["Age"]]
    assert fitted.age == pytest.approx(np.median(age[(age >= 14) & (age <= 100)]), rel=1e-6)


def test_fit_reads_nothing_outside_the_stays_it_is_given() -> None:
    values = np.concatenate([random_rows(seed, 30) for seed in range(3)])
    poisoned = values.copy()
    poisoned[60:, :34] = 90.0
    offsets = np.array([0, 30, 60])
    assert StayPreprocessing.fit(values, offsets) == StayPreprocessing.fit(poisoned, offsets)


def test_constants_survive_json() -> None:
    for fitted in (FULL, VALUES40, replace(FULL, hidden=("Age", "ICULOS"))):
        assert StayPreprocessing.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2.0.0"}, "needs preprocessing stay 2.0.0, this ibt has stay 1.0.0"),
        ({"name": "ecg"}, "needs preprocessing ecg"),
        ({"variables": list(reversed(NAMES))}, "other variables"),
        ({"medians": [0.0] * 33}, "34 finite numbers as medians"),
        ({"means": [0.0] * 33 + [math.nan]}, r"incomplete or damaged: means\[33\]: nan"),
        ({"deviations": [-1.0] * 34}, "negative deviation"),
        ({"deviations": "much"}, "incomplete or damaged"),
        ({"age": None}, "incomplete or damaged"),
        ({"age": math.inf}, "incomplete or damaged: age: inf"),
        ({"age": "64"}, "incomplete or damaged: age: float is expected"),
        ({"features": "all"}, "incomplete or damaged: features: 'all' is not one of 'full', 'values40'"),
        ({"hidden": ["Pulse"]}, r"do not exist: \['Pulse'\]"),
    ],
)
def test_constants_that_are_not_understood_are_refused(change, message) -> None:
    with pytest.raises(BundleError, match=message):
        StayPreprocessing.from_dict(FULL.to_dict() | change)


@pytest.mark.parametrize("key", list(FULL.to_dict()))
def test_missing_constants_are_refused(key: str) -> None:
    stored = FULL.to_dict()
    del stored[key]
    with pytest.raises(BundleError):
        StayPreprocessing.from_dict(stored)


def test_constants_are_finite_wherever_they_come_from() -> None:
    with pytest.raises(BundleError, match="34 finite numbers as means"):
        replace(FULL, means=(math.nan,) * 34)
    with pytest.raises(BundleError, match="finite age"):
        replace(FULL, age=math.inf)


@pytest.mark.parametrize("hour", [np.nan, 0.0, 1.5, 337.0])
def test_rows_without_a_usable_hour_are_refused(hour: float) -> None:
    values = random_rows(0, 3)
    values[1, INDEX["ICULOS"]] = hour
    with pytest.raises(BadRows, match="ICULOS must be a whole hour"):
        featurise(values, np.array([0, 3]), FULL)


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 2, 1, 3], []])
def test_offsets_must_cover_the_rows(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must rise"):
        featurise(random_rows(0, 3), np.array(offsets, dtype=np.int64), FULL)


def test_the_state_tells_the_last_values_and_their_age() -> None:
    values = np.full((4, 40), np.nan)
    values[:, INDEX["ICULOS"]] = [1, 2, 3, 4]
    values[1, INDEX["HR"]] = 88
    _, state = featurise_next(values, FULL, FeatureState.empty())
    assert (state.last[INDEX["HR"]], state.since[INDEX["HR"]], state.rows) == (88, 2, 4)
    assert np.isnan(state.last[INDEX["Temp"]])
    features, same = featurise_next(values[:0], FULL, state)
    assert features.shape == (0, 109)
    assert (same.since[INDEX["HR"]], same.rows) == (2, 4)
