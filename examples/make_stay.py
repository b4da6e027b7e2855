"""Write ``stay.psv``: a SYNTHETIC stay of 40 hours in which an infection turns into sepsis.

No patient stands behind these numbers. They follow a made-up course: stable for a day, then, around hour 28,
rising heart rate, breathing and temperature, falling blood pressure, and the labs that a team would order.
The columns are the 40 variables of the PhysioNet/CinC Challenge 2019 in their order, without its label
SepsisLabel, as a hospital would have them. Running the script again writes the same bytes.

    python examples/make_stay.py

With a folder and a number it writes as many synthetic stays with SepsisLabel there, as a made-up hospital
would have them: each follows the same course with its own patient, length and noise, and a share of them
turns into sepsis. A score on them says nothing about patients.

    python examples/make_stay.py FOLDER 100
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

from ibt_deploy.vocabulary import NAMES

HOURS = 40
TURNING_POINT = 28.0
SEED = 2019
SEPTIC_SHARE = 0.3
LENGTHS = (24, 48)
LABEL_BEFORE_ONSET = 6

# name: (before, after, noise, digits, hours at which it is measured)
VITALS: dict[str, tuple[float, float, float, int, range]] = {
    "HR": (82, 121, 3.0, 0, range(1, HOURS + 1)),
    "O2Sat": (97, 92, 0.8, 0, range(1, HOURS + 1)),
    "Temp": (36.9, 39.0, 0.1, 1, range(2, HOURS + 1, 4)),
    "SBP": (126, 91, 4.0, 0, range(1, HOURS + 1)),
    "DBP": (63, 45, 3.0, 0, range(1, HOURS + 1)),
    "Resp": (17, 29, 1.2, 0, range(1, HOURS + 1)),
}
MORNING, NIGHT, EVENING, URGENT = 3, 16, 28, 33
LABS: dict[str, tuple[float, float, float, int, tuple[int, ...]]] = {
    "BaseExcess": (0, -7, 0.5, 0, (EVENING, URGENT)),
    "HCO3": (24, 18, 0.6, 0, (MORNING, NIGHT, EVENING, URGENT)),
    "FiO2": (0.3, 0.5, 0.0, 1, (NIGHT, EVENING, URGENT)),
    "pH": (7.40, 7.29, 0.01, 2, (EVENING, URGENT)),
    "PaCO2": (40, 33, 1.0, 0, (EVENING, URGENT)),
    "BUN": (19, 34, 1.0, 0, (MORNING, NIGHT, EVENING, URGENT)),
    "Calcium": (8.6, 8.1, 0.1, 1, (MORNING, NIGHT)),
    "Chloride": (104, 107, 1.0, 0, (MORNING, NIGHT, EVENING)),
    "Creatinine": (1.0, 2.1, 0.05, 1, (MORNING, NIGHT, EVENING, URGENT)),
    "Glucose": (128, 176, 8.0, 0, (MORNING, 10, NIGHT, 22, EVENING, URGENT)),
    "Lactate": (1.3, 4.6, 0.2, 1, (EVENING, URGENT, 38)),
    "Magnesium": (2.0, 1.9, 0.1, 1, (MORNING, NIGHT)),
    "Potassium": (4.1, 4.6, 0.1, 1, (MORNING, NIGHT, EVENING, URGENT)),
    "Bilirubin_total": (0.8, 1.9, 0.1, 1, (MORNING, EVENING)),
    "Hct": (33, 30, 0.5, 1, (MORNING, NIGHT, EVENING)),
    "Hgb": (11.1, 10.0, 0.2, 1, (MORNING, NIGHT, EVENING)),
    "PTT": (31, 42, 1.0, 1, (MORNING, EVENING)),
    "WBC": (9.4, 19.2, 0.4, 1, (MORNING, NIGHT, EVENING, URGENT)),
    "Platelets": (214, 128, 5.0, 0, (MORNING, NIGHT, EVENING, URGENT)),
}
DEMOGRAPHICS = {"Age": "67", "Gender": "1", "Unit1": "1", "Unit2": "0", "HospAdmTime": "-14.3"}


def stay_text() -> str:
    """The file's content."""
    chance = random.Random(SEED)
    lines = ["|".join(NAMES)]
    for hour in range(1, HOURS + 1):
        illness = 1 / (1 + math.exp(-(hour - TURNING_POINT) / 2.5))
        row = dict.fromkeys(NAMES, "NaN") | DEMOGRAPHICS | {"ICULOS": str(hour)}
        for name, (before, after, noise, digits, hours) in (VITALS | LABS).items():
            if hour in hours:
                row[name] = f"{before + (after - before) * illness + chance.gauss(0, noise):.{digits}f}"
        row["MAP"] = f"{(int(row['SBP']) + 2 * int(row['DBP'])) / 3:.0f}"
        row["O2Sat"] = str(min(int(row["O2Sat"]), 100))
        lines.append("|".join(row[name] for name in NAMES))
    return "\n".join(lines) + "\n"


def write_stays(folder: Path, n: int, seed: int = 0) -> None:
    """Write ``n`` stays as ``p000000.psv`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        (folder / f"p{number:06d}.psv").write_text(labelled_stay(f"{seed}/{number}"), encoding="utf-8")


def labelled_stay(seed: str) -> str:
    """The text of one file; the same seed makes the same text."""
    chance = random.Random(seed)
    hours = chance.randint(*LENGTHS)
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
    if len(sys.argv) > 1:
        write_stays(Path(sys.argv[1]), int(sys.argv[2]))
        sys.exit()
    Path(__file__).with_name("stay.psv").write_text(stay_text(), encoding="utf-8")
