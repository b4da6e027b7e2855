"""Small synthetic caches of both tasks, and recipes that train on them in seconds.

The tests of ``training`` and of ``export`` share this module. The signals are synthetic and say nothing about
patients; they are learnable, so that the loss falls.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ibt_deploy.vocabulary import CLASSES, INDEX, N_CLASSES, NORMAL_CLASS
from training.data.cache import sealed
from training.data.split import PARTS, write_split
from training.recipe import Recipe, recipe_from_dict

LEADS, SAMPLES = 3, 2000
LOW_VOLTAGE = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "LQRSV")
FAST = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "STach")
INVERTED = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "TInv")

TINY: dict[str, dict[str, Any]] = {
    "resnet": {"base_filters": 4, "kernel": 8, "dropout": 0.0},
    "lstm": {"hidden": 16},
    "student": {"dim": 16, "heads": 2, "mlp_ratio": 2.0, "dropout": 0.0},
    "fit": {"batch_size": 16, "epochs": 2, "lr": 3e-3, "warmup_epochs": 0.5, "precision": "fp32"},
}
"""Every section of a recipe that makes networks small."""


def tiny_recipe(task: str, method: str, **sections: Mapping[str, Any]) -> Recipe:
    """A recipe of small networks; ``sections`` override single keys: ``fit={"epochs": 3}``."""
    table: dict[str, Any] = {"task": task, "method": method}
    for name in {*TINY, *sections}:
        table[name] = {**TINY.get(name, {}), **sections.get(name, {})}
    return recipe_from_dict(table)


def ecg_cache(folder: Path, n: int = 60, *, leads: int = LEADS, seed: int = 0, name: str = "R") -> Path:
    """A cache of ``n`` recordings with split: pulses, fast in one class and inverted in another.

    ``name`` begins the name of every recording.
    Every seventh is longer than a window, every eleventh shorter; every fourth has an approximate amplitude.
    """
    rng, group = np.random.default_rng(seed), "g" if name == "R" else f"{name}:g"
    folder.mkdir(parents=True)
    labels = np.zeros((n, N_CLASSES), dtype=np.int8)
    labels[:, FAST], labels[:, INVERTED] = rng.random((2, n)) < 0.4
    labels[:, NORMAL_CLASS] = ~labels[:, [FAST, INVERTED]].any(axis=1)
    labels[::4, LOW_VOLTAGE] = -1
    rows, signals, start = [], [], 0
    for i in range(n):
        length = 2600 if i % 7 == 3 else 1500 if i % 11 == 5 else SAMPLES
        signals.append(_pulses(rng, length, leads, *labels[i, [FAST, INVERTED]]))
        rows.append(
            {
                "record": f"{name}{i:04d}",
                "source": "one" if i % 3 else "two",
                "group": f"{group}{i // 2}",
                "sampling_rate": 500,
                "amplitude": "approximate" if i % 4 == 0 else "mV",
                "age": 60,
                "sex": "Female" if i % 2 else "Male",
                "fold": "",
                "piece": 0,
                "start": start,
                "length": length,
            }
        )
        start += length
    np.save(folder / "labels.npy", labels)
    np.save(folder / "signal-000.npy", np.concatenate(signals, axis=1))
    _write_rows(folder / "index.csv", rows)
    seal(folder, "arrhythmia", "ecg", n)
    write_split(folder / "split.csv", [str(row["record"]) for row in rows], _parts(n))
    return folder


def _pulses(
    rng: np.random.Generator, length: int, leads: int, fast: np.int8, inverted: np.int8
) -> np.ndarray:
    """Signal ``(leads, length)`` in int16 microvolts."""
    period = 70 if fast else 160
    phase = (np.arange(length) + rng.integers(0, period)) % period
    shape = np.exp(-0.5 * ((phase - 20) / 3) ** 2) + (0.4 - 0.8 * inverted) * np.exp(
        -0.5 * ((phase - 45) / 8) ** 2
    )
    gain = rng.uniform(0.5, 1.5, (leads, 1))
    signal = 1000 * gain * shape + 30 * rng.standard_normal((leads, length))
    return np.rint(signal).astype(np.int16)


def stay_cache(folder: Path, n: int = 60, *, longest: int = 40, seed: int = 0) -> Path:
    """A cache of ``n`` stays of 8 to ``longest`` hours with split; every third is septic.

    The heart rate rises from six hours before onset.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows, values, labels, start = [], [], [], 0
    for i in range(n):
        length = int(rng.integers(8, longest + 1))
        septic = i % 3 == 0
        onset = int(rng.integers(0, length - 2)) if septic else length
        stay = _stay(rng, length, onset)
        values.append(stay)
        labels.append((np.arange(length) >= onset).astype(np.int8))
        rows.append(
            {
                "patient": f"p{i:06d}",
                "hospital": "AB"[i % 2],
                "piece": 0,
                "start": start,
                "length": length,
                "septic": int(septic),
            }
        )
        start += length
    np.savez_compressed(folder / "rows-000.npz", values=np.concatenate(values), labels=np.concatenate(labels))
    _write_rows(folder / "index.csv", rows)
    seal(folder, "sepsis", "raw", n)
    write_split(folder / "split.csv", [str(row["patient"]) for row in rows], _parts(n))
    return folder


def _stay(rng: np.random.Generator, length: int, onset: int) -> np.ndarray:
    """Rows ``(length, 40)``; the heart rate rises from six hours before ``onset``."""
    stay = np.full((length, 40), np.nan, dtype=np.float32)
    hours = np.arange(length)
    stay[:, INDEX["HR"]] = 80 + 40 * (hours >= onset - 6) + 3 * rng.standard_normal(length)
    for name, middle in (("O2Sat", 96.0), ("SBP", 120.0), ("Resp", 18.0), ("Lactate", 2.0)):
        measured = rng.random(length) < 0.5
        stay[measured, INDEX[name]] = middle * rng.uniform(0.9, 1.04, measured.sum())
    stay[:, INDEX["Age"]], stay[:, INDEX["Gender"]] = rng.integers(20, 90), rng.integers(0, 2)
    stay[:, INDEX["Unit1"]], stay[:, INDEX["Unit2"]] = 1, 0
    stay[:, INDEX["HospAdmTime"]] = -float(rng.integers(1, 50))
    stay[:, INDEX["ICULOS"]] = 1 + hours
    return stay


def _parts(n: int) -> np.ndarray:
    """Three fifths of the items train, pairs stay together."""
    return np.array([0, 0, 0, 1, 2])[np.arange(n) // 2 % 5]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def seal(folder: Path, task: str, preprocessing: str, n: int, **counts: int) -> None:
    """Write the manifest of a cache, with the hashes of its files."""
    (folder / "cache.json").unlink(missing_ok=True)
    sealed(
        folder,
        task=task,
        source=folder,
        preprocessing={"name": preprocessing, "version": "1.0.0"},
        records=n,
        refused=[],
        counts=counts,
    )


def ids_of(cache: Path, part: str) -> set[str]:
    """Identifiers of a part of a cache made here."""
    assert part in PARTS
    with (cache / "split.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"] for row in csv.DictReader(file) if row["part"] == part}
