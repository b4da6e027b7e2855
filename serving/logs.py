"""One line of JSON on standard error for each request: never a file name, a value or a message."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_logger = logging.getLogger("ibt.serve")


def start() -> None:
    """Send the lines to standard error, whatever else is configured."""
    if _logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


def log(event: str, **fields: Any) -> None:
    """Write one line; fields that are None are left out."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    _logger.info(
        json.dumps({"time": stamp, "event": event} | {k: v for k, v in fields.items() if v is not None})
    )
