"""Objectives built from recipes: teachers accepted and refused, and statistics estimated from data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import ids_of, tiny_recipe

from ibt_deploy.errors import DataError
from training import distil
from training.data.split import PARTS, write_split
from training.distil import BBM, BlockMatching, DeiT, FrozenTeacher, Supervised
from training.fit import Fit, part_logits
from training.models.students import EcgTransformer, StayTransformer
from training.models.teachers import HannunResNet, ResidualLSTM
from training.run import _plain_inputs, _remember, build_objective, load_teacher, train
from training.tasks import open_source

CPU = torch.device("cpu")


def bbm(cache: Path, teacher: Path, task: str, **sections: dict[str, object]) -> BBM:
    recipe = tiny_recipe(task, "bbm", **sections)
    source = open_source(recipe, cache)
    objective = build_objective(recipe, source, load_teacher(teacher, recipe, source), CPU)
    assert isinstance(objective, BBM)
    return objective


def test_networks_of_every_method(ecgs: Path, stays: Path, ecg_teacher: Path, stay_teacher: Path) -> None:
    for task, cache, teacher, teacher_type, student_type in (
        ("arrhythmia", ecgs, ecg_teacher, HannunResNet, EcgTransformer),
        ("sepsis", stays, stay_teacher, ResidualLSTM, StayTransformer),
    ):
        for method, objective_type in (
            ("teacher", Supervised),
            ("transformer", Supervised),
            ("deit", DeiT),
            ("bbm", BBM),
        ):
            recipe = tiny_recipe(task, method)
            source = open_source(recipe, cache)
            network = load_teacher(teacher, recipe, source) if recipe.needs_teacher else None
            objective = build_objective(recipe, source, network, CPU)
            assert isinstance(objective, objective_type)
            assert isinstance(objective.network, teacher_type if method == "teacher" else student_type)
            again = build_objective(recipe, source, network, CPU)
            for a, b in zip(objective.network.parameters(), again.network.parameters(), strict=True):
                assert torch.equal(a, b)


def test_seeds_make_other_networks(stays: Path) -> None:
    source = open_source(tiny_recipe("sepsis", "teacher"), stays)
    from training.recipe import override

    recipes = [override(tiny_recipe("sepsis", "teacher"), {"seed": s}) for s in ("0", "1")]
    first, second = (build_objective(r, source, None, CPU) for r in recipes)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_shapes_of_the_maps(ecgs: Path, stays: Path, ecg_teacher: Path, stay_teacher: Path) -> None:
    ecg, stay = bbm(ecgs, ecg_teacher, "arrhythmia").matching, bbm(stays, stay_teacher, "sepsis").matching
    assert ecg.stops == (2, 4, 6, 8)
    assert ecg.teacher.stops == (4, 8, 12, 16)
    assert [tuple(h.weight.shape) for h in ecg.to_teacher] == [(16, 4), (16, 8), (16, 16), (16, 32)]  # type: ignore[union-attr]
    assert all(h.resizes for h in (*ecg.to_teacher, *ecg.to_student))
    assert stay.stops == stay.teacher.stops == (1, 2, 3)
    assert not any(h.resizes for h in (*stay.to_teacher, *stay.to_student))


def standardised(matching: BlockMatching, cache: Path, task: str) -> list[torch.Tensor]:
    """The teacher's features of all un-augmented training data, group by group, one row a time step."""
    source = open_source(tiny_recipe(task, "bbm"), cache)
    rows: list[list[torch.Tensor]] = [[] for _ in matching.stops]
    for _, batch in source.plain(source.items("train")):
        for n, z in enumerate(matching.teacher.features(batch.inputs)[0]):
            rows[n].append(z.flatten(0, 1) if batch.rows is None else z[batch.rows.bool()])
    return [torch.cat(r) for r in rows]


def test_teacher_features_are_standardised_over_training_data(
    ecgs: Path, stays: Path, ecg_teacher: Path, stay_teacher: Path
) -> None:
    for task, cache, teacher in (("arrhythmia", ecgs, ecg_teacher), ("sepsis", stays, stay_teacher)):
        for rows in standardised(bbm(cache, teacher, task).matching, cache, task):
            torch.testing.assert_close(rows.mean(dim=0), torch.zeros(rows.shape[1]), atol=1e-3, rtol=0)
            deviation = rows.std(dim=0, correction=0)
            assert ((deviation - 1).abs() < 1e-2).float().mean() > 0.5
            assert (deviation < 1.01).all()


def test_raw_coordinates_are_an_option(stays: Path, stay_teacher: Path) -> None:
    matching = bbm(stays, stay_teacher, "sepsis", bbm={"standardise": False}).matching
    x = torch.randn(2, 5, 109)
    raw = matching.teacher.teacher.boundary_features(x, (1, 2, 3))
    for got, expected in zip(matching.teacher.features(x)[0], raw, strict=True):
        torch.testing.assert_close(got, expected)


def test_hard_targets_use_thresholds_tuned_on_validation(stays: Path, stay_teacher: Path) -> None:
    recipe = tiny_recipe("sepsis", "deit", deit={"variant": "hard"})
    source = open_source(recipe, stays)
    teacher = load_teacher(stay_teacher, recipe, source)
    objective = build_objective(recipe, source, teacher, CPU)
    assert isinstance(objective, DeiT)
    logits = part_logits(teacher, source, source.items("validation"), CPU)
    expected = source.decision_thresholds("validation", logits)
    np.testing.assert_allclose(objective.teacher_thresholds.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("task", ["arrhythmia", "sepsis"])
def test_an_untrained_teacher_is_a_control_that_needs_no_checkpoint(
    task: str, ecgs: Path, stays: Path
) -> None:
    recipe = tiny_recipe(task, "bbm", bbm={"teacher": "untrained"})
    assert not recipe.needs_teacher
    source = open_source(recipe, ecgs if task == "arrhythmia" else stays)
    objective = build_objective(recipe, source, None, CPU)
    assert isinstance(objective, BBM)
    teacher = objective.matching.teacher.teacher
    assert not any(p.requires_grad for p in teacher.parameters())
    if isinstance(teacher, HannunResNet):
        seen = [teacher.stem[0](x.unsqueeze(2)) for x, _ in _plain_inputs(source, 36)]
        mean = torch.stack([z.mean(dim=(0, 2, 3)) for z in seen]).mean(dim=0)
        torch.testing.assert_close(teacher.stem[1].running_mean, mean)


def test_distillation_without_a_teacher_is_refused(stays: Path) -> None:
    recipe = tiny_recipe("sepsis", "bbm")
    with pytest.raises(DataError, match="needs a trained teacher"):
        build_objective(recipe, open_source(recipe, stays), None, CPU)


def test_the_wrong_teacher_is_refused(
    ecgs: Path, stays: Path, ecg_teacher: Path, stay_teacher: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe("sepsis", "bbm")
    source = open_source(recipe, stays)
    with pytest.raises(DataError, match="holds the method teacher of the task arrhythmia"):
        load_teacher(ecg_teacher, recipe, source)
    other_features = tiny_recipe("sepsis", "bbm", data={"features": "values40"})
    with pytest.raises(DataError, match="other preprocessing"):
        load_teacher(stay_teacher, other_features, open_source(other_features, stays))
    ids = sorted(set().union(*(ids_of(stays, part) for part in PARTS)))
    split = tmp_path / "other.csv"
    write_split(split, ids, np.arange(len(ids)) % 3)
    with pytest.raises(DataError, match="other data or another split"):
        load_teacher(stay_teacher, recipe, open_source(recipe, stays, split))
    with pytest.raises(DataError, match="no such checkpoint"):
        load_teacher(tmp_path / "none.pt", recipe, source)


def test_a_cache_of_the_other_task_is_refused(ecgs: Path) -> None:
    with pytest.raises(DataError, match="holds arrhythmia data, the recipe is for sepsis"):
        open_source(tiny_recipe("sepsis", "teacher"), ecgs)


@pytest.mark.parametrize(
    ("method", "sections"),
    [
        ("bbm", {}),
        ("bbm", {"bbm": {"pairing": "shuffled"}}),
        ("deit", {}),
        ("bbm", {"data": {"drop_variables": ["HR"]}}),
    ],
)
def test_a_teacher_that_remembers_says_what_it_would_say_again(
    method: str,
    sections: dict[str, dict[str, object]],
    stays: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = sections.get("data", {})
    train(tiny_recipe("sepsis", "teacher", fit={"epochs": 1}, data=data), stays, tmp_path, device="cpu")
    recipe = tiny_recipe("sepsis", method, **sections)
    source = open_source(recipe, stays)
    first, second = (
        build_objective(recipe, source, load_teacher(tmp_path / "best.pt", recipe, source), CPU).eval()
        for _ in range(2)
    )
    _remember(Fit(recipe, source, first, tmp_path, CPU), source.items("train"))
    teachers = [next(m for m in o.modules() if isinstance(m, FrozenTeacher)) for o in (first, second)]
    assert [t.memory is not None for t in teachers] == [True, False]
    batches = [source.training_batch(0, 0, items) for items in source.plan(0, 0)]
    with monkeypatch.context() as patch:
        patch.setattr(teachers[0].teacher, "boundary_features", None)  # it is not run again
        remembered = [first(batch, 0.0) for batch in batches]
    for batch, terms in zip(batches, remembered, strict=True):
        for name, value in second(batch, 0.0).items():
            torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)

    monkeypatch.setattr(distil, "LARGEST_MEMORY", 1000)
    _remember(Fit(recipe, source, second, tmp_path, CPU), source.items("train"))
    assert teachers[1].memory is None
