"""Validation scores of a run's last epoch with and without the running average of the weights.

    python -m benchmarks.averaging cache/arrhythmia runs/arrhythmia-teacher runs/arrhythmia-bbm

``last.pt`` of a run with ``fit.ema`` holds both, so that the two networks have seen the same steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.machine import FOLDER
from ibt_deploy.errors import DataError
from training.checkpoint import load_network, read_checkpoint, refuse_pretrained
from training.fit import BEST, LAST, part_logits
from training.tasks import open_source


@click.command()
@click.argument("cache", type=FOLDER)
@click.argument("runs", type=FOLDER, nargs=-1, required=True, metavar="RUN_DIR...")
def main(cache: Path, runs: tuple[Path, ...]) -> None:
    for run in runs:
        trained, last = load_network(run / BEST), read_checkpoint(run / LAST)
        if last["average"] is None:
            raise DataError(f"{run}: was trained without fit.ema")
        refuse_pretrained(run, trained)
        source = open_source(trained.recipe, cache)
        if (trained.cache_sha256, trained.split_sha256) != (source.cache.sha256, source.split_sha256):
            raise DataError(f"{run}: was trained on other data or another split")
        items = source.items("validation")
        averaged = last["average"]["network"]
        for name, weights in (("live", live_weights(last["objective"], averaged)), ("average", averaged)):
            trained.network.load_state_dict(weights)
            trained.network.eval()
            logits = part_logits(trained.network, source, items, torch.device("cpu"))
            scores = source.selection_scores("validation", logits)
            shown = "  ".join(f"{k} {v:.4f}" for k, v in scores.items() if k != "selection")
            click.echo(f"{run}, epoch {len(last['history'])}, {name}: {shown}")


def live_weights(objective: Mapping[str, Tensor], averaged: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the trained network in the state of an objective, under the names of ``averaged``."""
    first = next(iter(averaged))
    (prefix,) = {name.removesuffix(first) for name in objective if name.endswith(f".{first}")}
    return {name: objective[prefix + name] for name in averaged}


if __name__ == "__main__":
    main()
