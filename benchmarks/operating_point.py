"""Cost of a threshold that gives up a little utility for fewer alarms, on the validation stays.

    python -m benchmarks.operating_point runs/sepsis-pupil/best.pt cache/sepsis

The stays are halved at random ten times; each half takes its threshold from the other. Then each hospital
takes its threshold from the other. Each cell has utility, share of hours in alarm and F measure of the hours.
The test part is not touched.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.machine import FOLDER, markdown
from ibt_deploy.calibration import utility_threshold
from ibt_deploy.metrics.sepsis import row_f_measure, utility
from ibt_deploy.types import Ints
from training.checkpoint import load_network
from training.fit import part_logits
from training.tasks import open_source
from training.tasks.stay import StaySource, concatenated_spans

DIVISIONS = 10
GIVEN_UP = (0.0, 0.002, 0.005, 0.01, 0.02)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("best_pt", type=FILE)
@click.argument("cache", type=FOLDER)
def main(best_pt: Path, cache: Path) -> None:
    trained = load_network(best_pt)
    source = open_source(trained.recipe, cache, None)
    assert isinstance(source, StaySource)
    stays = source.items("validation")
    logits = part_logits(trained.network.eval(), source, stays, torch.device("cpu"))
    labels = source.official_labels[concatenated_spans(source.offsets, stays)]
    risk = source.calibration("validation", logits).probability(logits).reshape(-1)
    lengths = np.diff(source.offsets)[stays]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    hospital = source.cache.index["hospital"].to_numpy()[stays]

    def of(some: Ints) -> tuple[Ints, Ints]:
        return concatenated_spans(offsets, some), np.concatenate(([0], np.cumsum(lengths[some])))

    def judged(tuned_on: Ints, judged_on: Ints, given_up: float) -> tuple[float, float, float]:
        """Utility, share of hours in alarm and F measure of the second stays at the first ones' threshold."""
        rows, spans = of(tuned_on)
        threshold = utility_threshold(labels[rows], risk[rows], spans, within=given_up).threshold
        rows, spans = of(judged_on)
        alarms = risk[rows] >= threshold
        return (
            utility(labels[rows], alarms, spans),
            float(alarms.mean()),
            row_f_measure(labels[rows], alarms),
        )

    rng = np.random.default_rng(0)
    halves = [np.array_split(rng.permutation(len(stays)), 2) for _ in range(DIVISIONS)]
    a, b = np.flatnonzero(hospital == "A"), np.flatnonzero(hospital == "B")
    divisions = {
        "halves": [pair for one, other in halves for pair in ((one, other), (other, one))],
        "from A on B": [(a, b)],
        "from B on A": [(b, a)],
    }
    rows = []
    for given_up in GIVEN_UP:
        cells = [f"{given_up:g}"]
        for pairs in divisions.values():
            found = np.mean([judged(*pair, given_up) for pair in pairs], axis=0)
            cells.append(f"{found[0]:.3f}, {found[1]:.1%}, {found[2]:.3f}")
        rows.append(cells)
    click.echo(markdown(["given up", *divisions], rows))


if __name__ == "__main__":
    main()
