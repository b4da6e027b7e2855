from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.bundles import stay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibt_deploy.bundle import load_bundle
from ibt_deploy.errors import BundleError, InputError
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.readers import read
from ibt_deploy.records import Stay
from ibt_deploy.streaming import RiskStream


@pytest.fixture(scope="module")
def stream(stay_bundle: Path) -> RiskStream:
    return RiskStream.load(stay_bundle, device="cpu", threads=1)


@given(st.integers(0, 30), st.lists(st.integers(1, 40), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hour_by_hour_equals_the_whole_stay(
    stream: RiskStream, stays: Predictor, seed: int, pieces: list[int]
) -> None:
    whole = stay(sum(pieces), seed)
    expected = stays.predict(whole)
    assert isinstance(expected, SepsisPrediction)
    state, risks, alarms = None, [], []
    for rows in np.split(whole.values, np.cumsum(pieces)[:-1]):
        step = stream.next(rows, state)
        state, risks, alarms = step.state, [*risks, step.risk], [*alarms, step.alarms]
    np.testing.assert_allclose(np.concatenate(risks), expected.risk, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(np.concatenate(alarms), expected.alarms)
    assert step.warnings == expected.warnings


def test_a_state_can_be_used_twice(stream: RiskStream) -> None:
    values = stay(6).values
    state = stream.next(values[:4]).state
    np.testing.assert_array_equal(stream.next(values[4:5], state).risk, stream.next(values[4:5], state).risk)


def test_an_hour_that_does_not_follow_is_refused_and_the_state_goes_on(stream: RiskStream) -> None:
    values = stay(6).values
    state = stream.next(values[:3]).state
    for wrong in (values[4:5], values[2:3], values[:0]):
        with pytest.raises(InputError):
            stream.next(wrong, state)
    assert len(stream.next(values[3:4], state).risk) == 1


def test_a_stay_ends_after_two_weeks(stream: RiskStream) -> None:
    values = stay(337).values
    state = stream.next(values[:336]).state
    with pytest.raises(InputError, match="336"):
        stream.next(values[336:], state)


def test_a_state_of_another_bundle_is_refused(stream: RiskStream, ecg_bundle: Path) -> None:
    from dataclasses import replace

    state = stream.next(stay(2).values).state
    with pytest.raises(BundleError, match="another bundle"):
        stream.next(stay(3).values[2:], replace(state, sha256="0" * 64))
    with pytest.raises(BundleError, match="cannot score stays"):
        RiskStream.load(ecg_bundle, device="cpu")


def test_int8_scores_hour_by_hour_and_keeps_its_states_to_itself() -> None:
    (given,) = read(Path(__file__).parents[2] / "examples" / "stay.psv")
    assert isinstance(given, Stay)
    rough, exact = (RiskStream.load(device="cpu", variant=variant) for variant in ("int8", "fp32"))
    whole = rough.next(given.values)
    state, risks = None, []
    for row in given.values:
        step = rough.next(row[None], state)
        state, risks = step.state, [*risks, step.risk]
    # a number halfway between two integers may be rounded up or down
    np.testing.assert_allclose(np.concatenate(risks), whole.risk, atol=1e-3)
    assert 0 < np.abs(exact.next(given.values).risk - whole.risk).max() < 0.01
    with pytest.raises(BundleError, match="in another precision"):
        exact.next(given.values[:1], state)
    assert exact.sha256 == load_bundle("sepsis").sha256 != rough.sha256
