"""The 26 scored classes of the Challenge 2021, in the official order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ibt_deploy.files import read_table
from ibt_deploy.types import Bools


@dataclass(frozen=True)
class ArrhythmiaClass:
    """One scored class.

    Attributes
    ----------
    code
        SNOMED CT code under which the class is reported.
    abbreviation, name
        As in the Challenge's table.
    codes
        Every SNOMED CT code that counts as this class (four classes merge two codes).
    """

    code: str
    abbreviation: str
    name: str
    codes: tuple[str, ...]


CLASSES: tuple[ArrhythmiaClass, ...] = tuple(
    ArrhythmiaClass(
        row["snomed"],
        row["abbreviation"],
        row["name"],
        tuple((row["merged_codes"] or row["snomed"]).split("|")),
    )
    for row in read_table("classes26.csv")
)
N_CLASSES = len(CLASSES)
NORMAL_CLASS = next(i for i, c in enumerate(CLASSES) if c.abbreviation == "NSR")
INDEX_OF_CODE: dict[str, int] = {code: i for i, c in enumerate(CLASSES) for code in c.codes}


def label_vector(codes: Iterable[str]) -> Bools:
    """Which of the 26 classes the SNOMED CT ``codes`` name; unscored codes are ignored. Shape ``(26,)``."""
    vector = np.zeros(N_CLASSES, dtype=bool)
    for code in codes:
        index = INDEX_OF_CODE.get(code.strip())
        if index is not None:
            vector[index] = True
    return vector
