"""The ECG teacher: Hannun's shapes and counts, and padding against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.models.teachers import HannunResNet, ResidualBlock, SameConv, calibrate_batch_norm


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_shapes_and_parameters_of_the_full_teacher() -> None:
    network = HannunResNet().eval()
    assert count(network) == 10_477_434
    with torch.no_grad():
        features = network.boundary_features(torch.randn(2, 12, 2000), (4, 8, 12, 16))
        assert [tuple(f.shape[1:]) for f in features] == [(500, 32), (125, 64), (32, 128), (8, 256)]
        assert network.head(features[-1]).shape == (2, 26)
    groups = [sum(count(b) for b in network.blocks[i : i + 4]) for i in (0, 4, 8, 12)]
    assert groups == [131_776, 492_992, 1_969_024, 7_870_208]


def test_times_after_every_halving() -> None:
    network = HannunResNet(base_filters=2, n_leads=3).eval()
    features = network.boundary_features(torch.randn(1, 3, 2000), tuple(range(1, 17)))
    assert [f.shape[1] for f in features][1::2] == [1000, 500, 250, 125, 63, 32, 16, 8]


def test_reading_b_of_the_paper() -> None:
    network = HannunResNet(n_blocks=8)
    assert count(network) == 632_826
    features = network.boundary_features(torch.randn(2, 12, 2000), (4, 8))
    assert [f.shape[2] for f in features] == [32, 64]
    assert features[-1].shape[1] == 2000 // 16


def test_padding_the_input_gives_powers_of_two() -> None:
    network = HannunResNet(base_filters=2, n_leads=3, pad_to=2048).eval()
    x = torch.randn(1, 3, 2000)
    features = network.boundary_features(x, (4, 8, 12, 16))
    assert [f.shape[1] for f in features] == [512, 128, 32, 8]
    plain = HannunResNet(base_filters=2, n_leads=3).eval()
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), plain(F.pad(x, (24, 24))))


def test_only_the_first_block_has_no_leading_norm() -> None:
    blocks = list(HannunResNet(base_filters=2).blocks)
    assert [b.norm1 is None for b in blocks] == [True] + [False] * 15  # type: ignore[union-attr]


def same_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's definition of "same", one output at a time."""
    length, kernel = x.shape[1], weight.shape[2]
    steps = int(np.ceil(length / stride))
    total = max((steps - 1) * stride + kernel - length, 0)
    left = total // 2
    out = np.empty((weight.shape[0], steps))
    for step in range(steps):
        window = [i + step * stride - left for i in range(kernel)]
        taken = np.array([[row[i] if 0 <= i < length else 0.0 for i in window] for row in x])
        out[:, step] = np.einsum("ck,fck->f", taken, weight) + bias
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(1, 3))
def test_same_padding_equals_tensorflows_definition(length: int, kernel: int, stride: int) -> None:
    torch.manual_seed(length)
    convolution = SameConv(2, 3, kernel, stride)
    x = torch.randn(1, 2, length)
    expected = same_convolution(
        x[0].numpy(), convolution.weight[:, :, 0].detach().numpy(), convolution.bias.detach().numpy(), stride
    )
    found = convolution(x.unsqueeze(2))[0, :, 0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_stride_one_pads_seven_left_and_eight_right() -> None:
    convolution = SameConv(1, 1, 16)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.zero_()
        convolution.weight[0, 0, 0, 0] = 1
    x = torch.arange(1.0, 21.0).view(1, 1, 1, 20)
    assert torch.equal(convolution(x)[0, 0, 0], torch.cat((torch.zeros(7), x[0, 0, 0, :13])))


@pytest.mark.parametrize("length", [124, 125, 63])
def test_pool_and_convolution_agree_at_odd_lengths(length: int) -> None:
    block = ResidualBlock(4, 8, 16, 2, 0.0, leading_norm=True).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    x = torch.randn(2, 4, length)
    out = block(x.unsqueeze(2)).squeeze(2)
    assert out.shape == (2, 8, -(-length // 2))
    pairs = F.pad(x, (0, length % 2), value=-torch.inf).unfold(2, 2, 2).amax(dim=3)
    assert torch.equal(out[:, :4], pairs)
    assert not out[:, 4:].any()


def test_head_averages_the_logits_of_all_steps() -> None:
    network = HannunResNet(base_filters=2, n_leads=3).eval()
    features = torch.randn(2, 8, 16)
    per_step = network.classifier(features).mean(dim=1)
    torch.testing.assert_close(network.head(features), per_step)


def test_segments_compose_to_the_whole() -> None:
    network = HannunResNet(base_filters=2, n_leads=3).eval()
    x = torch.randn(2, 3, 500)
    z = x
    for start, stop in ((0, 3), (3, 9), (9, 16)):
        z = network.segment(z, start, stop)
    assert torch.equal(network.head(z), network(x))


def test_batch_norms_take_their_statistics_from_data_alone() -> None:
    torch.manual_seed(0)
    network = HannunResNet(base_filters=2, n_leads=3)
    weights = {k: v.clone() for k, v in network.named_parameters()}
    batches = [3 + torch.randn(8, 3, 512) for _ in range(4)]
    calibrate_batch_norm(network, batches)
    assert all(torch.equal(v, weights[k]) for k, v in network.named_parameters())
    stem_norm = network.stem[1]
    assert isinstance(stem_norm, nn.BatchNorm2d)
    assert stem_norm.running_mean is not None
    seen = torch.cat([network.stem[0](b.unsqueeze(2)) for b in batches])
    torch.testing.assert_close(stem_norm.running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert stem_norm.momentum == 0.1


@pytest.mark.parametrize(("leads", "filters"), [(12, 32), (4, 8), (8, 4), (12, 16), (2, 64)])
@pytest.mark.parametrize("kernel", [8, 16])
def test_convolutions_are_right_under_bf16(leads: int, filters: int, kernel: int) -> None:
    torch.manual_seed(0)
    convolution = SameConv(leads, filters, kernel)
    x = torch.randn(3, leads, 1, 500, requires_grad=True)
    exact = convolution(x)
    (gradient,) = torch.autograd.grad(convolution(x).square().sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = convolution(x)
        (rough,) = torch.autograd.grad(found.float().square().sum(), x)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 0.01 * exact.norm()
    assert (rough - gradient).norm() < 0.02 * gradient.norm()


@pytest.mark.parametrize("filters", [4, 8, 16, 32])
def test_the_teacher_under_bf16_gives_the_features_of_float32(filters: int) -> None:
    torch.manual_seed(0)
    network = HannunResNet(base_filters=filters, n_blocks=8).eval()
    x = torch.randn(4, 12, 1000)
    with torch.no_grad():
        exact = network.boundary_features(x, (2, 8))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network.boundary_features(x, (2, 8))
    assert {z.dtype for z in rough} == {torch.bfloat16}
    for a, b in zip(exact, rough, strict=True):
        assert (a - b).norm() < 0.05 * a.norm()
