"""The models of :mod:`ibt_deploy` over HTTP: a BentoML service, its routes and its web page.

``ibt serve`` and ``bentoml serve serving.service:Scoring`` start it; :func:`serving.http.app.application` is
the ASGI application alone, without BentoML.
"""

import os
import sys

for _name, _value in {
    # Requests run concurrently, so linear algebra threads would only get in their way: idle ones
    # spin, which doubles the CPU time of a recording.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
}.items():
    # read when numpy and bentoml are imported, which happens later
    os.environ.setdefault(_name, _value)

if "BENTOML_CONFIG" not in os.environ and not any(name.startswith("OTEL_") for name in os.environ):
    # BentoML creates three spans per request even if nothing exports them: half a millisecond of CPU
    os.environ["OTEL_SDK_DISABLED"] = "true"


def forbid_usage_reports() -> None:
    """Have BentoML check again whether it may report usage.

    ``bentoml serve`` checks before it imports the service, and caches the answer.
    """
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    reports = sys.modules.get("bentoml._internal.utils.analytics.usage_stats")
    if reports is not None:
        reports.do_not_track.cache_clear()
