"""Whether a model hub can be reached at all: its own client retries for about 26 seconds before it gives up."""

from __future__ import annotations

import urllib.error
import urllib.request

PROBE_SECONDS = 5.0
"""How long a server may take to answer."""


def unreachable(url: str, offline: bool) -> str | None:
    """Why a download would fail, or None where a server answers."""
    if offline:
        return "HF_HUB_OFFLINE is set"
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - https address from timm's registry or the hub
    try:
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):  # noqa: S310
            return None
    except urllib.error.HTTPError:
        return None  # a server answered; the client's own request has the credentials and the better message
    except OSError as error:
        return f"no answer from {request.host} ({getattr(error, 'reason', error)})"
