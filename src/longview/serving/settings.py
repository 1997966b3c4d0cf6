"""What a server takes, how long it works on it, and whom it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from longview import InputError

MAX_SIDE = 20_000
"""Longest side of a film in px; the largest detectors have a quarter of it."""
MIN_SIDE = 8
"""Shortest side of a film in px; what is smaller shows no chest."""


@dataclass(frozen=True)
class Settings:
    """Limits of one server process.

    Args:
        max_upload_mb: Largest request body, in MB of 10^6 bytes; `/predict` gets a third more, for base64.
        max_megapixels: Largest film, in 10^6 pixels, read from its header before anything is decoded.
        max_views: Most films of a study.
        decoded_megapixels: Decoded films that are in memory at once, in 10^6 pixels (a byte each); others wait.
        queue: Requests that may wait beside those that are worked on; the next is refused (429).
        batch: Most films in one pass of a network.
        wait_ms: How long a pass waits for requests that are on their way, in milliseconds.
        timeout: Seconds for a request, its body included.
        decoders: Processes that decode films, and threads that draw heat-maps.
        cores: Threads of the networks on a CPU.
        token: What clients must show as bearer token; None: nothing.
        allow_origin: Web origins whose pages may ask (CORS); none by default.
        hosts: Names in the header Host that are answered; none: any.

    Raises:
        InputError: For a value out of its range.
    """

    max_upload_mb: float = 64.0
    max_megapixels: float = 40.0
    max_views: int = 8
    decoded_megapixels: float = 640.0
    queue: int = 64
    batch: int = 16
    wait_ms: float = 5.0
    timeout: float = 60.0
    decoders: int = 2
    cores: int = 1
    token: str | None = field(default=None, repr=False)
    allow_origin: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {
            "max_upload_mb": 0.001, "max_megapixels": 0.001, "max_views": 1, "decoded_megapixels": 0.001,
            "queue": 0, "batch": 1, "wait_ms": 0,
            "timeout": 0.1, "decoders": 1, "cores": 1,
        }  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if not value >= bound:
                raise InputError(f"--{name.replace('_', '-')} {value}: give at least {bound}")

    @property
    def body_bytes(self) -> int:
        """Largest body of films as they are."""
        return int(self.max_upload_mb * 1e6)

    @property
    def base64_bytes(self) -> int:
        """Largest body of films in base64."""
        return self.body_bytes * 4 // 3 + 65_536

    @property
    def max_pixels(self) -> int:
        """Largest film in pixels."""
        return int(self.max_megapixels * 1e6)

    @property
    def decoded_pixels(self) -> int:
        """Pixels of all decoded films."""
        return max(int(self.decoded_megapixels * 1e6), self.max_pixels)

    @property
    def capacity(self) -> int:
        """Requests that are in the house at most."""
        return self.queue + self.batch
