"""Coverage-guided fuzzing of the readers: ``python -m benchmarks.fuzz READER --seconds 300``.

Nothing but the error tree may come out of a reader, whatever it is given, within 2 s and 512 MB. What breaks
this is written to ``--out`` (``crash-...``), and said again by ``python -m benchmarks.fuzz READER FILE``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from importlib import import_module
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
LONGEST_INPUT = 1 << 16


@click.command()
@click.argument("reader")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--seconds", default=300, show_default=True, help="How long to look, for each reader.")
@click.option(
    "--out", default=Path("fuzz"), show_default=True, type=click.Path(path_type=Path), help="Folder."
)
def fuzz(reader: str, file: Path | None, seconds: int, out: Path) -> None:
    """Fuzz READER (a module of ibt_deploy.readers, or 'all'), or give it one FILE that the fuzzer wrote."""
    try:
        import atheris
    except ImportError as error:
        raise click.ClickException("fuzzing needs atheris: pip install atheris") from error
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    warnings.simplefilter("ignore")
    if reader == "all":
        sys.exit(_all(seconds, out))
    with atheris.instrument_imports(include=["ibt_deploy.readers"]):
        _load(reader)
    from tests.helpers.guard import bounded, try_reader
    from tests.helpers.seeds import packed, seeds, unpacked

    def one_input(data: bytes) -> None:
        found = unpacked(data)
        with bounded():
            try_reader(reader, found)

    if file is not None:
        found = unpacked(file.read_bytes())
        with bounded():
            click.echo(try_reader(reader, found))
        return
    shared = ROOT.parent / "shared"
    corpus = out / reader
    corpus.mkdir(parents=True, exist_ok=True)
    for number, files in enumerate(seeds(reader, shared if shared.is_dir() else None)):
        data = packed(files)
        if len(data) <= LONGEST_INPUT:
            (corpus / f"seed-{number}").write_bytes(data)
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}", "-timeout=60", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={out}/{reader}-", "-print_final_stats=1", "-verbosity=0"]
    with tempfile.TemporaryDirectory() as new:
        atheris.Setup([sys.argv[0], *options, new, str(corpus)], one_input)
        atheris.Fuzz()


def _load(reader: str) -> None:
    """Import a reader and, that its parts are instrumented too, the modules named after it."""
    folder = ROOT / "ibt_deploy" / "readers"
    if not (folder / f"{reader}.py").is_file():
        known = import_module("ibt_deploy.readers").READERS
        raise click.ClickException(f"no reader {reader!r}; there are {', '.join(known)} and 'all'")
    for path in sorted(folder.glob(f"{reader}*.py")):
        import_module(f"ibt_deploy.readers.{path.stem}")


def _all(seconds: int, out: Path) -> int:
    """Fuzz every reader, each in a process of its own; the number of those that broke."""
    known = import_module("ibt_deploy.readers").READERS
    broken = 0
    for reader in known:
        click.echo(f"{reader}:")
        command = [
            sys.executable,
            "-m",
            "benchmarks.fuzz",
            reader,
            "--seconds",
            str(seconds),
            "--out",
            str(out),
        ]
        broken += subprocess.run(command, cwd=ROOT, check=False).returncode != 0
    return broken


if __name__ == "__main__":
    fuzz()
