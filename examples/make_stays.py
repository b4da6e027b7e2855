"""Write SYNTHETIC stays with SepsisLabel, as a made-up hospital would have them, for the notebooks.

Each stay follows the course of ``make_stay.py`` with its own patient, length and noise; a share of them
turns into sepsis. No patient stands behind these numbers, and a score on them says nothing about patients.

    python examples/make_stays.py FOLDER 100
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from make_stay import LABS, VITALS

from ibt_deploy.vocabulary import NAMES

SEPTIC_SHARE = 0.3
HOURS = (24, 48)
LABEL_BEFORE_ONSET = 6


def write_stays(folder: Path, n: int, seed: int = 0) -> None:
    """Write ``n`` stays as ``p000000.psv`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        (folder / f"p{number:06d}.psv").write_text(labelled_stay(f"{seed}/{number}"), encoding="utf-8")


def labelled_stay(seed: str) -> str:
    """The text of one file; the same seed makes the same text."""
    chance = random.Random(seed)
    hours = chance.randint(*HOURS)
    onset = chance.randint(14, hours - 2) if chance.random() < SEPTIC_SHARE else None
    severity = chance.uniform(0.4, 1.0)
    shifts = {name: chance.gauss(0, 2 * noise) for name, (_, _, noise, _, _) in (VITALS | LABS).items()}
    constants = {
        "Age": f"{chance.randint(25, 88)}",
        "Gender": f"{chance.randint(0, 1)}",
        "Unit1": "1",
        "Unit2": "0",
        "HospAdmTime": f"{-chance.expovariate(1 / 20):.1f}",
    }
    lines = ["|".join((*NAMES, "SepsisLabel"))]
    for hour in range(1, hours + 1):
        illness = 0.0 if onset is None else severity / (1 + math.exp(-(hour - onset) / 2.5))
        row = dict.fromkeys(NAMES, "NaN") | constants | {"ICULOS": str(hour)}
        for name, (before, after, noise, digits, when) in (VITALS | LABS).items():
            if hour in when or (name in VITALS and len(when) > 20):
                value = before + shifts[name] + (after - before) * illness + chance.gauss(0, noise)
                row[name] = f"{value:.{digits}f}"
        row["MAP"] = f"{(int(row['SBP']) + 2 * int(row['DBP'])) / 3:.0f}"
        row["O2Sat"] = str(min(int(row["O2Sat"]), 100))
        label = onset is not None and hour >= onset - LABEL_BEFORE_ONSET
        lines.append("|".join((*(row[name] for name in NAMES), str(int(label)))))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_stays(Path(sys.argv[1]), int(sys.argv[2]))
