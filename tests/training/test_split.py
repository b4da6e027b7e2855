"""The split of a cache: no patient in two parts, duplicates together, balanced in classes and sources."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.files import file_sha256
from training.data.ecg import ecg_parts, group_parts, patient_groups, unknown_patients
from training.data.split import part_counts, read_split
from training.data.stays import stay_parts


def index(rows: list[tuple[str, str, str | None, str | None]]) -> pd.DataFrame:
    """Rows of source, group, fold, sex."""
    table = pd.DataFrame(rows, columns=["source", "group", "fold", "sex"])
    table.insert(0, "record", [f"R{i}" for i in range(len(table))])
    return table


def together(table: pd.DataFrame) -> list[list[int]]:
    groups = patient_groups(table)
    return sorted([int(i) for i in np.flatnonzero(groups == g)] for g in np.unique(groups))


def test_named_patients_and_lone_records_are_groups_of_their_own() -> None:
    table = index(
        [
            ("a", "a:patient:1", "3", "Male"),
            ("a", "a:patient:1", "3", "Male"),
            ("a", "a:patient:2", "3", "Male"),
            ("b", "b:R3", None, None),
            ("b", "b:R4", None, "Male"),
        ]
    )
    assert together(table) == [[0, 1], [2], [3], [4]]


def test_unnamed_patients_are_tied_by_fold_and_sex() -> None:
    table = index(
        [
            ("a", "a:R0", "1", "Male"),
            ("a", "a:R1", "1", "Male"),
            ("a", "a:R2", "1", "Female"),
            ("a", "a:R3", "2", "Male"),
            ("a", "a:patient:7", "1", "Male"),
            ("b", "b:patient:7", "1", "Male"),
        ]
    )
    assert together(table) == [[0, 1, 4], [2], [3], [5]]


def test_unknown_sex_ties_the_whole_fold() -> None:
    table = index([("a", "a:R0", "1", "Male"), ("a", "a:R1", "1", None), ("a", "a:R2", "1", "Female")])
    assert together(table) == [[0, 1, 2]]


def test_duplicates_tie_groups_of_folds() -> None:
    table = index(
        [
            ("a", "a:R0", "1", "Male"),
            ("a", "a:R1", "2", "Male"),
            ("a", "a:R1", "1", "Male"),
            ("b", "a:R1", None, None),
        ]
    )
    assert together(table) == [[0, 1, 2, 3]]


def test_sources_with_several_recordings_of_unnamed_patients_train() -> None:
    rng = np.random.default_rng(0)
    rows: list[tuple[str, str, str | None, str | None]] = [
        ("cpsc_2018", "cpsc_2018:A", None, "Male"),
        ("ptb", "ptb:patient:3", None, "Male"),
        *[("ptb", f"ptb:S{i}", None, "Male") for i in range(40)],
        *[("georgia", f"georgia:E{i}", None, "Female") for i in range(200)],
        ("georgia", "ptb:S7", None, "Male"),
    ]
    table = index(rows)
    unknown = unknown_patients(table)
    assert unknown.sum() == 40
    parts = ecg_parts(table, (rng.random((len(table), 3)) < 0.3).astype(np.int8))
    assert not parts[unknown].any()
    assert parts[-1] == 0
    share = np.bincount(parts[(table["source"] == "georgia").to_numpy()], minlength=3) / 201
    np.testing.assert_allclose(share, [0.70, 0.15, 0.15], atol=0.03)


def folded_cohort(seed: int, n: int = 900) -> tuple[pd.DataFrame, np.ndarray]:
    """Two thirds of a source without patients but with nine folds, the rest single records."""
    rng = np.random.default_rng(seed)
    folds, sexes = rng.integers(1, 10, n).astype(str), rng.choice(["Male", "Female"], n)
    rows: list[tuple[str, str, str | None, str | None]] = [
        ("big", f"big:R{i}", folds[i], sexes[i]) if i % 3 else ("small", f"small:R{i}", None, sexes[i])
        for i in range(n)
    ]
    labels = (rng.random((n, 6)) < [0.5, 0.2, 0.1, 0.06, 0.04, 0.002]).astype(np.int8)
    return index(rows), labels


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 50))
def test_groups_are_never_divided_and_parts_are_alike(seed: int) -> None:
    table, labels = folded_cohort(seed)
    parts = ecg_parts(table, labels, seed)
    groups = patient_groups(table)
    for g in np.unique(groups):
        assert len(set(parts[groups == g])) == 1
    counts = part_counts(labels, parts)
    np.testing.assert_allclose(counts.records / 900, [0.70, 0.15, 0.15], atol=0.03)
    assert counts.evaluable[:5].all()
    for source in ("big", "small"):
        share = np.bincount(parts[table["source"] == source], minlength=3) / (table["source"] == source).sum()
        np.testing.assert_allclose(share, [0.70, 0.15, 0.15], atol=0.05)
    np.testing.assert_array_equal(ecg_parts(table, labels, seed), parts)


def test_the_search_is_as_good_as_trying_everything() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(30, 60, 7)
    groups = np.repeat(np.arange(7), sizes)
    strata = rng.random((len(groups), 3)) < [0.5, 0.2, 0.1]
    found = group_parts(groups, strata, 0, seed=0)

    def distance(parts: np.ndarray) -> float:
        counted = np.hstack([np.ones((len(groups), 1)), strata])
        held = np.stack([counted[parts == p].sum(axis=0) for p in range(3)])
        wanted = np.outer([0.70, 0.15, 0.15], counted.sum(axis=0))
        return float(((held - wanted) ** 2 / np.maximum(wanted, 1)).sum())

    best = min(
        distance(np.select([np.isin(groups, v), np.isin(groups, t)], [1, 2], 0))
        for size in (1, 2)
        for v in combinations(range(7), size)
        for t in combinations(sorted(set(range(7)) - set(v)), 1)
    )
    assert distance(found) <= best + 1e-9


def test_stays_are_alike_in_hospital_sepsis_and_length() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    table = pd.DataFrame(
        {
            "patient": [f"p{i:06d}" for i in range(n)],
            "hospital": rng.choice(["A", "B"], n),
            "septic": rng.random(n) < 0.08,
            "length": rng.integers(8, 336, n),
        }
    )
    parts = stay_parts(table, 0)
    for column, value in (("hospital", "A"), ("septic", True)):
        chosen = (table[column] == value).to_numpy()
        share = np.bincount(parts[chosen], minlength=3) / chosen.sum()
        np.testing.assert_allclose(share, [0.70, 0.15, 0.15], atol=0.02)
    means = [table["length"].to_numpy()[parts == p].mean() for p in range(3)]
    assert max(means) - min(means) < 15


@pytest.mark.parametrize(
    ("name", "sha256", "records"),
    [
        ("sepsis", "faa834cac6fff6e516685444e46cd8839df3bc37f9565845656e9e23e2cf3c8c", 36_302),
        ("arrhythmia", "25433d7cde96a979983c4a7c9a1f6c4932c7c59f330d9e6da9d1a4db91ad03f4", 2_343),
    ],
)
def test_the_packaged_splits_are_fixed(root: Path, name: str, sha256: str, records: int) -> None:
    path = root / "training" / "splits" / f"{name}.csv"
    assert file_sha256(path) == sha256
    ids = [line.split(",")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(ids) == records
    assert ids == sorted(ids)
    share = np.bincount(read_split(path, ids)) / records
    np.testing.assert_allclose(share, [0.70, 0.15, 0.15], atol=0.025)


def test_no_patient_of_ptb_xl_is_in_two_packaged_parts(root: Path, shared: Path) -> None:
    """By the index of the real recordings: known patients, and folds with sex where there is none."""
    real = pd.read_csv(shared / "data" / "ecg" / "index.csv", dtype=str)
    split = pd.read_csv(root / "training" / "splits" / "arrhythmia.csv", dtype=str)
    joined = real.merge(split, left_on="record", right_on="id")
    assert len(joined) == len(split)
    patients = joined.dropna(subset=["patient"])
    assert (patients.groupby(["source", "patient"])["part"].nunique() == 1).all()
    folded = joined[joined["source"] == "ptb-xl"]
    assert (folded.groupby(["fold", "sex"])["part"].nunique() == 1).all()
