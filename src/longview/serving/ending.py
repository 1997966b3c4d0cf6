"""What ends a process of the server that does not end by itself."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading

logger = logging.getLogger(__name__)

GRACE = 5
"""Seconds beyond a request's, in which what was taken is answered."""
MORE = 15
"""Seconds beyond these, in which everything is put away."""


def end_with_parent(timeout: float) -> None:
    """End this worker when the process that started it has gone: finish what was taken, as after SIGTERM."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        logger.error("the server's first process has gone; this worker ends")
        end_at_last(int(timeout) + GRACE + MORE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="longview-parent", daemon=True).start()


def end_at_last(seconds: float) -> None:
    """End this process after a time, even where a thread hangs."""

    def end() -> None:
        logger.error("the server did not end within %d s; it is ended as it is", seconds)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
