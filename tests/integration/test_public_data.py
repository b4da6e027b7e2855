"""Every public record is answered or refused with a reason, and batching never changes an answer."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.command import Run

import ibt_deploy
from ibt_deploy.predictions import ArrhythmiaPrediction, Refusal, SepsisPrediction
from ibt_deploy.preprocess.stay import clean
from ibt_deploy.preprocess.stay_checks import require_one_patient, unit_notices
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import NAMES

TOLERANCE = 1e-5


@pytest.mark.slow
def test_every_public_record_is_answered_or_refused(shared: Path) -> None:
    paths = sorted((shared / "data" / "ecg").rglob("*.hea"))
    predictor = ibt_deploy.load("arrhythmia", operating_point="challenge")
    answers = list(predictor.predict_many(paths))
    assert len(answers) == len(paths)
    refused = [a for a in answers if isinstance(a, Refusal)]
    assert all(r.code and r.message for r in refused)
    assert len(refused) < 0.01 * len(paths), [r.message for r in refused][:5]
    for answer in answers:
        if isinstance(answer, ArrhythmiaPrediction):
            assert np.isfinite(answer.probabilities).all()
            assert answer.positive.any()


def test_same_answer_alone_in_a_list_and_in_any_order(shared: Path) -> None:
    paths = sorted((shared / "data" / "ecg").rglob("*.hea"))[::90]
    predictor = ibt_deploy.load("arrhythmia")
    listed = [a for a in predictor.predict_many(paths) if isinstance(a, ArrhythmiaPrediction)]
    turned = [a for a in predictor.predict_many(paths[::-1]) if isinstance(a, ArrhythmiaPrediction)]
    assert len(listed) == len(paths)
    for path, one, other in zip(paths, listed, turned[::-1], strict=True):
        alone = predictor.predict(path)
        assert isinstance(alone, ArrhythmiaPrediction)
        assert np.abs(alone.probabilities - one.probabilities).max() < TOLERANCE
        assert np.abs(alone.probabilities - other.probabilities).max() < TOLERANCE


def test_georgia_headers_that_wfdb_refuses_are_read(shared: Path, ibt: Run) -> None:
    files = sorted((shared / "data" / "ecg" / "georgia").glob("*.hea"))[:3]
    done = ibt("predict", "--json", *files)
    assert done.returncode == 0
    assert [json.loads(line)["record"] for line in done.stdout.splitlines()] == [f.stem for f in files]


@pytest.fixture(scope="module")
def stays(shared: Path) -> list[Stay]:
    """Forty real stays."""
    pandas = pytest.importorskip("pandas")
    rows = pandas.read_parquet(
        shared / "data" / "p19" / "p19.parquet", filters=[("patient_id", "<", "p000060")]
    )
    found = []
    for patient, stay in rows.groupby("patient_id"):
        values = stay.iloc[:, 3:43].to_numpy(dtype=np.float64)
        found.append(Stay(values, str(patient), "p19.parquet", "test"))
    return found[:40]


def test_later_hours_never_change_earlier_risks(stays: list[Stay]) -> None:
    predictor = ibt_deploy.load("sepsis")
    generator = np.random.default_rng(0)
    for stay in stays:
        before = predictor.predict(stay)
        assert isinstance(before, SepsisPrediction)
        hour = int(generator.integers(1, len(stay.values)))
        values = stay.values.copy()
        values[hour:, :34] = np.where(generator.random((len(values) - hour, 34)) < 0.3, 80.0, np.nan)
        values[hour:, 8:34] = np.nan
        values[hour:, NAMES.index("Temp")] = 39.0
        after = predictor.predict(Stay(values, stay.patient_id, stay.source, stay.format))
        assert isinstance(after, SepsisPrediction)
        assert before.risk[:hour].tobytes() == after.risk[:hour].tobytes()


def test_same_risk_alone_and_in_company(stays: list[Stay]) -> None:
    predictor = ibt_deploy.load("sepsis")
    together = predictor.predict(stays)
    for stay, answer in zip(stays, together, strict=True):
        alone = predictor.predict(stay)
        assert isinstance(alone, SepsisPrediction)
        assert isinstance(answer, SepsisPrediction)
        assert np.abs(alone.risk - answer.risk).max() < TOLERANCE


def test_rules_of_plausibility_seldom_meet_real_stays(shared: Path, root: Path) -> None:
    """No training or test stay is refused; any one warning stays below 1 in 500, or 1 in 400."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(shared / "data" / "p19" / "p19.parquet")
    patients = np.array(table["patient_id"].to_pylist())
    values = np.stack([table[name].to_numpy() for name in NAMES], axis=1)
    starts = np.flatnonzero(np.append(True, patients[1:] != patients[:-1]))
    with (root / "training" / "splits" / "sepsis.csv").open(encoding="utf-8") as file:
        part_of = {row["id"]: row["part"] for row in csv.DictReader(file)}
    for part, rare in (("train", 500), ("test", 400)):
        found: Counter[str] = Counter()
        stays = 0
        for begin, end in zip(starts, [*starts[1:], len(values)], strict=True):
            if part_of[patients[begin]] != part:
                continue
            stays += 1
            rows = values[begin:end]
            require_one_patient(clean(rows)[0])
            found.update({f"{n.code} {n.message.split()[0]}" for n in unit_notices(rows)})
        assert stays in (25_410, 5_446)
        assert max(found.values()) < stays / rare, found.most_common(3)
