"""What libraries do to a process that decodes a film. A module of its own: decoders import nothing large."""

import os
from pathlib import Path

import numpy as np


def abort(_sent, _settings):
    """As C++ does with an exception that nobody catches."""
    os.abort()


def hang(_sent, _settings):
    """Walk in a circle."""
    while True:
        pass


def fill(_sent, _settings):
    """Take 40 GB."""
    return len(np.ones(40_000_000_000, np.uint8))


def write(sent, _settings):
    """Leave something on the disk."""
    Path(sent.content.decode()).write_bytes(b"film")


def told(_sent, settings):
    """What a decoder knows."""
    return settings.token
