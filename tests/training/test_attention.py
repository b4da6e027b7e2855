"""Attention in numbers: analytic matrices, every kind of student, and records in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import ecg_cache, stay_cache, tiny_recipe

from training.models import Encoder
from training.models.students import Block
from training.study.similarity import (
    attention_summary,
    local_bar,
    measures,
    recorded,
    toeplitz_share,
    token_weights,
    uniform_attention,
)
from training.tasks import build_network, open_cohort, open_source
from training.tasks.base import Source

VARIANTS = [
    ("arrhythmia", "transformer", {}),
    ("arrhythmia", "deit", {}),
    ("arrhythmia", "transformer", {"student": {"readout": "cls"}}),
    ("sepsis", "transformer", {}),
    ("sepsis", "deit", {}),
    ("sepsis", "deit", {"deit": {"ehr": "two_heads"}}),
]


def banded(tokens: int, reach: int) -> np.ndarray:
    """Equal attention to every token at most ``reach`` away."""
    apart = np.abs(np.subtract.outer(np.arange(tokens), np.arange(tokens)))
    band = (apart <= reach).astype(float)
    return band / band.sum(axis=1, keepdims=True)


def of(matrix: np.ndarray | torch.Tensor, window: int = 5, valid: int | None = None) -> tuple[float, ...]:
    weights = torch.as_tensor(matrix).reshape(1, 1, *matrix.shape[-2:])
    rows = torch.zeros(1, weights.shape[-1])
    rows[:, :valid] = 1
    return tuple(measures(weights, rows, window)[0, 0].tolist())


def test_uniform_attention_over_100_tokens() -> None:
    distance, local, entropy = of(uniform_attention(100, causal=False))
    assert distance == pytest.approx(33.33)
    assert local == pytest.approx((100 * 11 - 2 * (1 + 2 + 3 + 4 + 5)) / 100**2)
    assert entropy == pytest.approx(np.log(100))


@pytest.mark.parametrize("hours", [1, 2, 9, 48])
def test_uniform_causal_attention(hours: int) -> None:
    distance, _, entropy = of(uniform_attention(hours, causal=True))
    assert distance == pytest.approx((hours - 1) / 4)
    assert entropy == pytest.approx(np.mean(np.log(np.arange(1, hours + 1))))
    # a stay alone equals the same stay padded
    assert of(uniform_attention(60, causal=True), valid=hours)[0] == pytest.approx((hours - 1) / 4)


def test_banded_attention() -> None:
    tokens, reach = 100, 3
    distance, local, _ = of(banded(tokens, reach))
    # inside, the mean of 3 2 1 0 1 2 3; at the edges, of what remains of it
    rim = [sum(abs(d) for d in range(-i, 4)) / (i + 4) for i in range(3)]
    assert distance == pytest.approx((94 * 12 / 7 + 2 * sum(rim)) / 100)
    assert local == pytest.approx(1)
    assert of(banded(tokens, reach), window=1)[1] == pytest.approx(
        (94 * 3 / 7 + 2 * (2 / 4 + 3 / 5 + 3 / 6)) / 100
    )


def test_translation_invariance() -> None:
    rng = np.random.default_rng(0)
    diagonals = rng.random(39)
    i, j = np.indices((20, 20))
    assert toeplitz_share(diagonals[i - j + 19]) == pytest.approx(1)
    assert toeplitz_share(np.tril(diagonals[i - j + 19]), causal=True) == pytest.approx(1)
    assert np.isnan(toeplitz_share(np.full((20, 20), 0.05)))
    columns = np.tile(rng.random(20), (20, 1))  # every token attends to the same positions
    assert toeplitz_share(columns) < 0.2
    assert toeplitz_share(banded(100, 3)) > 0.95
    explained = sum(
        (np.diagonal(columns, d).mean() - columns.mean()) ** 2 * len(np.diagonal(columns, d))
        for d in range(-19, 20)
    )
    assert toeplitz_share(columns) == pytest.approx(explained / np.square(columns - columns.mean()).sum())


def network_and_source(
    task: str, method: str, sections: dict, ecgs: Path, stays: Path
) -> tuple[Encoder, Source]:
    recipe = tiny_recipe(task, method, **sections)
    source = open_source(recipe, ecgs if task == "arrhythmia" else stays)
    torch.manual_seed(0)
    network = build_network(recipe, source.n_inputs, source.samples)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "qkv" in name:
                parameter.mul_(20)  # otherwise every untrained softmax is uniform
    return network.eval(), source


@pytest.mark.parametrize(("task", "method", "sections"), VARIANTS)
def test_every_kind_of_student(task: str, method: str, sections: dict, ecgs: Path, stays: Path) -> None:
    network, source = network_and_source(task, method, sections, ecgs, stays)
    items = source.items("train")
    summary = attention_summary(network, source, items)
    blocks, tokens = (8, 100) if task == "arrhythmia" else (3, len(summary.reached))
    assert summary.averaged.shape == (blocks, tokens, tokens)
    assert summary.averaged.sum(axis=-1) == pytest.approx(1)
    assert summary.distance.shape == summary.local_mass.shape == summary.entropy.shape == (len(items), blocks)
    assert summary.reached[0] == len(items)
    if task == "sepsis":
        assert np.triu(summary.averaged, 1).max() == 0
        lengths = np.diff(source.offsets)[items]  # type: ignore[attr-defined]
        assert summary.reached.tolist() == [(lengths > t).sum() for t in range(max(lengths))]
        assert summary.uniform_distance == pytest.approx((lengths - 1) / 4)
    else:
        seen = np.array([min(source.signals[i].shape[1], 2000) // 20 for i in items])  # type: ignore[attr-defined]
        assert summary.uniform_distance == pytest.approx((seen**2 - 1) / (3 * seen))
    assert 0 < summary.distance[:, 0].mean() < 2 * summary.uniform_distance.mean()
    assert summary.entropy[:, 0].mean() < summary.uniform_entropy.mean()


@pytest.mark.parametrize(("task", "method", "sections"), VARIANTS)
def test_a_record_alone_has_the_numbers_it_has_among_others(
    task: str, method: str, sections: dict, ecgs: Path, stays: Path
) -> None:
    network, source = network_and_source(task, method, sections, ecgs, stays)
    items = source.items("train")[[5, 0, 17]]
    together = attention_summary(network, source, items)
    for row, item in enumerate(items):
        alone = attention_summary(network, source, np.array([item]))
        for name in ("distance", "local_mass", "entropy"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[row], abs=1e-5)


@pytest.mark.parametrize(("task", "made"), [("arrhythmia", ecg_cache), ("sepsis", stay_cache)])
def test_another_data_set_is_prepared_with_the_constants_of_the_training_part(
    task: str, made: Callable[..., Path], ecgs: Path, stays: Path, tmp_path: Path
) -> None:
    network, source = network_and_source(task, "transformer", {}, ecgs, stays)
    cohort = open_cohort(made(tmp_path / "other", 20, seed=1))
    items = np.arange(len(cohort))
    shown = source.showing(cohort)
    with torch.no_grad():
        outputs = [(chosen, network(batch.inputs).numpy()) for chosen, batch in shown.plain(items)]
    scored = cohort.logits(network, items, source.preprocessing(), torch.device("cpu"))
    np.testing.assert_allclose(shown.gather(items, outputs), scored, atol=1e-5)
    summary = attention_summary(network, shown, items)
    assert len(summary.distance) == len(cohort)
    with pytest.raises(KeyError):
        shown.items("test")
    assert len(source.items("test"))


def test_attention_at_twice_the_uniform_odds_in_every_row_just_counts_as_local() -> None:
    """With two hours in the window, rows of 1, 2 and 4 hours have odds of infinity, infinity and 1:1."""
    assert local_bar(np.array([1, 2]), 1, causal=True).tolist() == [1, 1]
    fourth = (1 + 1 + 4 / 5 + 2 / 3) / 4  # odds of 2:1 become 4:1, and those of 1:1 become 2:1
    np.testing.assert_allclose(local_bar(np.array([4, 1, 4]), 1, causal=True), [fourth, 1, fourth])
    np.testing.assert_allclose(local_bar(np.array([5]), 0, causal=False), [1 / 3])  # 1:4 becomes 1:2


def test_removed_tokens_leave_rows_of_one(ecgs: Path) -> None:
    network, source = network_and_source("arrhythmia", "deit", {}, ecgs, ecgs)
    _, batch = next(source.plain(source.items("train")[:2]))
    with torch.no_grad(), recorded(network) as found:
        network(batch.inputs)
    assert found[0].shape[-2:] == (101, 101)
    kept = token_weights(network, found[0], batch.inputs)
    raw = found[0][:, :, 1:, 1:]
    assert kept.shape[-2:] == (100, 100)
    assert torch.allclose(kept, raw / (1 - found[0][:, :, 1:, :1]), atol=1e-5)


def test_recording_is_what_the_block_attends_with(stays: Path) -> None:
    network, source = network_and_source("sepsis", "transformer", {}, stays, stays)
    _, batch = next(source.plain(source.items("train")[:3]))
    with torch.no_grad():
        with recorded(network) as found:
            network(batch.inputs)
        z = network.segment(batch.inputs, 0, 1)
        block = network.blocks[1]  # type: ignore[index, union-attr]
        assert isinstance(block, Block)
        normed = block.norm1(z)
        _, _, v = block.attention.project(normed)
        after = z + block.attention.merge(found[1] @ v)
        assert torch.allclose(after + block.mlp(block.norm2(after)), network.segment(z, 1, 2), atol=1e-5)
    assert not any(m._forward_pre_hooks for m in network.modules())
