"""How alike two networks are: in their outputs, in their features, and in what they attend to.

================================= ==================================================================
:mod:`training.similarity.cka`    features: unbiased centred kernel alignment of every pair of layers
:mod:`training.similarity.attention`  where the blocks of a transformer look, as pictures and numbers
:mod:`training.similarity.agreement`  outputs: R squared of student and teacher, with intervals
================================= ==================================================================

None of these is a measure of quality. Read each beside its ceiling, a second teacher of another seed.
"""
