"""What a request has computed: read the input, score it, and write the answer as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any, NamedTuple, TypeVar

from ibt_deploy.errors import InputError
from ibt_deploy.predictions import Prediction, Refusal
from ibt_deploy.predictor import Item, Predictor
from serving.answer_json import answer_json
from serving.problems import Problem

AT_ONCE = 8
"""Windows or stays that go through the graph together; more gain nothing on a CPU and stay in its arena."""
Answers = Sequence[Prediction | Refusal]
T = TypeVar("T")


class Asked(NamedTuple):
    """What a request asks for: the items to score, and the body that their answers make."""

    items: Sequence[Item]
    write: Callable[[Answers], bytes]


@dataclass(frozen=True, eq=False)
class Scoring:
    """Recordings or stays to be scored.

    Attributes
    ----------
    predictor
        Of the task and operating point.
    read
        What is asked for; raises InputError or a Problem.
    over
        Set once nobody waits any more.
    """

    predictor: Predictor
    read: Callable[[], Asked]
    over: Event = field(default_factory=Event)

    @property
    def kind(self) -> Predictor:
        """All that goes through one predictor may share a batch."""
        return self.predictor

    def run(self, works: Sequence[Scoring]) -> list[bytes | Exception]:
        """An answer or an exception for each of ``works``; none once nobody waits for any of them."""
        read = [_or_error(work.read) for work in works]

        def items() -> Iterator[Item]:
            for asked in read:
                for item in asked.items if isinstance(asked, Asked) else ():
                    if all(work.over.is_set() for work in works):
                        raise Problem("too_slow", "Nobody waits for the answer any more.")
                    yield item

        scored = iter(list(self.predictor.predict_many(items(), AT_ONCE)))
        answers: list[bytes | Exception] = []
        for asked in read:
            if isinstance(asked, Exception):
                answers.append(asked)
                continue
            own = [next(scored) for _ in asked.items]
            answers.append(_or_error(partial(asked.write, own)))
        return answers


@dataclass(frozen=True, eq=False)
class Call:
    """Work that shares no batch."""

    call: Callable[[], bytes]
    over: Event = field(default_factory=Event)

    @property
    def kind(self) -> None:
        """It is computed alone."""

    def run(self, works: Sequence[Call]) -> list[bytes | Exception]:
        """An answer or an exception for each of ``works``."""
        return [_or_error(work.call) for work in works]


def one(answers: Answers) -> bytes:
    """The answer for the one thing that was asked; raises a Problem where it is refused."""
    (answer,) = answers
    if isinstance(answer, Refusal):
        raise Problem.refused(answer)
    return answer_json(answer) + b"\n"


def several(answers: Answers) -> bytes:
    """An answer or a refusal for each stay, in order."""
    return b'{"stays": [' + b", ".join(map(answer_json, answers)) + b"]}\n"


def as_json(value: Any) -> bytes:
    """``value`` as one line of JSON, as ``ibt predict --json`` writes it."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"


def _or_error(call: Callable[[], T]) -> T | Exception:
    try:
        return call()
    except (InputError, Problem) as error:
        # what was read hangs on the traceback, and on those of the errors behind this one
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001 - one request's failure must not be another's
        return error
