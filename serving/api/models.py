"""Requests and answers as pydantic models: the single source of schemas and documentation.

The methods of the BentoML service take and return these models. The routes below ``/v1`` take and return the
same JSON without building the models, which would cost a fifth of a stay's rate; tests check their answers
against the schemas. Answers may gain fields, so their models allow more fields than they name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, create_model
from pydantic.json_schema import models_json_schema

from ibt_deploy.vocabulary import MAX_HOURS, VARIABLES

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Value = Number | None
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
RecordName = Annotated[
    str, Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="A number of yours; no personal data.")
]
Word = Annotated[str, Field(min_length=1, max_length=64)] | Annotated[int, Strict()]
OperatingPoint = Annotated[
    str, Field(max_length=64, description="Set of thresholds; `/v1/models` lists them.")
]


class Input(BaseModel):
    """A request or a part of one: unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class Recording(Input):
    """One ECG."""

    signal: list[list[Value]] = Field(
        min_length=1, max_length=64, description="One list of samples for each lead; null where invalid."
    )
    sampling_rate: Annotated[float, Strict(), Field(gt=0, description="Hz")]
    leads: list[Annotated[str, Field(max_length=32)]] = Field(
        description="Lead names, in the order of the signal."
    )
    unit: Literal["mV", "uV", "V"]
    record: RecordName | None = None


def _variables(kind: Any) -> dict[str, Any]:
    return {
        v.name: (kind, Field(None, description=f"{v.description} ({v.unit})" if v.unit else v.description))
        for v in VARIABLES
    }


Row = create_model(
    "Row",
    __base__=Input,
    __doc__="One hour: any of the 40 variables; null or left out if not measured.",
    **_variables(Value),
    hour=(Value, Field(None, description="The same as ICULOS.")),
    SepsisLabel=(Value, Field(None, description="Ignored.")),
    hospital=(Word | None, Field(None, description="Ignored.")),
    patient_id=(Word | None, Field(None, description="Several stays in one list of rows.")),
)
_NUMBERS: Any = (list[Value] | None, None)
_WORDS: Any = (list[Word | None] | None, None)
Columns = create_model(
    "Columns",
    __base__=Input,
    __doc__="The variables of all hours by name, each a list of the same length.",
    **_variables(list[Value] | None),
    hour=_NUMBERS,
    SepsisLabel=_NUMBERS,
    hospital=_WORDS,
    patient_id=_WORDS,
)


class StayByRows(Input):
    """One stay, hour by hour."""

    rows: list[Row] = Field(min_length=1)  # type: ignore[valid-type]
    record: RecordName | None = None


class StayByColumns(Input):
    """One stay, variable by variable."""

    columns: Columns  # type: ignore[valid-type]
    record: RecordName | None = None


class Stays(Input):
    """Several stays."""

    stays: list[StayByRows | StayByColumns] = Field(min_length=1)


class NextHours(StayByRows):
    """The hours that follow an earlier answer; one is usual."""

    state: str | None = Field(
        None, description="State from the previous answer; null at the start of the stay."
    )


class ArrhythmiaRequest(Recording):
    """One ECG, and how to decide."""

    operating_point: OperatingPoint | None = None


class SepsisRequest(StayByRows):
    """One stay, and how to decide."""

    operating_point: OperatingPoint | None = None


class SepsisNextRequest(NextHours):
    """The next hours of a stay, and how to decide."""

    operating_point: OperatingPoint | None = None


class Output(BaseModel):
    """An answer or a part of one."""

    model_config = ConfigDict(extra="allow")


class BundleName(Output):
    """The model that answered."""

    name: str
    version: str
    sha256: str = Field(description="Covers every file of the bundle.")
    variant: str = Field(description="Precision of the graph.")


class Warn(Output):
    """A reason to trust the answer less."""

    code: str
    message: str


class Answer(Output):
    """Fields common to all answers."""

    record: str
    task: str
    bundle: BundleName
    operating_point: str
    device: str = Field(description="The device really used.")
    input: dict[str, Any] = Field(description="What was read, and everything that was changed.")
    warnings: list[Warn]
    notice: str


class InWindows(Output):
    """In how many windows of the recording a class reaches its threshold, and where it is most probable."""

    reached: int
    share: Probability
    highest: Probability
    highest_at: float = Field(description="Start of that window, in seconds.")


class Finding(Output):
    """One of the 26 classes."""

    code: str = Field(description="SNOMED CT")
    abbreviation: str
    name: str
    probability: Probability = Field(description="Calibrated.")
    threshold: Probability
    positive: bool
    evaluable: bool
    status: Literal["positive", "alternative", "negative", "not evaluable"]
    windows: InWindows


class Tracing(Output):
    """Only with `signal=true`: at most the first minute, before any filter."""

    sampling_rate: Annotated[float, Field(gt=0, description="Hz")]
    unit: Literal["mV"]
    scale: Annotated[float, Field(gt=0)]
    seconds: float
    leads: list[str]
    missing: list[str] = Field(description="Leads without any valid sample.")
    values: list[list[int | None]] = Field(
        description="One list for each of `leads`; times `scale` they are millivolts; null where invalid."
    )


class Effect(Output):
    """Effect of a stretch of a recording, or of an hour of a stay, on an output."""

    start: float = Field(description="In seconds, or the hour.")
    end: float
    effect: float


NOT_EXPLAINED = "Why there are no explanations: the input, or its request as a whole, is past the limits."


class Explained(Output):
    """Only with `explain=true`: drop in log odds of a finding, or of the highest risk, without a part."""

    output: str = Field(description="Abbreviation of the finding; `risk` for a stay.")
    method: Literal["occlusion"]
    unit: Literal["log odds"]
    time: list[Effect] = Field(description="Half seconds, all leads together; or hours, all variables.")
    channels: dict[str, float] = Field(description="By lead or by variable, throughout the input.")


class Findings(Answer):
    """The findings of one ECG."""

    findings: list[Finding]
    heart_rate: dict[str, Any] | None = Field(default=None, description="Computed from the signal.")
    axis: dict[str, Any] | None = Field(
        default=None, description="Frontal QRS axis in degrees, computed from the signal; null with a reason."
    )
    familiarity: float | None = Field(
        default=None,
        description="Share of recordings of the training set's kind at least as far from its middle.",
    )
    windows: list[dict[str, Any]] = Field(description="Probabilities of every 10-second window.")
    signal: Tracing | None = None


class ExplainedFindings(Findings):
    """The same with explanations; BentoML's client cannot read a model in which a list may be null."""

    explanations: list[Explained]
    not_explained: str | None = Field(default=None, description=NOT_EXPLAINED)


class Hour(Output):
    """The risk of one hour."""

    hour: Annotated[int, Field(ge=1, le=MAX_HOURS)]
    risk: Probability
    threshold: Probability
    alarm: bool
    inserted: bool = Field(description="The hour was missing from the input.")
    missing: list[str] = Field(description="Variables that were not measured in this hour.")


class Vital(Output):
    """A vital sign of a stay; only with `vitals=true`."""

    name: str
    unit: str
    values: list[float | None] = Field(description="One per entry of `hours`, as the model read it.")


class Risk(Answer):
    """The hourly sepsis risk of one stay."""

    hours: list[Hour]


class RiskAndVitals(Risk):
    """The same with the vital signs; a class of its own as :class:`ExplainedFindings` is."""

    vitals: list[Vital]


class ExplainedRisk(Risk):
    """The same with the explanation of its highest value."""

    explanations: list[Explained]
    not_explained: str | None = Field(default=None, description=NOT_EXPLAINED)


class RiskAndState(Risk):
    """The risk of the next hours, and the state after them."""

    state: str = Field(description="Opaque and signed; send it with the next hour.")


class Refusal(Output):
    """A stay among several that got no score."""

    source: str
    refused: Literal[True]
    code: str
    message: str


class Risks(Output):
    """An answer or a refusal for each stay, in order."""

    stays: list[Risk | Refusal]


class ProblemDetails(Output):
    """A refused request (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Machine-readable reason.")
    request_id: str


MODELS: tuple[type[BaseModel], ...] = (
    *(Recording, Row, StayByRows, StayByColumns, Stays, NextHours),
    *(Findings, ExplainedFindings, Risk, RiskAndVitals, ExplainedRisk, Risks, RiskAndState),
    *(Refusal, ProblemDetails),
)


def ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to one of :func:`schemas`."""
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def schemas() -> dict[str, Any]:
    """JSON Schemas of all models by name."""
    _, found = models_json_schema(
        [(model, "validation") for model in MODELS], ref_template="#/components/schemas/{model}"
    )
    return dict(found["$defs"])
