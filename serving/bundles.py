"""The bundles that the service answers with, checked without opening any graph."""

from __future__ import annotations

from ibt_deploy.bundle import TASKS, Bundle, Task, load_bundle
from ibt_deploy.errors import BundleError
from serving.settings import Settings


def load_bundles(settings: Settings) -> dict[Task, Bundle]:
    """Both bundles, their contracts and hashes checked; raises BundleError."""
    bundles: dict[Task, Bundle] = {}
    for task in TASKS:
        bundle = load_bundle(settings.arrhythmia if task == "arrhythmia" else settings.sepsis)
        if bundle.task != task:
            raise BundleError(f"{bundle.path}: a bundle for {bundle.task} is configured for {task}")
        bundles[task] = bundle
    return bundles
