"""Coverage-guided fuzzing of the readers: ``python -m benchmarks.fuzz READER --seconds 300``.

A reader may raise nothing but the error tree, whatever its input, within 2 s of processor time and 512 MB.
Inputs that break this are written to ``--out`` (``READER-finding-...``), each kind once, while the search
goes on; ``python -m benchmarks.fuzz READER FILE`` reproduces one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ibt_deploy.files import MemoryFile

ROOT = Path(__file__).resolve().parents[1]
LONGEST_INPUT = 1 << 18
INSTRUMENTED = ("ibt_deploy.readers",)
OTHERS = {
    "archives": ("ibt_deploy.batch.archives", "ibt_deploy.batch.plan"),
    "tables": ("ibt_deploy.batch.tables.survey", "ibt_deploy.batch.tables.layout", "ibt_deploy.mapping"),
    "mapping": ("ibt_deploy.mapping",),
}
"""Other parts that read foreign files, besides the readers, and their modules."""
PARSERS = {"dicom": ("pydicom.filereader", "pydicom.filebase", "pydicom.dataset", "pydicom.values")}
"""Modules of other packages whose coverage also guides the search."""


@click.command()
@click.argument("reader")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seconds", default=300, show_default=True, help="How long to look, for each reader.")
@click.option(
    "--out", default=Path("fuzz"), show_default=True, type=click.Path(path_type=Path), help="Folder."
)
def fuzz(reader: str, file: Path | None, seconds: int, out: Path) -> None:
    """Fuzz READER, or give it one FILE that the fuzzer wrote.

    READER is a module of ibt_deploy.readers, 'archives', 'tables' or 'mapping' of a batch run, or 'all'.
    """
    try:
        import atheris
    except ImportError as error:
        raise click.ClickException("fuzzing needs atheris: pip install atheris") from error
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    warnings.simplefilter("ignore")
    if reader == "all":
        sys.exit(_all(seconds, out))
    wanted = (*OTHERS.get(reader, INSTRUMENTED), *PARSERS.get(reader, ()))
    with atheris.instrument_imports(include=list(wanted)):
        _load(reader)
    from tests.helpers import guard
    from tests.helpers.seeds import packed, seeds, unpacked

    others = {"archives": guard.try_archive, "tables": guard.try_table, "mapping": guard.try_mapping}
    attempt = others.get(reader, partial(guard.try_reader, reader))
    if file is not None:
        with guard.bounded():
            click.echo(attempt(unpacked(file.read_bytes())))
        return
    from benchmarks.fuzz_mutator import mutation

    shared = ROOT.parent / "shared"
    corpus = out / reader
    corpus.mkdir(parents=True, exist_ok=True)
    for number, files in enumerate(seeds(reader, shared if shared.is_dir() else None)):
        data = packed(files)
        outcome = attempt(unpacked(data))  # also loads lazy imports
        click.echo(f"seed {next(iter(files))}, {len(data)} bytes: {outcome}")
        if len(data) <= LONGEST_INPUT:
            (corpus / f"seed-{number}").write_bytes(data)
    search = Search(reader, seconds, out)

    def tried(found: MemoryFile) -> str:
        with guard.bounded():
            return attempt(found)

    def one_input(data: bytes) -> None:
        found = unpacked(data)
        try:
            try:
                outcome = tried(found)
            except guard.TookTooLongError:
                outcome = tried(found)  # a single timeout may be a hiccup of the machine
        except Exception as error:  # noqa: BLE001
            outcome = search.finding(data, error)
        search.count(outcome)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        return mutation(data, longest, seed, atheris.Mutate)

    options = [f"-max_len={LONGEST_INPUT}", "-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1"]
    options += [f"-artifact_prefix={out}/{reader}-", f"-max_total_time={seconds + 60}"]
    options += ["-mutate_depth=2"]  # with more, little of a valid file is left
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=mutate)
    atheris.Fuzz()


class Search:
    """Outcomes of the inputs so far; ends the process when time is up.

    Parameters
    ----------
    reader, seconds, out
        As for the command.
    """

    def __init__(self, reader: str, seconds: float, out: Path) -> None:
        self._reader, self._out = reader, out
        self._start = time.monotonic()
        self._seconds = seconds
        self._outcomes: Counter[str] = Counter()
        self._findings: set[str] = set()

    def finding(self, data: bytes, error: Exception) -> str:
        """Save an input that broke the rules, once for each place in our code; return its name."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "ibt_deploy" in frame.filename] or frames
        place = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"
        if place not in self._findings:
            self._findings.add(place)
            name = f"{self._reader}-finding-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
            (self._out / name).write_bytes(data)
            click.echo(f"FOUND {place}: {str(error)[:200]} -> {name}")
        return f"FOUND {place}"

    def count(self, outcome: str) -> None:
        """Count one more input with this outcome."""
        self._outcomes[outcome] += 1
        took = time.monotonic() - self._start
        if took > self._seconds:
            corpus = sum(1 for _ in (self._out / self._reader).iterdir())
            done: Any = self._outcomes.total()
            click.echo(f"{self._reader}: {done} executions in {took:.0f} s, corpus {corpus}")
            for name, times in self._outcomes.most_common():
                click.echo(f"  {times:8} {name}")
            sys.stdout.flush()
            os._exit(1 if self._findings else 0)  # libFuzzer's own exit takes no status


def _load(reader: str) -> None:
    """Import the modules to instrument, with their submodules."""
    folder = ROOT / "ibt_deploy" / "readers"
    if reader in OTHERS:
        for module in OTHERS[reader]:
            import_module(module)
        return
    if not (folder / f"{reader}.py").is_file():
        known = import_module("ibt_deploy.readers").READERS
        raise click.ClickException(
            f"no reader {reader!r}; there are {', '.join((*known, *OTHERS))} and 'all'"
        )
    for path in sorted(folder.glob("*.py")):
        import_module(f"ibt_deploy.readers.{path.stem}")
    for module in PARSERS.get(reader, ()):
        import_module(module)


def _all(seconds: int, out: Path) -> int:
    """Fuzz every reader in its own process; return the number of those that broke."""
    known = import_module("ibt_deploy.readers").READERS
    broken = 0
    for reader in (*known, *OTHERS):
        command = [sys.executable, "-m", "benchmarks.fuzz", reader, "--seconds", str(seconds)]
        broken += subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=False).returncode != 0
    return broken


if __name__ == "__main__":
    fuzz()
