"""The split of a prepared cache: which recordings or stays train, validate and test.

No patient may be in two parts. Where a source names the patient of some recordings only but gives folds that
keep patients together (PTB-XL), any two recordings of one fold and sex may be of one patient: they form one
group. Such groups are too large and too few to be dealt out one by one, so they are placed by a search. Where
a source has several recordings of some patients and tells neither, it trains and is not evaluated on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.stratify import FEWEST_POSITIVES, PARTS, one_hot, stay_strata, stratified_parts

FRACTIONS = (0.70, 0.15, 0.15)
LARGE = 0.01
"""A group with more than this share of the recordings is placed by search."""
RESTARTS = 50
NAMED_PATIENT = ":patient:"
REPEATED_PATIENTS = ("ptb", "ptb-xl", "st_petersburg_incart")
"""Sources with several recordings of some patients, of whom the Challenge's headers say nothing."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def ecg_parts(index: pd.DataFrame, labels: npt.NDArray[np.int8], seed: int = 0) -> Ints:
    """Part of each recording, alike in classes, source and sex; indices into :data:`PARTS`.

    Parameters
    ----------
    index
        Index of the cache, with the columns source, group, fold and sex.
    labels
        Shape ``(n, 26)``, positive where 1.
    seed
        Decides among equals.
    """
    strata = np.hstack(
        [labels > 0, one_hot(index["source"].to_numpy()), one_hot(index["sex"].fillna("").to_numpy())]
    )
    groups = patient_groups(index)
    free = ~np.isin(groups, groups[unknown_patients(index)])
    parts = np.full(len(index), PARTS.index("train"), dtype=np.int64)
    parts[free] = group_parts(groups[free], strata[free], labels.shape[1], seed)
    return parts


def unknown_patients(index: pd.DataFrame) -> Bools:
    """Recordings that may be of the patient of any other of their source. Shape ``(n,)``."""
    named = index["group"].str.contains(NAMED_PATIENT, regex=False)
    return np.asarray(index["source"].isin(REPEATED_PATIENTS) & index["fold"].isna() & ~named, dtype=bool)


def stay_parts(index: pd.DataFrame, seed: int = 0) -> Ints:
    """Part of each stay, alike in hospital, sepsis and quartile of length; indices into :data:`PARTS`."""
    strata = stay_strata(*(index[c].to_numpy() for c in ("hospital", "septic", "length")))
    return stratified_parts(index["patient"].to_numpy(), strata, FRACTIONS, seed)


def patient_groups(index: pd.DataFrame) -> Ints:
    """Number of the group of each recording, such that one patient's recordings are surely in one group.

    The groups of the cache (patients where they are named, duplicates of a signal) are joined by fold and sex
    in every source where a recording has a fold and no named patient.
    """
    unnamed = index["fold"].notna() & ~index["group"].str.contains(NAMED_PATIENT, regex=False)
    by_fold = index["source"].isin(index.loc[unnamed, "source"].unique()) & index["fold"].notna()
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    sex_of = index["sex"].fillna("")
    sexless = {(s, f) for s, f, x in zip(index["source"], index["fold"], sex_of, strict=True) if not x}
    for group, source, fold, sex, folded in zip(
        index["group"], index["source"], index["fold"], sex_of, by_fold, strict=True
    ):
        known_sex = "" if (source, fold) in sexless else sex
        name = f"fold:{source}:{fold}:{known_sex}" if folded else f"group:{group}"
        first, second = sorted((root(f"group:{group}"), root(name)))
        parent[second] = first
    return np.unique([root(f"group:{group}") for group in index["group"]], return_inverse=True)[1].astype(
        np.int64
    )


def group_parts(groups: npt.ArrayLike, strata: Bools, n_classes: int, seed: int = 0) -> Ints:
    """Part of each recording: small groups by iterative stratification, large ones by search.

    Parameters
    ----------
    groups
        Shape ``(n,)``.
    strata
        Shape ``(n, m)``: what the parts are to be alike in; the first ``n_classes`` columns are the classes,
        each of which should have five positives in every part.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(group)
    large = np.flatnonzero(sizes > max(LARGE * len(group), 1))
    is_large = np.isin(group, large)
    parts = np.zeros(len(group), dtype=np.int64)
    parts[~is_large] = stratified_parts(group[~is_large], strata[~is_large], FRACTIONS, seed)
    if len(large):
        counted = np.hstack([np.ones((len(strata), 1), dtype=bool), strata]).astype(np.float64)
        base = np.stack([counted[~is_large & (parts == p)].sum(axis=0) for p in range(len(PARTS))])
        units = np.stack([counted[group == g].sum(axis=0) for g in large])
        placed = _placed(units, base, slice(1, 1 + n_classes), np.random.default_rng(seed))
        part_of = dict(zip(large.tolist(), placed.tolist(), strict=True))
        parts[is_large] = [part_of[int(g)] for g in group[is_large]]
    return parts


def _placed(units: Floats, base: Floats, classes: slice, rng: np.random.Generator) -> Ints:
    """Part of each unit, by steepest descent from random starts.

    ``units`` has shape ``(units, counts)``, ``base`` ``(parts, counts)``: what the parts already hold. Least
    is the chi-square distance to the wanted counts, plus 10 for every positive that a class lacks in a part.
    """
    total = base.sum(axis=0) + units.sum(axis=0)
    wanted = np.outer(FRACTIONS, total)
    possible = total[classes] >= FEWEST_POSITIVES * len(PARTS)

    def costs(parts: Ints) -> Floats:
        held = base + np.einsum("kup,uc->kpc", np.eye(len(PARTS))[parts], units)
        distance = ((held - wanted) ** 2 / np.maximum(wanted, 1)).sum(axis=(1, 2))
        lacking = np.maximum(FEWEST_POSITIVES - held[:, :, classes][:, :, possible], 0).sum(axis=(1, 2))
        summed: Floats = distance + 10 * lacking
        return summed

    best, lowest = np.zeros(len(units), dtype=np.int64), np.inf
    for _ in range(RESTARTS):
        part = rng.choice(len(PARTS), len(units), p=FRACTIONS).astype(np.int64)
        here = float(costs(part[None])[0])
        while True:
            neighbours = _neighbours(part)
            tried = costs(neighbours)
            least = int(np.argmin(tried))
            if tried[least] >= here - 1e-9:
                break
            part, here = neighbours[least], float(tried[least])
        if here < lowest - 1e-9:
            best, lowest = part, here
    return best


def _neighbours(part: Ints) -> Ints:
    """Every placement that moves one unit or swaps two, shape ``(placements, units)``."""
    neighbours = []
    for i in range(len(part)):
        for p in range(len(PARTS)):
            if p != part[i]:
                moved = part.copy()
                moved[i] = p
                neighbours.append(moved)
        for j in range(i):
            if part[i] != part[j]:
                swapped = part.copy()
                swapped[i], swapped[j] = part[j], part[i]
                neighbours.append(swapped)
    return np.stack(neighbours)
