"""The client behind ``benchmarks/load.py`` counts what it should."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from helpers.service import Answer, FakeService, problem, running

from benchmarks.load_client import closed_load, open_load, request_of

REQUESTS = [request_of("/v1/sepsis", b"x" * 100_000, "text/csv")]


class Counting(FakeService):
    """Answers at once; every third time it is busy."""

    busy = False

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer | None:
        self.requests.append((path, headers, body))
        if self.busy and len(self.requests) % 3 == 0:
            return problem(429, "queue_full", Retry_After="0")
        return 200, {}, b"{}" * 1000


@pytest.fixture
def service() -> Iterator[Counting]:
    with running(Counting()) as service:
        yield service


def port(service: FakeService) -> int:
    return int(service.url.rpartition(":")[2])


def test_a_closed_load_keeps_each_client_busy_with_one_request(service: Counting) -> None:
    outcome = asyncio.run(closed_load(port(service), REQUESTS, 4, 0.5))
    assert set(outcome.status) == {200}
    assert len(outcome.status) == len(service.requests) > 20
    assert service.connections == 4
    assert all(body == b"x" * 100_000 for _, _, body in service.requests)
    assert min(outcome.seconds) > 0


def test_refusals_are_counted_and_the_client_goes_on(service: Counting) -> None:
    service.busy = True
    outcome = asyncio.run(closed_load(port(service), REQUESTS, 2, 0.5))
    assert outcome.status.count(429) == len(service.requests) // 3
    assert outcome.status.count(200) == len(service.requests) - len(service.requests) // 3


def test_an_open_load_keeps_its_pace(service: Counting) -> None:
    outcome = asyncio.run(open_load(port(service), REQUESTS, 100, 1.0, most=16))
    assert len(outcome.status) + outcome.skipped == pytest.approx(100, abs=15)
    assert len(outcome.status) == len(service.requests)


def test_a_broken_connection_is_counted(service: Counting) -> None:
    service.answer = lambda *_: None  # type: ignore[assignment, method-assign, misc]
    outcome = asyncio.run(closed_load(port(service), REQUESTS, 1, 0.3))
    assert set(outcome.status) == {0}
