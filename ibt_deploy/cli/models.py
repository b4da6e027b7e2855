"""``ibt models`` and ``ibt verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ibt_deploy.bundle import Bundle, load_bundle, packaged_bundles
from ibt_deploy.cli.group import device_option
from ibt_deploy.device import Device
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


@click.command(
    epilog="""\b
Examples:
  ibt verify
  ibt verify sepsis
  ibt verify my_bundle/ --device cuda"""
)
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option("--json", "as_json", is_flag=True, help="JSON Lines: one object per bundle.")
@device_option
@click.pass_context
def verify(ctx: click.Context, bundles: tuple[str, ...], as_json: bool, device: Device) -> None:
    """Check the hash of every file of a bundle, and recompute its golden inputs on this machine.

    BUNDLE is a task (arrhythmia, sepsis) or a bundle's directory; without one, every installed bundle is
    checked. Features must agree within 1e-6 and logits within 1e-4. Exit status 1 where anything does not.
    """
    chosen: tuple[str | Path, ...] = bundles or tuple(packaged_bundles())
    if not chosen:
        raise BundleError("no bundle is installed; name a bundle's directory")
    passed = True
    for bundle in chosen:
        result = _result(bundle, device)
        passed &= bool(result["passed"])
        if as_json:
            click.echo(json.dumps(result, allow_nan=False))
        else:
            _show_checks(result)
    ctx.exit(0 if passed else 1)


def _result(bundle: str | Path, device: Device) -> dict[str, Any]:
    from ibt_deploy.bundle import load_bundle
    from ibt_deploy.golden import recomputed

    try:
        loaded = load_bundle(bundle)
        checks = list(recomputed(loaded, device=device))
    except BundleError as error:
        return {"bundle": str(bundle), "passed": False, "error": str(error), "checks": []}
    return {
        "bundle": str(bundle),
        "name": loaded.name,
        "version": loaded.version,
        "sha256": loaded.sha256,
        "files": len(loaded.files),
        "passed": all(check.passed for check in checks),
        "checks": [
            {
                "case": check.case,
                "what": check.what,
                "difference": check.difference if check.difference < float("inf") else None,
                "tolerance": check.tolerance,
                "passed": check.passed,
            }
            for check in checks
        ],
    }


def _show_checks(result: dict[str, Any]) -> None:
    from ibt_deploy.render.report import Line, Report, Row, Table, show

    if "error" in result:
        show([Line(f"{result['bundle']}: FAILED", "heading"), Line(result["error"], "warning")])
        return
    rows = tuple(
        Row(
            (
                "ok" if check["passed"] else "FAILED",
                check["case"],
                check["what"],
                "-" if check["difference"] is None else f"{check['difference']:.1e}",
                f"{check['tolerance']:.0e}",
            ),
            "plain" if check["passed"] else "positive",
        )
        for check in result["checks"]
    )
    verdict = "ok" if result["passed"] else "FAILED"
    report: Report = [
        Line(f"{result['name']} {result['version']}: {verdict}", "heading"),
        Line(f"{result['files']} files match their SHA-256; bundle {result['sha256']}"),
        Table(("", "golden input", "recomputed", "difference>", "allowed>"), rows),
    ]
    show(report)
