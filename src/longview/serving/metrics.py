"""What a server counts of itself, for Prometheus; each worker for itself, told apart by the label `worker`."""

from __future__ import annotations

import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FILMS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one process. None of their labels comes from a request, but for its method and known address."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._worker = str(os.getpid())
        own = ["worker"]
        self._requests = Counter(
            "longview_requests_total", "Requests answered.", [*own, "route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "longview_request_seconds", "Seconds for a request.", [*own, "route"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._batches = Histogram(
            "longview_batch_films", "Films in a pass of a network.", [*own, "model"], buckets=_FILMS,
            registry=self.registry,
        )  # fmt: skip
        self._passes = Histogram(
            "longview_pass_seconds", "Seconds for a pass of a network.", [*own, "model"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._films = Counter("longview_films_total", "Films decoded.", [*own, "kind"], registry=self.registry)
        self._inside = Gauge("longview_requests_inside", "Requests worked on or waiting.", own, registry=self.registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(self._worker, route, method, str(status)).inc()
        self._seconds.labels(self._worker, route).observe(seconds)

    def passed(self, model: str) -> Callable[[int, float], None]:
        """What counts the passes of a model: films, seconds."""

        def observe(films: int, seconds: float) -> None:
            self._batches.labels(self._worker, model).observe(films)
            self._passes.labels(self._worker, model).observe(seconds)

        return observe

    def decoded(self, kind: str) -> None:
        """Count a film."""
        self._films.labels(self._worker, kind).inc()

    def watch(self, inside: Callable[[], int]) -> None:
        """Ask this for the number of requests in the house."""
        self._inside.labels(self._worker).set_function(inside)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
