"""The whole study with tiny networks: from a prepared cache to the report, and whatever interrupts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import tiny
from helpers.tiny import ecg_cache, stay_cache

ECGS, STAYS = 120, 320


def tiny_stays(folder: Path) -> Path:
    return stay_cache(folder, STAYS, longest=24)


def tiny_ecgs(folder: Path, *, prefix: str = "R", seed: int = 0, n: int = ECGS) -> Path:
    """Twelve-lead ECGs of two sources, one of which is held out."""
    cache = ecg_cache(folder, n, leads=12, seed=seed)
    index = cache / "index.csv"
    index.write_text(index.read_text().replace(",two,", ",georgia,").replace("R0", f"{prefix}0"))
    split = cache / "split.csv"
    split.write_text(split.read_text().replace("R0", f"{prefix}0"))
    tiny._seal(cache, "arrhythmia", "ecg", n)
    return cache
