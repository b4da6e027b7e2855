"""Objectives against values computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training.distil import BBM, DeiT, FrozenTeacher, Supervised, bce, response_distillation, supervised
from training.models.students import EcgDeiT, StayDeiT
from training.models.teachers import HannunResNet, ResidualLSTM
from training.recipe import BBMRecipe, DeiTRecipe
from training.tasks.base import Batch

DEIT = DeiTRecipe()


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    p = sigma(logits.astype(np.float64))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


def test_cross_entropy_counts_known_labels_only() -> None:
    logits, labels = torch.tensor([[0.5, -1.0], [2.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    known = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    expected = cross_entropy(logits.numpy(), labels.numpy())[[0, 0, 1], [0, 1, 0]].mean()
    assert bce(logits, labels, known).item() == pytest.approx(expected, rel=1e-6)
    other = labels.clone()
    other[1, 1] = 0
    assert torch.equal(bce(logits, other, known), bce(logits, labels, known))


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_soft_distillation_by_hand(tau: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 2, (2, 5, 3)).astype(np.float32)
    expected = tau**2 * cross_entropy(student / tau, sigma(teacher.astype(np.float64) / tau)).mean()
    got = response_distillation(
        torch.from_numpy(student),
        torch.from_numpy(teacher),
        torch.ones(5, 3),
        replace(DEIT, tau=tau),
        torch.zeros(3),
    )
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_hard_distillation_decides_at_tuned_thresholds() -> None:
    teacher = torch.tensor([[-3.0, -1.0, 1.0], [-2.5, 0.5, -0.1]])
    thresholds = torch.tensor([0.06, 0.3, 0.5])
    targets = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    student = torch.tensor([[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]])
    expected = cross_entropy(student.numpy(), targets).mean()
    got = response_distillation(student, teacher, torch.ones(2, 3), replace(DEIT, variant="hard"), thresholds)
    assert got.item() == pytest.approx(expected, rel=1e-6)


def ecg_deit(recipe: DeiTRecipe = DEIT) -> tuple[DeiT, Batch]:
    torch.manual_seed(0)
    student = EcgDeiT(
        n_leads=3, samples=200, dim=16, heads=2, depth=2, mlp_ratio=2.0, dropout=0.0, n_classes=4
    )
    teacher = HannunResNet(n_leads=3, base_filters=2, n_blocks=4, n_classes=4)
    objective = DeiT(student, FrozenTeacher(teacher, (4,), []), recipe, torch.full((4,), 0.4))
    known = torch.ones(5, 4)
    known[2, 1] = 0
    return objective, Batch(torch.randn(5, 3, 200), torch.randint(0, 2, (5, 4)).float(), known, None)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9])
def test_deit_mixes_the_two_heads(alpha: float) -> None:
    objective, batch = ecg_deit(replace(DEIT, alpha=alpha))
    terms = objective(batch, 0.0)
    assert isinstance(objective.model, EcgDeiT)
    classes, distilled = objective.model.both_logits(batch.inputs)
    teacher = objective.teacher.teacher(batch.inputs)
    task = bce(classes, batch.labels, batch.known)
    distillation = bce(distilled, teacher.sigmoid(), torch.ones(5, 4))
    torch.testing.assert_close(terms["task"], task)
    torch.testing.assert_close(terms["distillation"], distillation)
    torch.testing.assert_close(terms["loss"], (1 - alpha) * task + alpha * distillation)


def test_deit_trains_both_heads_and_no_teacher() -> None:
    objective, batch = ecg_deit()
    objective.train()
    objective(batch, 0.0)["loss"].backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    missing = [n for n, p in objective.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_deit_of_stays_ignores_padding() -> None:
    torch.manual_seed(0)
    student = StayDeiT(n_features=5, dim=16, heads=2, mlp_ratio=2.0, dropout=0.0)
    teacher = ResidualLSTM(n_features=5, hidden=8)
    objective = DeiT(student, FrozenTeacher(teacher, (3,), []), DEIT, torch.zeros(1))
    rows = (torch.arange(6) < torch.tensor([6, 3])[:, None]).float()
    batch = Batch(torch.randn(2, 6, 5), torch.zeros(2, 6), rows, rows)
    garbage = torch.where(rows[:, :, None] > 0, batch.inputs, torch.full_like(batch.inputs, 50.0))
    for name, value in objective(batch, 0.0).items():
        torch.testing.assert_close(objective(replace(batch, inputs=garbage), 0.0)[name], value)


class ShownBatch:
    """Stands in for the teacher: its view is what it was shown."""

    def view(self, batch: Batch) -> Tensor:
        return batch.inputs


class FixedMatching(torch.nn.Module):
    """Stands in for the matching: fixed terms of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.student = torch.nn.Linear(1, 1)
        self.teacher = ShownBatch()
        self.seen: list[Tensor | None] = []

    def forward(self, x: Tensor, mask: Tensor | None, seen: Tensor) -> object:
        from training.distil import MatchingTerms

        self.seen = [x, mask, seen]
        values = [torch.tensor(v, requires_grad=True) for v in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]
        logits = torch.tensor([[0.5], [-0.5], [0.0]], requires_grad=True)
        features = [2 * torch.ones(3, 4, 2)] * 2
        return MatchingTerms(values[:2], values[2:4], values[4:], features, logits, 2 * logits.detach())


def bbm(**kwargs: object) -> tuple[BBM, Batch]:
    recipe = replace(BBMRecipe(), **kwargs)  # type: ignore[arg-type]
    objective = BBM(FixedMatching(), recipe)  # type: ignore[arg-type]
    batch = Batch(torch.arange(3.0).view(3, 1), torch.tensor([[1.0], [0.0], [1.0]]), torch.ones(3, 1), None)
    return objective, batch


TASK = float(cross_entropy(np.array([0.5, -0.5, 0.0]), np.array([1, 0, 1])).mean())
MATCHING = 21 / 6


def test_joint_loss() -> None:
    objective, batch = bbm(weight=2.0)
    terms = objective(batch, 0.3)
    assert terms["loss"].item() == pytest.approx(TASK + 2 * MATCHING)
    assert terms["task"].item() == pytest.approx(TASK)
    assert terms["matching"].item() == pytest.approx(MATCHING)
    assert [terms[f"L{i}_{n}"].item() for n in (1, 2) for i in (1, 2, 3)] == [1, 3, 5, 2, 4, 6]
    assert terms["rms_1"].item() == pytest.approx(2)


def test_two_stages() -> None:
    objective, batch = bbm(schedule="two_stage", weight=2.0)
    assert objective(batch, 0.0)["loss"].item() == pytest.approx(2 * MATCHING)
    assert objective(batch, 0.499)["loss"].item() == pytest.approx(2 * MATCHING)
    assert objective(batch, 0.5)["loss"].item() == pytest.approx(TASK)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 1.0])
def test_cosine_to_zero(progress: float) -> None:
    objective, batch = bbm(schedule="cosine_to_zero", weight=2.0)
    weight = 2 * 0.5 * (1 + math.cos(math.pi * progress))
    assert objective(batch, progress)["loss"].item() == pytest.approx(TASK + weight * MATCHING)


def test_response_distillation_within_matching_is_an_option() -> None:
    objective, batch = bbm(alpha_kd=0.5)
    targets = sigma(np.array([1.0, -1.0, 0.0]))
    extra = cross_entropy(np.array([0.5, -0.5, 0.0]), targets).mean()
    assert objective(batch, 0.0)["loss"].item() == pytest.approx(TASK + MATCHING + 0.5 * extra, rel=1e-6)


def test_shuffled_pairing_shows_the_teacher_another_record_and_matches_common_rows() -> None:
    objective, batch = bbm(pairing="shuffled")
    rows = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    stays = Batch(batch.inputs, batch.labels, batch.known, rows)
    objective(stays, 0.0)
    matching = objective.matching
    assert isinstance(matching, FixedMatching)
    _, mask, shown = matching.seen
    assert shown is not None
    assert shown.view(-1).tolist() == [2, 0, 1]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    plain, batch = bbm()
    plain(batch, 0.0)
    assert isinstance(plain.matching, FixedMatching)
    assert plain.matching.seen[2] is batch.inputs


def test_supervised_is_the_cross_entropy_of_the_network() -> None:
    network = HannunResNet(n_leads=3, base_filters=2, n_blocks=4, n_classes=4).eval()
    _, batch = ecg_deit()
    terms = Supervised(network)(batch, 0.0)
    assert set(terms) == {"loss"}
    torch.testing.assert_close(terms["loss"], bce(network(batch.inputs), batch.labels, batch.known))


def test_weights_count_in_the_mean() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0]])
    labels, known = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    plain = Batch(torch.zeros(1), labels, known, known)
    weighted = Batch(torch.zeros(1), labels, known, known, torch.tensor([[3.0, 0.0, 9.0]]))
    first = torch.nn.functional.softplus(torch.tensor(-0.3))
    second = torch.nn.functional.softplus(torch.tensor(-1.2))
    assert supervised(logits, plain).item() == pytest.approx(((first + second) / 2).item(), rel=1e-6)
    assert supervised(logits, weighted).item() == pytest.approx((3 * first / 2).item(), rel=1e-6)
