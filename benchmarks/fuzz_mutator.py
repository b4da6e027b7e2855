"""Mutations for the fuzzer: of one file among several, inside its wrapping, mostly near its beginning."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.helpers.mutations import EXTREMES, KINDS, layers, mutated
from tests.helpers.seeds import SEPARATOR

Mutate = Callable[[bytes, int], bytes]
"""The fuzzer's own mutation of some bytes, and the most bytes it may return."""

WINDOW = 512
WRAPPED = 0.97
"""Share of changes made inside the wrapping, if there is one."""


def mutation(data: bytes, longest: int, seed: int, mutate: Mutate) -> bytes:
    """Mutate ``data``, an output of :func:`tests.helpers.seeds.packed`.

    Parameters
    ----------
    longest
        Most bytes; a longer result is cut.
    seed
        Seed of the draws here.
    mutate
        The fuzzer's mutation, which draws with its own seed and knows the reader's comparisons.
    """
    draw = Random(seed)
    parts = data.split(SEPARATOR)
    number = 0 if draw.random() < 0.6 else draw.randrange(len(parts))
    name, _, content = parts[number].partition(b"\n")
    if draw.random() < 0.02:
        name = mutate(name, 60).replace(b"\n", b"")
    if draw.random() < WRAPPED:
        inner, closed = draw.choice(layers(content))
        content = closed(_changed(inner, draw, mutate))
    else:
        content = _changed(content, draw, mutate)
    parts[number] = name + b"\n" + content
    return SEPARATOR.join(parts)[:longest]


def _changed(content: bytes, draw: Random, mutate: Mutate) -> bytes:
    """``content`` after one to four changes."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if draw.random() < 0.6:
            at = draw.random()
            place = int(len(content) * (at * 2 - 1 if at > 0.5 else at**3))
            window = content[place : place + draw.choice((8, 32, WINDOW))]
            content = content[:place] + mutate(window, 2 * WINDOW) + content[place + len(window) :]
        else:
            new = draw.choice(EXTREMES) if draw.random() < 0.5 else draw.randbytes(draw.choice((1, 2, 4)))
            content = mutated(content, [(draw.choice(KINDS), draw.random(), draw.random(), new)])
    return content
