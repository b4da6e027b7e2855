"""Score labelled inputs with the official metrics, recalibrate on them, and watch exports without labels.

:mod:`ibt_deploy.evaluation.labels` finds inputs and their labels, :mod:`ibt_deploy.evaluation.arrhythmia` and
:mod:`ibt_deploy.evaluation.sepsis` score them, :mod:`ibt_deploy.evaluation.result` holds the outcome.
:mod:`ibt_deploy.evaluation.recalibration` fits a site's own calibration and thresholds and writes them;
:mod:`ibt_deploy.evaluation.monitoring` compares two finished runs of ``ibt batch``.
"""
