from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ibt_deploy.vocabulary import INDEX, N_VARIABLES
from serving.http.problems import Problem
from serving.score.batching import Pool


@dataclass(eq=False)
class Task:
    """Work that waits for its gate and says in which company it was done."""

    gate: threading.Event = field(default_factory=threading.Event)
    kind: object = "kind"
    error: Exception | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, works: Sequence[Task]) -> list[bytes | Exception]:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return [str(len(works)).encode() for _ in works]


def done(kind: object = "kind") -> Task:
    task = Task(kind=kind)
    task.gate.set()
    return task


@contextmanager
def pool(
    threads: int = 1, batch: int = 1, queue: int = 4, lengths: list[int] | None = None
) -> Iterator[Pool]:
    made = Pool(threads, batch, queue, [].append if lengths is None else lengths.append)
    yield made
    made.close()


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_what_does_not_fit_into_the_queue_is_refused_at_once() -> None:
    async def main(made: Pool) -> None:
        first = Task()
        waiting = [asyncio.create_task(made.answer(first, 10))]
        await until(lambda: made.busy)
        waiting += [asyncio.create_task(made.answer(done(), 10)) for _ in range(4)]
        await until(lambda: made.waiting == 4)
        began = time.perf_counter()
        with pytest.raises(Problem) as refused:
            await made.answer(done(), 10)
        assert time.perf_counter() - began < 5  # not after the ten seconds of those that wait
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert int(refused.value.headers["Retry-After"]) >= 1
        first.gate.set()
        assert await asyncio.gather(*waiting) == [b"1"] * 5
        assert await made.answer(done(), 10) == b"1"

    with pool() as made:
        asyncio.run(main(made))


def test_the_length_of_the_queue_is_reported_while_work_waits() -> None:
    async def main(made: Pool) -> None:
        first = Task()
        waiting = [asyncio.create_task(made.answer(first, 10))]
        await until(lambda: made.busy)
        waiting += [asyncio.create_task(made.answer(done(), 10)) for _ in range(3)]
        await until(lambda: made.waiting == 3)
        assert lengths[-3:] == [1, 2, 3]
        first.gate.set()
        await asyncio.gather(*waiting)
        assert lengths[-1] == 0

    lengths: list[int] = []
    with pool(lengths=lengths) as made:
        asyncio.run(main(made))


def test_waiting_work_of_one_kind_shares_a_batch_and_order_is_kept() -> None:
    async def main(made: Pool) -> list[bytes]:
        first = Task()
        waiting = [asyncio.create_task(made.answer(first, 10))]
        await until(lambda: made.busy)
        for kind in ("a", "a", "a", "a", "b", None, None, "b"):
            waiting.append(asyncio.create_task(made.answer(done(kind), 10)))
            await asyncio.sleep(0)
        await until(lambda: made.waiting == 8)
        first.gate.set()
        return await asyncio.gather(*waiting)

    with pool(batch=3, queue=10) as made:
        assert asyncio.run(main(made)) == [b"1", b"3", b"3", b"3", b"1", b"1", b"1", b"1", b"1"]


def test_an_answer_that_takes_too_long_is_given_up_and_not_computed() -> None:
    async def main(made: Pool) -> None:
        first, second = Task(), Task(error=AssertionError("was computed"))
        busy = asyncio.create_task(made.answer(first, 10))
        await until(lambda: made.busy)
        with pytest.raises(Problem, match="no answer") as refused:
            await made.answer(second, 0.05)
        assert (refused.value.status, refused.value.code) == (503, "too_slow")
        first.gate.set()
        assert await busy == b"1"
        assert await made.answer(done(), 10) == b"1"

    with pool() as made:
        asyncio.run(main(made))


def test_an_error_is_its_requests_own() -> None:
    async def main(made: Pool) -> None:
        failing = done()
        failing.error = KeyError("x")
        with pytest.raises(KeyError):
            await made.answer(failing, 10)
        assert await made.answer(done(), 10) == b"1"

    with pool() as made:
        asyncio.run(main(made))


def test_closing_finishes_what_waits() -> None:
    made = Pool(1, 1, 10)

    async def main() -> list[bytes]:
        waiting = [asyncio.create_task(made.answer(done(), 10)) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(made.close)
        return await asyncio.gather(*waiting)

    assert asyncio.run(main()) == [b"1"] * 5


def test_closing_does_not_wait_for_what_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.score.batching.CLOSE_SECONDS", 0.2)
    stuck = Task()

    async def start() -> Pool:
        made = Pool(1, 1, 4)
        asking = asyncio.ensure_future(made.answer(stuck, 0.05))
        await until(lambda: made.busy)
        with pytest.raises(Problem):
            await asking
        return made

    made = asyncio.run(start())
    begun = time.monotonic()
    made.close()
    assert 0.1 < time.monotonic() - begun < 2
    stuck.gate.set()


def test_batched_requests_are_answered_as_single_ones(
    served: Any, client: Any, ecg_files: list[tuple[str, bytes]]
) -> None:
    import httpx

    app = served(batch=8, threads=1)
    rows = [{"ICULOS": 1, "HR": 80, "O2Sat": 97, "Temp": 37, "SBP": 120, "MAP": 80}]
    spoilt = [{"ICULOS": 0, "HR": 80, "O2Sat": 97, "Temp": 37, "SBP": 120, "MAP": 80}]
    bodies = [rows, spoilt, rows * 2, rows, [], rows]

    async def together() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ibt.test") as session:
            answers = await asyncio.gather(*(session.post("/v1/sepsis", json=body) for body in bodies))
        return [(answer.status_code, comparable(answer.json())) for answer in answers]

    single = [client.post("/v1/sepsis", json=body) for body in bodies]
    assert asyncio.run(together()) == [(answer.status_code, comparable(answer.json())) for answer in single]


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "request_id"}


def test_computation_stops_when_the_client_has_gone(app: Any) -> None:
    from ibt_deploy.records import Stay
    from serving.score.answers import several
    from serving.score.batching import ScoreJob, ToScore

    predictor = app.models.predictors["sepsis", app.models.bundles["sepsis"].default_operating_point]
    values = np.full((1, N_VARIABLES), np.nan)
    values[:, [INDEX["ICULOS"], INDEX["HR"]]] = 1, 80
    taken: list[int] = []

    class Stays(list[Stay]):
        def __iter__(self) -> Iterator[Stay]:
            for number in range(10_000):
                taken.append(number)
                if number == 500:
                    work.over.set()
                yield Stay(values, "p", "p", "JSON")

    work = ScoreJob(predictor, lambda: ToScore(Stays(), several))
    with pytest.raises(Problem) as stopped:
        work.run([work])
    assert stopped.value.code == "too_slow"
    assert len(taken) == 501
