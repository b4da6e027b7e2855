"""The split: groups stay whole, labels are balanced, files that do not fit are refused."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import DataError
from training.data.split import (
    PARTS,
    one_hot,
    part_counts,
    read_split,
    stratified_parts,
    write_split,
)
from training.data.stays import stay_strata


def cohort(n_groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Groups of one to four records with 26 labels from common to rare."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 5, n_groups))
    prevalence = np.geomspace(0.3, 0.002, 26)
    return groups, (rng.random((len(groups), 26)) < prevalence).astype(np.int8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(0, 5), st.randoms(use_true_random=False))
def test_groups_stay_whole_and_the_order_of_records_is_irrelevant(n: int, seed: int, random: object) -> None:
    groups, labels = cohort(n, seed)
    parts = stratified_parts(groups, labels, seed=seed)
    assert set(np.unique(parts)) <= {0, 1, 2}
    for g in range(n):
        assert len(set(parts[groups == g])) == 1
    order = np.random.default_rng(seed + 1).permutation(len(groups))
    np.testing.assert_array_equal(stratified_parts(groups[order], labels[order], seed=seed), parts[order])
    names = np.array([f"patient {g:05d}" for g in groups])
    np.testing.assert_array_equal(stratified_parts(names, labels, seed=seed), parts)


def test_every_label_is_spread_by_the_fractions() -> None:
    groups, labels = cohort(3000)
    parts = stratified_parts(groups, labels)
    first = np.unique(groups, return_index=True)[1]
    share = np.bincount(parts[first]) / 3000
    np.testing.assert_allclose(share, [0.70, 0.15, 0.15], atol=0.005)
    positive = np.zeros((3000, 26), dtype=bool)
    np.logical_or.at(positive, groups, labels > 0)
    counts = np.stack([positive[parts[first] == j].sum(axis=0) for j in range(3)])
    wanted = np.outer([0.70, 0.15, 0.15], positive.sum(axis=0))
    common = positive.sum(axis=0) > 500
    share = counts[:, common] / positive[:, common].sum(axis=0)
    np.testing.assert_allclose(share, np.broadcast_to([[0.70], [0.15], [0.15]], share.shape), atol=0.01)
    rare = positive.sum(axis=0) < 60
    assert rare.any()
    assert np.abs(counts - wanted)[:, rare].max() < 2


def test_a_different_seed_gives_a_different_split() -> None:
    groups, labels = cohort(300)
    assert (stratified_parts(groups, labels, seed=0) != stratified_parts(groups, labels, seed=1)).any()


def test_unknown_labels_and_records_without_labels_are_dealt_out_too() -> None:
    labels = np.full((200, 3), -1)
    parts = stratified_parts(np.arange(200), labels)
    assert np.bincount(parts).tolist() == [140, 30, 30]
    assert len(stratified_parts(np.array([]), np.zeros((0, 3)))) == 0


def test_stays_are_spread_exactly_over_strata() -> None:
    rng = np.random.default_rng(0)
    n = 40_336
    hospital, septic = rng.choice(["A", "B"], n), rng.random(n) < 0.073
    lengths = rng.integers(8, 336, n)
    strata = stay_strata(hospital, septic, lengths)
    assert strata.shape == (n, 16)
    assert (strata.sum(axis=1) == 1).all()
    start = time.process_time()
    parts = stratified_parts(np.arange(n), strata)
    assert time.process_time() - start < 10
    assert np.abs(np.bincount(parts) - np.array([28_235, 6_050, 6_051])).max() <= 8
    wanted = np.outer([0.70, 0.15, 0.15], strata.sum(axis=0))
    counts = np.stack([strata[parts == j].sum(axis=0) for j in range(3)])
    assert np.abs(counts - wanted).max() <= 1


def test_thirty_six_thousand_groups_take_seconds() -> None:
    groups, labels = cohort(36_000)
    start = time.process_time()
    stratified_parts(groups, np.hstack([labels, one_hot(groups % 8)]))
    assert time.process_time() - start < 10


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_that_are_no_shares_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        stratified_parts(np.arange(3), np.zeros((3, 1)), fractions)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        stratified_parts(np.arange(3), np.zeros((2, 1)))


def test_a_split_survives_the_file_and_its_hash_is_the_files(tmp_path: Path) -> None:
    ids, parts = ["b", "a,1", "c"], np.array([0, 2, 1])
    path = tmp_path / "split.csv"
    digest = write_split(path, ids, parts)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.read_text() == 'id,part\n"a,1",test\nb,train\nc,validation\n'
    np.testing.assert_array_equal(read_split(path, ids), parts)
    np.testing.assert_array_equal(read_split(path, ids[::-1]), parts[::-1])
    assert write_split(tmp_path / "again.csv", ids[::-1], parts[::-1]) == digest


def test_ids_that_do_not_fit_the_split_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    write_split(path, ["a", "b"], [0, 1])
    with pytest.raises(DataError, match=r"1 ids \(c\) of the data have no part"):
        read_split(path, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"1 ids \(b\) of the split are not in the data"):
        read_split(path, ["a"])
    with pytest.raises(DataError, match="cannot read"):
        read_split(tmp_path / "absent.csv", ["a"])


@pytest.mark.parametrize("content", ["", "id,part\na,training\n", "id,part\na\n", "a,train\n"])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(content)
    with pytest.raises(DataError, match="not a split file"):
        read_split(path, ["a"])


def test_doubled_ids_and_unknown_parts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    with pytest.raises(DataError, match="each id once"):
        write_split(path, ["a", "a"], [0, 1])
    with pytest.raises(DataError, match="parts must be"):
        write_split(path, ["a"], [3])
    path.write_text("id,part\na,train\na,test\n")
    with pytest.raises(DataError, match="twice"):
        read_split(path, ["a"])


def test_classes_with_fewer_than_five_positives_in_a_part_are_listed() -> None:
    parts = np.repeat(np.arange(3), 10)
    labels = np.zeros((30, 3), dtype=np.int8)
    labels[[*range(5), *range(10, 15), *range(20, 25)], 0] = 1
    labels[[*range(5), *range(10, 15), *range(20, 24)], 1] = 1
    labels[:, 2] = -1
    counts = part_counts(labels, parts)
    assert counts.records.tolist() == [10, 10, 10]
    assert counts.positives.tolist() == [[5, 5, 0], [5, 5, 0], [5, 4, 0]]
    assert counts.evaluable.tolist() == [True, False, False]
    assert counts.not_evaluable(["x", "y", "z"]) == ["y", "z"]
    assert len(PARTS) == 3
