"""Progress of a run: amount done, speed, refusals, and remaining time."""

from __future__ import annotations

import io

import pytest

from ibt_deploy.progress import Answered


@pytest.mark.parametrize("terminal", [True, False])
def test_rate_and_time_left_count_only_what_this_run_has_done(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 stays in 40 s are 0.5 each second; 80 are left, which take 160 s."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    now = [0.0]
    monkeypatch.setattr("ibt_deploy.progress.monotonic", lambda: now[0])
    answered = Answered(110, "stays", before=10, stream=stream)
    now[0] = 40.0
    answered.add(20, 1)
    answered.show()
    answered.end()
    line = "30 of 110 stays (27 %), 0.5/s, 1 refused, 3 min left"
    assert line in stream.getvalue() if terminal else stream.getvalue() == f"ibt batch: {line}\n"


def test_nothing_is_written_to_a_log_before_its_time() -> None:
    stream = io.StringIO()
    answered = Answered(10, "recordings", before=0, stream=stream)
    answered.add(1, 0)
    answered.show()
    answered.end()
    assert stream.getvalue() == ""
