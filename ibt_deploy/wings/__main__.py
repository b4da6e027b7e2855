"""``python -m ibt_deploy.wings MODULE ...`` runs a module of a wing; without a module it prints their folder.

>>> python -m ibt_deploy.wings serving.health  # doctest: +SKIP
>>> bentoml serve serving.service:Scoring --working-dir "$(python -m ibt_deploy.wings)"  # doctest: +SKIP
"""

from __future__ import annotations

import runpy
import sys

from ibt_deploy.wings import folder, on_path


def main() -> None:
    """Run the module that the first argument names, with the other arguments."""
    on_path()
    if len(sys.argv) < 2:
        print(folder())
        return
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
