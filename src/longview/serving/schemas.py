"""Requests and answers of the API, as its OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from longview.data.views import View
from longview.explain import Method

MAX_SAMPLES = 100
_PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVQY02NsYEAFTAwjWgAAmZAAoP5WG2AAAAAASUVORK5CYII="
"""A grey square of 16 x 16 pixels."""

Probability = Annotated[float, Field(ge=0, le=1)]
Names = list[Annotated[str, Field(max_length=200)]]


class PredictRequest(BaseModel):
    """A film, and what is wanted of it."""

    model_config = ConfigDict(json_schema_extra={"example": {"cxr_base64": _PNG}})

    cxr_base64: str = Field(min_length=1, description="PNG, JPEG or DICOM in base64, with or without data:...;base64,")
    view: View = Field("unknown", description="How the film was taken.")
    labels: Annotated[Names, Field(max_length=500)] | None = Field(None, description="Only these; all by default.")
    method: Method | None = Field(None, description="How heat-maps are made; GET /v1/model lists what a model can.")
    samples: int | None = Field(
        None,
        ge=0,
        le=MAX_SAMPLES,
        description="Monte-Carlo dropout samples, not 1; by default 10 for a model with dropout, else 0.",
    )
    heatmaps: bool = Field(True, description="Draw heat-maps.")
    model: str | None = Field(None, max_length=200, description="Name of a loaded model; the first by default.")


class PredictAnswer(BaseModel):
    """What one model says of one film."""

    success: bool
    heatmap: dict[str, str] = Field(description="Label: PNG in base64, of the film's own size: the film under its map.")
    prediction_mean: dict[str, Probability | None] = Field(
        description="Label: mean probability over the samples; of the model itself without samples."
    )
    prediction_variance: dict[str, float | None] = Field(
        description="Label: variance of the probability over the samples; null without samples."
    )
    inference_duration: float = Field(description="Seconds from the decoded film to the answer.")


class BoxAnswer(BaseModel):
    """A box in pixels of the film."""

    x: float
    y: float
    width: float
    height: float
    score: Probability = Field(description="Mean of the heat-map inside.")


class LabelView(BaseModel):
    """What a label rests on in one film."""

    index: int = Field(description="Which film, from 0.")
    share: Probability | None = Field(description="Of this film in the evidence for the label; null without a method.")
    heatmap: str | None = Field(description="data:image/png;base64, 8-bit grey, of the film's own size.")
    boxes: list[BoxAnswer]


class LabelAnswer(BaseModel):
    """What a model says of one label."""

    label: str
    probability: Probability | None = Field(description="Calibrated, where the model is; null where it is not finite.")
    positive: bool = Field(description="Whether the probability reaches the threshold.")
    threshold: float
    interval: tuple[float, float] | None = Field(description="Central 95 % of the samples.")
    variance: float | None = Field(description="Of the probability over the samples.")
    standard_deviation: float | None
    predictive_entropy: float | None = Field(description="Nats, at most ln 2.")
    mutual_information: float | None = Field(description="Nats: the doubt in which samples disagree.")
    views: list[LabelView]


class ModelAnswer(BaseModel):
    """What one model says of a study."""

    model: str
    sha256: str
    calibrated: bool
    duration_seconds: float = Field(description="Of the pass that the study was in.")
    labels: list[LabelAnswer] = Field(description="The most probable first.")


class ViewAnswer(BaseModel):
    """A film as it was read."""

    index: int
    view: View
    width: int
    height: int


class StudyAnswer(BaseModel):
    """What the models say of a study."""

    models: list[ModelAnswer]
    views: list[ViewAnswer]
    research_only: bool = True


class ModelDescription(BaseModel):
    """A loaded model."""

    name: str
    sha256: str
    labels: list[str]
    image_size: int
    level: str = Field(
        description="`study`: the films of a study are read together; `image`: each alone, then averaged."
    )
    calibration: dict[str, Any] | None
    methods: list[str] = Field(description="Heat-maps that it can draw.")
    samples: bool = Field(description="Whether it has a dropout to sample.")
    thresholds: dict[str, float]
    card: str | None = Field(description="Its model card, Markdown.")
    version: str = Field(description="Of longview.")


class Models(BaseModel):
    """The loaded models."""

    models: list[ModelDescription]
    max_views: int
    max_upload_mb: float


PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}

_FILM = {"type": "string", "format": "binary", "description": "PNG, JPEG or DICOM."}

STUDY_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {"type": "array", "items": _FILM, "minItems": 1, "description": "The films of one study."},
        "views": {"type": "string", "description": "View of each film, comma-separated: PA, AP, lateral, unknown."},
        "labels": {"type": "string", "description": "Only these, comma-separated; all by default."},
        "method": {"type": "string", "description": "none, or one that GET /v1/model lists; the model's first."},
        "samples": {"type": "integer", "minimum": 0, "maximum": MAX_SAMPLES, "description": "Of dropout; 0: none."},
        "heatmaps": {"type": "boolean", "description": "Send heat-maps; false by default."},
        "boxes": {"type": "boolean", "description": "Send boxes of the heat-maps; false by default."},
        "models": {"type": "string", "description": "Names of loaded models, comma-separated; the first by default."},
    },
    "example": {"views": "PA,lateral", "heatmaps": True, "boxes": True},
}

PREVIEW_FORM: dict[str, Any] = {"type": "object", "required": ["file"], "properties": {"file": _FILM}}
