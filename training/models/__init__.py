"""Networks, each an encoder that can be run from any unit to any other, followed by a head.

Every network here offers the same four things, so that block-by-block matching need not know which
network it holds (:class:`training.models.encoder.Encoder`).
"""
