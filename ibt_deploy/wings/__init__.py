"""Location of the packages ``training``, ``export`` and ``serving`` in a wheel.

Their names are common, so at the top level of an environment they would hide folders of the user, or be
hidden by them. In a wheel they are in this folder, and the commands that need them put it on the path
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
    """Folder of the packages: this one in a wheel, else the root of the repository."""
    return HERE if any((HERE / name).is_dir() for name in NAMES) else HERE.parents[1]


def on_path() -> None:
    """Let this process and its multiprocessing children import the packages by their names."""
    found = str(folder())
    if folder() == HERE and found not in sys.path:
        sys.path.insert(0, found)
