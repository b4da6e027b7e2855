"""``ibt export``."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from ibt_deploy import __version__
from ibt_deploy.errors import IbtError

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
COMMANDLINE = ParameterSource.COMMANDLINE


@click.command(
    epilog="""\b
Examples:
  ibt export runs/sepsis-bbm/best.pt --cache cache/sepsis --teacher runs/sepsis-teacher/best.pt \\
      --out ibt_deploy/bundles/sepsis
  ibt export runs/arrhythmia-bbm/best.pt --cache cache/arrhythmia --external ludb=cache/ludb \\
      --teacher runs/arrhythmia-teacher/best.pt --out ibt_deploy/bundles/arrhythmia
  ibt export --cards
  ibt export --hub hub/arrhythmia --bundle arrhythmia
  ibt export --weights arrhythmia.safetensors --bundle arrhythmia"""
)
@click.argument("student", required=False, type=FILE, metavar="[STUDENT.pt]")
@click.option("--cache", type=FOLDER, metavar="DIR", help="The prepared data set the student was trained on.")
@click.option(
    "--split", type=FILE, metavar="FILE", help="Its split; default: the cache's own, else the packaged one."
)
@click.option(
    "--teacher", type=FILE, metavar="BEST.pt", help="The student's teacher, for comparison on the test part."
)
@click.option(
    "--external",
    multiple=True,
    metavar="NAME=DIR",
    help="A prepared data set that nothing was trained or tuned on; may be given several times.",
)
@click.option(
    "--opinion",
    type=FILE,
    metavar="FILE",
    help="File of 'ibt train ensemble --cross-fit': which classes of ECGs are evaluable, and their "
    "thresholds, then rest on the training part too.",
)
@click.option(
    "--chosen",
    metavar="TASK|DIR",
    help="For a student trained with data.refit: the bundle of the same recipe without it, whose answers "
    "about the validation part give calibration and thresholds.",
)
@click.option(
    "--candidates",
    type=FILE,
    metavar="FILE.toml",
    help="Models among which the student was chosen, and the reason; the card shows them.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Directory of the bundle; replaced."
)
@click.option("--name", metavar="NAME", help="Name of the bundle; default: method and task.")
@click.option("--bundle-version", metavar="X.Y.Z", help="Version of the bundle; default: that of ibt.")
@click.option("--opset", default=23, show_default=True, help="ONNX operator set.")
@click.option("--draws", default=1000, show_default=True, type=click.IntRange(min=1), help="Bootstrap draws.")
@click.option("--examples", type=FOLDER, metavar="DIR", help="Folder with recording.hea and stay.psv.")
@click.option(
    "--cards", is_flag=True, help="Only rewrite the cards of the packaged bundles from their contracts."
)
@click.option(
    "--hub",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write --bundle, and its weights if its graph holds them, as a repository for Hugging Face and "
    "MLflow.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.safetensors",
    help="Write the weights of --bundle's network, to start 'ibt train run --initial' from; replaced.",
)
@click.option(
    "--bundle", metavar="TASK|DIR", help="The bundle for --hub or --weights: a packaged one or a directory."
)
def export(
    student: Path | None,
    cache: Path | None,
    split: Path | None,
    teacher: Path | None,
    external: tuple[str, ...],
    opinion: Path | None,
    chosen: str | None,
    candidates: Path | None,
    out: Path | None,
    name: str | None,
    bundle_version: str | None,
    opset: int,
    draws: int,
    examples: Path | None,
    cards: bool,
    hub: Path | None,
    weights: Path | None,
    bundle: str | None,
) -> None:
    """Turn a trained student into a bundle: graph, check, calibration, thresholds, figures, model card.

    Calibration and thresholds come from the validation part, the published figures from the test part, scored
    by the bundle itself. Nothing is written unless the graph reproduces the network.
    """
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is COMMANDLINE}
    if len(alone := given & {"cards", "hub", "weights"}) > 1:
        raise click.UsageError("give only one of --cards, --hub and --weights")
    if alone and given - alone - {"bundle"}:
        raise click.UsageError("--cards, --hub and --weights build no bundle: they take only --bundle")
    if (bundle is not None) != (hub is not None or weights is not None):
        raise click.UsageError("--bundle belongs to --hub or --weights")
    if weights is not None and weights.suffix != ".safetensors":
        raise click.UsageError("--weights: expected a name that ends with .safetensors")
    if cards:
        _rewrite_cards()
        return
    if bundle is not None:
        _share(bundle, hub, weights)
        return
    if student is None or cache is None or out is None:
        raise click.UsageError("give STUDENT.pt, --cache and --out, or one of --cards, --hub and --weights")
    externals = [_named_folder(text) for text in external]

    # torch takes a second to import, so usage errors and --help come first
    from export.build import EXAMPLES, Run, Settings, build_bundle, open_data, open_external, open_opinion
    from export.entries import Candidates
    from export.scored import Evidence
    from ibt_deploy.bundle import load_bundle
    from ibt_deploy.files import file_sha256

    _say("reading the checkpoint and the data set")
    run = Run.of(student)
    data = open_data(cache, split)
    contract = build_bundle(
        run,
        data,
        out,
        Settings(
            name=name,
            version=bundle_version or __version__,
            examples=examples or EXAMPLES,
            candidates=None if candidates is None else Candidates.read(candidates),
            command=_command(
                student, cache, split, teacher, externals, opinion, chosen, candidates, bundle_version, out
            ),
            draws=draws,
            opset=opset,
            say=_say,
        ),
        teacher=None if teacher is None else Run.of(teacher),
        externals=[open_external(label, folder, data) for label, folder in externals],
        evidence=Evidence(
            None if chosen is None else load_bundle(chosen),
            None if opinion is None else open_opinion(opinion, cache, data),
            None if opinion is None else file_sha256(opinion),
        ),
    )
    for entry in contract["metrics"]["headline"]:
        low, high = entry["interval"]
        click.echo(f"{entry['set']}: {entry['name']} {entry['value']:.3f} ({low:.3f} to {high:.3f})")
    if reasons := contract["metrics"].get("int8", {}).get("reasons"):
        _say(f"int8 is not shipped: {'; '.join(reasons)}")
    click.echo(f"{out}: {contract['name']} {contract['version']}; try it with: ibt verify {out}")


def _share(bundle: str, hub: Path | None, weights: Path | None) -> None:
    from ibt_deploy.bundle import load_bundle

    found = load_bundle(bundle)
    if hub is not None:
        from export.hub import write_hub

        if missing := write_hub(found, hub):
            _say(f"without model.safetensors: {missing}")
        click.echo(f"{hub}: upload it with: hf upload OWNER/NAME {hub}")
    if weights is not None:
        from export.weights import bundle_checkpoint
        from ibt_deploy.errors import require
        from training.checkpoint import write_safetensors

        require("ibt export --weights", "safetensors")
        write_safetensors(bundle_checkpoint(found), weights)
        click.echo(str(weights))


def _rewrite_cards() -> None:
    from export.card import write_card
    from ibt_deploy.bundle import packaged_bundles

    found = packaged_bundles()
    if not found:
        raise IbtError("no bundle is in the package yet")
    for task, folder in found.items():
        changed = write_card(folder)
        click.echo(f"{task}: {'rewritten' if changed else 'up to date'}")


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and Path(folder).is_dir()):
        raise click.UsageError(f"--external {text}: expected NAME=DIR with an existing folder")
    return name, Path(folder)


def _command(
    student: Path,
    cache: Path,
    split: Path | None,
    teacher: Path | None,
    externals: list[tuple[str, Path]],
    opinion: Path | None,
    chosen: str | None,
    candidates: Path | None,
    bundle_version: str | None,
    out: Path,
) -> str:
    """The command as the card shows it, without paths of this machine."""

    def checkpoint(path: Path) -> str:
        path = path.resolve()
        return f"runs/{path.parent.name}/{path.name}"

    words = ["ibt export", checkpoint(student), f"--cache cache/{cache.resolve().name}"]
    words += [f"--split {split.name}"] if split else []
    words += [f"--teacher {checkpoint(teacher)}"] if teacher else []
    words += [f"--external {name}=cache/{folder.resolve().name}" for name, folder in externals]
    words += [f"--opinion {opinion.name}"] if opinion else []
    words += [f"--chosen {Path(chosen).name}"] if chosen else []
    words += [f"--candidates {candidates.name}"] if candidates else []
    words += [f"--bundle-version {bundle_version}"] if bundle_version else []
    return " ".join([*words, f"--out ibt_deploy/bundles/{out.resolve().name}"])


def _say(line: str) -> None:
    click.echo(f"ibt: {line}", err=True)
