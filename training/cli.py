"""``ibt train``: prepare data, train, and look at what was trained. PyTorch is imported when it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ibt_deploy.cli.group import Failure
from ibt_deploy.errors import IbtError
from training.tune.cli import tune

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
ANY = click.Path(path_type=Path)


class TrainGroup(click.Group):
    """Shows our errors as one line, also where it is not reached through ``ibt``."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except IbtError as error:
            raise Failure(" ".join(str(error).split())) from error


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
    "amplitude, age, sex) in place of those in the headers; SOURCE/index.csv is found by itself.",
)
@click.option("--exclude", multiple=True, metavar="SOURCE", help="Source of recordings to leave out; repeat.")
@click.option("--only", multiple=True, metavar="SOURCE", help="Take this source of recordings alone; repeat.")
@click.option("--split", type=FILE, help="File of id,part to use; its ids must be exactly the data's.")
@click.option("--new-split", is_flag=True, help="Draw a split even where the packaged one fits.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of a new split (implies --new-split).")
def prepare(
    source: Path,
    out: Path,
    labels: Path | None,
    exclude: tuple[str, ...],
    only: tuple[str, ...],
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
    from training.preparation import prepare as prepared

    with _progress_bar(out.name) as progress:
        lines = prepared(
            source,
            out,
            labels=labels,
            exclude=exclude,
            only=only,
            split=split,
            seed=0 if new_split and seed is None else seed,
            progress=progress,
        )
    for line in lines:
        click.echo(line)


@contextmanager
def _progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error where a person watches; a function to move it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bar:
        shown = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(shown, completed=done, total=total)


def _assignments(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``key=value`` pairs as a dictionary."""
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
    help="auto takes CUDA where there is one; cuda without one is an error.",
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_assignments,
    help="Override one key of the recipe, written as in TOML: fit.lr=3e-4; repeat.",
)


@train.command(
    epilog="""\b
Examples:
  ibt train run arrhythmia-teacher --cache cache/arrhythmia --out runs/teacher
  ibt train run arrhythmia-bbm --cache cache/arrhythmia --out runs/bbm --teacher runs/teacher/best.pt
  ibt train run my.toml --cache cache/sepsis --out runs/try --set fit.lr=3e-4 --set seed=1
  torchrun --nproc-per-node 4 -m training run arrhythmia-teacher --cache cache/arrhythmia --out runs/teacher

The same command resumes after the last finished epoch; a finished run is only reported."""
)
@click.argument("recipe")
@click.option("--cache", type=FOLDER, required=True, help="Cache made by 'ibt train prepare'.")
@click.option("--out", type=FOLDER, required=True, help="Folder of the run: best.pt, last.pt, metrics.jsonl.")
@click.option("--teacher", type=FILE, help="best.pt of a teacher's run; DeiT and BBM need it.")
@click.option("--opinion", type=FILE, help="File of 'ibt train ensemble', for data.soft_weight above 0.")
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@device_option
@set_option
def run(
    recipe: str,
    cache: Path,
    out: Path,
    teacher: Path | None,
    opinion: Path | None,
    split: Path | None,
    device: str,
    assignments: dict[str, str],
) -> None:
    """Train as RECIPE says: a TOML file, or a packaged recipe's name ('ibt train recipes' lists them)."""
    from training.recipe_files import find_recipe

    plan = find_recipe(recipe, assignments)
    if plan.needs_teacher and teacher is None:
        raise click.UsageError(f"method {plan.method!r} needs --teacher, the best.pt of a teacher's run")
    if teacher is not None and not plan.needs_teacher:
        raise click.UsageError(f"method {plan.method!r} has no use for --teacher")
    if (opinion is not None) != (plan.data.soft_weight > 0):
        raise click.UsageError("--opinion and a data.soft_weight above 0 belong together")
    from training.distributed import is_first_process
    from training.run import train as trained

    best = trained(plan, cache, out, split=split, teacher=teacher, opinion=opinion, device=device)
    if is_first_process():
        scores = "  ".join(f"{k} {v:.4f}" for k, v in best["validation"].items() if k != "selection")
        click.echo(f"best epoch {best['epoch'] + 1}: {scores}")
        click.echo(str(out / "best.pt"))


@train.command(
    epilog="""\b
Examples:
  ibt train ensemble runs/*/best.pt --trees --cache cache/sepsis --out opinion.npz
  ibt train run sepsis-bbm --cache cache/sepsis --teacher runs/teacher/best.pt --out runs/pupil \\
      --opinion opinion.npz --set data.soft_weight=0.7"""
)
@click.argument("members", nargs=-1, required=True, type=FILE, metavar="BEST_PT...")
@click.option("--cache", type=FOLDER, required=True, help="Cache that the members were trained on.")
@click.option("--out", type=FILE, required=True, help="File of the opinion, .npz.")
@click.option("--trees", is_flag=True, help="Ask gradient-boosted trees too, grown here; stays only.")
@click.option("--split", type=FILE, help="Split to use in place of split.csv in the cache.")
@device_option
def ensemble(
    members: tuple[Path, ...], cache: Path, out: Path, trees: bool, split: Path | None, device: str
) -> None:
    """Ask several trained networks about the training part, as soft labels for one student.

    Each member is calibrated on the validation part, and the scores there are printed: of every member, and
    of the mean of their calibrated logits.
    """
    from training.ensemble import ensemble as asked
    from training.precision import chosen_device

    opinion = asked(
        members,
        cache,
        chosen_device(device, 0),
        split,
        trees=trees,
        say=lambda line: click.echo(line, err=True),
    )
    for name, scores in opinion.scores.items():
        click.echo("  ".join([name, *(f"{k} {v:.4f}" for k, v in scores.items() if k != "selection")]))
    opinion.save(out)
    click.echo(str(out))


@train.command()
def recipes() -> None:
    """List the packaged recipes."""
    from training.recipe_files import packaged_recipes, summary_line

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
    from training.recipe_files import find_recipe, recipe_path, summary_line, toml_lines

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
    """Tabulate the course of training runs, an epoch a line; the star marks what best.pt holds."""
    from training.curves import draw, read_curve, table_lines

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
  ibt train weights runs/sepsis-teacher/best.pt --out sepsis-teacher.safetensors
  ibt train run sepsis-bbm --cache cache/sepsis --teacher sepsis-teacher.safetensors --out runs/sepsis-bbm"""
)
@click.argument("checkpoint", type=FILE, metavar="BEST.pt")
@click.option("--out", type=FILE, required=True, metavar="OUT.safetensors", help="The file to write.")
def weights(checkpoint: Path, out: Path) -> None:
    """Write a trained network as safetensors, to be shared, read elsewhere or used as a teacher here.

    'ibt train run --teacher', 'ibt train ensemble' and 'ibt export' read it like the best.pt it was made of.
    """
    from training.checkpoint import SAFETENSORS, write_safetensors

    if out.suffix != SAFETENSORS:
        raise click.UsageError(f"--out: expected a name that ends with {SAFETENSORS}")
    write_safetensors(checkpoint, out)
    click.echo(str(out))


train.add_command(tune)
