"""Score a whole export: every record answered or refused, on all cores, after any number of interruptions.

The inputs are listed first (:mod:`~ibt_deploy.batch.sources`, :mod:`~ibt_deploy.batch.archives`), written
down as a plan and cut into numbered parts (:mod:`~ibt_deploy.batch.plan`). A part is read, preprocessed and
scored by one worker in fixed batches (:mod:`~ibt_deploy.batch.scoring`) and written atomically
(:mod:`~ibt_deploy.batch.output`). The output does not depend on which worker does which part, or when.

>>> from ibt_deploy.batch.run import Options, run_batch
>>> run_batch(Options(("export/",), out="scores/"))  # doctest: +SKIP
"""
