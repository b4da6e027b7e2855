from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.bundles import stay
from hypothesis import given
from hypothesis import strategies as st

from ibt_deploy.errors import MalformedFile
from ibt_deploy.streaming import RiskStream, StreamState, pack, unpack

KEY = b"a key of some length"


@pytest.fixture(scope="module")
def stream(stay_bundle: Path) -> RiskStream:
    return RiskStream.load(stay_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def state(stream: RiskStream) -> StreamState:
    return stream.next(stay(9).values).state


@given(st.integers(1, 40), st.integers(0, 20))
def test_what_was_packed_comes_out_again(stream: RiskStream, hours: int, seed: int) -> None:
    values = stay(hours + 1, seed).values
    before = stream.next(values[:-1]).state
    signed = unpack(pack(before, KEY, record="r-1", issued=1_700_000_000), [KEY], before.sha256)
    assert (signed.record, signed.issued) == ("r-1", 1_700_000_000)
    after = signed.state
    for name in ("values", "past_k", "past_v"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_array_equal(after.features.last, before.features.last)
    np.testing.assert_array_equal(after.features.since, before.features.since)
    assert after.features.rows == before.features.rows
    np.testing.assert_array_equal(stream.next(values[-1:], after).risk, stream.next(values[-1:], before).risk)


@given(st.data())
def test_every_bit_is_signed(state: StreamState, data: st.DataObject) -> None:
    content = bytearray(pack(state, KEY))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MalformedFile):
        unpack(bytes(content), [KEY], state.sha256)


@given(st.data())
def test_what_is_cut_is_refused(state: StreamState, data: st.DataObject) -> None:
    content = pack(state, KEY)
    with pytest.raises(MalformedFile):
        unpack(content[: data.draw(st.integers(0, len(content) - 1))], [KEY], state.sha256)


def test_only_the_same_key_version_and_bundle_open_a_state(state: StreamState) -> None:
    content = pack(state, KEY)
    with pytest.raises(MalformedFile, match="another key"):
        unpack(content, [b"another"], state.sha256)
    with pytest.raises(MalformedFile, match="another model"):
        unpack(content, [KEY], "0" * 64)
    with pytest.raises(MalformedFile, match="another version"):
        unpack(content[:4] + b"\x63" + content[5:], [KEY], state.sha256)


def test_a_state_of_an_earlier_key_is_opened_while_that_key_is_known(state: StreamState) -> None:
    content = pack(state, KEY)
    assert unpack(content, [b"a newer key", KEY], state.sha256).state.sha256 == state.sha256
    with pytest.raises(MalformedFile, match="another key"):
        unpack(content, [], state.sha256)


def test_the_key_is_not_in_the_state(state: StreamState) -> None:
    assert KEY not in pack(state, KEY)
