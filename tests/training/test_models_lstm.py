"""The EHR teacher: residuals, initial values, causality; gate order against torch itself."""

from __future__ import annotations

import torch
from torch import nn

from training.models.lstm import ResidualLSTM


def lstm_layers(network: ResidualLSTM) -> list[nn.LSTM]:
    layers = list(network.layers)
    assert all(isinstance(layer, nn.LSTM) for layer in layers)
    return layers  # type: ignore[return-value]


def test_parameter_counts() -> None:
    for n_features, expected in ((40, 1_358_081), (109, 1_428_737)):
        network = ResidualLSTM(n_features=n_features)
        assert sum(p.numel() for p in network.parameters()) == expected
        features = network.boundary_features(torch.randn(2, 5, n_features), (1, 2, 3))
        assert [tuple(f.shape) for f in features] == [(2, 5, 256)] * 3


def test_every_layer_but_the_first_adds_its_input() -> None:
    network = ResidualLSTM(n_features=5, hidden=8).eval()
    x = torch.randn(3, 7, 5)
    first, second, third = lstm_layers(network)
    z1 = first(x)[0]
    z2 = z1 + second(z1)[0]
    z3 = z2 + third(z2)[0]
    for got, expected in zip(network.boundary_features(x, (1, 2, 3)), (z1, z2, z3), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(network(x), network.classifier(z3).squeeze(-1))


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
    layer = lstm_layers(ResidualLSTM(n_features=2, hidden=4))[0]
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
