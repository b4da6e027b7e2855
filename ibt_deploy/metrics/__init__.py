"""Scores: the official measures of the two Challenges, ranking measures, alarm burden and intervals.

==================================== ==========================================================
:mod:`ibt_deploy.metrics.arrhythmia` challenge metric 2021, macro F, accuracy
:mod:`ibt_deploy.metrics.sepsis`     utility 2019 at every threshold, alarm burden
:mod:`ibt_deploy.metrics.ranking`    AUROC, AUPRC, Brier score
:mod:`ibt_deploy.metrics.bootstrap`  intervals over patients
==================================== ==========================================================

Everything here is plain numpy, because training, ``ibt evaluate`` and a hospital's own check must compute
exactly the same numbers. The rows of all stays are flat: those of stay ``i`` are
``offsets[i]:offsets[i + 1]``.
"""
