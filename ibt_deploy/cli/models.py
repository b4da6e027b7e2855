"""``ibt models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ibt_deploy.bundle import Bundle, load_bundle, packaged_bundles
from ibt_deploy.errors import BundleError
from ibt_deploy.predictions import NOTICE


@click.command(
    epilog="""\b
Examples:
  ibt models
  ibt models --card sepsis
  ibt models my_bundle/ --json"""
)
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR]...")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object per model.")
@click.option("--card", metavar="TASK|DIR", help="Print the model card of one model.")
def models(bundles: tuple[Path, ...], as_json: bool, card: str | None) -> None:
    """List the installed models, or those in the directories given, with their held-out metrics."""
    if card is not None:
        click.echo(load_bundle(card).card)
        return
    chosen: tuple[str | Path, ...] = bundles or tuple(packaged_bundles())
    if not chosen:
        raise BundleError("no bundle is installed; name a bundle's directory")
    found = [load_bundle(bundle) for bundle in chosen]
    if as_json:
        for bundle in found:
            click.echo(json.dumps(_summary(bundle), allow_nan=False))
    else:
        for bundle in found:
            _show(bundle)


def _summary(bundle: Bundle) -> dict[str, Any]:
    return {
        "task": bundle.task,
        "name": bundle.name,
        "version": bundle.version,
        "created": bundle.created,
        "sha256": bundle.sha256,
        "path": str(bundle.path),
        "variants": sorted(bundle.variants),
        "default_variant": bundle.default_variant,
        "operating_points": {name: point.description for name, point in bundle.operating_points.items()},
        "default_operating_point": bundle.default_operating_point,
        "preprocessing": {key: bundle.contract["preprocessing"][key] for key in ("name", "version")},
        "metrics": bundle.contract.get("metrics", {}),
        "not_evaluable": [c.abbreviation for c in bundle.classes if not c.evaluable],
        "intended_use": bundle.contract.get("intended_use", ""),
        "notice": NOTICE,
    }


def _show(bundle: Bundle) -> None:
    from ibt_deploy.render.report import Line, Row, Table, number, show

    report: list[Line | Table] = [
        Line(f"{bundle.name} {bundle.version}: {bundle.task}", "heading"),
        Line(f"sha256 {bundle.sha256}, created {bundle.created}", label="bundle"),
        Line(str(bundle.path), label="path"),
        Line(", ".join(sorted(bundle.variants)) + f" (default {bundle.default_variant})", label="variants"),
    ]
    report += [
        Line(f"{name}{' (default)' if name == bundle.default_operating_point else ''}: {point.description}",
             label="operating point")
        for name, point in bundle.operating_points.items()
    ]  # fmt: skip
    if never := [c.abbreviation for c in bundle.classes if not c.evaluable]:
        report.append(Line(", ".join(never), "muted", label="not evaluable"))
    headline = bundle.contract.get("metrics", {}).get("headline", [])
    if headline:
        rows = tuple(
            Row(
                (
                    entry["set"],
                    entry["name"],
                    number(entry["value"]),
                    " to ".join(map(number, entry["interval"])),
                )
            )
            for entry in headline
        )
        report.append(Table(("held-out set", "measure", "value>", "95 % interval>"), rows))
    show([*report, Line(NOTICE, "muted")])
