"""Batches of ECGs: every record once per epoch, parts of the split kept apart, windows as in scoring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import LOW_VOLTAGE, ids_of, tiny_recipe

from ibt_deploy.errors import DataError
from ibt_deploy.preprocess.ecg import StandardEcg, windows
from training.data.augment import rand_augment
from training.recipe import AugmentRecipe, DataRecipe
from training.tasks import build_network, open_cohort, open_source
from training.tasks.ecg import EcgSource

CALM = {"n_ops": 0, "shortest_crop": 10}


def source(cache: Path, **sections: dict[str, object]) -> EcgSource:
    opened = open_source(tiny_recipe("arrhythmia", "teacher", **sections), cache)
    assert isinstance(opened, EcgSource)
    return opened


def test_parts_are_the_splits(ecgs: Path) -> None:
    data = source(ecgs)
    names = data.cache.index["record"].to_numpy()
    seen = [set(names[data.items(part)]) for part in ("train", "validation", "test")]
    assert seen == [ids_of(ecgs, part) for part in ("train", "validation", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]


def test_an_epoch_deals_out_every_training_record_once(ecgs: Path) -> None:
    data = source(ecgs, fit={"batch_size": 16})
    plans = [data.plan(0, epoch) for epoch in (0, 1, 0)]
    for plan in plans:
        assert [len(items) for items in plan] == [16, 16, 4]
        assert sorted(np.concatenate(plan)) == sorted(data.items("train"))
    assert all(np.array_equal(a, b) for a, b in zip(plans[0], plans[2], strict=True))
    assert not np.array_equal(plans[0][0], plans[1][0])


def test_the_scale_is_the_deviation_of_all_training_samples(ecgs: Path) -> None:
    data = source(ecgs)
    index = data.cache.index
    signal = np.load(ecgs / "signal-000.npy")
    training = [
        signal[:, r.start : r.start + r.length].ravel() for r in index.iloc[data.items("train")].itertuples()
    ]
    assert data.constants.scale == pytest.approx(np.concatenate(training).astype(float).std() / 1000)
    assert data.n_inputs == 3
    assert data.samples == 2000
    assert data.prepares_as(data.preprocessing())
    assert not data.prepares_as({**data.preprocessing(), "scale": 0.1})


def test_nothing_of_validation_or_test_reaches_the_constants(ecgs: Path, tmp_path: Path) -> None:
    """The same training part beside other recordings gives the same scale."""
    data = source(ecgs)
    train = set(data.items("train").tolist())
    for item in range(60):
        if item not in train:
            data.signals[item] = np.full_like(data.signals[item], 30_000)
    assert data._training_deviation() == data.constants.scale


def test_plain_windows_are_those_of_scoring(ecgs: Path) -> None:
    data = source(ecgs)
    items = np.arange(60)
    for chosen, batch in data.plain(items):
        for item, window in zip(chosen, batch.inputs, strict=True):
            signal = data.signals[item] / 1000.0
            standard = StandardEcg(np.vstack([signal] * 4), (), (), ())
            masked = replace(data.constants, version="1.1.0", shortest_seconds=1.0)
            expected = windows(standard, masked, crop="centre")[0, :3]
            assert window.shape[1] == min(signal.shape[1], 2000)
            np.testing.assert_allclose(window.numpy(), expected[:, : window.shape[1]], atol=1e-6)


def test_without_augmentation_long_records_are_cropped_at_random(ecgs: Path) -> None:
    data = source(ecgs, augment=CALM)
    long = next(i for i in data.items("train") if data.signals[i].shape[1] > 2000)
    crops = [data.training_batch(0, epoch, np.array([long])).inputs[0].numpy() for epoch in range(8)]
    whole = np.clip(data.signals[long] / 1000.0 / data.constants.scale, -20, 20).astype(np.float32)
    starts = set()
    for crop in crops:
        fitting = [s for s in range(whole.shape[1] - 1999) if np.array_equal(whole[:, s : s + 2000], crop)]
        assert fitting
        starts.add(fitting[0])
    assert len(starts) > 3


def test_a_record_looks_the_same_whatever_share_of_the_batch_it_is_in(ecgs: Path) -> None:
    data = source(ecgs, augment={"n_ops": 2, "magnitude": 8})
    items = data.items("train")[:6]
    whole = data.training_batch(3, 5, items)
    for share in (slice(0, None, 2), slice(1, None, 2), slice(5, 6)):
        part = data.training_batch(3, 5, items, share)
        assert torch.equal(part.inputs, whole.inputs[share])
        assert torch.equal(part.labels, whole.labels[share])
    other = data.training_batch(3, 6, items)
    assert not torch.equal(other.inputs, whole.inputs)


def test_crops_are_whole_patches_between_the_shortest_and_ten_seconds(ecgs: Path) -> None:
    data = source(ecgs, student={"patch": 40}, augment={"n_ops": 2, "magnitude": 8, "shortest_crop": 5})
    long = np.array([i for i in data.items("train") if data.signals[i].shape[1] >= 2000])
    lengths = {
        data.training_batch(0, epoch, long[i : i + 4]).inputs.shape[2]
        for epoch in range(30)
        for i in range(2)
    }
    assert all(length % 40 == 0 and 960 <= length <= 2000 for length in lengths)
    assert len(lengths) > 10
    short = next(i for i in range(60) if data.signals[i].shape[1] < 2000)
    mixed = np.array([*long[:3], short])
    assert max(data.training_batch(0, e, mixed).inputs.shape[2] for e in range(20)) <= 1480


def test_augmentation_is_the_recipes(ecgs: Path) -> None:
    calm = source(ecgs, augment=CALM)
    wild = source(ecgs, augment={"n_ops": 2, "magnitude": 8, "shortest_crop": 10})
    item = next(i for i in calm.items("train") if calm.signals[i].shape[1] == 2000)
    plain = calm.training_batch(0, 0, np.array([item])).inputs[0].numpy()
    rng = np.random.default_rng((0, 0, int(item)))
    rng.integers(0, 1)
    expected = rand_augment(plain, 2, 8, rng)
    np.testing.assert_array_equal(wild.training_batch(0, 0, np.array([item])).inputs[0].numpy(), expected)


def test_unknown_labels_are_neither_positive_nor_known(ecgs: Path) -> None:
    data = source(ecgs)
    batch = data.training_batch(0, 0, np.arange(60))
    stored = np.load(ecgs / "labels.npy")
    np.testing.assert_array_equal(batch.labels.numpy(), stored == 1)
    np.testing.assert_array_equal(batch.known.numpy(), stored >= 0)
    assert not batch.known[::4, LOW_VOLTAGE].any()
    assert batch.rows is None


def test_labels_that_a_source_never_gives_can_be_left_out(ecgs: Path) -> None:
    plain, masked = source(ecgs), source(ecgs, data={"label_mask": "source"})
    assert plain.asked.all()
    origin = masked.cache.index["source"].to_numpy()
    train = masked.items("train")
    for name in ("one", "two"):
        given = (masked.labels[train[origin[train] == name]] == 1).any(axis=0)
        assert 0 < given.sum() < 26
        rows = np.flatnonzero(origin == name)
        expected = (masked.labels[rows] >= 0) & given
        np.testing.assert_array_equal(masked.training_batch(0, 0, rows).known.numpy(), expected)
    logits = np.random.default_rng(0).normal(size=(len(plain.items("validation")), 26)).astype(np.float32)
    assert plain.selection_scores("validation", logits) == masked.selection_scores("validation", logits)


def test_band_is_applied_before_the_scale_is_taken(ecgs: Path) -> None:
    plain, filtered = source(ecgs), source(ecgs, data={"band": [5.0, 40.0]})
    assert filtered.constants.band == (5.0, 40.0)
    assert filtered.constants.scale < plain.constants.scale
    spectrum = np.abs(np.fft.rfft(filtered.signals[0].astype(float), axis=1)) ** 2
    low = np.fft.rfftfreq(filtered.signals[0].shape[1], 1 / 200) < 1
    assert spectrum[:, low].sum() < 0.01 * spectrum.sum()


def test_a_fraction_of_the_training_part(ecgs: Path) -> None:
    whole, half = source(ecgs), source(ecgs, data={"train_fraction": 0.5})
    assert len(half.items("train")) == 18
    assert set(half.items("train")) < set(whole.items("train"))
    for part in ("validation", "test"):
        np.testing.assert_array_equal(half.items(part), whole.items(part))  # type: ignore[arg-type]


def test_gathered_logits_follow_the_items(ecgs: Path) -> None:
    data = source(ecgs)
    items = np.array([7, 3, 50])
    outputs = [
        (np.array([50, 7]), np.array([[50.0], [7.0]], np.float32)),
        (np.array([3]), np.array([[3.0]], np.float32)),
    ]
    np.testing.assert_array_equal(data.gather(items, outputs)[:, 0], items)


def test_scores_of_perfect_and_useless_logits(ecgs: Path) -> None:
    data = source(ecgs)
    labels, known = data.part_labels("validation")
    assert not known.all()
    perfect = data.selection_scores("validation", np.where(labels, 9.0, -9.0).astype(np.float32))
    assert perfect["selection"] == perfect["challenge"] == pytest.approx(1)
    assert perfect["auroc"] == perfect["auprc"] == pytest.approx(1)
    thresholds = data.decision_thresholds("validation", np.where(labels, 9.0, -9.0).astype(np.float32))
    assert thresholds.shape == (26,)
    assert ((thresholds > 0) & (thresholds < 1)).all()


def test_test_labels_touch_nothing_that_is_selected(ecgs: Path) -> None:
    data, poisoned = source(ecgs), source(ecgs)
    poisoned.labels = poisoned.labels.copy()
    poisoned.labels[poisoned.items("test")] = 1 - poisoned.labels[poisoned.items("test")]
    logits = np.random.default_rng(0).normal(0, 1, (len(data.items("validation")), 26)).astype(np.float32)
    assert data.selection_scores("validation", logits) == poisoned.selection_scores("validation", logits)
    np.testing.assert_array_equal(
        data.decision_thresholds("validation", logits), poisoned.decision_thresholds("validation", logits)
    )
    batch, other = (s.training_batch(0, 0, s.items("train")) for s in (data, poisoned))
    assert torch.equal(batch.labels, other.labels)


def test_augmentation_defaults() -> None:
    assert replace(AugmentRecipe()) == AugmentRecipe(n_ops=2, magnitude=3.0)
    assert DataRecipe().band == ()


@pytest.mark.parametrize("method", ["teacher", "transformer", "deit"])
def test_a_study_judges_short_recordings_by_what_was_recorded(method: str, ecgs: Path) -> None:
    cohort = open_cohort(ecgs)
    recipe = tiny_recipe("arrhythmia", method)
    torch.manual_seed(0)
    data = source(ecgs)
    network = build_network(recipe, data.n_inputs, data.samples).eval()
    items = np.arange(len(cohort))
    found = cohort.logits(network, items, data.preprocessing(), torch.device("cpu"))
    short = [i for i in items if data.signals[i].shape[1] < data.samples]
    assert 0 < len(short) < len(items)
    for chosen, batch in data.plain(items):
        with torch.no_grad():
            np.testing.assert_allclose(found[chosen], network(batch.inputs).numpy(), atol=1e-5)


def test_records_can_be_cut_to_the_most_common_length(ecgs: Path) -> None:
    source = open_source(tiny_recipe("arrhythmia", "transformer"), ecgs)
    assert isinstance(source, EcgSource)
    items = np.concatenate([source.items(part) for part in ("train", "validation", "test")])
    lengths = np.array([source.signals[i].shape[1] for i in items])
    assert lengths.min() < 2000 < lengths.max()
    cut, kept = source.of_one_length(items)
    assert kept.tolist() == items[lengths >= 2000].tolist()
    assert {batch.inputs.shape[2] for _, batch in cut.plain(kept)} == {2000}
    cut.samples = 1000
    assert len(cut.of_one_length(items)[1]) == len(items)


def test_copies_of_what_was_learnt_are_not_left_out(ecgs: Path) -> None:
    cohort = open_cohort(ecgs)  # the two recordings of a group are of sources one and one, or one and two
    learnt = np.concatenate((cohort.items("train", ("one",)), cohort.items("validation", ("one",))))
    left_out = cohort.left_out(("one",))
    groups = cohort.cache.index["group"].to_numpy()
    assert set(cohort.sites[left_out]) == {"two"}
    assert not set(groups[left_out]) & set(groups[learnt])
    assert 0 < len(left_out) < (cohort.sites == "two").sum()


def test_a_share_that_leaves_nothing_to_learn_from_is_refused(ecgs: Path) -> None:
    with pytest.raises(DataError, match="nothing is left to learn from"):
        source(ecgs, data={"train_fraction": 0.001})
