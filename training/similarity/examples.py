"""What features are compared on: whole ECGs, or single hours of stays, in batches without replacement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ibt_deploy.errors import DataError
from training.models.encoder import Encoder
from training.sources import Source
from training.stay_source import StaySource

Ints = npt.NDArray[np.int64]

BATCH, BATCHES = 256, 10
HOURS_OF_A_PATIENT = 4


@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """Inputs of ``n`` examples.

    Attributes
    ----------
    pieces
        Inputs of some examples each, as the networks take them. ECGs come in one piece; stays in several of
        similar length.
    hours
        For each piece of stays, shape ``(examples of the piece, 2)``: which stay of the piece, and its hour.
        None for ECGs, whose example is the whole record.
    """

    pieces: list[Tensor]
    hours: list[Ints] | None


def example_batches(
    source: Source, items: Ints, *, size: int = BATCH, most: int = BATCHES, seed: int = 0
) -> Iterator[ExampleBatch]:
    """Batches of equally many examples, drawn without replacement.

    An example is an ECG, or an hour of a stay, at most four hours a stay. Where the data give fewer than
    ``most`` batches of ``size``, there are as many as there can be, and the examples left over are shared
    among them: 365 ECGs are one batch of 365.

    Parameters
    ----------
    source, items
        Where the examples come from.
    size, most
        Examples in a batch, and number of batches; the specification asks for 256 and at least 10.
    seed
        Of the draw.

    Raises
    ------
    DataError
        When there are fewer than four examples.
    """
    rng = np.random.default_rng(seed)
    examples = _stay_hours(source, items, rng) if isinstance(source, StaySource) else items[:, None]
    examples = examples[rng.permutation(len(examples))]
    if len(examples) < 4:
        raise DataError(f"{len(examples)} examples are too few to compare features")
    n_batches = min(max(len(examples) // size, 1), most)
    each = size if n_batches == most else len(examples) // n_batches
    for start in range(0, n_batches * each, each):
        chosen = examples[start : start + each]
        yield _stay_batch(source, chosen) if examples.shape[1] == 2 else _ecg_batch(source, chosen[:, 0])


def _stay_hours(source: StaySource, items: Ints, rng: np.random.Generator) -> Ints:
    """At most four hours of each stay, ``(examples, 2)``: item and hour."""
    lengths = np.diff(source.offsets)[items]
    drawn = [
        (item, hour)
        for item, length in zip(items, lengths, strict=True)
        for hour in rng.choice(length, min(length, HOURS_OF_A_PATIENT), replace=False)
    ]
    return np.array(drawn, dtype=np.int64).reshape(-1, 2)


def _ecg_batch(source: Source, items: Ints) -> ExampleBatch:
    """Windows of one length: the longest that all of ``items`` have."""
    windows = [batch.inputs for _, batch in source.plain(items)]
    shortest = min(w.shape[2] for w in windows)
    return ExampleBatch([torch.cat([w[..., :shortest] for w in windows])], None)


def _stay_batch(source: Source, examples: Ints) -> ExampleBatch:
    pieces, hours = [], []
    for chosen, batch in source.plain(np.unique(examples[:, 0])):
        place = {int(item): i for i, item in enumerate(chosen)}
        here = [(place[int(item)], int(hour)) for item, hour in examples if int(item) in place]
        pieces.append(batch.inputs)
        hours.append(np.array(here, dtype=np.int64))
    return ExampleBatch(pieces, hours)


def unit_features(network: Encoder, batch: ExampleBatch, device: torch.device | str) -> Iterator[Tensor]:
    """Features ``(n, p)`` of every unit in turn, examples in the same order for every network."""
    network.eval()
    flowing = [piece.to(device) for piece in batch.pieces]
    for unit in range(network.n_units):
        flowing = [network.segment(z, unit, unit + 1) for z in flowing]
        if batch.hours is None:
            yield network.matched_tokens(flowing[0]).flatten(1)
        else:
            yield torch.cat(
                [
                    z[at[:, 0], at[:, 1]]
                    for z, at in zip(flowing, map(torch.from_numpy, batch.hours), strict=True)
                ]
            )
