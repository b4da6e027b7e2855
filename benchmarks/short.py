"""Findings of the arrhythmia model when only the first seconds of test recordings are scored.

    python -m benchmarks.short cache/arrhythmia

Two hundred test recordings of at least ten seconds are drawn with seed 0; each is compared with its own
answer from ten seconds.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from export.build import open_data
from export.ecg import EcgPart, window_probabilities
from export.scored import BATCH_SIZE, prepared_part
from ibt_deploy.bundle import OperatingPoint, load_bundle
from ibt_deploy.decisions import decided
from ibt_deploy.device import OpenGraph
from ibt_deploy.scorers.ecg import EcgScorer
from ibt_deploy.vocabulary import CLASSES

RECORDINGS = 200


@click.command()
@click.argument("cache", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--bundle", default="arrhythmia", show_default=True, help="A task or a bundle's directory.")
def main(cache: Path, bundle: str) -> None:
    model = load_bundle(bundle)
    part = open_data(cache, None).parts["test"]
    assert isinstance(part, EcgPart)
    scorer = EcgScorer(model, OpenGraph.of(model, device="cpu", variant=None, threads=None))
    evaluable = np.array([c.evaluable for c in model.classes])
    first = [p.windows[0] for p in prepared_part(model, part).prepared]
    whole = np.array([w for w in first if np.isfinite(w).all()])
    chosen = np.sort(np.random.default_rng(0).permutation(len(whole))[:RECORDINGS])
    windows, rate = whole[chosen], model.preprocessing.sampling_rate  # type: ignore[union-attr]
    bradycardia = [c.abbreviation for c in CLASSES].index("SB")
    for point in ("challenge", "clinical"):
        at = model.operating_point(point)

        def found(signals: np.ndarray, at: OperatingPoint = at) -> np.ndarray:
            p = window_probabilities(
                scorer.logits(signals, BATCH_SIZE), [1] * len(signals), model.calibration
            )
            return decided(p, at.thresholds, evaluable, exclusive=at.exclusive).positive

        reference = found(windows)
        for seconds in (9, 8, 7, 6, 5):
            cut = windows.copy()
            cut[..., round(seconds * rate) :] = np.nan
            given = found(cut)
            same = (given == reference).all(axis=1).mean()
            gained = int((given & ~reference)[:, bradycardia].sum())
            click.echo(
                f"{point}  {seconds} s  {same:.1%} keep every finding  {gained} gain sinus bradycardia"
            )


if __name__ == "__main__":
    main()
