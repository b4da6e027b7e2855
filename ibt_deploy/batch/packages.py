"""Optional packages: a record that was refused for want of one is tried again once it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec

from ibt_deploy.batch.output import Output, write_whole
from ibt_deploy.batch.tally import Tally
from ibt_deploy.extras import EXTRA_OF

READING = ("batch", "formats")
"""Extras whose packages readers use."""
MISSING = "missing_extra"
PACKAGES = "packages.json"


def installed() -> set[str]:
    """The optional packages of readers that can be imported here."""
    return {name for name, extra in EXTRA_OF.items() if extra in READING and find_spec(name) is not None}


def reopened(output: Output, done: Mapping[int, Tally]) -> set[int]:
    """Parts to be scored anew: they hold refusals for want of a package, and some package is new.

    Their markers are removed, so that they stay to be done whatever happens next.
    """
    stored = output.state / PACKAGES
    now = installed()
    try:
        before = set(json.loads(stored.read_bytes()))
    except (OSError, ValueError):
        before = set()
    waiting = {part for part, tally in done.items() if tally.refused[MISSING]} if now - before else set()
    for part in waiting:
        (output.markers / f"{part:05d}.json").unlink(missing_ok=True)
    text = json.dumps(sorted(now)).encode("ascii")
    write_whole(stored, lambda stream: stream.write(text))
    return waiting
