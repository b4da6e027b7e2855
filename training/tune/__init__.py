"""Search for settings: random draws, and successive halving that stops unpromising trials early.

=============================== ====================================================================
:mod:`training.tune.search`     what is drawn, the whole search, its table, best recipe and report
:mod:`training.tune.trials`     a trial, the halving rule, trials in this process or in several
:mod:`training.tune.with_ray`   the same trials under Ray Tune
=============================== ====================================================================

Both engines stay. Ours needs no dependency, gives the same table again with one trial at a time and resumes
exactly; Ray places trials on the GPUs and machines of a cluster. They share draws, folders and records: Ray
costs one module.
"""
