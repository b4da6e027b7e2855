"""Explanations find planted effects: the tiny bundles respond to known parts of their input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bundles import recording, stay, write_header, write_psv

from ibt_deploy.cli import main
from ibt_deploy.explain import explained_ecg, explained_stay
from ibt_deploy.predictor import Predictor
from ibt_deploy.preprocess.ecg import standardise
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.scorers.stay import StayScorer
from ibt_deploy.vocabulary import LEADS, NAMES


@pytest.mark.parametrize(
    ("lead", "second", "seconds"), [("V3", 4.0, 10.0), ("II", 7.5, 10.0), ("V6", 12.0, 23.0)]
)
def test_the_lead_and_the_second_that_were_planted_are_found(
    ecg: Predictor, monkeypatch: pytest.MonkeyPatch, lead: str, second: float, seconds: float
) -> None:
    given = recording(seconds)
    given.signal[:] = 0.1 * np.sin(np.arange(given.signal.shape[1]) / 4)
    start = round(second * 500)
    given.signal[LEADS.index(lead), start : start + 200] += np.sin(np.arange(200) / 5)
    scorer = ecg._scorer
    assert isinstance(scorer, EcgScorer)
    row = LEADS.index(lead)

    def energy(signal: np.ndarray, _batch: int) -> np.ndarray:
        logits = np.zeros((len(signal), 26), dtype=np.float32)
        logits[:, 5] = np.square(signal[:, row]).mean(axis=1)
        logits[:, 6] = -logits[:, 5]
        return logits

    monkeypatch.setattr(scorer, "logits", energy)
    # the planted signal has no heartbeat, so it is not examined
    monkeypatch.setattr("ibt_deploy.scorers.ecg.examined", standardise)
    prepared = scorer.prepare(given, ecg.bundle)
    raised, lowered = explained_ecg(scorer, prepared, ecg.bundle.calibration, {"a": 5, "b": 6}, 8)
    assert raised.starts[np.argmax(raised.over_time)] == second
    assert LEADS[int(np.argmax(raised.by_channel))] == lead
    np.testing.assert_allclose(raised.over_time, -lowered.over_time)
    others = np.delete(raised.by_channel, row)
    np.testing.assert_allclose(others, 0, atol=1e-9)
    assert raised.ends[-1] == min(seconds, 20.0)  # a remainder of 3 s makes no window


def test_the_hour_and_the_variable_that_were_planted_are_found(
    stays: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = stay(12).values.copy()
    lactate = NAMES.index("Lactate")
    values[:, lactate] = np.nan
    values[4, lactate] = 6.0
    scorer = stays._scorer
    assert isinstance(scorer, StayScorer)
    monkeypatch.setattr(scorer, "features", lambda given: [s.values for s in given])
    monkeypatch.setattr(
        scorer,
        "logits",
        lambda features, _batch: [
            np.nan_to_num(f[:, lactate]).cumsum().astype(np.float32)
            + 0.01 * np.arange(len(f), dtype=np.float32)
            for f in features
        ],
    )
    prepared = scorer.prepare(stay(12, values=values), stays.bundle)
    found = explained_stay(scorer, prepared, stays.bundle.calibration, 8)
    slope = stays.bundle.calibration.slope[0]
    expected = np.where(np.arange(12) == 4, 6.0 * slope, 0.0)
    np.testing.assert_allclose(found.over_time, expected, atol=1e-5)
    by_name = dict(zip(found.channels, found.by_channel, strict=True))
    assert by_name.pop("Lactate") == pytest.approx(6.0 * slope, abs=1e-5)
    np.testing.assert_allclose(list(by_name.values()), 0, atol=1e-6)


def test_the_graphs_themselves_are_asked(ecg: Predictor, stays: Predictor) -> None:
    given = recording()
    positive = [f.abbreviation for f in ecg.predict(given).findings if f.positive]  # type: ignore[union-attr]
    found = ecg.explain(given)
    assert [e.output for e in found] == positive
    assert any(np.abs(e.by_channel).max() > 0 for e in found)
    with pytest.raises(ValueError, match="no finding 'XYZ'"):
        ecg.explain(given, ["XYZ"])
    risk = stays.explain(stay(12))[0]
    assert len(risk.over_time) == 12
    assert np.isfinite(risk.by_channel).all()


def test_effects_are_differences_of_log_odds_at_the_highest_risk(stays: Predictor) -> None:
    values = stay(20, seed=4).values
    risk = stays.predict(stay(20, values=values)).risk  # type: ignore[union-attr]
    peak = int(np.argmax(risk))
    found = stays.explain(stay(20, values=values))[0]
    by_name = dict(zip(found.channels, found.by_channel, strict=True))

    def lost(rows: slice, columns: slice) -> float:
        changed = values.copy()
        changed[rows, columns] = np.nan
        other = stays.predict(stay(20, values=changed)).risk[peak]  # type: ignore[union-attr]
        return float(np.log(risk[peak] / (1 - risk[peak])) - np.log(other / (1 - other)))

    for name in ("HR", "Temp"):
        column = NAMES.index(name)
        assert by_name[name] == pytest.approx(lost(slice(None), slice(column, column + 1)), abs=1e-4)
    for hour in (0, peak):
        assert found.over_time[hour] == pytest.approx(lost(slice(hour, hour + 1), slice(0, 34)), abs=1e-4)
    np.testing.assert_array_equal(found.over_time[peak + 1 :], 0)


def test_the_command_explains_in_json_and_in_words(
    tmp_path: Path, ecg_bundle: Path, stay_bundle: Path
) -> None:
    for file, bundle, parts in (
        (write_header(tmp_path, recording()), ecg_bundle, 20),
        (write_psv(tmp_path, stay(12)), stay_bundle, 12),
    ):
        command = ["predict", str(file), "--bundle", str(bundle), "--explain"]
        answer = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
        assert {len(e["time"]) for e in answer["explanations"]} == {parts}
        assert "moved by" in CliRunner().invoke(main, command).stdout
        assert CliRunner().invoke(main, [*command, "--csv"]).exit_code == 2
