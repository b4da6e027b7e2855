"""The example stay: made by its script, read without warnings."""

from __future__ import annotations

import runpy
from pathlib import Path

from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.readers import read
from ibt_deploy.records import Stay


def test_the_script_writes_the_same_bytes(root: Path) -> None:
    script = runpy.run_path(str(root / "examples/make_stay.py"))
    assert script["stay_text"]() == (root / "examples/stay.psv").read_text(encoding="utf-8")


def test_it_is_a_whole_stay_with_nothing_to_warn_about(root: Path) -> None:
    (stay,) = read(root / "examples/stay.psv")
    assert isinstance(stay, Stay)
    assert (len(stay.values), stay.labels, stay.notes) == (40, None, ())
    assert checked_stay(stay)[1] == ()
