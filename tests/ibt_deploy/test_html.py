"""Display of recordings and predictions in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from helpers.bundles import recording, stay

from ibt_deploy.predictor import Predictor

HOSTILE = "<script>alert(1)</script>&\x1b[31m"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_repr_is_one_short_line(ecg: Predictor, stays: Predictor) -> None:
    for thing in (recording(), stay(), ecg.predict(recording()), stays.predict(stay())):
        assert len(repr(thing)) < 600
        assert "\n" not in repr(thing)
    assert repr(recording()) == "<Recording 'r0': 12 leads, 10.0 s at 500 Hz, synthetic>"
    assert repr(stay(30)) == "<Stay 'p0': 30 hours, synthetic>"


def test_notebooks_show_answers_whole_and_escape_names(ecg: Predictor, stays: Predictor) -> None:
    answers = (ecg.predict(recording(record_id=HOSTILE)), stays.predict(stay(12, patient_id=HOSTILE)))
    for answer, rows in zip(answers, (24, 12), strict=True):
        shown = Tags(answer._repr_html_())
        assert shown.open == []
        assert set(shown.found) <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
        assert shown.found.count("tr") == rows + 1
        assert "<script>alert(1)</script>&\\x1b[31m" in shown.text


def test_notebooks_show_a_recording_lead_by_lead() -> None:
    given = recording(record_id=HOSTILE)
    given.signal[3] = np.nan
    given.signal[4, 100:200] = np.nan
    shown = Tags(given._repr_html_())
    assert shown.open == []
    assert shown.found.count("polyline") == 11
    assert "script" not in shown.found
    assert "nan" not in given._repr_html_()
