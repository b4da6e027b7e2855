"""The students: torch's own encoder layer as reference, patch order, causality, and scoring with a cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from training.models.students import (
    Attention,
    Block,
    EcgDeiT,
    EcgTransformer,
    StayTransformer,
    attend,
    causal_mask,
    patchify,
    sinusoidal_positions,
)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def stay_student(**kwargs: int) -> StayTransformer:
    torch.manual_seed(0)
    return StayTransformer(
        **{"n_features": 6, "dim": 16, "heads": 4, **kwargs}, mlp_ratio=2.0, dropout=0.0
    ).eval()


def ecg_student(**kwargs: object) -> EcgTransformer:
    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "n_leads": 3,
        "samples": 200,
        "dim": 16,
        "heads": 4,
        "depth": 2,
        "mlp_ratio": 2.0,
    }
    return EcgTransformer(**{**sizes, **kwargs}).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dim", "heads", "expected"), [(128, 4, 1.63e6), (256, 8, 6_412_570), (384, 8, 14.3e6)]
)
def test_parameters_of_the_ecg_student(dim: int, heads: int, expected: float) -> None:
    network = EcgTransformer(dim=dim, heads=heads)
    if dim == 256:
        assert count(network) == expected
    assert count(network) == pytest.approx(expected, rel=0.01)


def test_shapes_of_the_full_students() -> None:
    ecg, stay = EcgTransformer().eval(), StayTransformer().eval()
    with torch.no_grad():
        features = ecg.boundary_features(torch.randn(2, 12, 2000), (2, 4, 6, 8))
        assert [tuple(f.shape) for f in features] == [(2, 100, 256)] * 4
        assert ecg.head(features[-1]).shape == (2, 26)
        features = stay.boundary_features(torch.randn(2, 7, 109), (1, 2, 3))
        assert [tuple(f.shape) for f in features] == [(2, 7, 256)] * 3
        assert stay.head(features[-1]).shape == (2, 7)


def test_patches_are_lead_major() -> None:
    signal = torch.randn(2, 12, 2000)
    tokens = patchify(signal, 20)
    assert tokens.shape == (2, 100, 240)
    expected = torch.empty(2, 100, 240)
    for k in range(100):
        for lead in range(12):
            for j in range(20):
                expected[:, k, lead * 20 + j] = signal[:, lead, 20 * k + j]
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_equals_torchs_encoder_layer(causal: bool) -> None:
    torch.manual_seed(0)
    dim, heads, hidden = 24, 4, 48
    ours = Block(dim, heads, hidden / dim, 0.0).eval()
    theirs = nn.TransformerEncoderLayer(
        dim, heads, hidden, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    first, last = ours.mlp[0], ours.mlp[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    pairs = [
        (theirs.self_attn.in_proj_weight, ours.attention.qkv.weight),
        (theirs.self_attn.in_proj_bias, ours.attention.qkv.bias),
        (theirs.self_attn.out_proj.weight, ours.attention.out.weight),
        (theirs.self_attn.out_proj.bias, ours.attention.out.bias),
        (theirs.linear1.weight, first.weight),
        (theirs.linear1.bias, first.bias),
        (theirs.linear2.weight, last.weight),
        (theirs.linear2.bias, last.bias),
        (theirs.norm1.weight, ours.norm1.weight),
        (theirs.norm1.bias, ours.norm1.bias),
        (theirs.norm2.weight, ours.norm2.weight),
        (theirs.norm2.bias, ours.norm2.bias),
    ]
    with torch.no_grad():
        for reference, parameter in pairs:
            assert reference.shape == parameter.shape
            parameter.copy_(torch.randn_like(parameter) * 0.3)
            reference.copy_(parameter)
        z = torch.randn(3, 10, dim)
        hidden_pairs = torch.ones(10, 10, dtype=torch.bool).triu(1) if causal else None
        mask = causal_mask(10, 10, z.device) if causal else None
        torch.testing.assert_close(ours(z, mask), theirs(z, src_mask=hidden_pairs), atol=1e-5, rtol=1e-5)


def test_attention_equals_torchs_scaled_dot_product() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    mask = causal_mask(9, 9, q.device)
    expected = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend(q, k, v, mask), expected, atol=1e-6, rtol=1e-5)


def test_attention_weights_sum_to_one_and_are_those_used() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 4, 0.0)
    z = torch.randn(2, 7, 16)
    mask = causal_mask(7, 7, z.device)
    weights = attention.weights(z, mask)
    assert weights.shape == (2, 4, 7, 7)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 7))
    assert not weights[..., mask < 0].any()
    _, _, v = attention.project(z)
    torch.testing.assert_close(attention.merge(weights @ v), attention(z, mask))


def test_finite_mask_never_gives_nan() -> None:
    q = k = v = torch.randn(1, 1, 3, 4)
    everything_hidden = torch.full((3, 3), -1e9)
    assert attend(q, k, v, everything_hidden).isfinite().all()


def test_sinusoidal_positions_by_their_formula() -> None:
    table = sinusoidal_positions(336, 256)
    assert table.shape == (336, 256)
    for position, column in ((0, 0), (0, 1), (1, 0), (1, 1), (7, 30), (7, 31), (335, 255)):
        angle = position / 10_000 ** (2 * (column // 2) / 256)
        expected = math.cos(angle) if column % 2 else math.sin(angle)
        assert float(table[position, column]) == pytest.approx(expected, abs=1e-6)


def test_read_out_is_the_mean_of_the_patches_after_the_norm() -> None:
    network = ecg_student()
    z = network.segment(torch.randn(2, 3, 200), 0, 2)
    torch.testing.assert_close(network.head(z), network.classifier(z.mean(dim=1)))
    torch.testing.assert_close(z.mean(dim=-1), torch.zeros(2, 10), atol=1e-5, rtol=0)


def test_class_token_is_read_but_never_matched() -> None:
    network = ecg_student(readout="cls")
    z = network.segment(torch.randn(2, 3, 200), 0, 2)
    assert z.shape == (2, 11, 16)
    assert torch.equal(network.matched_tokens(z), z[:, 1:])
    torch.testing.assert_close(network.head(z), network.classifier(z[:, 0]))


def test_segments_compose_to_the_whole() -> None:
    for network, x in ((ecg_student(), torch.randn(2, 3, 200)), (stay_student(), torch.randn(2, 9, 6))):
        z = network.segment(network.segment(x, 0, 1), 1, network.n_units)
        assert torch.equal(network.head(z), network(x))


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="divide into patches"):
        ecg_student(samples=210)
    with pytest.raises(ValueError, match="shared among"):
        ecg_student(heads=3)


def test_no_later_hour_reaches_an_earlier_one() -> None:
    network = stay_student()
    x = torch.randn(2, 12, 6)
    before = network(x)
    for t in range(11):
        changed = x.clone()
        changed[:, t + 1 :] = 1000 * torch.randn(2, 11 - t, 6)
        assert torch.equal(network(changed)[:, : t + 1], before[:, : t + 1])


def test_padding_and_other_items_of_a_batch_change_nothing() -> None:
    network = stay_student()
    stays = [torch.randn(1, hours, 6) for hours in (3, 9, 5)]
    alone = [network(stay) for stay in stays]
    batch = torch.zeros(3, 20, 6)
    for i, stay in enumerate(stays):
        batch[i, : stay.shape[1]] = stay
    together = network(batch)
    garbage = batch.clone()
    for i, stay in enumerate(stays):
        garbage[i, stay.shape[1] :] = 1e4
    other = network(garbage)
    for i, logits in enumerate(alone):
        hours = logits.shape[1]
        torch.testing.assert_close(together[i : i + 1, :hours], logits, atol=1e-5, rtol=0)
        assert torch.equal(other[i, :hours], together[i, :hours])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 100))
def test_scoring_with_a_cache_equals_scoring_at_once_for_every_cut(pieces: list[int], seed: int) -> None:
    network = stay_student()
    hours = sum(pieces)
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, hours, 6)).astype(np.float32))
    with torch.no_grad():
        whole = network(rows)
        k = v = torch.zeros(3, 2, 4, 0, 4)
        logits: list[Tensor] = []
        start = 0
        for n in pieces:
            position = torch.arange(start, start + n).expand(2, n)
            scored, k, v = network.forward_cached(rows[:, start : start + n], position, k, v)
            logits.append(scored)
            start += n
    assert k.shape == v.shape == (3, 2, 4, hours, 4)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-5)


def test_causal_mask_shows_the_last_query_everything() -> None:
    mask = causal_mask(2, 5, torch.device("cpu"))
    assert (mask == 0).tolist() == [[True, True, True, True, False], [True] * 5]


@pytest.mark.parametrize("readout", ["mean", "cls"])
@pytest.mark.parametrize("student", [EcgTransformer, EcgDeiT])
def test_a_crop_scored_alone_equals_the_padded_batch(student: type[EcgTransformer], readout: str) -> None:
    torch.manual_seed(0)
    network = student(n_leads=3, samples=400, patch=40, dim=16, heads=2, depth=2, readout=readout).eval()
    lengths = (400, 280, 200)
    signal = torch.randn(3, 3, 400)
    for i, length in enumerate(lengths):
        signal[i, :, length + (3 * i) :] = torch.nan
    logits, pooled = network.masked(signal)
    assert pooled.shape == (3, 16)
    for i, length in enumerate(lengths):
        alone = network(signal[i : i + 1, :, :length])
        torch.testing.assert_close(logits[i : i + 1], alone, rtol=1e-5, atol=1e-6)
