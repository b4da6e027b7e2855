"""Names for the types that every package shares: tasks and numpy arrays."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Task: TypeAlias = Literal["arrhythmia", "sepsis"]
TASKS: tuple[Task, ...] = ("arrhythmia", "sepsis")
NOUNS: dict[str, str] = {"arrhythmia": "recordings", "sepsis": "stays"}
"""What each task scores, in the plural."""

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]
Float32s: TypeAlias = npt.NDArray[np.float32]
AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]
Int16s: TypeAlias = npt.NDArray[np.int16]
AnyInts: TypeAlias = npt.NDArray[np.integer[Any]]
Indices: TypeAlias = npt.NDArray[np.intp]
Bools: TypeAlias = npt.NDArray[np.bool_]
Strings: TypeAlias = npt.NDArray[np.str_]
