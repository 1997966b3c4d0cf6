"""What a server that starts tells of itself, and in what form its log is.

Apart from `serve`: the command line's parser imports what a tool's module names in annotations, here torch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.logging import RichHandler

from longview.serving.settings import Settings

if TYPE_CHECKING:
    from longview.serving.served import Served

logger = logging.getLogger(__name__)


def log_line_by_line() -> None:
    """In a log file, give each line its time, and no spaces up to the width of a terminal."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, RichHandler) and not handler.console.is_terminal:
            plain = logging.StreamHandler(handler.console.file)
            # as the lines of workers are
            plain.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)-8s %(message)s", "%x %X"))
            root.removeHandler(handler)
            root.addHandler(plain)


def tell(served: Sequence[Served], settings: Settings, host: str, port: int) -> None:
    """Log what is served, where it is looked at, and what it takes.

    Args:
        served: The models.
        settings: Limits.
        host: Address that the server listens at.
        port: Its port.
    """
    for each in served:
        model, maps = each.model, f"heat-maps: {', '.join(each.methods) or 'none'}"
        logger.info(
            "%s: %d labels, %d px, on %s; %s", each.name, len(model.names), model.image_size, model.device, maps
        )
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - of all addresses, this machine's own
    address = f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"
    logger.info("page to read studies with: %s/", address)
    logger.info("the API, described: %s/docs", address)
    asked = "clients must send Authorization: Bearer TOKEN" if settings.token else "no token is asked for"
    logger.info("token: %s", asked)
    logger.info(
        "limits: %g MB a request, %g megapixels a film, %d films a study, %d requests waiting, %g s for each",
        settings.max_upload_mb, settings.max_megapixels, settings.max_views, settings.queue, settings.timeout,
    )  # fmt: skip
