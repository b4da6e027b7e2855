"""How alike two networks are inside: in their features, and in what they attend to.

====================================  ==============================================================
:mod:`training.similarity.cka`        features: unbiased centred kernel alignment of all pairs of layers
:mod:`training.similarity.attention`  how far and how locally each block attends, in maps and numbers
====================================  ==============================================================

Neither is a measure of quality. Read each beside its ceiling, a second teacher of another seed. Agreement of
outputs is in :mod:`training.study.measures`.
"""
