"""A :class:`~ibt_deploy.streaming.StreamState` as bytes that can be given out of hand.

Whoever holds the key recognises its own states again: they are signed (HMAC-SHA-256, RFC 2104), carry the
version of this layout, and name the key, the bundle that made them, the record that they belong to and the
time at which they were issued. They are not encrypted: inside are the stay's own rows and what the model
computed from them.

::

    "ibts" | version (1) | key id (8) | SHA-256 of the bundle (32) | issued (8, seconds since 1970)
    hours, blocks, heads, size, bytes of the record's name (5 times 2, little endian) | name (ASCII)
    last plausible value of each variable (40 float32) | hours since then (40 int32)
    which values are there (5 an hour, bits) | those values (float64 each)
    keys | values (float32, blocks * heads * hours * size each) | signature (32)
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ibt_deploy.errors import MalformedFile
from ibt_deploy.preprocess.stay import FeatureState
from ibt_deploy.streaming import StreamState
from ibt_deploy.variables import N_VARIABLES

MAGIC = b"ibts"
VERSION = 2
BAD_STATE = "bad_state"
KEY_ID_BYTES = 8
_HEAD = struct.Struct(f"<4sB{KEY_ID_BYTES}s32sQ5H")
_SIGNATURE_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class SignedState:
    """A state that came back.

    Attributes
    ----------
    state
        Of the stay.
    record
        That it belongs to; empty if the stay was begun without a name.
    issued
        Seconds since 1970.
    """

    state: StreamState
    record: str
    issued: int


def key_id(key: bytes) -> bytes:
    """What tells ``key`` from other keys, without giving it away."""
    return hashlib.sha256(b"ibt state key\0" + key).digest()[:KEY_ID_BYTES]


def pack(state: StreamState, key: bytes, *, record: str = "", issued: int = 0) -> bytes:
    """``state`` as signed bytes; 6.2 kB an hour, nearly all of it keys and values.

    Compression would save 7 % of those and take 50 times as long as the step itself.

    Parameters
    ----------
    state
        To be signed.
    key
        Secret.
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
    """The state that :func:`pack` made.

    Parameters
    ----------
    content
        As it came back.
    keys
        One of which signed it.
    sha256
        Of the bundle that is to continue it.

    Raises
    ------
    MalformedFile
        It is cut or altered, signed with another key, of another version, or of another bundle.
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
    """The parts of a body whose signature fits, so that its layout is known to be right."""
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
