"""The paper that the study reproduces: its numbers, and where the study departs from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ibt_deploy.render.report import table
from ibt_deploy.types import NOUNS, Task

CITATION = 'Lee, Kwon and Jo, "On the Inductive Bias Transfer with Knowledge Distillation" (MedicalAI)'

PAPER: dict[Task, dict[str, dict[str, dict[str, float]]]] = {
    "arrhythmia": {
        "table1": {
            "in distribution": {"transformer": 0.530, "deit": 0.601, "bbm": 0.796},
            "external (Hangzhou)": {"transformer": 0.174, "deit": 0.206, "bbm": 0.592},
        },
        "table2": {
            "transformer": {"f_measure": 0.4959, "challenge_metric": 0.6070},
            "teacher": {"f_measure": 0.5890, "challenge_metric": 0.6895},
            "deit": {"f_measure": 0.5322, "challenge_metric": 0.6571},
            "bbm": {"f_measure": 0.6037, "challenge_metric": 0.7026},
        },
        "table3": {
            "1": {"f_measure": 0.5938, "challenge_metric": 0.7001},
            "2": {"f_measure": 0.6027, "challenge_metric": 0.7015},
            "4": {"f_measure": 0.6037, "challenge_metric": 0.7026},
        },
    },
    "sepsis": {
        "table1": {
            "in distribution": {"transformer": 0.439, "deit": 0.464, "bbm": 0.776},
            "external (eICU)": {"transformer": 0.308, "deit": 0.351, "bbm": 0.728},
        },
        "table2": {
            "transformer": {"f_measure": 0.1579, "utility": 0.1876},
            "teacher": {"f_measure": 0.1526, "utility": 0.2528},
            "deit": {"f_measure": 0.1609, "utility": 0.2177},
            "bbm": {"f_measure": 0.1610, "utility": 0.2619},
        },
        "table3": {
            "1": {"f_measure": 0.1617, "utility": 0.2066},
            "3": {"f_measure": 0.1610, "utility": 0.2619},
        },
    },
}
"""Output R squared with the teacher, test performance, and test performance by number of matched groups."""


def paper_numbers(task: Task) -> dict[str, Any]:
    """The paper's numbers for a task, as plain data."""
    return {"citation": CITATION, **PAPER[task]}


BATCHES = "batches"
"""Placeholder for the budgets' batch sizes and warm-up."""
DEPARTURES = (
    (
        "Eq. 2 to 4 sum squared differences over time and depth",
        "means over batch, time and depth (`bbm.reduction`)",
        "sums weigh a term by its number of elements: 16,000 in one group, 2,048 in another",
    ),
    (
        "teacher features as they are",
        "standardised channel by channel over the training part (`bbm.deviation_floor`)",
        "a residual network's features grow with depth; unscaled, the last groups decide the loss",
    ),
    (
        "the matching loss; whether the task's own loss is added is not said",
        "cross-entropy + lambda times the mean of all terms; lambda 1 for ECGs, 0.3 for stays (`bbm.weight`)",
        "a student that only imitates could not outperform its teacher, as in the paper",
    ),
    (
        "features are resized in time; how is not said",
        "averages when shortening, linear when lengthening (`bbm.resize`)",
        "linear interpolation to far fewer steps uses only the two nearest steps and ignores the rest",
    ),
    (
        "batches of 512 ECGs and 256 patients, rates that peak at epoch 10",
        BATCHES,
        "with a fiftieth of the ECGs the paper's batches would leave 3 steps an epoch; batches of stays "
        "were chosen for the CPU",
    ),
    (
        "three LSTM layers with residuals between them",
        "the rows are projected to the LSTM's width first (`lstm.projection`)",
        "the first layer then has a residual too, as where the widths agree",
    ),
    (
        "patches of 100 ms, 8 blocks, width not said",
        "the recipe of the packaged ECG model: patches of 200 ms, width 192",
        "0.19 GMAC a recording in place of 0.68; the budgets `cpu` and `gpu` train it",
    ),
    (
        "every step matches every group",
        "Eq. 2 and 3 of the first group and of one later group drawn at random (`bbm.groups_per_step`)",
        "the expected loss is the same at about half the cost",
    ),
    (
        "the labels of the data",
        "stays: 0.3 parts these, 0.7 parts the opinion of boosted trees, for every method and the teacher "
        "(`data.soft_weight`)",
        "on the labels alone an LSTM overfits from the third epoch on; that they all learn from the same "
        "trees also raises the agreement of two teachers",
    ),
    (
        "length and filtering of ECGs are not said; six augmentations, baseline wander among them",
        "crops of 5 to 10 s, 0.5 to 40 Hz; five augmentations, without wander (`data.band`, `augment`)",
        "short recordings are scored without padding; the filter would remove the wander",
    ),
    (
        "random search with early stopping (ASHA) for every method",
        "one recipe for all students, chosen on validation",
        "a search for every method and seed exceeds the budgets",
    ),
    (
        "the rows of a stay are embedded; a scale is not said",
        "the embedding is multiplied by 4 before the positions are added, in all arms",
        "unscaled, the positions outweigh the values (rms 0.71 against 0.20)",
    ),
    (
        "which checkpoint is kept is not said",
        "the epoch of the best validation AUROC (`fit.select`); ECGs: an average of weights (`fit.ema`)",
        "the official scores jump between epochs",
    ),
    (
        "R² and F-1 without a definition",
        "squared correlation of probabilities, mean over classes; macro F (ECG), F of the positive hours",
        "a macro F over both kinds of hours would be near 0.55, not the paper's 0.16",
    ),
    (
        "external sets Hangzhou (ECG) and eICU (stays)",
        "LUDB; without labels, CODE-15 % and eICU's demo; each hospital or source held out; `--external`",
        "neither set is public as a whole",
    ),
)
"""What the paper says, what this study does, and why."""


def departures_section(studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the study departs from the paper, with the batches and warm-up of the studies' budgets."""
    header = ("in the paper", "here", "why")
    fits = [(NOUNS[results["task"]], results["budget_tables"]["student"]["fit"]) for results in studies]
    batches = "; ".join(
        f"batches of {fit['batch_size']} {noun}, warm-up of {fit['warmup_epochs']:g} "
        f"epoch{'s' if fit['warmup_epochs'] != 1 else ''}"
        for noun, fit in fits
    )
    rows = [[batches if cell == BATCHES else cell for cell in row] for row in DEPARTURES]
    return ["", "## Where this departs from the paper", *table(header, rows)]
