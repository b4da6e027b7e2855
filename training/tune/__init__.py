"""Search for settings: random draws, and successive halving that ends hopeless trials early.

=============================== ====================================================================
:mod:`training.tune.space`      what is drawn: the spaces of the specification, a seeded draw a trial
:mod:`training.tune.halving`    asynchronous successive halving, its decisions kept on disk
:mod:`training.tune.trials`     a trial: its recipe, its folder, what became of it
:mod:`training.tune.search`     the whole search, its table, its best recipe, its report
:mod:`training.tune.report`     what a search leaves for readers
:mod:`training.tune.local`      trials in this process, or in several of this machine
:mod:`training.tune.with_ray`   the same trials under Ray Tune
=============================== ====================================================================
"""
