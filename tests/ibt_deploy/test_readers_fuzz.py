"""Mutated files of every format: nothing but the error tree comes out, within 2 s of CPU time and 512 MB."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from helpers.guard import SECONDS, TookTooLongError, bounded, try_archive, try_mapping, try_reader, try_table
from helpers.mutations import EXTREMES, KINDS, layers, mutated
from helpers.seeds import MAKERS, MORE, Files, packed, seeds, unpacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFile, MemoryFolder
from ibt_deploy.readers import READERS, read

EXAMPLES = 40

layers_once = cache(layers)
"""Hypothesis requires equal choices in every example, whatever the memory left by the one before."""

ATTEMPTS: dict[str, Callable[[MemoryFile], str]] = {
    "archives": try_archive,
    "tables": try_table,
    "mapping": try_mapping,
}

mutations = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.floats(0, 1),
        st.floats(0, 1),
        st.binary(min_size=1, max_size=8) | st.sampled_from(EXTREMES[:-3]),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def more() -> dict[str, list[Files]]:
    found = {kind: maker() for kind, maker in MORE.items()}
    for kind, attempt in ATTEMPTS.items():
        for files in found[kind]:
            attempt(unpacked(packed(files)))  # loads what is loaded when first needed
    return found


def within_bounds(attempt: Callable[[], object], seconds: float = SECONDS) -> None:
    """Run it within the bounds; too long once may be a machine's hiccup."""
    try:
        with bounded(seconds):
            attempt()
    except TookTooLongError:
        with bounded(seconds):
            attempt()


@pytest.fixture(scope="module")
def made() -> dict[str, list[Files]]:
    found = {}
    for reader in MAKERS:
        import_module(f"ibt_deploy.readers.{reader}")
        found[reader] = seeds(reader)
        for files in found[reader]:
            try_reader(reader, unpacked(packed(files)))  # loads what is loaded when first needed
    return found


def test_every_reader_has_seeds_and_they_are_read(made: dict[str, list[Files]]) -> None:
    # exports of hospital standards are read through DuckDB and damaged in tests/ibt_deploy/test_standards.py
    assert set(made) == set(READERS) - {"standards"}
    for reader, found in made.items():
        assert "read" in {try_reader(reader, unpacked(packed(files))) for files in found}


@pytest.mark.parametrize("reader", MAKERS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_mutations_of_one_file_among_its_neighbours(
    made: dict[str, list[Files]], reader: str, data: st.DataObject
) -> None:
    files = dict(data.draw(st.sampled_from(made[reader])))
    name = data.draw(st.sampled_from(sorted(files)))
    content, closed = data.draw(st.sampled_from(layers_once(files[name])))
    files[name] = closed(mutated(content, data.draw(mutations)))
    within_bounds(lambda: try_reader(reader, MemoryFolder(files) / next(iter(files))))


@pytest.mark.parametrize("reader", MAKERS)
@given(data=st.binary(max_size=300))
@settings(max_examples=EXAMPLES)
def test_anything_after_the_beginning_of_a_real_file(
    made: dict[str, list[Files]], reader: str, data: bytes
) -> None:
    files = dict(made[reader][0])
    name = next(iter(files))
    files[name] = files[name][: len(data)] + data
    within_bounds(lambda: try_reader(reader, MemoryFolder(files) / name))


@pytest.mark.parametrize("kind", ATTEMPTS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_mutations_of_what_a_batch_run_reads_besides(
    more: dict[str, list[Files]], kind: str, data: st.DataObject
) -> None:
    ((name, whole),) = data.draw(st.sampled_from(more[kind])).items()
    content, closed = data.draw(st.sampled_from(layers_once(whole)))
    changed = closed(mutated(content, data.draw(mutations)))
    within_bounds(lambda: ATTEMPTS[kind](MemoryFolder({name: changed}) / name))


def test_what_a_batch_run_reads_besides_is_read_where_it_is_whole(more: dict[str, list[Files]]) -> None:
    for kind, attempt in ATTEMPTS.items():
        told = [attempt(unpacked(packed(files))) for files in more[kind]]
        assert told.count("read") >= 2, (kind, told)


@given(
    st.binary(max_size=2000),
    st.sampled_from(sorted({suffix for found in READERS.values() for suffix in found})),
)
@settings(max_examples=100)
def test_noise_under_any_name(data: bytes, suffix: str) -> None:
    file = MemoryFolder({f"noise{suffix}": data}) / f"noise{suffix}"
    with bounded(), pytest.raises(InputError):
        read(file)


def test_the_guard_stops_what_takes_too_long_or_too_much() -> None:
    def endless() -> None:
        while True:
            pass

    with pytest.raises(TookTooLongError), bounded(seconds=0.05):
        endless()
    calls = iter((endless, lambda: None))
    within_bounds(lambda: next(calls)(), seconds=0.05)
    with pytest.raises(TookTooLongError):
        within_bounds(endless, seconds=0.05)
    with pytest.raises(MemoryError), bounded():
        np.ones(1 << 27)
