"""The EHR teacher: residuals, initial values, causality; gate order against torch itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.models.teachers import ResidualLSTM


def lstm_layers(network: ResidualLSTM) -> list[nn.LSTM]:
    layers = list(network.layers)
    assert all(isinstance(layer, nn.LSTM) for layer in layers)
    return layers  # type: ignore[return-value]


def test_parameter_counts() -> None:
    for n_features, projection, expected in (
        (40, False, 1_358_081),
        (109, False, 1_428_737),
        (109, True, 1_607_425),
    ):
        network = ResidualLSTM(n_features=n_features, projection=projection)
        assert sum(p.numel() for p in network.parameters()) == expected
        features = network.boundary_features(torch.randn(2, 5, n_features), (1, 2, 3))
        assert [tuple(f.shape) for f in features] == [(2, 5, 256)] * 3


def test_every_layer_adds_its_input() -> None:
    network = ResidualLSTM(n_features=5, hidden=8).eval()
    x = torch.randn(3, 7, 5)
    z0 = network.projection(x)  # type: ignore[misc]
    expected = []
    for layer in lstm_layers(network):
        z0 = z0 + layer(z0)[0]
        expected.append(z0)
    for got, wanted in zip(network.boundary_features(x, (1, 2, 3)), expected, strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(network(x), network.classifier(z0).squeeze(-1))


def test_without_projection_the_first_layer_has_no_residual() -> None:
    network = ResidualLSTM(n_features=5, hidden=8, projection=False).eval()
    x = torch.randn(3, 7, 5)
    first, second, third = lstm_layers(network)
    z1 = first(x)[0]
    z2 = z1 + second(z1)[0]
    z3 = z2 + third(z2)[0]
    for got, expected in zip(network.boundary_features(x, (1, 2, 3)), (z1, z2, z3), strict=True):
        assert torch.equal(got, expected)


def test_layers_compute_in_float32_under_autocast() -> None:
    network = ResidualLSTM(n_features=5, hidden=8)
    seen = []
    for layer in lstm_layers(network):
        layer.register_forward_hook(lambda _m, inputs, out: seen.append((inputs[0].dtype, out[0].dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 4, 5))
    assert seen == [(torch.float32, torch.float32)] * 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_layers_compute_in_float32_under_autocast_on_cuda() -> None:
    network = ResidualLSTM(n_features=5, hidden=8).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        features = network.boundary_features(torch.randn(2, 4, 5).cuda(), (1, 2, 3))
    assert [f.dtype for f in features] == [torch.float32] * 3


def test_silent_upper_layers_leave_the_first_ones_output() -> None:
    network = ResidualLSTM(n_features=5, hidden=8).eval()
    for layer in lstm_layers(network)[1:]:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    z1, _, z3 = network.boundary_features(torch.randn(3, 7, 5), (1, 2, 3))
    assert torch.equal(z1, z3)


def test_forget_gate_begins_at_one_and_recurrent_weights_orthogonal() -> None:
    hidden = 8
    for layer in lstm_layers(ResidualLSTM(n_features=5, hidden=hidden)):
        bias = layer.bias_ih_l0 + layer.bias_hh_l0
        expected = torch.zeros(4 * hidden)
        expected[hidden : 2 * hidden] = 1
        assert torch.equal(bias, expected)
        for gate in layer.weight_hh_l0.chunk(4):
            torch.testing.assert_close(gate @ gate.T, torch.eye(hidden), atol=1e-5, rtol=0)


def test_forget_gate_is_the_second_of_torchs_four() -> None:
    layer = lstm_layers(ResidualLSTM(n_features=2, hidden=4, projection=False))[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.bias_ih_l0[4:8] = 50.0
        state = torch.zeros(1, 1, 4), torch.full((1, 1, 4), 0.7)
        _, (_, cell) = layer(torch.zeros(1, 1, 2), state)
    torch.testing.assert_close(cell, torch.full((1, 1, 4), 0.7))


def test_no_later_hour_reaches_an_earlier_one() -> None:
    network = ResidualLSTM(n_features=5, hidden=8).eval()
    x = torch.randn(2, 9, 5)
    before = network(x)
    for t in range(8):
        changed = x.clone()
        changed[:, t + 1 :] = 100 * torch.randn(2, 8 - t, 5)
        assert torch.equal(network(changed)[:, : t + 1], before[:, : t + 1])


def test_dropout_acts_before_the_addition() -> None:
    network = ResidualLSTM(n_features=5, hidden=64, dropout=0.5).train()
    z = torch.randn(1, 4, 64)
    added = network.segment(z, 1, 2) - z
    dropped = (added.abs() < 1e-7).float().mean()
    assert 0.3 < float(dropped) < 0.7
