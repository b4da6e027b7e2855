"""``ibt reproduce``: the paper's tables and figures from prepared data, with the controls it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ibt_deploy.types import Task
from training.cli import FILE, FOLDER, TrainGroup
from training.study.plan import BUDGETS, PURPOSES

if TYPE_CHECKING:
    from training.study.study import Expectation

BOOTSTRAP_DRAWS = 1000


@click.group(
    cls=TrainGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 some runs could not be trained, 2 the command could not run as asked.",
)
def reproduce() -> None:
    """Train, evaluate and report the whole study: tables and figures of the paper, and controls.

    \b
    ibt reproduce sepsis --data cache/sepsis --out study/sepsis
    ibt reproduce arrhythmia --data cache/arrhythmia --out study/arrhythmia --external ludb=cache/ludb
    ibt reproduce docs study/sepsis study/arrhythmia --to docs/reproduction.md

    The same command resumes where it stopped and ends with the same results.json.
    Research software, not a medical device.
    """


def _externals(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """Parse ``name=folder`` pairs into a dictionary."""
    pairs = [value.partition("=") for value in values]
    for name, _, folder in pairs:
        if not name.strip() or not folder.strip():
            raise click.BadParameter(f"{name!r} is not of the form NAME=CACHE, such as ludb=cache/ludb")
    return {name.strip(): Path(folder.strip()) for name, _, folder in pairs}


def _study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that both tasks share."""
    options = (
        click.option("--data", type=FOLDER, required=True, help="Cache made by 'ibt train prepare'."),
        click.option(
            "--out", type=FOLDER, required=True, help="Folder of the study; a study there is resumed."
        ),
        click.option("--seeds", type=click.IntRange(min=1), help="Seeds of every method [budget's own]."),
        click.option(
            "--budget",
            default="cpu",
            show_default=True,
            metavar="|".join((*BUDGETS, "FILE")),
            help="Training length and network size: cpu takes a day on two cores and tiny a minute; gpu is "
            "for one GPU and was never timed.",
        ),
        click.option(
            "--only",
            type=click.Choice(PURPOSES),
            multiple=True,
            help="Train only what this needs; repeatable.",
        ),
        click.option(
            "--arm",
            "arms",
            multiple=True,
            metavar="NAME",
            help="Train only this method or variant (bbm-shuffled, fraction-0.05/bbm) and its teacher; "
            "repeatable.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Number of runs to train or evaluate in parallel, one process each. During training, half "
            "as many further processes evaluate.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="auto uses CUDA if available; cuda fails without it.",
        ),
        click.option("--split", type=FILE, help="Split to use in place of the cache's own."),
        click.option(
            "--external",
            multiple=True,
            metavar="NAME=CACHE",
            callback=_externals,
            help="Prepared data that nothing is trained on, to test on; repeatable.",
        ),
        click.option("--no-train", is_flag=True, help="Evaluate and report finished runs without training."),
        click.option(
            "--estimate",
            is_flag=True,
            help="Train nothing: time a few steps of each kind of run here and print plan and hours.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


ESTIMATE_WIDTH = 120
"""Least width of the table of :func:`_show_estimate`, in columns; a narrower one would cut names."""


def _show_estimate(found: Sequence[Expectation], jobs: int, product_flops: float) -> None:
    """Print the plan as a table, one line for each purpose and method, and the total hours.

    ``product_flops`` is the device's rate in a plain matrix product; a step is given as a share of it. Beside
    the items trained on per second stands how many of them one core can crop, augment and pack.
    """
    lines: dict[tuple[str, str], list[Expectation]] = {}
    for expected in found:
        arm = expected.run.arm.rpartition("/")[2]
        lines.setdefault((expected.run.purpose, arm), []).append(expected)
    headings = (
        "for",
        "method",
        "runs",
        "steps",
        "ms a step",
        "items/s",
        "prepared/s",
        "GFLOP/s",
        "of peak",
        "hours",
    )
    table = Table(*headings, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for (purpose, arm), runs in lines.items():
        steps, seconds = sum(e.steps for e in runs), sum(e.seconds for e in runs)
        items, flops, preparation = (
            sum(e.steps * value for e, value in zip(runs, values, strict=True))
            for values in zip(*((e.cost.items, e.cost.flops, e.cost.preparation) for e in runs), strict=True)
        )
        table.add_row(
            purpose,
            arm,
            f"{len(runs)}",
            f"{steps:,}",
            f"{1000 * seconds / steps:.0f}",
            f"{items / seconds:,.0f}",
            f"{items / preparation:,.0f}",
            f"{flops / seconds / 1e9:,.0f}",
            f"{100 * flops / seconds / product_flops:.0f} %",
            f"{seconds / 3600:.2f}",
        )
    Console(width=max(Console().width, ESTIMATE_WIDTH)).print(table)
    hours = sum(e.seconds for e in found) / 3600
    click.echo(
        f"{len(found)} runs to train, {hours:.1f} hours one after the other"
        + (f", {hours / jobs:.1f} if {jobs} jobs at a time do not slow each other" if jobs > 1 else "")
        + "; validation after each epoch, tables and figures come on top. Prepared/s: what one core crops, "
        "augments and packs beside the steps. Peak: a product of large matrices, "
        f"{product_flops / 1e9:,.0f} GFLOP/s here."
    )


def _command(task: Task, help_text: str) -> click.Command:
    @_study_options
    def run(
        data: Path,
        out: Path,
        seeds: int | None,
        budget: str,
        only: tuple[str, ...],
        arms: tuple[str, ...],
        jobs: int,
        device: str,
        split: Path | None,
        external: dict[str, Path],
        no_train: bool,
        estimate: bool,
    ) -> None:
        from training.study.plan import load_budget
        from training.study.study import expectations, open_study

        plan = load_budget(budget)
        study = open_study(task, plan, seeds or plan.seeds, data, out, split=split, external=external)
        if estimate:
            from training.device import chosen_device, chosen_dtype, product_flops

            where = chosen_device(device)
            _show_estimate(
                expectations(study, device, only, arms, say=lambda line: click.echo(line, err=True)),
                jobs,
                product_flops(where, chosen_dtype("auto", where)),
            )
            return
        from training.study.results import reproduced

        failed = reproduced(
            study,
            only=only,
            arms=arms,
            jobs=jobs,
            device=device,
            train=not no_train,
            draws=BOOTSTRAP_DRAWS,
            say=lambda line: click.echo(line, err=True),
        )
        click.echo(str(out / "report.md"))
        if failed:
            raise SystemExit(1)

    return click.command(task, help=help_text)(run)


reproduce.add_command(
    _command(
        "sepsis",
        "The study on ICU stays: Table 1 to 3, Figures 1 to 3, controls, learning curves, external "
        "hospitals, and alarms of the shipped model.",
    )
)
reproduce.add_command(
    _command(
        "arrhythmia",
        "The study on 12-lead ECGs: Table 1 to 3, Figures 1 to 3, controls, an external source, and "
        "calibration of the shipped model.",
    )
)


@reproduce.command(
    epilog="""\b
Example:
  ibt reproduce docs study/sepsis study/arrhythmia --to docs/reproduction.md"""
)
@click.argument("studies", nargs=-1, required=True, type=FOLDER, metavar="OUT...")
@click.option("--to", type=FILE, required=True, help="File of the report; figures go beside it.")
def docs(studies: tuple[Path, ...], to: Path) -> None:
    """Join the reports of finished studies OUT into one page, figures in a folder of its name."""
    from training.study.results import joined_report

    joined_report(studies, to)
    click.echo(str(to))
