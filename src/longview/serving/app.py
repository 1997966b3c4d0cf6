"""The server as an ASGI application: models behind addresses, and a page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from longview import __version__
from longview.serving.dicom_guard import silence
from longview.serving.door import Door
from longview.serving.house import House
from longview.serving.metrics import Metrics
from longview.serving.problems import ProblemError, answer_http, answer_problem
from longview.serving.routes import PAGE, router
from longview.serving.served import Served
from longview.serving.settings import Settings

_ABOUT = (
    "Chest X-rays to probabilities of findings, by trained models. Research only: not a medical device.\n\n"
    "Films are PNG, JPEG or DICOM; they are decoded in memory, and nothing of them is kept. Errors are "
    "application/problem+json."
)


def create_app(models: Sequence[Served], settings: Settings | None = None) -> FastAPI:
    """The application.

    Args:
        models: What is served, the default first.
        settings: Limits; None: the defaults.
    """
    settings = settings or Settings()
    metrics = Metrics()
    house = House(models, settings, metrics)
    silence()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if not house.ready:
            house.open()
        yield
        await run_in_threadpool(house.close)

    app = FastAPI(
        title="longview",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.house = house
    app.include_router(router(house))
    app.mount("/static", StaticFiles(directory=PAGE, check_dir=False))
    app.add_exception_handler(ProblemError, answer_problem)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_middleware(Door, settings=settings, gate=house.gate, metrics=metrics)
    if settings.allow_origin:  # outermost: refusals must reach the pages that are allowed, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app
