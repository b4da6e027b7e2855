"""The models of :mod:`ibt_deploy` over HTTP: a BentoML service, its routes and its web page.

``ibt serve`` and ``bentoml serve serving.service:Scoring`` start it; :func:`serving.app.application` is the
ASGI application alone, without BentoML.
"""
