"""Ensembles: averaged calibrated opinions, and a student that learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_recipe

from ibt_deploy.errors import DataError, RecipeError
from training.checkpoint import load_network, read_checkpoint
from training.data.split import PARTS, read_split
from training.ensemble import CrossFit, ensemble
from training.fit import part_logits
from training.run import blend_labels, load_teacher, read_opinion, train
from training.tasks import open_source

CPU = torch.device("cpu")
TASKS = ("sepsis", "arrhythmia")


@pytest.mark.parametrize("task", TASKS)
def test_a_student_of_an_ensemble(
    task: Literal["sepsis", "arrhythmia"], stays: Path, ecgs: Path, tmp_path: Path
) -> None:
    cache = stays if task == "sepsis" else ecgs
    members = []
    for seed in (0, 1):
        recipe = tiny_recipe(task, "transformer", fit={"epochs": 1})
        train(recipe.__class__(**{**vars(recipe), "seed": seed}), cache, tmp_path / str(seed), device="cpu")
        members.append(tmp_path / str(seed) / "best.pt")
    opinion = ensemble(members, cache, CPU)
    assert list(opinion.scores) == [*map(str, members), "ensemble"]
    assert opinion.scores[str(members[0])]["selection"] == pytest.approx(
        read_checkpoint(members[0])["scores"]["selection"], abs=1e-6
    )

    source = opinion.source
    logits = []
    for path in members:
        network = load_network(path).network
        own = {p: part_logits(network, source, source.items(p), CPU) for p in ("train", "validation")}  # type: ignore[arg-type]
        p = source.calibration("validation", own["validation"]).probability(own["train"])
        logits.append(np.log(p / (1 - p)))
    expected = 1 / (1 + np.exp(-np.mean(logits, axis=0)))
    np.testing.assert_allclose(opinion.probabilities, expected, atol=1e-5)

    if task == "sepsis":
        with_trees = ensemble(members, cache, CPU, trees=True)
        assert list(with_trees.scores) == [*map(str, members), "trees", "ensemble"]
        assert (with_trees.probabilities != opinion.probabilities).any()
        assert list(ensemble([], cache, CPU, trees=True).scores) == ["trees", "ensemble"]
        with pytest.raises(RecipeError, match="networks to cross-fit, or trees"):
            ensemble([], cache, CPU)
    else:
        with pytest.raises(RecipeError, match="none for ECGs"):
            ensemble(members, cache, CPU, trees=True)

    file = tmp_path / "opinion.npz"
    opinion.save(file)
    recipe = tiny_recipe(task, "transformer", fit={"epochs": 1}, data={"soft_weight": 0.25})
    softened, plain = open_source(recipe, cache), open_source(recipe, cache)
    blend_labels(softened, file, 0.25)
    items = softened.items("train")[:5]
    hard, soft = (s.training_batch(0, 0, items).labels.numpy() for s in (plain, softened))
    if task == "sepsis":
        lengths = [int(n) for n in plain.training_batch(0, 0, items).rows.sum(1)]  # type: ignore[union-attr]
        ends = np.cumsum(lengths)
        for i, (stop, n) in enumerate(zip(ends, lengths, strict=True)):
            mixed = 0.75 * hard[i, :n] + 0.25 * opinion.probabilities[stop - n : stop]
            np.testing.assert_allclose(soft[i, :n], mixed, atol=1e-6)
    else:
        np.testing.assert_allclose(soft, 0.75 * hard + 0.25 * opinion.probabilities[:5], atol=1e-6)
    held_out = softened.items("validation")[:3]
    same = (s.training_batch(0, 0, held_out).labels for s in (plain, softened))
    assert torch.equal(*same)

    with pytest.raises(DataError, match="give an ensemble's opinion"):
        train(recipe, cache, tmp_path / "pupil", device="cpu")
    train(recipe, cache, tmp_path / "pupil", opinion=file, device="cpu")
    learnt_from = read_checkpoint(tmp_path / "pupil" / "best.pt")["learnt_from"]
    assert learnt_from["teacher_sha256"] is None
    assert len(learnt_from["opinion_sha256"]) == 64
    share = tiny_recipe(task, "transformer", data={"soft_weight": 0.25, "train_fraction": 0.5})
    with pytest.raises(DataError, match="another share"):
        blend_labels(open_source(share, cache), file, 0.25)
    (tmp_path / "no.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="not the opinion of an ensemble"):
        blend_labels(plain, tmp_path / "no.npz", 0.5)


@pytest.mark.parametrize("task", TASKS)
def test_cross_fitted_networks_judge_only_what_they_never_saw(
    task: Literal["sepsis", "arrhythmia"], stays: Path, ecgs: Path, tmp_path: Path
) -> None:
    cache = stays if task == "sepsis" else ecgs
    recipe = tiny_recipe(task, "transformer", fit={"epochs": 1})
    opinion = ensemble([], cache, CPU, cross_fit=CrossFit(recipe, tmp_path, folds=2))
    assert list(opinion.scores) == ["cross-fitted", "ensemble"]
    source = opinion.source
    train_items, groups = (
        source.items("train"),
        source.cache.index["group" if task == "arrhythmia" else "patient"],
    )
    asked = []
    for fold in (1, 2):
        parts = read_split(tmp_path / f"fold-{fold}" / "split.csv", source.cache.ids)
        learnt, own = np.flatnonzero(parts == PARTS.index("train")), np.flatnonzero(parts == 1)
        assert set(learnt) | set(own) == set(train_items)
        assert not set(groups.iloc[learnt]) & set(groups.iloc[own])
        asked += own.tolist()
    assert sorted(asked) == train_items.tolist()

    fold_of = np.array([np.isin(item, own) for item in train_items])
    network = load_network(tmp_path / "fold-2" / "best.pt").network
    its_source = open_source(recipe, cache, tmp_path / "fold-2" / "split.csv")
    logits = part_logits(network, its_source, train_items[fold_of], CPU).ravel()
    if task == "arrhythmia":
        found = opinion.probabilities[fold_of].ravel()
    else:
        lengths = source.cache.index["length"].to_numpy()[train_items]
        found = opinion.probabilities[np.repeat(fold_of, lengths)]
    rises = np.diff(logits.astype(np.float64)[np.argsort(found, kind="stable")])
    if task == "sepsis":  # one output, so that calibration keeps the ranking
        assert (rises >= -1e-4).all()
    assert np.isfinite(found).all()
    assert len(found) == len(logits)

    again = ensemble([], cache, CPU, cross_fit=CrossFit(recipe, tmp_path, folds=2))
    np.testing.assert_array_equal(again.probabilities, opinion.probabilities)
    with pytest.raises(RecipeError, match="labels alone"):
        ensemble([], cache, CPU, cross_fit=CrossFit(tiny_recipe(task, "bbm"), tmp_path))


@pytest.mark.parametrize("task", TASKS)
def test_a_refit_learns_from_the_validation_part_and_judges_nothing_by_it(
    task: Literal["sepsis", "arrhythmia"], stays: Path, ecgs: Path, tmp_path: Path
) -> None:
    cache = stays if task == "sepsis" else ecgs
    with pytest.raises(RecipeError, match=r"fit\.select"):
        tiny_recipe(task, "transformer", data={"refit": True})
    opinion = tmp_path / "opinion.npz"
    plain = tiny_recipe(task, "transformer", fit={"epochs": 1})
    ensemble([], cache, CPU, cross_fit=CrossFit(plain, tmp_path / "folds", folds=2)).save(opinion)
    recipe = tiny_recipe(
        task, "transformer", fit={"epochs": 2, "select": "last"}, data={"refit": True, "soft_weight": 1.0}
    )
    source, chosen_on = open_source(recipe, cache), open_source(plain, cache)
    assert source.preprocessing() == chosen_on.preprocessing()
    learnt = np.concatenate(source.plan(0, 0))
    both = np.concatenate([chosen_on.items("train"), chosen_on.items("validation")])
    assert sorted(learnt) == sorted(both)
    assert len(np.concatenate(chosen_on.plan(0, 0))) < len(both)
    best = train(recipe, cache, tmp_path / "refit", opinion=opinion, device="cpu")
    assert (best["epoch"], best["validation"]) == (1, {"selection": 1.0})

    assert read_opinion(opinion).out_of_fold
    with pytest.raises(DataError, match="learnt from the validation part"):
        ensemble([tmp_path / "refit" / "best.pt"], cache, CPU)
    refit_teacher = tiny_recipe(task, "teacher", fit={"epochs": 1, "select": "last"}, data={"refit": True})
    train(refit_teacher, cache, tmp_path / "teacher", device="cpu")
    with pytest.raises(DataError, match="learnt from the validation part"):
        load_teacher(tmp_path / "teacher" / "best.pt", tiny_recipe(task, "bbm"), chosen_on)
    blend_labels(source, opinion, 1.0)
    items = source.items("validation")[:1]
    labels = source.training_batch(0, 0, items).labels.numpy().ravel()
    with np.load(opinion) as content:
        np.testing.assert_allclose(labels, content["validation"].ravel()[: len(labels)], atol=1e-6)
