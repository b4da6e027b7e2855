"""CKA on known cases: noise, identity, rotations, a textbook implementation, and networks of both tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ibt_deploy.errors import DataError
from training.checkpoint import load_network
from training.distil import boundaries
from training.models import Encoder
from training.study.similarity import (
    COLUMNS,
    Alignment,
    cka_grids,
    example_batches,
    gram,
    hsic,
    unit_features,
)
from training.tasks import build_network, open_source


def cka(first: list[Tensor], second: list[Tensor]) -> float:
    alignment = Alignment()
    for a, b in zip(first, second, strict=True):
        alignment.add(gram(a)[None], gram(b)[None])
    return float(alignment.result().matrix[0, 0])


def noise(seed: int, n: int, p: int, batches: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, p, generator=generator) for _ in range(batches)]


def textbook_hsic(K: np.ndarray, L: np.ndarray) -> float:
    """Nguyen et al. 2021, Eq. 3, with explicit matrices of ones, term for term."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones((n, 1))
    value = np.trace(K @ L)
    value += (one.T @ K @ one * (one.T @ L @ one)).item() / ((n - 1) * (n - 2))
    value -= 2 / (n - 2) * (one.T @ K @ L @ one).item()
    return float(value / (n * (n - 3)))


def sum_over_quadruples(K: np.ndarray, L: np.ndarray) -> float:
    """HSIC as a U-statistic: the mean over all ordered 4-tuples of distinct examples (Song et al. 2012)."""
    n, total, count = len(K), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q])
                        count += 1
    return total / count


def biased_cka(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    cross = (x.T @ y).square().sum()
    return float(cross / ((x.T @ x).norm() * (y.T @ y).norm()))


def test_independent_noise_is_unlike_where_the_biased_estimator_says_alike() -> None:
    first, second = noise(0, 256, 2000, 10), noise(1, 256, 2000, 10)
    assert abs(cka(first, second)) < 0.02
    assert biased_cka(first[0], second[0]) > 0.85


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_rotating_scaling_and_shifting_change_nothing(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    rotation = torch.from_numpy(np.linalg.qr(rng.standard_normal((12, 12)))[0])
    x = [torch.from_numpy(rng.standard_normal((40, 12))) for _ in range(3)]
    y = [a @ torch.from_numpy(rng.standard_normal((12, 5))) for a in x]
    assert cka(x, x) == pytest.approx(1, abs=1e-12)
    assert cka(x, [scale * a @ rotation + shift for a in x]) == pytest.approx(1, abs=1e-6)
    assert cka(x, [scale * a for a in y]) == pytest.approx(cka([a @ rotation for a in x], y), abs=1e-9)


def test_it_equals_the_textbook() -> None:
    x, y = (
        noise(2, 30, 7, 4),
        [a[:, :3] + 0.5 * b for a, b in zip(noise(2, 30, 7, 4), noise(3, 30, 3, 4), strict=True)],
    )
    kernels = [(a.double().numpy(), b.double().numpy()) for a, b in zip(x, y, strict=True)]
    cross, own_x, own_y = (
        np.mean([textbook_hsic(k @ k.T, m @ m.T) for k, m in pairs])
        for pairs in (kernels, [(a, a) for a, _ in kernels], [(b, b) for _, b in kernels])
    )
    assert cka(x, y) == pytest.approx(cross / np.sqrt(own_x * own_y), rel=1e-10)


def test_the_estimator_is_the_u_statistic() -> None:
    x, y = noise(4, 7, 3, 1)[0].double(), noise(5, 7, 2, 1)[0].double()
    expected = sum_over_quadruples((x @ x.T).numpy(), (y @ y.T).numpy())
    assert float(hsic(gram(x)[None], gram(y)[None])) == pytest.approx(expected, rel=1e-9)


def test_wide_features_are_taken_in_pieces() -> None:
    x = noise(6, 12, 2 * COLUMNS + 5, 1)[0] + 1000
    wide = x.double() - x.double().mean(dim=0)
    expected = wide @ wide.T
    assert torch.allclose(gram(x), expected.fill_diagonal_(0), rtol=1e-10)


def test_constant_features_have_no_similarity() -> None:
    assert np.isnan(cka([torch.ones(8, 3)], noise(0, 8, 3, 1)))


def test_too_few_examples_or_uneven_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="3 examples"):
        hsic(torch.zeros(1, 3, 3), torch.zeros(1, 3, 3))
    alignment = Alignment()
    alignment.add(torch.eye(5)[None], torch.eye(5)[None])
    with pytest.raises(ValueError, match="equally many"):
        alignment.add(torch.eye(6)[None], torch.eye(6)[None])


@pytest.mark.parametrize(("task", "units"), [("arrhythmia", (16, 8)), ("sepsis", (3, 3))])
def test_grids_of_all_layers(
    task: str, units: tuple[int, int], ecgs: Path, stays: Path, ecg_teacher: Path, stay_teacher: Path
) -> None:
    recipe = tiny_recipe(task, "deit")
    source = open_source(recipe, ecgs if task == "arrhythmia" else stays)
    teacher = load_network(ecg_teacher if task == "arrhythmia" else stay_teacher).network
    torch.manual_seed(0)
    student = build_network(recipe, source.n_inputs, source.samples)
    batches = list(example_batches(source, source.items("train"), size=16, most=2))
    grids = cka_grids(teacher, {"student": student, "itself": teacher}, batches)
    grid = grids["student"]
    assert grid.matrix.shape == units
    assert (grid.n_batches, grid.batch_size) == (2, 16)
    assert np.diag(grids["itself"].matrix) == pytest.approx(1)
    assert np.allclose(grids["itself"].matrix, grids["itself"].matrix.T)
    expected = one_by_one(teacher, student, batches, units[0] - 1, 1)
    assert grid.matrix[units[0] - 1, 1] == pytest.approx(expected, rel=1e-9)
    pairs = boundaries(recipe, *units)
    assert grid.at_boundaries(pairs)[-1, 0] == grid.matrix[-1, pairs[0][1] - 1]


def one_by_one(teacher: Encoder, student: Encoder, batches: list, i: int, j: int) -> float:
    first, second = [], []
    with torch.no_grad():
        for batch in batches:
            first.append(list(unit_features(teacher, batch, "cpu"))[i])
            second.append(list(unit_features(student, batch, "cpu"))[j])
    return cka(first, second)


def test_an_example_of_stays_is_an_hour_of_a_patient(stays: Path) -> None:
    recipe = tiny_recipe("sepsis", "transformer")
    source = open_source(recipe, stays)
    items = source.items("train")
    network = build_network(recipe, source.n_inputs, 0)
    batches = list(example_batches(source, items, size=1000))
    assert len(batches) == 1
    assert sum(len(h) for h in batches[0].hours or []) == 4 * len(items)
    features = list(unit_features(network, batches[0], "cpu"))
    assert [tuple(z.shape) for z in features] == [(4 * len(items), 16)] * 3
    hours = batches[0].hours
    assert hours is not None
    stay, hour = hours[0][0]
    with torch.no_grad():
        alone = network.segment(batches[0].pieces[0][stay : stay + 1, : hour + 1], 0, 3)
    assert torch.allclose(features[-1][0], alone[0, hour], atol=1e-5)


def test_examples_left_over_are_shared_and_the_draw_is_seeded(ecgs: Path) -> None:
    source = open_source(tiny_recipe("arrhythmia", "transformer"), ecgs)
    items = source.items("train")  # 36

    def sizes(**options: int) -> list[int]:
        return [len(b.pieces[0]) for b in example_batches(source, items, **options)]

    assert sizes() == [36]
    assert sizes(size=10) == [12, 12, 12]
    assert sizes(size=10, most=2) == [10, 10]
    first, again, other = (next(example_batches(source, items, seed=s)).pieces[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(DataError, match="too few"):
        next(example_batches(source, items[:3]))
