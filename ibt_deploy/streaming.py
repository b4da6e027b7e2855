"""Risk of the next hour of a stay without recomputing the hours before it.

This is possible because the model is causal: what later hours need from earlier ones is kept in a
:class:`StreamState` (rows, feature state, keys and values of the transformer), at most 2.2 MB for 336 hours.
The risks equal those of the whole stay scored at once to 1e-5 (in int8 to 1e-3). A correction of an earlier
row cannot be streamed: start again from the first row.

A state can be given to a client as bytes.

The holder of the key recognises its own states: they are signed (HMAC-SHA-256, RFC 2104), carry the
version of this layout, and name the key, the model that made them, the record that they belong to and the
time of issue. They are not encrypted: they contain the stay's own rows and what the model
computed from them.

::

    "ibts" | version (1) | key id (8) | SHA-256 of the model (32) | issued (8, seconds since 1970)
    hours, blocks, heads, size, bytes of the record's name (5 times 2, little endian) | name (ASCII)
    last plausible value of each variable (40 float32) | hours since then (40 int32)
    which values are present (5 per hour, bits) | those values (float64 each)
    keys | values (float32, blocks * heads * hours * size each) | signature (32)
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.device import Device, OpenGraph
from ibt_deploy.errors import BundleError, MalformedFile, TooShort
from ibt_deploy.preprocess.stay import FeatureState, StayPreprocessing, featurise_next
from ibt_deploy.preprocess.stay_checks import checked_stay
from ibt_deploy.records import Notice, Stay
from ibt_deploy.types import Bools, Float32s, Floats
from ibt_deploy.vocabulary import N_VARIABLES


@dataclass(frozen=True, eq=False)
class StreamState:
    """What the next hour needs from the earlier hours of a stay.

    Attributes
    ----------
    values
        Rows so far, shape ``(hours, 40)``.
    features
        State of the features.
    past_k, past_v
        Keys and values, shape ``(blocks, 1, heads, hours, size)``.
    sha256
        :attr:`RiskStream.sha256` of the model that made it; no other may continue from here.
    """

    values: Floats
    features: FeatureState
    past_k: Float32s
    past_v: Float32s
    sha256: str


class Step(NamedTuple):
    """Risks and alarms of the new hours, warnings about the stay so far, and the state after them."""

    risk: Floats
    alarms: Bools
    warnings: tuple[Notice, ...]
    state: StreamState


class RiskStream:
    """Scores stays hour by hour; stores no stay itself, so that one stream serves any number of them.

    Parameters
    ----------
    bundle, graph
        A sepsis bundle and its open graph; :meth:`load` opens both.
    operating_point
        Name of the threshold; default: that of the bundle.

    Raises
    ------
    BundleError
        When the bundle is for another task.
    """

    def __init__(self, bundle: Bundle, graph: OpenGraph, operating_point: str | None = None) -> None:
        if not isinstance(bundle.preprocessing, StayPreprocessing):
            raise BundleError(f"{bundle.path}: a bundle for {bundle.task} cannot score stays")
        self._bundle = bundle
        self._graph = graph
        self._constants = bundle.preprocessing
        self._threshold = float(bundle.operating_point(operating_point).thresholds[0])
        self.sha256 = bundle.sha256
        """Hash of the bundle and, unless it is the default, of the precision: what a state is bound to."""
        if graph.variant != bundle.default_variant:
            self.sha256 = hashlib.sha256(f"{bundle.sha256} {graph.variant}".encode()).hexdigest()

    @classmethod
    def load(
        cls,
        task_or_directory: str | Path = "sepsis",
        *,
        device: Device = "auto",
        variant: str | None = None,
        threads: int | None = None,
        operating_point: str | None = None,
    ) -> RiskStream:
        """Load a bundle and prepare it; parameters and errors as for :func:`ibt_deploy.load`."""
        bundle = load_bundle(task_or_directory)
        graph = OpenGraph.of(bundle, device=device, variant=variant, threads=threads)
        return cls(bundle, graph, operating_point)

    def next(self, rows: Floats, state: StreamState | None = None) -> Step:
        """Score the next hours.

        Parameters
        ----------
        rows
            New hourly rows, shape ``(new, 40)``, at least one.
        state
            State after the previous rows; None at the start of a stay.

        Raises
        ------
        InputError
            When the stay so far is refused, by the same rules as a whole stay; the state remains usable.
        BundleError
            When the state was made by another bundle or in another precision.
        """
        if not len(rows):
            raise TooShort("no new hour", code="no_rows")
        if state is None:
            past_k, past_v = self._graph.empty_cache(1)
            none = np.empty((0, rows.shape[1]))
            state = StreamState(none, FeatureState.empty(), past_k, past_v, self.sha256)
        elif state.sha256 != self.sha256:
            raise BundleError(
                "this state was made by another bundle or in another precision; start again from the first "
                "hour"
            )
        values = np.concatenate([state.values, rows])
        cleaned, warnings = checked_stay(Stay(values, patient_id="stream", source="stream", format="rows"))
        before = len(state.values)
        features, after = featurise_next(cleaned[before:], self._constants, state.features, cleaned=True)
        logits, past_k, past_v = self._graph.run(
            ["logit", "present_k", "present_v"],
            {
                "rows": features[None],
                "position": np.arange(before, len(values))[None],
                "past_k": state.past_k,
                "past_v": state.past_v,
            },
        )
        risk = self._bundle.calibration.probability(logits[0])
        new = StreamState(values, after, past_k, past_v, state.sha256)
        return Step(risk, risk >= self._threshold, warnings, new)


MAGIC = b"ibts"
VERSION = 2
BAD_STATE = "bad_state"
KEY_ID_BYTES = 8
_HEAD = struct.Struct(f"<4sB{KEY_ID_BYTES}s32sQ5H")
_SIGNATURE_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class SignedState:
    """A state returned by a client.

    Attributes
    ----------
    state
        State of the stay.
    record
        Record that it belongs to; empty if the stay was begun without a name.
    issued
        Time of issue in seconds since 1970.
    """

    state: StreamState
    record: str
    issued: int


def key_id(key: bytes) -> bytes:
    """An identifier of ``key`` that does not reveal it."""
    return hashlib.sha256(b"ibt state key\0" + key).digest()[:KEY_ID_BYTES]


def pack(state: StreamState, key: bytes, *, record: str = "", issued: int = 0) -> bytes:
    """Serialise and sign ``state``; 6.2 kB per hour, nearly all of it keys and values.

    Compression would save 7 % of those and take 50 times as long as the step itself.

    Parameters
    ----------
    state
        The state to sign.
    key
        The secret key.
    record, issued
        As in :class:`SignedState`.
    """
    blocks, _, heads, hours, size = state.past_k.shape
    there = ~np.isnan(state.values)
    name = record.encode("ascii")
    bundle = bytes.fromhex(state.sha256)
    content = b"".join(
        (
            _HEAD.pack(MAGIC, VERSION, key_id(key), bundle, issued, hours, blocks, heads, size, len(name)),
            name,
            state.features.last.astype("<f4").tobytes(),
            state.features.since.astype("<i4").tobytes(),
            np.packbits(there, axis=1).tobytes(),
            state.values[there].astype("<f8").tobytes(),
            state.past_k.astype("<f4", copy=False).tobytes(),
            state.past_v.astype("<f4", copy=False).tobytes(),
        )
    )
    return content + hmac.digest(key, content, "sha256")


def unpack(content: bytes, keys: Sequence[bytes], sha256: str) -> SignedState:
    """Verify and read a state that :func:`pack` made.

    Parameters
    ----------
    content
        The bytes as returned by the client.
    keys
        Keys, one of which signed it.
    sha256
        :attr:`RiskStream.sha256` of the model that is to continue it.

    Raises
    ------
    MalformedFile
        It is truncated or altered, signed with another key, of another version, or of another model.
    """
    if len(content) < _HEAD.size + _SIGNATURE_BYTES or not content.startswith(MAGIC):
        raise _refused("this is not a state, or it is cut")
    if content[len(MAGIC)] != VERSION:
        raise _refused("the state is of another version; start again from the first hour")
    signed = memoryview(content)[:-_SIGNATURE_BYTES]
    _, _, signer, bundle, issued, hours, blocks, heads, size, name = _HEAD.unpack_from(signed)
    key = next((key for key in keys if hmac.compare_digest(key_id(key), signer)), b"")
    if not key or not hmac.compare_digest(hmac.digest(key, signed, "sha256"), content[-_SIGNATURE_BYTES:]):
        raise _refused("the state was altered or signed with another key; start again from the first hour")
    if bundle != bytes.fromhex(sha256):
        raise _refused("the state was made by another model; start again from the first hour")
    body = signed[_HEAD.size :]
    state = _unpacked(body[name:], hours, (blocks, 1, heads, hours, size), sha256)
    return SignedState(state, bytes(body[:name]).decode("ascii"), issued)


def _unpacked(body: memoryview, hours: int, shape: tuple[int, ...], sha256: str) -> StreamState:
    """The parts of a body with a valid signature, whose layout is therefore known to be right."""
    last = np.frombuffer(body, "<f4", N_VARIABLES)
    since = np.frombuffer(body, "<i4", N_VARIABLES, last.nbytes)
    place = last.nbytes + since.nbytes
    bits = np.frombuffer(body, np.uint8, hours * N_VARIABLES // 8, place)
    place += bits.nbytes
    there = np.unpackbits(bits).reshape(hours, N_VARIABLES).astype(np.bool_)
    measured = np.frombuffer(body, "<f8", int(np.count_nonzero(there)), place)
    place += measured.nbytes
    values = np.full((hours, N_VARIABLES), np.nan)
    values[there] = measured
    past_k, past_v = np.frombuffer(body, "<f4", offset=place).reshape(2, *shape)
    return StreamState(values, FeatureState(last, since.astype(np.int64), hours), past_k, past_v, sha256)


def _refused(message: str) -> MalformedFile:
    return MalformedFile(message, code=BAD_STATE)
