"""``/v1/sepsis/next``: the risk of the next hours, with the client holding the state of the stay.

A state belongs to one record: every request of a stay carries the same name, or none.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ibt_deploy.errors import InputError
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.preprocess.stay import clean
from ibt_deploy.readers.stays import ICULOS, PATIENT
from ibt_deploy.records import Stay
from ibt_deploy.streaming import RiskStream, StreamState, pack, unpack
from ibt_deploy.vocabulary import MAX_HOURS, N_VARIABLES
from serving.http.problems import Problem
from serving.input.json_text import Room, as_object, parsed, record_name
from serving.input.stays import FORMAT, columns_of, stays_of_columns
from serving.score.answers import as_json

FIELDS = {"rows", "record"}
SOURCE = "next"
FRAMED = "application/vnd.ibt.next"


@dataclass(frozen=True, eq=False)
class NextHours:
    """Computes answers for the next hours.

    Attributes
    ----------
    stream, predictor
        Stream and predictor of the same bundle and operating point.
    keys
        The first key signs states, all of them verify states.
    state_seconds
        Age at which a state is refused.
    """

    stream: RiskStream
    predictor: Predictor
    keys: Sequence[bytes]
    state_seconds: float

    def from_json(self, value: Any) -> bytes:
        """The answer to JSON with the state as base64 in the field ``state``; see :meth:`answer`."""
        stated = as_object(value, FIELDS | {"state"}, required={"rows"})
        token = stated.pop("state", None)
        answer, after = self.answer(stated, None if token is None else _decoded(token))
        # appended by hand: the JSON library would examine each of its characters
        return as_json(answer)[:-2] + b', "state": "' + base64.b64encode(after) + b'"}\n'

    def from_frame(self, body: bytes, room: Room) -> bytes:
        """The answer to a line of JSON followed by the state's bytes, in the same form."""
        line, _, state = body.partition(b"\n")
        answer, after = self.answer(parsed(line, room), state or None)
        return as_json(answer) + after

    def answer(self, value: Any, state: bytes | None) -> tuple[dict[str, Any], bytes]:
        """The answer for the new rows, and the state after them.

        Parameters
        ----------
        value
            Parsed JSON: ``rows``, a list of row objects, and optionally ``record``.
        state
            State from the previous answer; None at the start of a stay.

        Raises
        ------
        Problem
            The JSON has a different form, or the state is not ours, too old or of another record.
        InputError
            The rows are refused, or do not follow the state.
        """
        stated = as_object(value, FIELDS, required={"rows"})
        name = record_name(stated.get("record"), "")
        before = None if state is None else self._opened(state, name)
        record = name or "stay"
        new = _new_rows(stated["rows"], record, before)
        try:
            step = self.stream.next(new.values, before)
        except InputError as error:
            raise error.at(record) from None
        assert new.inserted is not None
        answer = SepsisPrediction(
            record=record,
            source=SOURCE,
            format=FORMAT,
            changes=new.notes,
            warnings=step.warnings,
            model=self.predictor.model,
            hours=new.hours,
            risk=step.risk,
            alarms=step.alarms,
            threshold=float(self.predictor.thresholds[0]),
            values=clean(new.values)[0],
            inserted=new.inserted,
        )
        return answer.to_dict(), pack(step.state, self.keys[0], record=name, issued=int(time.time()))

    def _opened(self, state: bytes, record: str) -> StreamState:
        try:
            signed = unpack(state, self.keys, self.stream.sha256)
        except InputError as error:
            raise Problem("bad_state", f"{error.message}.") from None
        if signed.record != record:
            raise Problem(
                "wrong_record",
                "The state belongs to another record, or to a stay that was begun without 'record'.",
            )
        if time.time() - signed.issued > self.state_seconds:
            raise Problem("state_expired", "The state is too old; start again from the first hour.")
        return signed.state


def _decoded(token: Any) -> bytes:
    if not isinstance(token, str):
        raise Problem("bad_state", "'state' must be the text of an earlier answer, or null.")
    try:
        return base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise Problem("bad_state", "The state is not base64, or is truncated.") from None


def _new_rows(rows: Any, record: str, state: StreamState | None) -> Stay:
    """The new rows as a separate stay; hours missing since the state are inserted."""
    columns = columns_of(rows)
    if PATIENT in columns:
        raise Problem("bad_fields", "The state already identifies the stay; omit patient_id.")
    (new,) = stays_of_columns(record, columns)
    if isinstance(new, InputError):
        raise new
    last = 0 if state is None else int(state.values[-1, ICULOS])
    first = int(new.hours[0])
    gap = first - last - 1 if state is not None and last < first <= MAX_HOURS else 0
    empty = np.full((gap, N_VARIABLES), np.nan)
    empty[:, ICULOS] = last + 1 + np.arange(gap)
    inserted = np.zeros(len(new.values), dtype=np.bool_) if new.inserted is None else new.inserted
    notes = new.notes
    if gap:
        notes = (*notes, f"{gap} hours since the state inserted as rows without measurements.")
    return replace(
        new,
        values=np.concatenate([empty, new.values]),
        inserted=np.concatenate([np.ones(gap, dtype=np.bool_), inserted]),
        notes=notes,
    )
