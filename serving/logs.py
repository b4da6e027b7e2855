"""One line of JSON on standard error for each request: never a file name, a value or a message."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any


def log(event: str, **fields: Any) -> None:
    """Write one line; fields that are None are left out."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    line = {"time": stamp, "event": event} | {k: v for k, v in fields.items() if v is not None}
    with contextlib.suppress(OSError, ValueError):  # nobody reads it: no reason to fail a request
        sys.stderr.write(json.dumps(line) + "\n")


def take_over() -> None:
    """From now on write what libraries log or warn of as such lines, too.

    They tell the place and not the words, which may hold what a client sent. Not to be called before the
    service is ready: whoever starts it wants to read why it fails.
    """
    root = logging.getLogger()
    known = [entry for entry in root.manager.loggerDict.values() if isinstance(entry, logging.Logger)]
    for logger in (root, *known):
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler):
                logger.removeHandler(handler)
    root.addHandler(_Lines(logging.WARNING))
    # these two only repeat, less well, what the line of the request says
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    warnings.showwarning = _warned


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Say who logged, where, and at what kind of error."""
        raised = record.exc_info[0] if record.exc_info else None
        log(
            "library",
            logger=record.name,
            level=record.levelname,
            place=f"{record.filename}:{record.lineno}",
            error=None if raised is None else raised.__name__,
        )


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    del message
    log("warning", kind=category.__name__, place=f"{Path(filename).name}:{lineno}")
