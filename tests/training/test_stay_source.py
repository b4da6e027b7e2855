"""Batches of stays: every stay once per epoch, padded on the right, labels official or six rows earlier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import ids_of, stay_cache, tiny_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import DataError, RecipeError
from ibt_deploy.vocabulary import INDEX
from training.tasks import open_source
from training.tasks.stay import StaySource, concatenated_spans


def source(cache: Path, **sections: dict[str, object]) -> StaySource:
    opened = open_source(tiny_recipe("sepsis", "teacher", **sections), cache)
    assert isinstance(opened, StaySource)
    return opened


def raw_labels(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(cache / "rows-000.npz") as piece:
        return piece["values"], piece["labels"]


def test_parts_are_the_splits(stays: Path) -> None:
    data = source(stays)
    names = data.cache.index["patient"].to_numpy()
    for part in ("train", "validation", "test"):
        assert set(names[data.items(part)]) == ids_of(stays, part)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_deals_out_every_training_stay_once(
    stays: Path, batch_size: int, seed: int, epoch: int
) -> None:
    data = source(stays, fit={"batch_size": batch_size})
    plan = data.plan(seed, epoch)
    assert sorted(np.concatenate(plan)) == sorted(data.items("train"))
    assert all(len(items) for items in plan)
    again = data.plan(seed, epoch)
    assert all(np.array_equal(a, b) for a, b in zip(plan, again, strict=True))


def test_batches_hold_similar_lengths_and_similar_numbers_of_rows(tmp_path: Path) -> None:
    data = source(stay_cache(tmp_path / "many", 600, longest=120), fit={"batch_size": 16})
    lengths = np.diff(data.offsets)
    plan = data.plan(0, 0)
    rows = np.array([lengths[items].sum() for items in plan])
    assert rows.max() < 2 * rows.min()
    padding = sum(lengths[items].max() * len(items) for items in plan) / rows.sum()
    assert padding < 1.2
    assert data.plan(0, 1)[0].tolist() != plan[0].tolist()
    means = [lengths[items].mean() for items in plan]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5


def test_batches_are_padded_on_the_right_with_zeros(stays: Path) -> None:
    data = source(stays)
    _, labels = raw_labels(stays)
    items = data.items("train")[[4, 0, 9]]
    batch = data.training_batch(0, 0, items)
    lengths = np.diff(data.offsets)[items]
    assert batch.inputs.shape == (3, lengths.max(), 109)
    assert batch.rows is not None
    assert torch.equal(batch.rows, batch.known)
    for i, (item, length) in enumerate(zip(items, lengths, strict=True)):
        span = slice(data.offsets[item], data.offsets[item + 1])
        np.testing.assert_array_equal(batch.inputs[i, :length], data.features[span])
        np.testing.assert_array_equal(batch.labels[i, :length], labels[span])
        assert batch.rows[i].tolist() == [1.0] * length + [0.0] * (lengths.max() - length)
        assert not batch.inputs[i, length:].any()
        assert not batch.labels[i, length:].any()


def test_labels_six_rows_earlier(stays: Path) -> None:
    official, earlier = source(stays), source(stays, data={"label": "h12"})
    np.testing.assert_array_equal(official.official_labels, earlier.official_labels)
    for start, stop in zip(official.offsets[:-1], official.offsets[1:], strict=True):
        before, after = official.labels[start:stop], earlier.labels[start:stop]
        if not before.any():
            assert not after.any()
            continue
        onset = int(np.argmax(before))
        assert after.tolist() == [int(i >= onset - 6) for i in range(stop - start)]
    logits = (
        np.random.default_rng(0).normal(size=len(official.part_labels("validation")[0])).astype(np.float32)
    )
    assert official.selection_scores("validation", logits) == earlier.selection_scores("validation", logits)


def test_labels_and_weights_by_worth(stays: Path) -> None:
    official, worth = source(stays), source(stays, data={"label": "utility"})
    assert worth.weights is not None
    assert official.weights is None
    np.testing.assert_array_equal(official.official_labels, worth.official_labels)
    train = concatenated_spans(worth.offsets, worth.items("train"))
    assert worth.weights[train].mean() == pytest.approx(1, rel=1e-5)
    unit = worth.weights[worth.offsets[1]] / 0.05  # stay 1 is never septic: an alarm costs 0.05
    for start, stop in zip(official.offsets[:-1], official.offsets[1:], strict=True):
        before, pays = official.labels[start:stop], worth.labels[start:stop]
        weights = worth.weights[start:stop] / unit
        if not before.any():
            assert not pays.any()
            np.testing.assert_allclose(weights, 0.05, rtol=1e-5)
            continue
        from_onset = np.arange(stop - start) - (int(np.argmax(before)) + 6)
        assert pays.tolist() == [int(-12 < k <= 3) for k in from_onset]
        # gain of an alarm over silence in the Challenge's utility
        gains = {-20: 0.05, -9: 0.5, -6: 1.0, -3: 4 / 3, 0: 5 / 3, 3: 2.0, 4: 0.0}
        for k, weight in zip(from_onset.tolist(), weights.tolist(), strict=True):
            if k in gains:
                assert weight == pytest.approx(gains[k], rel=1e-5, abs=1e-6)


def test_one_hospital_trains_and_selects_and_the_other_is_kept_for_the_test(stays: Path) -> None:
    whole, only = source(stays), source(stays, data={"sites": ["B"]})
    hospital = whole.cache.index["hospital"].to_numpy()
    for part in ("train", "validation"):
        expected = [i for i in whole.items(part) if hospital[i] == "B"]  # type: ignore[arg-type]
        assert only.items(part).tolist() == expected  # type: ignore[arg-type]
    np.testing.assert_array_equal(only.items("test"), whole.items("test"))
    assert not only.prepares_as(whole.preprocessing())
    with pytest.raises(DataError, match=r"data\.sites: no C in these data; there are A, B"):
        source(stays, data={"sites": ["A", "C"]})


def test_shares_of_the_training_part_are_nested_and_alike_for_all_seeds(stays: Path) -> None:
    shares = {
        share: set(source(stays, data={"train_fraction": share}).items("train")) for share in (0.25, 0.5, 1.0)
    }
    assert shares[0.25] < shares[0.5] < shares[1.0]
    other = open_source(tiny_recipe("sepsis", "teacher", data={"train_fraction": 0.5}), stays)
    assert set(other.items("train")) == shares[0.5]


def test_constants_come_from_training_stays_alone(stays: Path, tmp_path: Path) -> None:
    data = source(stays)
    values, _ = raw_labels(stays)
    train = concatenated_spans(data.offsets, data.items("train"))
    column = values[train, INDEX["HR"]].astype(np.float64)
    assert data.constants.means[INDEX["HR"]] == pytest.approx(column.mean(), rel=1e-6)
    assert data.constants.deviations[INDEX["HR"]] == pytest.approx(column.std(), rel=1e-6)
    assert data.prepares_as(data.preprocessing())
    assert not data.prepares_as({**data.preprocessing(), "age": 1.0})


def test_hidden_variables_reach_no_feature(stays: Path) -> None:
    data = source(stays, data={"drop_variables": ["HR", "ICULOS"]})
    names = list(data.constants.feature_names)
    for name in ("HR", "HR observed", "ICULOS"):
        column = data.features[:, names.index(name)]
        assert np.ptp(column) == 0, name
    assert np.ptp(data.features[:, names.index("SBP")]) > 0


def test_paper_minimal_features(stays: Path) -> None:
    assert source(stays, data={"features": "values40"}).n_inputs == 40


def test_stays_longer_than_the_networks_positions_are_refused(stays: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.max_hours: 20, but there are stays of"):
        source(stays, data={"max_hours": 20})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
def test_concatenated_spans_by_hand(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    items = np.array(data.draw(st.permutations(range(len(lengths)))), dtype=np.int64)
    expected = [row for i in items for row in range(offsets[i], offsets[i + 1])]
    assert concatenated_spans(offsets, items).tolist() == expected


def test_gathered_logits_are_rows_end_to_end(stays: Path) -> None:
    data = source(stays)
    items = data.items("validation")
    outputs = [(chosen, batch.inputs[:, :, 0].numpy()) for chosen, batch in data.plain(items)]
    expected = data.features[concatenated_spans(data.offsets, items), 0]
    np.testing.assert_array_equal(data.gather(items, outputs), expected)
    _, offsets = data.part_labels("validation")
    assert offsets[-1] == len(expected)


def test_scores_of_perfect_logits(stays: Path) -> None:
    data = source(stays)
    labels, _ = data.part_labels("validation")
    logits = np.where(labels > 0, 5.0, -5.0).astype(np.float32)
    scores = data.selection_scores("validation", logits)
    assert scores["auroc"] == scores["auprc"] == pytest.approx(1)
    assert scores["selection"] == scores["utility"] > 0.5
    threshold = data.decision_thresholds("validation", logits)
    assert threshold.shape == (1,)
    assert 0.006 < threshold[0] <= 0.994


def test_test_labels_touch_nothing_that_is_selected(stays: Path) -> None:
    data = source(stays)
    labels, _ = data.part_labels("validation")
    logits = np.random.default_rng(0).normal(size=len(labels)).astype(np.float32)
    before = data.selection_scores("validation", logits)
    rows = concatenated_spans(data.offsets, data.items("test"))
    data.official_labels[rows] = 1 - data.official_labels[rows]
    assert data.selection_scores("validation", logits) == before
