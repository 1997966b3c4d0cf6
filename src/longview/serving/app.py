"""The server as an ASGI application: models behind addresses, and a page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from longview import __version__
from longview.serving.dicom_guard import silence
from longview.serving.dispatch import Dispatch
from longview.serving.door import Door, Receive, Scope, Send
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
        redirect_slashes=False,  # a redirect repeats the Host that a client claims
    )
    app.state.house = house
    api = router(house)
    app.include_router(api)
    app.mount("/static", StaticFiles(directory=PAGE, check_dir=False))
    app.add_exception_handler(ProblemError, answer_problem)
    app.add_exception_handler(HTTPException, answer_http)
    takes = {route.path for route in api.routes if isinstance(route, APIRoute) and "POST" in (route.methods or ())}
    app.add_middleware(Door, settings=settings, gate=house.gate, takes=takes)
    if settings.allow_origin:  # around the door: refusals must reach the pages that are allowed, too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    if settings.hosts:
        app.add_middleware(_Hosts, allowed_hosts=list(settings.hosts), www_redirect=False)
    app.add_middleware(Dispatch, settings=settings, metrics=metrics)
    return app


class _Hosts(TrustedHostMiddleware):
    """Refuses names that are not this server's: a page whose own name leads here is a browser's, which sends one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it; one without a name is a probe's of HTTP/1.0."""
        named = any(name == b"host" for name, _ in scope.get("headers", ()))
        await (super().__call__ if named else self.app)(scope, receive, send)
