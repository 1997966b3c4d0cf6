"""A server that answers the page as the API does, without a model: drawn heat-maps, made-up figures."""

import base64
import io
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from PIL import Image

import longview.serving

PAGE = Path(longview.serving.__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LABELS = {
    "Cardiomegaly": (0.83, 0.32), "Emphysema": (0.41, 0.36), "Pleural_Thickening": (0.12, 0.2), "Effusion": (0.07, 0.3),
    "Pneumothorax": (0.004, 0.1), "Calcification of the Aorta": (0.0002, 0.02), "Hernia": (0.22, 0.25),
    "Lung Opacity": (0.55, 0.5), "Nodule": (0.18, 0.3), "Support Devices": (0.31, 0.4), "Fracture": (0.05, 0.12),
    "Atelectasis": (0.26, 0.35), "Consolidation": (0.09, 0.22), "Edema": (0.03, 0.2), "Mass": (0.11, 0.24),
}  # fmt: skip
"""Label -> probability and threshold of the first model."""
MODELS = ("phantom-densenet", "phantom-mobilenet")
BOX = (0.25, 0.5, 0.5, 0.25)  # left, top, width, height of each predicted box, as shares of the film


def film_png(width, height, seed=0):
    """A drawn film as PNG: bright lungs' surroundings and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    lungs = sum(np.exp(-(((x - middle) / 0.13) ** 2 + ((y - 0.45) / 0.28) ** 2)) for middle in (0.3, 0.7))
    film = np.clip(200 - 150 * lungs + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return file.getvalue()


def heat_uri(width, height, index):
    """A bump as 8-bit grey PNG in a data URI, elsewhere for each label."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    middle = 0.5 + 0.18 * np.cos(index * 2.1), 0.58 + 0.2 * np.sin(index * 1.3)
    bump = np.exp(-(((x - middle[0]) / 0.16) ** 2 + ((y - middle[1]) / 0.13) ** 2))
    file = io.BytesIO()
    Image.fromarray((255 * bump).astype(np.uint8)).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def problem(status, detail, **headers):
    body = {"type": "about:blank", "title": "problem", "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def names_of(model):
    return list(LABELS) if model == MODELS[0] else [name for name in LABELS if name != "Hernia"]


def entry(label, model, sizes, samples, heatmaps, boxes):
    probability, threshold = LABELS[label]
    if model != MODELS[0]:
        probability = min(0.99, probability * 0.8 + 0.05)
    number = list(LABELS).index(label) + 3 * MODELS.index(model)
    views = []
    for index, (width, height) in enumerate(sizes):
        left, top, across, down = BOX
        box = {"x": left * width, "y": top * height, "width": across * width, "height": down * height, "score": 0.9}
        views.append({
            "index": index,
            "share": [0.64, 0.36][index] if heatmaps and len(sizes) == 2 else None,
            "heatmap": heat_uri(width, height, number + index) if heatmaps else None,
            "boxes": [box] if boxes else [],
        })  # fmt: skip
    spread = probability * (1 - probability) / 20
    return {
        "label": label, "probability": probability, "positive": probability >= threshold, "threshold": threshold,
        "interval": [max(0, probability - spread**0.5), min(1, probability + spread**0.5)] if samples else None,
        "variance": spread if samples else None, "standard_deviation": spread**0.5 if samples else None,
        "predictive_entropy": 0.4 if samples else None, "mutual_information": 0.02 if samples else None,
        "views": views,
    }  # fmt: skip


def make_app(token=None, busy=0):
    """The stub; `asked` of its state holds the fields of each study. `busy`: studies with maps refused at first."""
    app = FastAPI()
    app.state.asked, app.state.busy = [], busy
    app.mount("/static", StaticFiles(directory=PAGE))

    @app.middleware("http")
    async def guard(request: Request, call_next):
        if token and request.url.path.startswith("/v1/") and request.headers.get("authorization") != f"Bearer {token}":
            return problem(401, "Give the token.")
        answer = await call_next(request)
        answer.headers["Content-Security-Policy"] = POLICY
        return answer

    @app.get("/")
    def page():
        return FileResponse(PAGE / "index.html")

    @app.get("/v1/model")
    def model():
        return {"models": [
            {"name": name, "sha256": f"{index}" * 64, "labels": names_of(name), "image_size": 224, "level": "study",
             "calibration": None, "methods": ["cam", "gradcam"], "card": None, "version": "0.1"}
            for index, name in enumerate(MODELS)
        ]}  # fmt: skip

    @app.post("/v1/preview")
    def preview(file: UploadFile):
        data = file.file.read()
        if data[128:132] != b"DICM":
            return problem(415, "The file is neither PNG, JPEG nor DICOM.")
        return Response(film_png(120, 160), media_type="image/png")

    @app.post("/v1/studies")
    def studies(
        files: list[UploadFile] = File(),  # noqa: B008
        views: str = Form(""),
        models: str = Form(""),
        labels: str = Form(""),
        method: str = Form("none"),
        samples: int = Form(0),
        heatmaps: bool = Form(False),
        boxes: bool = Form(False),
    ):
        app.state.asked.append({
            "files": [file.filename for file in files], "views": views, "models": models, "labels": labels,
            "method": method, "samples": samples, "heatmaps": heatmaps,
        })  # fmt: skip
        if samples > 50:
            return problem(422, "samples 99: at most 50.")
        if heatmaps and app.state.busy:
            app.state.busy -= 1
            return problem(429, "The queue is full.", **{"Retry-After": "1"})
        sizes = []
        for file in files:
            data = file.file.read()
            dicom = data[128:132] == b"DICM"
            sizes.append((120, 160) if dicom else Image.open(io.BytesIO(data)).size)
        kinds = views.split(",") if views else ["unknown"] * len(files)
        return {
            "models": [
                {"model": name, "sha256": "0" * 64, "calibrated": name == MODELS[0], "duration_seconds": 0.12,
                 "labels": sorted((entry(label, name, sizes, samples, heatmaps, boxes)
                                   for label in (labels.split(",") if labels else names_of(name))),
                                  key=lambda row: -row["probability"])}
                for name in models.split(",")
            ],
            "views": [{"index": index, "view": kind, "width": width, "height": height}
                      for index, (kind, (width, height)) in enumerate(zip(kinds, sizes, strict=True))],
            "research_only": True,
        }  # fmt: skip

    return app


@contextmanager
def running(app):
    """The app behind a real port, as its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)
