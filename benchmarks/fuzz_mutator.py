"""What the fuzzer changes next: one file of several, behind its wrapping, mostly near its beginning."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.helpers.mutations import EXTREMES, KINDS, layers, mutated
from tests.helpers.seeds import SEPARATOR

Mutate = Callable[[bytes, int], bytes]
"""The fuzzer's own mutation, and the most bytes that it may make."""

WINDOW = 512
WRAPPED = 0.97
"""How often a change is made behind the wrapping, where there is one."""


def mutation(data: bytes, longest: int, seed: int, mutate: Mutate) -> bytes:
    """``data``, which :func:`tests.helpers.seeds.packed` gave, changed.

    Parameters
    ----------
    longest
        Bytes at most; a longer result is cut.
    seed
        Of what is drawn here.
    mutate
        Draws by the seed of the fuzzer and knows what the reader compares with.
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
