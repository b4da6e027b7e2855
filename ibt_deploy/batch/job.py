"""Everything on which the bytes of a run depend, and which must therefore not change while it lasts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ibt_deploy.bundle import Bundle, load_bundle
from ibt_deploy.errors import BundleError
from ibt_deploy.types import Task

Format = Literal["parquet", "csv", "jsonl", "fhir"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "jsonl", "fhir")
LINES: tuple[Format, ...] = ("jsonl", "fhir")
"""Formats with one answer in each line; the others are tables."""

LAYOUT = 1
"""Of the output; raised when the same run would be written in another way."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is; equal jobs make equal bytes.

    Attributes
    ----------
    task, bundle, bundle_name, bundle_version, bundle_sha256
        The model; ``bundle`` is the directory it is loaded from.
    variant, operating_point, device
        How it is used; the device is the one really used.
    format
        Of the parts.
    inputs
        Fingerprint of the inputs.
    n_inputs, n_parts
        Recordings to read, or patients to score, and the parts they are cut into.
    mapping
        SHA-256 of the mapping file, or nothing.
    layout, ibt, onnxruntime
        Versions.
    """

    task: Task
    bundle: str
    bundle_name: str
    bundle_version: str
    bundle_sha256: str
    variant: str
    operating_point: str
    device: str
    format: Format
    inputs: str
    n_inputs: int
    n_parts: int
    mapping: str
    layout: int
    ibt: str
    onnxruntime: str

    def to_json(self) -> str:
        """The job as a file holds it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that :meth:`to_json` gave; ValueError where it is none."""
        stored = json.loads(text)
        try:
            return cls(**stored)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def differences(self, other: Job) -> list[str]:
        """Where ``other`` would make other bytes, one phrase each; ``bundle`` may move."""
        return [
            f"{_WORDS.get(f.name, f.name)} was {_short(getattr(self, f.name))}, "
            f"is {_short(getattr(other, f.name))}"
            for f in fields(self)
            if f.name not in ("bundle", "n_inputs", "n_parts")
            and getattr(self, f.name) != getattr(other, f.name)
        ]

    def model_columns(self) -> dict[str, str]:
        """How the output names the model."""
        return {
            "bundle": self.bundle_name,
            "version": self.bundle_version,
            "sha256": self.bundle_sha256,
            "variant": self.variant,
            "operating_point": self.operating_point,
            "device": self.device,
        }

    def load_bundle(self) -> Bundle:
        """The bundle of this job; BundleError where it is no longer the same."""
        found = load_bundle(self.bundle)
        if found.sha256 != self.bundle_sha256:
            raise BundleError(f"{self.bundle}: the bundle was changed while it was in use")
        return found


_WORDS: dict[str, Any] = {
    "inputs": "the fingerprint of the inputs",
    "bundle_sha256": "the hash of the bundle",
    "mapping": "the hash of the mapping",
    "layout": "the layout of the output",
    "ibt": "ibt",
    "device": "the device",
}


def _short(value: object) -> str:
    text = str(value) or "none"
    return text[:12] if len(text) == 64 else text
