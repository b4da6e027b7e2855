"""From prepared inputs to predictions, one module per task.

A scorer has two steps, because batches are made between them: ``prepare(input)`` refuses an input or turns
it into arrays, and ``score(prepared, batch_size)`` runs them through the graph. It is made by
:func:`ibt_deploy.predictor.load`.
"""
