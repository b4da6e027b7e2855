"""DeiT students: attention masks, averaged heads, and scoring with a cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.models.students import (
    MASKED,
    Attention,
    EcgDeiT,
    StayDeiT,
    StayTwoHeads,
    attend_rows_and_queries,
)


def stay_deit(kind: type[StayDeiT | StayTwoHeads] = StayDeiT) -> StayDeiT | StayTwoHeads:
    torch.manual_seed(0)
    return kind(n_features=6, dim=16, heads=4, mlp_ratio=2.0, dropout=0.0).eval()


def ecg_deit(readout: str = "mean") -> EcgDeiT:
    torch.manual_seed(0)
    return EcgDeiT(
        n_leads=3, samples=200, dim=16, heads=4, depth=2, mlp_ratio=2.0, dropout=0.0, readout=readout
    ).eval()


@pytest.mark.parametrize("readout", ["mean", "cls"])
def test_distillation_token_stands_first_and_is_never_matched(readout: str) -> None:
    network = ecg_deit(readout)
    x = torch.randn(2, 3, 200)
    embedded = network.embed(x)
    extra = 1 + (readout == "cls")
    assert embedded.shape == (2, 10 + extra, 16)
    own = network.distillation_token + network.distillation_position
    torch.testing.assert_close(embedded[:, :1], own.expand(2, 1, 16))
    assert torch.equal(network.matched_tokens(embedded), embedded[:, extra:])
    z = network.segment(x, 0, 2)
    pooled = z[:, 1] if readout == "cls" else z[:, 1:].mean(dim=1)
    classes, distilled = network.both_logits(x)
    torch.testing.assert_close(classes, network.classifier(pooled))
    torch.testing.assert_close(distilled, network.distillation_head(z[:, 0]))
    torch.testing.assert_close(network(x), (classes + distilled) / 2)


@pytest.mark.parametrize("kind", [StayDeiT, StayTwoHeads])
def test_inference_averages_both_heads(kind: type[StayDeiT | StayTwoHeads]) -> None:
    network = stay_deit(kind)
    x = torch.randn(2, 7, 6)
    classes, distilled = network.both_logits(x)
    assert classes.shape == distilled.shape == (2, 7)
    torch.testing.assert_close(network(x), (classes + distilled) / 2)


@pytest.mark.parametrize("hours", [1, 3, 17])
def test_rows_and_queries_attend_as_under_one_mask_over_both(hours: int) -> None:
    torch.manual_seed(hours)
    attention = Attention(dim=16, heads=4, dropout=0.0)
    z = torch.randn(2, 2 * hours, 16, requires_grad=True)
    past, none, itself = torch.ones(hours, hours).tril(), torch.zeros(hours, hours), torch.eye(hours)
    visible = torch.cat((torch.cat((past, none), dim=1), torch.cat((past, itself), dim=1)))
    expected = attention(z, (1 - visible) * MASKED)
    found = attend_rows_and_queries(attention, z)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weights).sum(), z)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", [StayDeiT, StayTwoHeads])
def test_no_later_hour_reaches_an_earlier_one(kind: type[StayDeiT | StayTwoHeads]) -> None:
    network = stay_deit(kind)
    x = torch.randn(2, 9, 6)
    before = network.both_logits(x)
    for t in range(8):
        changed = x.clone()
        changed[:, t + 1 :] = 1000 * torch.randn(2, 8 - t, 6)
        for now, then in zip(network.both_logits(changed), before, strict=True):
            assert torch.equal(now[:, : t + 1], then[:, : t + 1])


def test_queries_leave_the_class_path_alone() -> None:
    network = stay_deit()
    x = torch.randn(2, 9, 6)
    before = network.both_logits(x)
    with torch.no_grad():
        network.distillation_query.mul_(-30)  # type: ignore[union-attr]
    after = network.both_logits(x)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_every_query_learns_from_its_own_and_earlier_hours() -> None:
    network = stay_deit()
    x = torch.randn(1, 6, 6, requires_grad=True)
    network.both_logits(x)[1][0, 3].backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    reached = x.grad[0].abs().sum(dim=1) > 0
    assert reached.tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize("kind", [StayDeiT, StayTwoHeads])
@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 100))
def test_scoring_with_a_cache_equals_scoring_at_once(
    kind: type[StayDeiT | StayTwoHeads], pieces: list[int], seed: int
) -> None:
    network = stay_deit(kind)
    hours = sum(pieces)
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, hours, 6)).astype(np.float32))
    with torch.no_grad():
        whole = network(rows)
        k = v = torch.zeros(3, 2, 4, 0, 4)
        logits, start = [], 0
        for n in pieces:
            position = torch.arange(start, start + n).expand(2, n)
            scored, k, v = network.forward_cached(rows[:, start : start + n], position, k, v)
            logits.append(scored)
            start += n
    assert k.shape[3] == hours
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-5)
