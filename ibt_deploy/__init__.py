"""Score 12-lead ECGs and ICU stays.

>>> import ibt_deploy
>>> ibt_deploy.load("arrhythmia").predict("record.hea")  # doctest: +SKIP

Research software, not a medical device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from ibt_deploy.predictor import load as load
    from ibt_deploy.readers import read as read

__all__ = ["__version__", "load", "read"]

_LAZY = {"load": "ibt_deploy.predictor", "read": "ibt_deploy.readers"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
