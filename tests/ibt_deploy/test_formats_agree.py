"""A recording gives the same answer in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ibt_deploy.predictor import Predictor, load
from ibt_deploy.readers import read
from ibt_deploy.records import Recording
from ibt_deploy.types import Floats
from ibt_deploy.vocabulary import canonical_lead
from ibt_deploy.writers import write

LEAST_SIGNIFICANT_BIT = 0.0025
"""mV, of all three files."""
TRIO = ("Example.scp", "Example.dcm", "Example.xml")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load("arrhythmia", device="cpu", threads=1)


@pytest.fixture(scope="module")
def trio(shared: Path) -> dict[str, Recording]:
    found = {}
    for name in TRIO:
        (item,) = read(shared / "data" / "formats" / "trio" / name)
        assert isinstance(item, Recording)
        found[name] = item
    return found


def by_lead(recording: Recording) -> dict[str | None, Floats]:
    return dict(zip(map(canonical_lead, recording.leads), recording.signal, strict=True))


def assert_same_findings(predictor: Predictor, one: Recording, other: Recording) -> None:
    expected, found = predictor.predict([one, other])
    assert [f.positive for f in found.findings] == [f.positive for f in expected.findings]
    np.testing.assert_allclose(
        [f.probability for f in found.findings], [f.probability for f in expected.findings], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", TRIO[1:])
def test_the_trio_reads_alike_and_is_scored_alike(
    trio: dict[str, Recording], predictor: Predictor, name: str
) -> None:
    one, other = trio[TRIO[0]], trio[name]
    expected, found = by_lead(one), by_lead(other)
    assert found.keys() == expected.keys()
    assert max(np.abs(found[lead] - expected[lead]).max() for lead in found) < LEAST_SIGNIFICANT_BIT
    assert max(np.abs(found[lead] - expected[lead]).max() for lead in found) < 1e-12  # and in fact equal
    assert (other.sampling_rate, other.age, other.sex) == (one.sampling_rate, one.age, one.sex)
    assert_same_findings(predictor, one, other)


@pytest.mark.parametrize("suffix", [".hea", ".dcm", ".parquet"])
@pytest.mark.parametrize("name", TRIO)
def test_converted_files_read_and_score_alike(
    trio: dict[str, Recording], predictor: Predictor, tmp_path: Path, name: str, suffix: str
) -> None:
    write(trio[name], tmp_path / f"converted{suffix}")
    (found,) = read(tmp_path / f"converted{suffix}")
    assert isinstance(found, Recording)
    np.testing.assert_allclose(found.signal, trio[name].signal, rtol=0, atol=1e-12)
    assert_same_findings(predictor, trio[name], found)
