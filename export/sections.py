"""What the task adds to a model card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sections:
    """Lines of Markdown.

    Attributes
    ----------
    data
        What was trained, tuned and tested on.
    figures
        On the test part and on external sets.
    """

    data: list[str]
    figures: list[str]
