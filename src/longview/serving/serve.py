"""`main.py serve`: trained models behind HTTP."""

from __future__ import annotations

import importlib
import ipaddress
import logging
import os
import socket
from pathlib import Path
from typing import Any

from longview import InputError
from longview.serving.plan import Plan
from longview.serving.settings import Settings

logger = logging.getLogger(__name__)

_EXTRA = ("fastapi", "pebble", "prometheus_client", "python_multipart", "uvicorn")


def serve(
    checkpoint: list[str],
    *,
    calibration: list[Path] | None = None,
    rule: str | None = None,
    threshold: float = 0.5,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    cores: int | None = None,
    token_file: Path | None = None,
    allow_origin: list[str] | None = None,
    max_upload_mb: float = 64.0,
    max_megapixels: float = 40.0,
    decoded_megapixels: float = 640.0,
    queue: int = 64,
    batch: int = 16,
    wait_ms: float = 5.0,
    timeout: float = 60.0,
    device: str = "auto",
    weights: Path | None = None,
) -> None:
    r"""Serve models: an API, and a page at / to read studies with. Research only.

        uv run --extra serve main.py serve --checkpoint runs/nih_1000/version_0/checkpoints/best.ckpt
        echo "{\"cxr_base64\": \"$(base64 -w 0 film.png)\"}" | \
            curl -X POST http://127.0.0.1:8000/predict -H 'Content-Type: application/json' -d @-
        curl http://127.0.0.1:8000/v1/studies -F files=@pa.png -F files=@lateral.dcm -F views=PA,lateral

    POST /predict scores one film in base64, POST /v1/studies the films of a study (PNG, JPEG, DICOM): probabilities,
    decisions, and on demand heat-maps, boxes and the spread of Monte-Carlo dropout. GET /v1/model, /healthz, /readyz,
    /metrics (Prometheus) and /docs say the rest; scripts/serve_client.py is a client. Errors are problem+json.

    Requests that wait are scored together, up to --batch films; what comes beyond --queue waiting ones is refused with
    429. Films are decoded in memory, in processes of their own, from a header that was checked first; nothing of them
    is written, logged or sent back. SIGTERM ends the server when what it took is answered. Workers share nothing but
    the port, so each loads the models, takes its share of the cores and counts for itself in /metrics.

    There is no TLS: put a proxy before it that has, and a --token-file, when others than this machine may ask.

    Args:
        checkpoint: Models: checkpoints, exports (.onnx, .safetensors, a hub's folder), or names of published ones. The
            first answers unless a request names another.
        calibration: Files that `calibrate` wrote for these models; each goes to the one that it was fitted on.
        rule: Which of their thresholds (f1, youden, ...); each file's first by default.
        threshold: Probability from which a finding is positive, where no calibration says.
        host: Address to listen at; 0.0.0.0: every one of this machine.
        port: Port to listen at; 0: any that is free.
        workers: Processes.
        cores: CPU threads of a worker's networks; its share of the cores by default.
        token_file: File with the token that clients must send as `Authorization: Bearer TOKEN`.
        allow_origin: Web origins (scheme://host[:port]) whose pages may use the API; none by default, * for all.
        max_upload_mb: Largest request, in MB of films.
        max_megapixels: Largest film, in 10^6 pixels.
        decoded_megapixels: Films that are decoded at once, in 10^6 pixels of a byte each; others wait.
        queue: Requests that may wait.
        batch: Most films in one pass of a network; 1 scores one at a time.
        wait_ms: Milliseconds that a pass waits for requests that are on their way.
        timeout: Seconds for a request, from its first byte.
        device: auto, cpu, cuda, cuda:1 or mps; of an .onnx file also openvino and openvino-bf16.
        weights: Folder of published models' weights; see `classify`.
    """
    _check_extra()
    # idle OpenMP threads that spin slow down each other; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not checkpoint or len(set(checkpoint)) < len(checkpoint):
        raise InputError("--checkpoint: give one model or several, each once")
    from longview.serving.given import check_models, check_numbers, checked_origins, plain_host
    from longview.serving.security import read_token
    from longview.serving.telling import log_line_by_line

    log_line_by_line()
    check_numbers(workers, port, threshold)
    host = plain_host(host)
    settings = Settings(
        max_upload_mb=max_upload_mb,
        max_megapixels=max_megapixels,
        decoded_megapixels=decoded_megapixels,
        queue=queue,
        batch=batch,
        wait_ms=wait_ms,
        timeout=timeout,
        decoders=max(2, (os.cpu_count() or 2) // workers),
        cores=max(1, (os.cpu_count() or 1) // workers) if cores is None else cores,
        token=read_token(token_file) if token_file else None,
        allow_origin=checked_origins(allow_origin or ()),
    )
    plan = Plan(
        tuple(checkpoint), tuple(calibration or ()), rule, threshold, weights, device, settings, workers
    )  # fmt: skip
    with _listening(host, port) as listener:
        check_models(plan.checkpoints, plan.calibrations, rule)
        if settings.token is None and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            logger.warning("--host %s without --token-file: everybody who reaches this machine may ask", host)
        _run(plan, listener)


def _check_extra() -> None:
    for name in _EXTRA:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"serve needs {name}, which is not installed: uv sync --extra serve (or pip install 'longview[serve]')"
            ) from error


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens, which workers inherit.

    Raises:
        InputError: Where the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InputError(f"--host {host} --port {port}: {error.strerror or error}; give another one") from error
    listener.set_inheritable(True)
    return listener


def _run(plan: Plan, listener: socket.socket) -> None:
    """Serve until a signal says otherwise."""
    from longview.serving.running import run
    from longview.serving.telling import tell

    host, port = listener.getsockname()[:2]
    plan = plan.bound_to(host)
    # mistakes are told here, once, and not by every worker again and again
    served = plan.open()
    tell(served, plan.settings, host, port)
    logger.info(
        "longview serves on http://%s:%d (workers: %d)", f"[{host}]" if ":" in host else host, port, plan.workers
    )
    app: Any = plan
    if plan.workers == 1:
        from longview.serving.app import create_app

        app = create_app(served, plan.settings)
    del served
    run(app, plan.workers, plan.settings.timeout, listener)
