"""Learning rates by hand, and which parameters decay."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers.tiny import tiny_recipe

from training.distil import BBM, BlockMatching, FrozenTeacher, Objective, Supervised
from training.fit import learning_rate, parameter_groups
from training.models.students import EcgDeiT, EcgTransformer, StayDeiT, StayTransformer
from training.models.teachers import HannunResNet, ResidualLSTM
from training.recipe import BBMRecipe, FitRecipe

FIT = FitRecipe(epochs=100, lr=2.0, warmup_epochs=10.0, warmup_fraction=0.1, final_lr=0.01)


def test_linear_to_the_peak_then_cosine_to_one_percent() -> None:
    assert learning_rate(0.1, FIT) == pytest.approx(0.02)
    assert learning_rate(5, FIT) == pytest.approx(1.0)
    assert learning_rate(10, FIT) == pytest.approx(2.0)
    assert learning_rate(55, FIT) == pytest.approx(2 * (0.01 + 0.99 / 2))
    assert learning_rate(100, FIT) == pytest.approx(0.02)
    rates = [learning_rate(i / 7, FIT) for i in range(1, 701)]
    peak = rates.index(max(rates))
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))


def test_warm_up_is_the_shorter_of_epochs_and_fraction() -> None:
    short = replace(FIT, epochs=20)
    assert learning_rate(2, short) == pytest.approx(2.0)
    few = replace(FIT, warmup_epochs=1.0)
    assert learning_rate(1, few) == pytest.approx(2.0)
    assert learning_rate(0.5, few) == pytest.approx(1.0)
    none = replace(FIT, warmup_epochs=0.0)
    assert learning_rate(1e-9, none) == pytest.approx(2.0)
    everything = replace(FIT, warmup_epochs=100.0, warmup_fraction=1.0)
    assert learning_rate(100, everything) == pytest.approx(2.0)


def undecayed_names(objective: Objective) -> set[str]:
    names = {id(p): n for n, p in objective.named_parameters()}
    decay, exempt = parameter_groups(objective, 0.3)
    assert decay["weight_decay"] == 0.3
    assert exempt["weight_decay"] == 0.0
    assert isinstance(decay["params"], list)
    assert isinstance(exempt["params"], list)
    grouped = [id(p) for p in (*decay["params"], *exempt["params"])]
    trained = {id(p) for p in objective.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trained
    return {names[id(p)] for p in exempt["params"]}


SIZES = {"dim": 8, "heads": 2, "mlp_ratio": 2.0, "dropout": 0.0}


def test_only_matrices_of_linear_layers_decay_in_transformers() -> None:
    for network in (
        EcgTransformer(n_leads=3, samples=200, depth=2, readout="cls", **SIZES),  # type: ignore[arg-type]
        EcgDeiT(n_leads=3, samples=200, depth=2, **SIZES),
        StayTransformer(n_features=4, **SIZES),  # type: ignore[arg-type]
        StayDeiT(n_features=4, **SIZES),
    ):
        linear = {
            f"model.{name}.weight"
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        everything = {f"model.{name}" for name, _ in network.named_parameters()}
        assert undecayed_names(Supervised(network)) == everything - linear


def test_biases_and_norms_of_teachers_do_not_decay() -> None:
    resnet = Supervised(HannunResNet(n_leads=3, base_filters=2, n_blocks=4))
    for name in undecayed_names(resnet):
        assert "norm" in name or name.endswith("bias") or name.startswith("model.stem.1")
    lstm = Supervised(ResidualLSTM(n_features=4, hidden=8))
    assert all(".bias" in name for name in undecayed_names(lstm))
    assert len(undecayed_names(lstm)) == 3 * 2 + 2


def test_maps_do_not_decay_and_the_teacher_is_not_trained() -> None:
    student, teacher = StayTransformer(n_features=4, **SIZES), ResidualLSTM(n_features=4, hidden=6)  # type: ignore[arg-type]
    frozen = FrozenTeacher(teacher, (3,), [(torch.zeros(6), torch.ones(6))])
    recipe = replace(BBMRecipe(), h_bias=True)
    objective = BBM(BlockMatching(student, frozen, ((3, 3),), [((5, 8), (5, 6))], recipe), recipe)
    names = undecayed_names(objective)
    maps = {n for n in names if n.startswith(("matching.to_teacher", "matching.to_student"))}
    assert maps == {
        f"matching.to_{who}.0.{what}" for who in ("teacher", "student") for what in ("weight", "bias")
    }
    assert not any(".teacher." in f".{name}." for name in names - maps)


def test_schedule_defaults() -> None:
    fit = tiny_recipe("sepsis", "teacher").fit
    assert (fit.beta1, fit.beta2, fit.eps, fit.clip_norm) == (0.9, 0.999, 1e-8, 1.0)
    plain = FitRecipe()
    assert (plain.warmup_epochs, plain.warmup_fraction, plain.final_lr) == (10, 0.1, 0.01)
    assert (plain.patience, plain.min_epochs, plain.epochs) == (15, 20, 100)
