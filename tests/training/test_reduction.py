"""Masked means on one process; on two they are tested with the training run."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.distil import masked_mean


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 999))
def test_mean_over_valid_elements(batch: int, time: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(batch, time, depth)).astype(np.float32)
    mask = rng.random((batch, time)) < 0.6
    got = masked_mean(torch.from_numpy(values), torch.from_numpy(mask))
    expected = values[mask].mean() if mask.any() else 0.0
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(masked_mean(torch.from_numpy(values), None).numpy(), values.mean(), atol=1e-6)


def test_half_precision_is_accumulated_in_float32() -> None:
    values = torch.full((10_000,), 1.0, dtype=torch.bfloat16)
    mean = masked_mean(values, torch.ones(10_000, dtype=torch.bfloat16))
    assert mean.dtype == torch.float32
    assert mean.item() == 1.0
