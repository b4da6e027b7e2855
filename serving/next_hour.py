"""``/v1/sepsis/next``: the risk of the hours that follow, with the stay so far in the client's hands."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Any

import numpy as np

from ibt_deploy.errors import InputError
from ibt_deploy.files import MemoryFolder
from ibt_deploy.predictions import SepsisPrediction
from ibt_deploy.predictor import Predictor
from ibt_deploy.preprocess.stay_rows import clean
from ibt_deploy.readers.stays import ICULOS, PATIENT, read_each
from ibt_deploy.records import Stay
from ibt_deploy.stream_state import pack, unpack
from ibt_deploy.streaming import RiskStream, StreamState
from ibt_deploy.variables import MAX_HOURS, N_VARIABLES, NAMES
from serving.fields import as_object, record_name
from serving.json_text import Room, parsed
from serving.problems import Problem
from serving.stays import FORMAT, as_psv, columns_of
from serving.work import as_json

FIELDS = {"rows", "record"}
SOURCE = "next"
FRAMED = "application/vnd.ibt.next"


def from_json(value: Any, stream: RiskStream, predictor: Predictor, key: bytes) -> bytes:
    """The answer to JSON with the state as base64 in the field ``state``; see :func:`next_hours`."""
    stated = as_object(value, FIELDS | {"state"}, required={"rows"})
    token = stated.pop("state", None)
    state = None if token is None else _decoded(token)
    answer, after = next_hours(stated, state, stream, predictor, key)
    # put in by hand: the JSON library would look at each of its characters
    return as_json(answer)[:-2] + b', "state": "' + base64.b64encode(after) + b'"}\n'


def from_frame(body: bytes, room: Room, stream: RiskStream, predictor: Predictor, key: bytes) -> bytes:
    """The answer to a line of JSON with the state's bytes behind it, in the same form."""
    line, _, state = body.partition(b"\n")
    answer, after = next_hours(parsed(line, room), state or None, stream, predictor, key)
    return as_json(answer) + after


def next_hours(
    value: Any, state: bytes | None, stream: RiskStream, predictor: Predictor, key: bytes
) -> tuple[dict[str, Any], bytes]:
    """The answer for the new rows, and the state after them.

    Parameters
    ----------
    value
        Parsed JSON: ``rows``, a list of row objects, and perhaps ``record``.
    state
        Of the answer before; None at the start of a stay.
    stream, predictor
        Of the same bundle and operating point.
    key
        Signs the states.

    Raises
    ------
    Problem
        The JSON has another form, or the state is not ours.
    InputError
        The rows are refused, or do not follow the state.
    """
    stated = as_object(value, FIELDS, required={"rows"})
    record = record_name(stated.get("record"), "stay")
    before = None if state is None else _opened(state, predictor.bundle.sha256, key)
    new = _new_rows(stated["rows"], record, before)
    try:
        step = stream.next(new.values, before)
    except InputError as error:
        raise error.at(record) from None
    assert new.inserted is not None
    answer = SepsisPrediction(
        record=record,
        source=SOURCE,
        format=FORMAT,
        changes=new.notes,
        warnings=step.warnings,
        model=predictor.model,
        hours=new.hours,
        risk=step.risk,
        alarms=step.alarms,
        threshold=float(predictor.thresholds[0]),
        values=clean(new.values)[0],
        inserted=new.inserted,
    )
    return answer.to_dict(), pack(step.state, key)


def _decoded(token: Any) -> bytes:
    if not isinstance(token, str):
        raise Problem("bad_state", "'state' must be the text of an earlier answer, or null.")
    try:
        return base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise Problem("bad_state", "The state is not base64, or is cut.") from None


def _opened(state: bytes, sha256: str, key: bytes) -> StreamState:
    try:
        return unpack(state, key, sha256)
    except InputError as error:
        raise Problem("bad_state", f"{error.message}.") from None


def _new_rows(rows: Any, record: str, state: StreamState | None) -> Stay:
    """The new rows as a stay of their own; hours that were left out since the state are inserted."""
    columns = columns_of(rows)
    if PATIENT in columns:
        raise Problem("bad_fields", "The state knows the stay; leave patient_id out.")
    n = len(next(iter(columns.values())))
    hours = {"ICULOS", "hour"} & columns.keys()
    known = {name: [None] * n for name in NAMES if name != "ICULOS" or not hours}
    table = MemoryFolder({record: as_psv(known | columns)})
    (new,) = read_each(table / record)
    if isinstance(new, InputError):
        raise new
    last = 0 if state is None else int(state.values[-1, ICULOS])
    first = int(new.hours[0])
    gap = first - last - 1 if state is not None and last < first <= MAX_HOURS else 0
    empty = np.full((gap, N_VARIABLES), np.nan)
    empty[:, ICULOS] = last + 1 + np.arange(gap)
    inserted = np.zeros(n, dtype=np.bool_) if new.inserted is None else new.inserted
    notes = new.notes
    if gap:
        notes = (*notes, f"{gap} hours since the state inserted as rows without measurements.")
    return replace(
        new,
        values=np.concatenate([empty, new.values]),
        inserted=np.concatenate([np.ones(gap, dtype=np.bool_), inserted]),
        notes=notes,
    )
