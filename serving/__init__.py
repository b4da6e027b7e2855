"""The models of :mod:`ibt_deploy` over HTTP: a BentoML service, its routes and its web page.

``ibt serve`` and ``bentoml serve serving.service:Scoring`` start it; :func:`serving.app.application` is the
ASGI application alone, without BentoML.
"""

import os

for _name, _value in {
    # Requests run side by side, so that threads of linear algebra would only get in their way: idle ones
    # spin, which doubles the CPU time of a recording.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
}.items():
    # read when numpy and bentoml are imported, which is later
    os.environ.setdefault(_name, _value)
