"""``ibt train``: prepare data, train, and show what was trained. PyTorch is imported only when needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ibt_deploy.cli.group import failure
from ibt_deploy.errors import IbtError
from training.recipe import METHODS

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
ANY = click.Path(path_type=Path)


class TrainGroup(click.Group):
    """A group that prints ibt errors as one line, even when it is not run through ``ibt``."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an ibt error becomes one line."""
        try:
            return super().invoke(ctx)
        except (IbtError, ModuleNotFoundError) as error:
            raise failure(error, ctx) from error


@click.group(
    cls=TrainGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 2 the command could not run as asked.",
)
def train() -> None:
    """Prepare data sets and train teachers, baselines and distilled students.

    \b
    ibt train prepare challenge-2019/ --out cache/sepsis
    ibt train run sepsis-teacher --cache cache/sepsis --out runs/sepsis-teacher
    ibt train run sepsis-bbm --cache cache/sepsis --out runs/sepsis-bbm \\
        --teacher runs/sepsis-teacher/best.pt
    ibt train curves runs/sepsis-teacher runs/sepsis-bbm
    ibt train compare runs/sepsis-teacher runs/sepsis-bbm --cache cache/sepsis
    """


@train.command(
    epilog="""\b
Examples:
  ibt train prepare challenge-2021/training --out cache/arrhythmia
  ibt train prepare ecg/ --out cache/arrhythmia --labels ecg/index.csv --exclude ludb
  ibt train prepare challenge-2019/ --out cache/sepsis
  ibt train prepare p19.parquet --out cache/sepsis --seed 1"""
)
@click.argument("source", type=ANY)
@click.option(
    "--out", type=FOLDER, required=True, help="Folder of the cache; an older cache there is replaced."
)
@click.option(
    "--labels",
    type=FILE,
    metavar="INDEX.csv",
    help="Labels, sources and patients of recordings (columns record, source, file, dx, patient, fold, "
    "amplitude, age, sex) in place of those in the headers; SOURCE/index.csv is used automatically.",
)
@click.option(
    "--exclude", multiple=True, metavar="SOURCE", help="Source of recordings to leave out; repeatable."
)
@click.option(
    "--only", multiple=True, metavar="SOURCE", help="Use only this source of recordings; repeatable."
)
@click.option(
    "--unlabelled",
    is_flag=True,
    help="Take no labels: for pretraining ('ibt train run --also'), or for an external set of 'ibt "
    "reproduce', where outputs and features are compared.",
)
@click.option("--split", type=FILE, help="File of id,part to use; its ids must be exactly the data's.")
@click.option("--new-split", is_flag=True, help="Draw a split even where the packaged one fits.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of a new split (implies --new-split).")
def prepare(
    source: Path,
    out: Path,
    labels: Path | None,
    exclude: tuple[str, ...],
    only: tuple[str, ...],
    unlabelled: bool,
    split: Path | None,
    new_split: bool,
    seed: int | None,
) -> None:
    """Pack the data set SOURCE into one hashed cache, and split it by patient.

    SOURCE is a folder with recordings (.hea and .mat or .dat, anywhere below it), a folder with stays (.psv,
    anywhere below it), or one .parquet of stays. Training needs the cache alone.
    """
    if split is not None and (new_split or seed is not None):
        raise click.UsageError("--split names a split; --new-split and --seed draw another")
    if unlabelled and (labels or split or new_split or seed is not None):
        raise click.UsageError("--unlabelled takes neither labels nor a split")
    from training.data.prepare import prepare as prepared

    with _progress_bar(out.name) as progress:
        lines = prepared(
            source,
            out,
            labels=labels,
            exclude=exclude,
            only=only,
            unlabelled=unlabelled,
            split=split,
            seed=0 if new_split and seed is None else seed,
            progress=progress,
        )
    for line in lines:
        click.echo(line)


@contextmanager
def _progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if standard error is a terminal; yield a function that moves it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        shown = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


def _assignments(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Parse ``key=value`` pairs into a dictionary."""
    pairs = [value.partition("=") for value in values]
    for key, equals, _ in pairs:
        if not equals or not key.strip():
            raise click.BadParameter(f"{key!r} is not of the form key=value, such as fit.lr=3e-4")
    return {key.strip(): value.strip() for key, _, value in pairs}


device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto uses CUDA if available; cuda fails without it.",
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_assignments,
    help="Override one key of the recipe, written as in TOML: fit.lr=3e-4; repeatable.",
)


@train.command(
    epilog="""\b
Examples:
  ibt train run arrhythmia-teacher --cache cache/arrhythmia --out runs/teacher
  ibt train run arrhythmia-bbm --cache cache/arrhythmia --out runs/bbm --teacher runs/teacher/best.pt
  ibt train run my.toml --cache cache/sepsis --out runs/try --set fit.lr=3e-4 --set seed=1
  ibt train run arrhythmia-teacher --cache cache/own --out runs/own --initial runs/teacher/best.pt
  ibt train run arrhythmia-bbm --set method=masked --cache cache/arrhythmia --also cache/unlabelled \\
      --out runs/pretrained
  torchrun --nproc-per-node 4 -m training run arrhythmia-teacher --cache cache/arrhythmia --out runs/teacher

The same command resumes after the last finished epoch; a finished run is only reported."""
)
@click.argument("recipe")
@click.option("--cache", type=FOLDER, required=True, help="Cache made by 'ibt train prepare'.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the run: best.pt, last.pt, metrics.jsonl.")
@click.option("--teacher", type=FILE, help="best.pt of a teacher's run; DeiT and BBM need it.")
@click.option("--opinion", type=FILE, help="File of 'ibt train ensemble', for data.soft_weight above 0.")
@click.option("--initial", type=FILE, help="best.pt or .safetensors to start from, not from random weights.")
@click.option(
    "--also",
    type=FOLDER,
    multiple=True,
    help="Further cache of ECGs, labelled or not, to pretrain on with method=masked; repeatable.",
)
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@device_option
@set_option
def run(
    recipe: str,
    cache: Path,
    out: Path,
    teacher: Path | None,
    opinion: Path | None,
    initial: Path | None,
    also: tuple[Path, ...],
    split: Path | None,
    device: str,
    assignments: dict[str, str],
) -> None:
    """Train as RECIPE says: a TOML file, or a packaged recipe's name ('ibt train recipes' lists them)."""
    from training.recipe import find_recipe

    plan = find_recipe(recipe, assignments)
    if plan.needs_teacher and teacher is None:
        raise click.UsageError(f"method {plan.method!r} needs --teacher, the best.pt of a teacher's run")
    if teacher is not None and not plan.needs_teacher:
        raise click.UsageError(f"method {plan.method!r} does not take --teacher")
    if (opinion is not None) != (plan.data.soft_weight > 0):
        raise click.UsageError("--opinion and a data.soft_weight above 0 belong together")
    if also and plan.method != "masked":
        raise click.UsageError(f"method {plan.method!r} needs labels; --also is for method=masked")
    from training.device import is_first_process
    from training.run import train as trained

    best = trained(
        plan,
        cache,
        out,
        split=split,
        teacher=teacher,
        opinion=opinion,
        initial=initial,
        also=also,
        device=device,
    )
    if is_first_process():
        scores = "  ".join(f"{k} {v:.4f}" for k, v in best["validation"].items() if k != "selection")
        click.echo(
            f"best epoch {best['epoch'] + 1}: {scores}"
            if scores
            else f"trained {best['epoch'] + 1} epochs on the training and the validation part"
        )
        click.echo(str(out / "best.pt"))


@train.command(
    epilog="""\b
Examples:
  ibt train ensemble runs/*/best.pt --trees --cache cache/sepsis --out opinion.npz
  ibt train ensemble --trees --cache cache/sepsis --out trees.npz
  ibt train ensemble --cross-fit arrhythmia-teacher --runs runs/folds --set resnet.base_filters=16 \\
      --cache cache/arrhythmia --out folds.npz
  ibt train run sepsis-bbm --cache cache/sepsis --teacher runs/teacher/best.pt --out runs/pupil \\
      --opinion opinion.npz --set data.soft_weight=0.7"""
)
@click.argument("members", nargs=-1, type=FILE, metavar="[BEST_PT]...")
@click.option("--cache", type=FOLDER, required=True, help="Cache that the members were trained on.")
@click.option("--out", type=FILE, required=True, help="File of the opinion, .npz.")
@click.option("--trees", is_flag=True, help="Also train gradient-boosted trees as a member; stays only.")
@click.option(
    "--cross-fit",
    metavar="RECIPE",
    help="Train this recipe once for each fold of the training part, on the other folds, and use "
    "its out-of-fold predictions.",
)
@click.option("--runs", type=FOLDER, help="Folder of the runs of --cross-fit; the same command resumes them.")
@click.option("--folds", type=click.IntRange(min=2), help="Folds of --cross-fit [default: 5].")
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@device_option
@set_option
def ensemble(
    members: tuple[Path, ...],
    cache: Path,
    out: Path,
    trees: bool,
    cross_fit: str | None,
    runs: Path | None,
    folds: int | None,
    split: Path | None,
    device: str,
    assignments: dict[str, str],
) -> None:
    """Predict the training part with an ensemble, as soft labels for a student.

    Its members are networks, boosted trees, or both.

    Each member is calibrated on the validation part, and the scores there are printed: of every member, and
    of the mean of their calibrated logits. --set changes the recipe of --cross-fit.
    """
    if (cross_fit is None) != (runs is None):
        raise click.UsageError("--cross-fit and --runs belong together")
    if cross_fit is None and folds is not None:
        raise click.UsageError("--folds divides the training part for --cross-fit, which is not given")
    if cross_fit is None and assignments:
        raise click.UsageError("--set changes the recipe of --cross-fit, which is not given")
    from training.device import chosen_device
    from training.ensemble import FOLDS, CrossFit
    from training.ensemble import ensemble as asked_opinion
    from training.recipe import find_recipe

    to_fit = None
    if cross_fit is not None and runs is not None:
        to_fit = CrossFit(find_recipe(cross_fit, assignments), runs, folds or FOLDS)
    opinion = asked_opinion(
        members,
        cache,
        chosen_device(device, 0),
        split,
        trees=trees,
        cross_fit=to_fit,
        say=lambda line: click.echo(line, err=True),
    )
    for name, scores in opinion.scores.items():
        click.echo("  ".join([name, *(f"{k} {v:.4f}" for k, v in scores.items() if k != "selection")]))
    opinion.save(out)
    click.echo(str(out))


@train.command()
def recipes() -> None:
    """List the packaged recipes."""
    from training.recipe import packaged_recipes, summary_line

    found = packaged_recipes()
    width = max(map(len, found), default=0)
    for name, path in found.items():
        click.echo(f"{name:{width}s}  {summary_line(path)}")


@train.command(
    epilog="""\b
Examples:
  ibt train show sepsis-bbm
  ibt train show sepsis-bbm --set bbm.groups=1 > one-group.toml"""
)
@click.argument("recipe")
@set_option
def show(recipe: str, assignments: dict[str, str]) -> None:
    """Print RECIPE in full: every key with its value, and what it may be; the output is a recipe again."""
    from training.recipe import find_recipe, recipe_path, summary_line, toml_lines

    plan = find_recipe(recipe, assignments)
    if comment := summary_line(recipe_path(recipe)):
        click.echo(f"# {comment}")
    for line in toml_lines(plan):
        click.echo(line)


@train.command(
    epilog="""\b
Examples:
  ibt train curves runs/sepsis-bbm
  ibt train curves runs/* --plot curves.png"""
)
@click.argument("runs", nargs=-1, required=True, type=FOLDER, metavar="RUN_DIR...")
@click.option("--plot", type=FILE, metavar="OUT.png", help="Also draw them (needs ibt[plot]).")
def curves(runs: tuple[Path, ...], plot: Path | None) -> None:
    """Tabulate the course of training runs, one epoch per line; a star marks the epoch that best.pt holds."""
    from training.checkpoint import draw, read_curve, table_lines

    read = [read_curve(folder) for folder in runs]
    for i, curve in enumerate(read):
        if i:
            click.echo()
        for line in table_lines(curve):
            click.echo(line)
    if plot is not None:
        draw(read, plot)
        click.echo(f"drawn: {plot}", err=True)


@train.command(
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
@click.option("--method", type=click.Choice(list(METHODS)), required=True, help="Method to train.")
@click.option("--cache", type=FOLDER, required=True, help="Cache made by 'ibt train prepare'.")
@click.option(
    "--out", type=FOLDER, required=True, help="Folder of the search: trials.csv, best.toml, report.md."
)
@click.option("--teacher", type=FILE, help="best.pt of a teacher's run; DeiT and BBM need it.")
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@click.option(
    "--recipe",
    help="Recipe (file or packaged name) for settings that are not searched "
    "[default: the task's packaged one].",
)
@click.option("--trials", type=click.IntRange(min=1), default=8, show_default=True, help="Draws to try.")
@click.option(
    "--max-epochs",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Epochs of a trial that is never stopped.",
)
@click.option(
    "--grace",
    type=click.IntRange(min=1),
    default=15,
    show_default=True,
    help="Epochs before a trial can be stopped; must exceed the warm-up.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Trials at a time.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random draws."
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray runs the same trials under Ray Tune (needs ibt[ray]).",
)
@device_option
@set_option
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
    assignments: dict[str, str],
) -> None:
    """Search a method's settings at random, and stop unpromising trials early.

    Draws learning rate, weight decay, dropout, augmentation (ECG) and the method's own weights, trains each
    draw, and after 15, 45, ... epochs keeps the third that is best on the validation part.
    """
    from ibt_deploy.errors import DataError
    from training.data.cache import open_cache
    from training.recipe import find_recipe
    from training.tune import Search, TrialContext, run_search

    of_data = open_cache(cache).task
    name = recipe or f"{of_data}-{'teacher' if method == 'teacher' else 'bbm'}"
    base = find_recipe(name, assignments)
    if base.task != of_data:
        raise DataError(f"{cache}: holds {of_data} data, the recipe is for {base.task}")
    search = Search(method, base, trials, max_epochs, grace, seed)
    planned = search.trials()[0].read_recipe()
    if planned.needs_teacher and teacher is None:
        raise click.UsageError(f"method {method!r} needs --teacher, the best.pt of a teacher's run")
    if teacher is not None and not planned.needs_teacher:
        raise click.UsageError(f"method {method!r} does not take --teacher")
    task = TrialContext(
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


@train.command(
    epilog="""\b
Examples:
  ibt train compare runs/plain runs/bbm --cache cache/arrhythmia
  ibt train compare runs/bbm/best.pt older.safetensors --cache cache/sepsis"""
)
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="RUN..."
)
@click.option("--cache", type=FOLDER, required=True, help="The cache that all of them were trained on.")
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@click.option("--draws", default=1000, show_default=True, type=click.IntRange(min=1), help="Bootstrap draws.")
@device_option
def compare(runs: tuple[Path, ...], cache: Path, split: Path | None, draws: int, device: str) -> None:
    """Score trained networks on the validation part, and subtract the first one's scores from the others'.

    RUN is the folder of a run, a best.pt or a .safetensors. Intervals are over patients (95 %), on the same
    draws for all networks. On ECGs, scores are over the classes with at least five positives in training and
    validation part ('ibt train curves' has all classes). Thresholds of the Challenge's metric are tuned on
    the same part, which makes it optimistic; so is every score if the epoch was selected on this part.
    """
    from rich.console import Console
    from rich.table import Table

    from ibt_deploy.metrics.bootstrap import Interval
    from training.compare import compared
    from training.device import chosen_device
    from training.study.study import BEST
    from training.study.tables import TITLES, cell, gap, number

    def figure(found: Interval) -> dict[str, Any]:
        return {"value": number(found.value), "interval": (number(found.low), number(found.high))}

    paths = [run / BEST if run.is_dir() else run for run in runs]
    found, part = compared(paths, cache, split, device=chosen_device(device), draws=draws)
    counts = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in part.items())
    click.echo(f"Validation part: {counts}. Research software, not a medical device.")
    headings = ["network", "measure", "score"] + ["minus the first"] * (len(found) > 1)
    table = Table(*headings, box=None, pad_edge=False)
    for run, one in zip(runs, found, strict=True):
        for name, score in one.scores.items():
            less = [gap(figure(one.minus_first[name]))] if one.minus_first else []
            table.add_row(str(run), TITLES[name], cell(figure(score)), *less)
    table.columns[0].overflow = "fold"
    Console(width=max(Console().width, 100)).print(table)


@train.command(
    epilog="""\b
Examples:
  ibt train weights runs/sepsis-teacher/best.pt --out sepsis-teacher.safetensors
  ibt train run sepsis-bbm --cache cache/sepsis --teacher sepsis-teacher.safetensors --out runs/sepsis-bbm"""
)
@click.argument("checkpoint", type=FILE, metavar="BEST.pt")
@click.option("--out", type=FILE, required=True, metavar="OUT.safetensors", help="The file to write.")
def weights(checkpoint: Path, out: Path) -> None:
    """Write a trained network as safetensors, to be shared, read elsewhere or used as a teacher here.

    'ibt train run --teacher', 'ibt train ensemble' and 'ibt export' read it like the best.pt it was made of.
    """
    from ibt_deploy.errors import require
    from training.checkpoint import SAFETENSORS, read_checkpoint, write_safetensors

    if out.suffix != SAFETENSORS:
        raise click.UsageError(f"--out: expected a name that ends with {SAFETENSORS}")
    require("ibt train weights", "safetensors")
    write_safetensors(read_checkpoint(checkpoint), out)
    click.echo(str(out))
