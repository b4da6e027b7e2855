"""``ibt monitor``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ibt_deploy.errors import DataError

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(
    epilog="""\b
Examples:
  ibt batch may/ --out scores_may/ && ibt monitor --reference scores_april/ scores_may/
  ibt monitor scores_may/                      against the training of the bundle
  ibt monitor --reference a/ b/ --json --out monitoring/

Exit status: 0 no large change, 1 at least one, 2 the command could not run as asked.

Research software, not a medical device."""
)
@click.argument("scores", type=FOLDER)
@click.option(
    "--reference",
    type=FOLDER,
    metavar="DIR",
    help="An earlier export of ibt batch; default: what the bundle says of its training and test data.",
)
@click.option(
    "--bundle", type=FOLDER, metavar="DIR", help="The bundle that scored, where it is not the packaged one."
)
@click.option(
    "--limit",
    type=click.FloatRange(0.01, 10),
    default=0.25,
    show_default=True,
    help="Population stability index from which on a change is large.",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Also write monitoring.json and monitoring.svg there.",
)
@click.pass_context
def monitor(
    ctx: click.Context,
    scores: Path,
    reference: Path | None,
    bundle: Path | None,
    limit: float,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare an export of 'ibt batch' with an earlier one, or with the training of its bundle.

    SCORES is the folder of a finished run. Compared are inputs and missing values (of tables), risks or
    probabilities, alarms or findings, warnings and refusals, by the population stability index.
    """
    from ibt_deploy.evaluation.monitoring import compared, compared_with_training, read_export
    from ibt_deploy.render.evaluation import monitoring_report, monitoring_svg
    from ibt_deploy.render.report import show

    now = read_export(scores)
    if reference is not None:
        found = compared(read_export(reference), now, limit)
    else:
        from ibt_deploy.bundle import load_bundle

        found = compared_with_training(load_bundle(bundle or now.task), now, limit)
    text = json.dumps(found.to_dict(), indent=1, allow_nan=False)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "monitoring.json").write_text(text + "\n", encoding="utf-8")
            (out / "monitoring.svg").write_text(monitoring_svg(found), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{out}: cannot be written ({error.strerror or error})") from error
    if as_json:
        click.echo(text)
    else:
        show(monitoring_report(found))
    ctx.exit(1 if found.large else 0)
