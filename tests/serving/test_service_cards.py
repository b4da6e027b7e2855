"""The packaged bundles have cards, the tiny ones of other tests have none."""

from __future__ import annotations

from typing import Any

import pytest

from ibt_deploy.bundle import load_bundle, packaged_bundles


@pytest.fixture
def packaged(served: Any, client_of: Any) -> Any:
    return client_of(served(arrhythmia="arrhythmia", sepsis="sepsis"))


def test_cards_are_markdown_or_html(packaged: Any) -> None:
    for task in packaged_bundles():
        path = f"/v1/models/{task}/card"
        plain = packaged.get(path)
        assert plain.headers["content-type"].startswith("text/markdown")
        assert plain.text == load_bundle(task).card
        shown = packaged.get(path, headers={"accept": "text/html,*/*"})
        assert shown.headers["content-type"].startswith("text/html")
        assert "<table>" in shown.text
        assert "<h1>" in shown.text
