"""The numbers that the paper reports (Lee, Kwon and Jo), to stand beside ours; they are on other data.

The paper's ECG models learnt from the whole Challenge 2021, its EHR models from the Challenge 2019; one
number a cell, without seeds or intervals. Its external sets, Hangzhou and eICU, are not open to everybody.
"""

from __future__ import annotations

from typing import Any

from training.study.plan import Task

CITATION = 'Lee, Kwon and Jo, "On the Inductive Bias Transfer with Knowledge Distillation" (MedicalAI)'

TABLE_1: dict[Task, dict[str, dict[str, float]]] = {
    "arrhythmia": {
        "in distribution": {"transformer": 0.530, "deit": 0.601, "bbm": 0.796},
        "external (Hangzhou)": {"transformer": 0.174, "deit": 0.206, "bbm": 0.592},
    },
    "sepsis": {
        "in distribution": {"transformer": 0.439, "deit": 0.464, "bbm": 0.776},
        "external (eICU)": {"transformer": 0.308, "deit": 0.351, "bbm": 0.728},
    },
}
"""Output R squared with the teacher."""

TABLE_2: dict[Task, dict[str, dict[str, float]]] = {
    "arrhythmia": {
        "transformer": {"f_measure": 0.4959, "challenge_metric": 0.6070},
        "teacher": {"f_measure": 0.5890, "challenge_metric": 0.6895},
        "deit": {"f_measure": 0.5322, "challenge_metric": 0.6571},
        "bbm": {"f_measure": 0.6037, "challenge_metric": 0.7026},
    },
    "sepsis": {
        "transformer": {"f_measure": 0.1579, "utility": 0.1876},
        "teacher": {"f_measure": 0.1526, "utility": 0.2528},
        "deit": {"f_measure": 0.1609, "utility": 0.2177},
        "bbm": {"f_measure": 0.1610, "utility": 0.2619},
    },
}
"""Test performance."""

TABLE_3: dict[Task, dict[str, dict[str, float]]] = {
    "arrhythmia": {
        "1": {"f_measure": 0.5938, "challenge_metric": 0.7001},
        "2": {"f_measure": 0.6027, "challenge_metric": 0.7015},
        "4": {"f_measure": 0.6037, "challenge_metric": 0.7026},
    },
    "sepsis": {
        "1": {"f_measure": 0.1617, "utility": 0.2066},
        "3": {"f_measure": 0.1610, "utility": 0.2619},
    },
}
"""Number of matched groups."""


def paper_numbers(task: Task) -> dict[str, Any]:
    """Everything of a task, as plain data."""
    return {
        "citation": CITATION,
        "table1": TABLE_1[task],
        "table2": TABLE_2[task],
        "table3": TABLE_3[task],
    }
