"""Score labelled inputs with the official metrics: how a hospital validates a model on its own patients.

:mod:`ibt_deploy.evaluation.labels` finds inputs and their labels, :mod:`ibt_deploy.evaluation.arrhythmia` and
:mod:`ibt_deploy.evaluation.sepsis` score them, :mod:`ibt_deploy.evaluation.result` is what comes out.
"""
