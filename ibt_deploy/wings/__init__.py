"""Where a wheel keeps the packages ``training``, ``export`` and ``serving``.

Their names are common, so that at the top of an environment they would hide folders of the user, or be
hidden by them. In a wheel they lie in this folder, and the commands that need them put it on the path
first; in the repository and in an editable installation it holds nothing else.

>>> from ibt_deploy.wings import on_path
>>> on_path()  # doctest: +SKIP
>>> import training  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = ("training", "export", "serving")


def folder() -> Path:
    """Where the packages are: here in a wheel, else the root of the repository."""
    return HERE if any((HERE / name).is_dir() for name in NAMES) else HERE.parents[1]


def on_path() -> None:
    """Let this process, and those that it starts with multiprocessing, import the packages by their names."""
    found = str(folder())
    if folder() == HERE and found not in sys.path:
        sys.path.insert(0, found)
