from __future__ import annotations

import pytest

from ibt_deploy.errors import first_line, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("späce ☃", "späce ☃"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb", "a\\nb"),
        ("bad\udcff", "bad\\udcff"),
        ("abc\u202edcba", "abc\\u202edcba"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc\x07")) == "a b c\\x07"


def test_first_line() -> None:
    assert first_line(ValueError("\nwrong\nat length")) == "wrong"
    assert first_line(KeyError()) == "KeyError"
