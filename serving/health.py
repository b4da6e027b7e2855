"""Check whether the service of this container is ready: ``python -m serving.health``, status 0 if it is.

``ibt serve`` writes the address to the file that ``IBT_SERVE_ADDRESS_FILE`` names, so that a different
port and TLS are supported.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from urllib.request import urlopen

from serving.settings import PREFIX

SECONDS = 4.0


def is_ready(address: str) -> bool:
    """Whether ``/readyz`` at ``address`` answers 200."""
    # on the loopback interface a certificate proves nothing, and it names a different host
    unverified = ssl._create_unverified_context() if address.startswith("https:") else None
    try:
        with urlopen(f"{address}/readyz", timeout=SECONDS, context=unverified) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> int:
    """Return the exit status."""
    file = os.environ.get(f"{PREFIX}ADDRESS_FILE", "")
    try:
        address = Path(file).read_text(encoding="ascii").strip()
    except OSError:
        print(f"{PREFIX}ADDRESS_FILE does not name the address of a running service", file=sys.stderr)
        return 1
    return 0 if is_ready(address) else 1


if __name__ == "__main__":
    sys.exit(main())
