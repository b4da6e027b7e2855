"""Where the packages lie in a wheel; everything else about the build is in ``pyproject.toml``.

``training``, ``export`` and ``serving`` are names that others use too. A wheel therefore holds them below
``ibt_deploy/wings``, where ``ibt train``, ``ibt export``, ``ibt reproduce`` and ``ibt serve`` find them,
and has ``ibt_deploy`` alone at its top. An editable installation leaves them where they are.
"""

from __future__ import annotations

import sys

from setuptools import find_packages, setup

WINGS = ("training", "export", "serving")
BELOW = "ibt_deploy.wings"


def layout(*, is_editable: bool) -> dict[str, object]:
    """Packages, their folders and their data."""
    below = "" if is_editable else f"{BELOW}."
    wings = find_packages(include=[pattern for name in WINGS for pattern in (name, f"{name}.*")])
    return {
        "packages": [
            *find_packages(include=["ibt_deploy", "ibt_deploy.*"]),
            *(f"{below}{name}" for name in wings),
        ],
        "package_dir": {f"{below}{name}": name for name in WINGS},
        "package_data": {
            "ibt_deploy": ["py.typed", "data/*", "bundles/*/*"],
            **{f"{below}{name}": files for name, files in DATA.items()},
        },
    }


DATA = {
    "training": ["py.typed", "recipes/*.toml", "splits/*.csv", "study/budgets/*.toml"],
    "export": ["py.typed"],
    "serving": ["py.typed", "docs/*", "page/*", "examples/*"],
}

if __name__ == "__main__":
    setup(**layout(is_editable="editable_wheel" in sys.argv))
