"""From a hospital's own columns and units to the 40 variables: ``mapping.toml``.

>>> from pathlib import Path
>>> from ibt_deploy.mapping import load_mapping
>>> mapping = load_mapping(Path("mapping.toml"))  # doctest: +SKIP

What a mapping says and how it is read is in :mod:`~ibt_deploy.mapping.schema`, how units are converted in
:mod:`~ibt_deploy.mapping.units`, which columns appear to be in another unit in
:mod:`~ibt_deploy.mapping.doubts`, and how a first one is suggested in :mod:`~ibt_deploy.mapping.suggest`.
"""

from ibt_deploy.mapping.schema import (
    Codes,
    Column,
    Mapping,
    TableOptions,
    Time,
    UnitType,
    load_mapping,
    parse_mapping,
)

__all__ = ["Codes", "Column", "Mapping", "TableOptions", "Time", "UnitType", "load_mapping", "parse_mapping"]
