"""The MIMIC-IV demo in MEDS, scored end to end; hourly values from an independent script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ibt_deploy.batch.run import Options, run_batch
from ibt_deploy.readers import read
from ibt_deploy.records import Stay
from ibt_deploy.vocabulary import NAMES

pytest.importorskip("duckdb")
CHOICES = {
    "HR": [[220045]], "O2Sat": [[220277]], "Temp": [[223762, 223761]],
    "SBP": [[220050, 225309], [220179]], "MAP": [[220052, 225312], [220181]],
    "DBP": [[220051, 225310], [220180]],
    "Resp": [[220210, 224690]], "EtCO2": [[228640]], "BaseExcess": [[50802]], "HCO3": [[50882, 50803]],
    "FiO2": [[223835, 50816]], "pH": [[50820]], "PaCO2": [[50818]], "SaO2": [[50817]], "AST": [[50878]],
    "BUN": [[51006]], "Alkalinephos": [[50863]], "Calcium": [[50893]], "Chloride": [[50902, 50806]],
    "Creatinine": [[50912]], "Bilirubin_direct": [[50883]], "Bilirubin_total": [[50885]],
    "Glucose": [[50931, 50809, 225664]], "Lactate": [[50813]], "Magnesium": [[50960]], "Phosphate": [[50970]],
    "Potassium": [[50971, 50822]], "TroponinI": [[51002]], "Hct": [[51221, 50810]], "Hgb": [[51222, 50811]],
    "PTT": [[51275]], "WBC": [[51301, 51300]], "Fibrinogen": [[51214]], "Platelets": [[51265]],
}  # fmt: skip
"""Items of each variable; a later list counts only in hours without a value of an earlier one."""


@pytest.fixture(scope="module")
def demo(shared: Path) -> Path:
    return shared / "data" / "meds" / "mimic_iv_demo_meds_events.parquet"


def by_pandas(events: pd.DataFrame, subject: int, admitted: pd.Timestamp) -> pd.DataFrame:
    """Hourly rows of one stay, from the events alone."""
    mine = events[events["subject_id"] == subject]
    discharges = mine.loc[mine["code"].str.startswith("ICU_DISCHARGE") & (mine["time"] > admitted), "time"]
    left = discharges.min()
    inside = mine[(mine["time"] >= admitted) & (mine["time"] <= left) & mine["value"].notna()]
    inside = inside[inside["code"].str.startswith("LAB//")].drop_duplicates(["time", "code", "value"])
    item = inside["code"].str.split("//").str[1].astype(int)
    hour = (inside["time"] - admitted) // pd.Timedelta(hours=1) + 1
    value = inside["value"].astype("float64")
    value = value.where(item != 223761, (value - 32) * 5 / 9)
    value = value.where(~item.isin([223835, 50816]), value / 100)
    columns = {}
    for name, choices in CHOICES.items():
        series = None
        for items in choices:
            medians = value[item.isin(items)].groupby(hour[item.isin(items)]).median()
            series = medians if series is None else series.combine_first(medians)
        columns[name] = series
    frame = pd.DataFrame(columns)
    frame = frame[(frame.index >= 1) & (frame.index <= 336)].dropna(how="all")
    return frame.reindex(range(int(frame.index.min()), int(frame.index.max()) + 1))


def test_hourly_values_of_20_stays_are_those_of_a_script(demo: Path) -> None:
    events = pd.read_parquet(demo)
    stays = {stay.patient_id: stay for stay in read(demo) if isinstance(stay, Stay)}
    admissions = events[events["code"].str.startswith("ICU_ADMISSION")].sort_values(["subject_id", "time"])
    admissions = admissions.assign(number=admissions.groupby("subject_id").cumcount() + 1)
    compared = 0
    for row in admissions.iloc[::7].head(20).itertuples():
        stay = stays[f"{row.subject_id}-{row.number}"]
        expected = by_pandas(events, int(row.subject_id), row.time)
        assert stay.hours.tolist() == expected.index.tolist()
        for name in CHOICES:
            np.testing.assert_allclose(
                stay.values[:, NAMES.index(name)],
                expected[name],
                rtol=1e-12,
                err_msg=f"{stay.patient_id} {name}",
            )
        hospital = events[
            (events["subject_id"] == row.subject_id) & events["code"].str.startswith("HOSPITAL_ADMISSION")
        ]["time"]
        before = hospital[hospital <= row.time + pd.Timedelta(hours=24)].max()
        given = stay.values[0, NAMES.index("HospAdmTime")]
        assert given == pytest.approx((before - row.time) / pd.Timedelta(hours=1), abs=1e-3)
        compared += 1
    assert compared == 20


def test_the_demo_is_scored_without_a_mapping(demo: Path, tmp_path: Path) -> None:
    result = run_batch(Options(sources=[str(demo)], out=tmp_path / "out", workers=1))
    assert result.tally.records + result.tally.n_refused == 140
    events = result.summary["tables"]["events"]  # type: ignore[index]
    assert events["variables_found"] >= 39
    assert events["events"] == 916_166
    parts = (events[name] for name in ("without_number", "without_time", "repeated", "outside", "not_mapped"))
    assert events["used"] + sum(parts) >= events["events"]
