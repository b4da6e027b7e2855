"""Worker: a separate process that scores the parts it is asked for.

Started as ``python -m ibt_deploy.batch.worker``, so that a notebook needs no ``__main__`` guard. It
reads pickled requests from its standard input and writes pickled reports to its standard output; before it
reads an input it reports which one, so that the parent process knows which input killed it.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
from typing import Any, BinaryIO

from ibt_deploy.batch.local import Crashed, Done, Failed, Reading, Report, Request, Setting
from ibt_deploy.batch.scoring import PartScorer, ReadingCrashed
from ibt_deploy.device import keep_small_blocks
from ibt_deploy.errors import IbtError, one_line


def serve(requests: BinaryIO, reports: BinaryIO) -> None:
    """Score parts until there are no more requests."""
    lock = threading.Lock()

    def send(report: Report) -> None:
        with lock:
            pickle.dump(report, reports)
            reports.flush()

    setting: Setting = pickle.load(requests)
    try:
        scorer = PartScorer(setting.job, setting.output, setting.threads)
        while True:
            try:
                request: Request = pickle.load(requests)
            except EOFError:
                return
            tally = scorer.part(
                setting.items, request.part, request.skipped, lambda place: send(Reading(place))
            )
            send(Done(tally))
    except IbtError as error:
        send(Failed(one_line(error)))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        send(Failed(one_line(f"{place}{error.strerror or error}")))
    except ReadingCrashed as error:
        send(Crashed(one_line(error)[:500]))
        raise
    except Exception as error:
        send(Failed(one_line(f"internal error: {type(error).__name__}: {error}")))
        raise


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None)
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.name == "posix" and os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Serve on the standard streams; whatever else prints goes to standard error."""
    _die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_small_blocks()
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as reports:
        os.dup2(2, 1)
        serve(requests, reports)


if __name__ == "__main__":
    main()
