"""The addresses of the API."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from longview import VIEWS, __version__
from longview.serving.answers import predict_answer, study_answer
from longview.serving.decoding import Sent
from longview.serving.docs_page import docs_page
from longview.serving.forms import Layout, no_such_field, read_form
from longview.serving.house import Asked, House
from longview.serving.intake import from_base64
from longview.serving.problems import MEDIA_TYPE, ProblemError
from longview.serving.schemas import (
    PREVIEW_FORM,
    PROBLEM,
    STUDY_FORM,
    STUDY_LISTS,
    ModelDescription,
    Models,
    PredictAnswer,
    PredictRequest,
    StudyAnswer,
)
from longview.serving.served import Served
from longview.serving.wishes import Wish, chosen_models, label_places, method_of, study_wishes, views_of

PAGE = Path(__file__).parent / "page"

_SAMPLES = 10  # of /predict, by default
_VALUES = 10_000  # of a JSON body: reading millions keeps the interpreter busy for seconds
_REFUSALS = (400, 401, 408, 413, 415, 422, 429, 503, 504)
_FILMS = ("files", "files[]", "file")  # the first is documented; the others are what libraries and habits make of it
_STUDY = Layout(_FILMS, [name for name in STUDY_FORM["properties"] if name not in (*_FILMS, *STUDY_LISTS)], STUDY_LISTS)
_PREVIEW = Layout(("file",))
_COUNTS = """# TYPE longview_requests_total counter
longview_requests_total{method="POST",route="/predict",status="200",worker="4711"} 17.0
"""


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": PROBLEM}}}
        for status in statuses
    }


def _text(example: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"text/plain": {"example": example}}}}


def _guards(house: House) -> list[Any]:
    """What the description says of the token, where one is asked for; the door sees to it."""
    about = "The token of the server's --token-file."
    return [Depends(HTTPBearer(description=about, auto_error=False))] if house.settings.token else []


def _body(kind: str, schema: Mapping[str, Any], curl: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}, "x-curl": curl}


def router(house: House) -> APIRouter:
    """The addresses, answered by a house."""
    routes = APIRouter()
    _add_models(routes, house)
    _add_state(routes, house)
    return routes


def _add_models(routes: APIRouter, house: House) -> None:
    guards = _guards(house)

    @routes.post(
        "/predict",
        summary="Score one film, sent as JSON",
        response_description="Means, variances and pictures, label by label.",
        dependencies=guards,
        responses={200: {"model": PredictAnswer}, **_responses(*_REFUSALS)},
        openapi_extra=_body(
            "application/json",
            PredictRequest.model_json_schema(),
            'echo "{\\"cxr_base64\\": \\"$(base64 -w 0 film.png)\\"}" | \\\n'
            "  curl -X POST http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d @-",
        ),
    )
    async def predict(request: Request) -> Response:
        """Probabilities of one film, their variance over samples of dropout, and its heat-map for every label."""
        if _type_of(request) != "application/json":
            raise ProblemError(415, "Send application/json.")
        body = await request.body()
        return _json(await house.answered(request, partial(_predict, house, body), _predict_answer))

    @routes.post(
        "/v1/studies",
        summary="Score the films of one study together",
        response_description="What each model asked says of the study, the most probable label first.",
        dependencies=guards,
        responses={200: {"model": StudyAnswer}, **_responses(*_REFUSALS)},
        openapi_extra=_body(
            "multipart/form-data",
            STUDY_FORM,
            "curl http://127.0.0.1:8000/v1/studies -F files=@pa.png -F files=@lateral.dcm -F views=PA,lateral",
        ),
    )
    async def studies(request: Request) -> Response:
        """Probabilities, decisions, and on demand heat-maps, boxes and the spread of Monte-Carlo dropout."""
        body = await request.body()
        kind = request.headers.get("content-type", "")
        return _json(await house.answered(request, partial(_study, house, body, kind), study_answer))

    @routes.post(
        "/v1/preview",
        summary="Show a film as the models see it",
        response_description="The film, 8-bit grey.",
        dependencies=guards,
        response_class=Response,
        responses={
            200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
            **_responses(*_REFUSALS),
        },
        openapi_extra=_body(
            "multipart/form-data", PREVIEW_FORM, "curl http://127.0.0.1:8000/v1/preview -F file=@film.dcm -o film.png"
        ),
    )
    async def preview(request: Request) -> Response:
        """A film as the models see it, windowed, as 8-bit PNG of its own size."""
        body = await request.body()
        kind = request.headers.get("content-type", "")
        return Response(await house.previewed(request, partial(_preview, body, kind)), media_type="image/png")

    @routes.get(
        "/v1/model",
        summary="Describe the loaded models",
        response_description="The models, the default first, and the limits of a study.",
        dependencies=guards,
        responses={200: {"model": Models}, **_responses(400, 401, 503)},
    )
    async def model() -> Response:
        """What can be asked of the models: labels, hashes, calibration, what they can do, and their cards."""
        return _json(described.model_dump_json().encode())

    described = Models(
        models=[describe(served) for served in house.models],
        max_views=house.settings.max_views,
        max_upload_mb=house.settings.max_upload_mb,
    )


def _add_state(routes: APIRouter, house: House) -> None:
    @routes.get(
        "/healthz",
        summary="Is the process alive?",
        response_description="It is.",
        responses={**_text("ok\n"), **_responses(400, 503)},
        response_class=Response,
    )
    async def healthz() -> Response:
        """For a supervisor, which starts a process that does not answer anew."""
        return Response("ok\n", media_type="text/plain")

    @routes.get(
        "/readyz",
        summary="Do the models take films?",
        response_description="They do.",
        responses={**_text("ready\n"), **_responses(400, 503)},
        response_class=Response,
    )
    async def readyz() -> Response:
        """For a balancer, which sends requests elsewhere while a server starts or stops."""
        if not house.ready:
            raise ProblemError(503, "The server is stopping.", retry_after=5)
        return Response("ready\n", media_type="text/plain")

    @routes.get(
        "/metrics",
        summary="Counts of this worker, for Prometheus",
        response_description="Prometheus' text format.",
        dependencies=_guards(house),
        responses={**_text(_COUNTS), **_responses(400, 401, 503)},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Requests by route and status, their times, films in the house, passes of the networks; nothing of a film."""
        return Response(house.metrics.text(), headers={"Content-Type": house.metrics.content_type})

    @routes.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(docs_page(request.app.openapi()))

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", media_type="text/html")


def describe(served: Served) -> ModelDescription:
    """What `GET /v1/model` says of a model."""
    model = served.model
    fusion = getattr(model.network, "fusion", None)
    together = fusion is not None and type(fusion).__name__ != "MeanFusion"
    return ModelDescription(
        name=model.name,
        sha256=model.sha256,
        labels=model.names,
        image_size=model.image_size,
        level="study" if together else "image",
        calibration=served.described(),
        methods=list(served.methods),
        samples=served.samples,
        thresholds=dict(served.thresholds),
        card=served.card,
        version=__version__,
    )


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _type_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _predict_answer(*given: Any) -> dict[str, Any]:
    wishes, scores, drawing = given
    return predict_answer(wishes[0], scores[0], drawing)


def _predict(house: House, body: bytes) -> Asked:
    if body.count(b",") + body.count(b"[") + body.count(b"{") > _VALUES:  # base64 has none of these
        raise ProblemError(422, f"The body has more than {_VALUES:,} values.")
    try:
        asked = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise _invalid(error) from error
    served = chosen_models([asked.model] if asked.model else [], house.models, "model")[0]
    if asked.samples == 1:
        raise ProblemError(422, "samples: one sample has no spread; give 0, or 2 and more.")
    if asked.samples and not served.samples:
        raise ProblemError(422, f"samples: {served.name} has no dropout to sample; leave it at 0.")
    samples = (_SAMPLES if served.samples else 0) if asked.samples is None else asked.samples
    method = method_of(asked.method or "", served, [served])
    places = label_places(asked.labels or [], served, [served])
    wish = Wish(served, places, method if asked.heatmaps else None, samples, asked.heatmaps)
    return [wish], [Sent(from_base64(asked.cxr_base64), 1, VIEWS.index(asked.view))]


def _invalid(error: ValidationError) -> ProblemError:
    """What is wrong with a JSON body, without quoting it."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    fields = list(PredictRequest.model_fields)
    first = errors[0]
    if first["type"] == "json_invalid":
        return ProblemError(400, "The body is no JSON.")
    # before what is missing: a field of another name is likely to be the reason
    for each in errors:
        if each["type"] == "extra_forbidden":
            return no_such_field(str(each["loc"][-1]), fields)
    known = [str(part) for part in first["loc"] if part in fields]
    return ProblemError(422, f"{'.'.join(known) or 'The body'}: {first['msg']}.")


def _study(house: House, body: bytes, kind: str) -> Asked:
    form = read_form(body, kind, house.settings.max_views, _STUDY)
    if not form.films:
        raise ProblemError(422, "files: send at least one film.")
    count = len(form.films)
    wishes = study_wishes(form.fields, house.models, count)
    views = views_of(form.fields.get("views"), count)
    films = zip(form.films, range(1, count + 1), views, strict=True)
    return wishes, [Sent(content, number, view) for content, number, view in films]


def _preview(body: bytes, kind: str) -> Sent:
    form = read_form(body, kind, 1, _PREVIEW)
    if not form.films:
        raise ProblemError(422, "file: send one film.")
    return Sent(form.films[0], 1, VIEWS.index("unknown"))
