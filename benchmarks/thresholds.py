"""Thresholds of ECG findings from validation alone, and from out-of-fold predictions for training as well.

    python -m benchmarks.thresholds cache/arrhythmia folds.npz --bundle chosen

The validation part is divided into five by patient, four times. Calibration and thresholds come from four
fifths of it, with or without the training part as an ensemble's opinion (``ibt train ensemble --cross-fit``)
judges it; the other fifth is scored. The bundle must not have learnt from the validation part.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from export.build import open_data, open_opinion
from export.ecg import EcgPart, class_positives, ecg_decisions, window_probabilities
from export.evaluable import evaluable_classes, held_out_ranking
from export.scored import BATCH_SIZE, CHALLENGE, NOBODY, Judged, prepared_part
from ibt_deploy.bundle import load_bundle
from ibt_deploy.device import OpenGraph
from ibt_deploy.metrics.arrhythmia import challenge_metric, f_measure
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.types import Bools

FOLDS, DIVISIONS = 5, 4


@click.command()
@click.argument("cache", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("opinion", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--bundle", default="arrhythmia", show_default=True, help="A task or a bundle's directory.")
def main(cache: Path, opinion: Path, bundle: str) -> None:
    model, data = load_bundle(bundle), open_data(cache, None)
    if model.contract["training"]["student"]["recipe"]["data"].get("refit"):
        raise click.UsageError(
            f"{bundle} has learnt from the validation part; give the one it was chosen with"
        )
    train, whole = data.parts["train"], data.parts["validation"]
    assert isinstance(train, EcgPart)
    assert isinstance(whole, EcgPart)
    others = Judged.of(train.labels, train.known, open_opinion(opinion, cache, data))
    found = prepared_part(model, whole)
    part, counts = found.part, np.array([p.size for p in found.prepared])
    scorer = EcgScorer(model, OpenGraph.of(model, device="cpu", variant="fp32", threads=None))
    logits = scorer.logits(np.concatenate([p.windows for p in found.prepared]), BATCH_SIZE)
    middle = np.cumsum(counts) - counts + counts // 2
    positives = class_positives(data.parts)
    for name, judged in (("validation", NOBODY), ("validation and training", others)):
        evaluable = evaluable_classes(
            positives, held_out_ranking(part.labels, part.known, logits[middle], judged)
        )
        scores = [_scores(part, logits, counts, evaluable, judged, division) for division in range(DIVISIONS)]
        challenge, f = np.mean(scores, axis=0)
        each = ", ".join(f"{score[0]:.3f}" for score in scores)
        click.echo(
            f"thresholds from {name}: {evaluable.sum()} classes, challenge metric {challenge:.3f} ({each}), "
            f"macro F at the clinical point {f:.3f}"
        )


def _scores(
    part: EcgPart,
    logits: np.ndarray,
    counts: np.ndarray,
    evaluable: Bools,
    others: Judged,
    seed: int,
) -> tuple[float, float]:
    """Challenge metric and macro F of recordings used for neither calibration nor thresholds."""
    fold = (np.random.default_rng(seed).permutation(part.patients.max() + 1) % FOLDS)[part.patients]
    of_window = np.repeat(fold, counts)
    official, clinical = np.zeros_like(part.labels), np.zeros_like(part.labels)
    for k in range(FOLDS):
        rest, here = fold != k, fold == k
        decided = ecg_decisions(
            logits[of_window != k], counts[rest].tolist(), part.select(rest), evaluable, others
        )
        p = window_probabilities(
            logits[of_window == k], counts[here].tolist(), decided.calibration.calibration
        )
        official[here] = decided.outputs(CHALLENGE, p, evaluable)
        clinical[here] = decided.outputs("clinical", p, evaluable)
    return (
        challenge_metric(part.labels, official, mask=part.known),
        f_measure(part.labels, clinical, part.known).mean,
    )


if __name__ == "__main__":
    main()
