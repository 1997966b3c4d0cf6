"""Requests and answers of the API, as its OpenAPI description shows them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from longview.data.views import View

MAX_SAMPLES = 100
_PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVQY02NsYEAFTAwjWgAAmZAAoP5WG2AAAAAASUVORK5CYII="
"""A grey square of 16 x 16 pixels."""

_HASH = "9f2c1d64b0a7e35f8c4ad1b96e0372fd5bb8c6a1e94d7302fa61c8d05e3b7a49"


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": value})


Probability = Annotated[float, Field(ge=0, le=1)]
Names = list[Annotated[str, Field(max_length=200)]]


class PredictRequest(BaseModel):
    """A film, and what is wanted of it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"cxr_base64": _PNG}})

    cxr_base64: str = Field(min_length=1, description="PNG, JPEG or DICOM in base64, with or without data:...;base64,")
    view: View = Field("unknown", description="How the film was taken.")
    labels: Annotated[Names, Field(max_length=500)] | None = Field(
        None, description="Only these; all by default, and where the list is empty."
    )
    method: str | None = Field(
        None,
        max_length=200,
        description="How heat-maps are made: none, or one that GET /v1/model lists; gradcam++ by default, where the "
        "model can.",
    )
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

    model_config = _example(
        {
            "success": True,
            "heatmap": {"Cardiomegaly": _PNG, "Effusion": _PNG},
            "prediction_mean": {"Cardiomegaly": 0.731, "Effusion": 0.084},
            "prediction_variance": {"Cardiomegaly": 0.0042, "Effusion": 0.0009},
            "inference_duration": 0.38,
        }
    )

    success: bool
    heatmap: dict[str, str] = Field(description="Label: PNG in base64, of the film's own size: the film under its map.")
    prediction_mean: dict[str, Probability | None] = Field(
        description="Label: mean probability over the samples; of the model itself without samples."
    )
    prediction_variance: dict[str, float | None] = Field(
        description="Label: variance of the probability over the samples; null without samples."
    )
    inference_duration: float = Field(
        description="Seconds from the complete request to the finished answer, waiting included."
    )


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

    model_config = _example(
        {
            "models": [
                {
                    "model": "nih_1000-version_0-best",
                    "sha256": _HASH,
                    "calibrated": True,
                    "duration_seconds": 0.12,
                    "labels": [
                        {
                            "label": "Effusion",
                            "probability": 0.62,
                            "positive": True,
                            "threshold": 0.41,
                            "interval": [0.48, 0.75],
                            "variance": 0.0049,
                            "standard_deviation": 0.07,
                            "predictive_entropy": 0.66,
                            "mutual_information": 0.01,
                            "views": [
                                {
                                    "index": 0,
                                    "share": 1.0,
                                    "heatmap": f"data:image/png;base64,{_PNG}",
                                    "boxes": [{"x": 310.0, "y": 720.5, "width": 264.0, "height": 190.0, "score": 0.71}],
                                }
                            ],
                        }
                    ],
                }
            ],
            "views": [{"index": 0, "view": "PA", "width": 1024, "height": 1024}],
            "research_only": True,
        }
    )

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

    model_config = _example(
        {
            "models": [
                {
                    "name": "nih_1000-version_0-best",
                    "sha256": _HASH,
                    "labels": ["Cardiomegaly", "Effusion"],
                    "image_size": 224,
                    "level": "image",
                    "calibration": {"method": "platt", "rule": "f1", "sha256": _HASH[::-1]},
                    "methods": ["gradcam", "gradcam++", "eigencam"],
                    "samples": True,
                    "thresholds": {"Cardiomegaly": 0.33, "Effusion": 0.41},
                    "card": "# nih_1000\n\nResearch only.",
                    "version": "0.1.0",
                }
            ],
            "max_views": 8,
            "max_upload_mb": 64.0,
        }
    )

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
        "detail": {"type": "string", "description": "What is wrong, and what helps."},
    },
    "example": {
        "type": "about:blank",
        "title": HTTPStatus(422).phrase,
        "status": 422,
        "detail": "heatmap: there is no such field; there are files, views, labels, models, method, heatmaps, boxes.",
    },
}

_FILM = {"type": "string", "format": "binary", "description": "PNG, JPEG or DICOM."}

STUDY_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["files"],
    "additionalProperties": False,
    "properties": {
        "files": {
            "type": "array",
            "items": _FILM,
            "minItems": 1,
            "description": "The films of one study: the field is repeated.",
        },
        "views": {"type": "string", "description": "View of each film, comma-separated: PA, AP, lateral, unknown."},
        "labels": {"type": "string", "description": "Only these, comma-separated; all by default, and where empty."},
        "models": {"type": "string", "description": "Names of loaded models, comma-separated; the first by default."},
        "method": {"type": "string", "description": "none, or one that GET /v1/model lists; gradcam++ by default."},
        "samples": {"type": "integer", "minimum": 0, "maximum": MAX_SAMPLES, "description": "Of dropout; 0: none."},
        "heatmaps": {"type": "boolean", "description": "Send heat-maps; false by default."},
        "boxes": {"type": "boolean", "description": "Send boxes of the heat-maps; false by default."},
    },
    "example": {"files": ["(pa.png)", "(lateral.dcm)"], "views": "PA,lateral", "heatmaps": True, "boxes": True},
}
STUDY_LISTS = ("views", "labels", "models")
"""Fields that may be repeated as well as separated by commas."""

PREVIEW_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {"file": _FILM},
    "example": {"file": "(film.dcm)"},
}
