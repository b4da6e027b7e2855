"""``ibt train tune``: search for a method's settings."""

from __future__ import annotations

from pathlib import Path

import click

from training.tune.space import METHODS

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog="""\b
Examples:
  ibt train tune --method teacher --cache cache/sepsis --out search/teacher
  ibt train tune --method bbm --trials 8 --max-epochs 60 --cache cache/sepsis --out search/bbm \\
      --teacher runs/sepsis-teacher/best.pt
  ibt train tune --method bbm --engine ray --jobs 4 --cache cache/sepsis --out search/bbm \\
      --teacher runs/sepsis-teacher/best.pt
  ibt train run search/bbm/best.toml --cache cache/sepsis --out runs/bbm --set seed=1 \\
      --teacher runs/sepsis-teacher/best.pt

Give every method the same --trials, --max-epochs, --grace and --seed: trial i then draws the same learning
rate (as a quantile), weight decay, dropout and augmentation for all of them. The same command resumes
where it stopped."""
)
@click.option("--method", type=click.Choice(list(METHODS)), required=True, help="What is trained.")
@click.option("--cache", type=FOLDER, required=True, help="Cache made by 'ibt train prepare'.")
@click.option(
    "--out", type=FOLDER, required=True, help="Folder of the search: trials.csv, best.toml, report.md."
)
@click.option("--teacher", type=FILE, help="best.pt of a teacher's run; DeiT and BBM need it.")
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@click.option(
    "--recipe",
    help="Recipe (file or packaged name) of what is not searched; the task's packaged one by itself.",
)
@click.option("--trials", type=click.IntRange(min=1), default=8, show_default=True, help="Draws to try.")
@click.option(
    "--max-epochs",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Length of a whole trial.",
)
@click.option(
    "--grace",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Epochs that every trial trains; must be longer than the warm-up.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at a time.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray runs the same trials under Ray Tune (needs ibt[ray]).",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes CUDA where there is one; cuda without one is an error.",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key of the recipe, as in 'run'; repeat.",
)
def tune(
    method: str,
    cache: Path,
    out: Path,
    teacher: Path | None,
    split: Path | None,
    recipe: str | None,
    trials: int,
    max_epochs: int,
    grace: int,
    jobs: int,
    seed: int,
    engine: str,
    device: str,
    pairs: tuple[str, ...],
) -> None:
    """Search a method's settings at random, and end hopeless trials early.

    Draws learning rate, weight decay, dropout, augmentation (ECG) and the method's own weights, trains each
    draw, and after 15, 45, ... epochs keeps the third that is best on the validation part.
    """
    from ibt_deploy.errors import DataError
    from training.cache import open_cache
    from training.recipe_files import find_recipe
    from training.tune.search import Search, run_search
    from training.tune.trials import Task

    of_data = open_cache(cache).task
    name = recipe or f"{of_data}-{'teacher' if method == 'teacher' else 'bbm'}"
    base = find_recipe(name, _assignments(pairs))
    if base.task != of_data:
        raise DataError(f"{cache}: holds {of_data} data, the recipe is for {base.task}")
    search = Search(method, base, trials, max_epochs, grace, seed)
    planned = search.trials()[0].read_recipe()
    if planned.needs_teacher and teacher is None:
        raise click.UsageError(f"method {method!r} needs --teacher, the best.pt of a teacher's run")
    if teacher is not None and not planned.needs_teacher:
        raise click.UsageError(f"method {method!r} has no use for --teacher")
    task = Task(
        out.resolve(),
        cache.resolve(),
        split.resolve() if split else None,
        teacher.resolve() if teacher else None,
        device,
    )
    best, found = run_search(
        search, task, engine=engine, jobs=jobs, say=lambda line: click.echo(line, err=True)
    )
    click.echo(f"best trial {best.number}: {found.score:.4f} on validation, epoch {found.best_epoch}")
    click.echo(str(out / "best.toml"))


def _assignments(pairs: tuple[str, ...]) -> dict[str, str]:
    divided = [pair.partition("=") for pair in pairs]
    for key, equals, _ in divided:
        if not equals or not key.strip():
            raise click.UsageError(f"--set: {key!r} is not of the form key=value, such as fit.batch_size=32")
    return {key.strip(): value.strip() for key, _, value in divided}
