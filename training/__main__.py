"""``python -m training``: the commands of ``ibt train`` where a module is wanted, as under ``torchrun``."""

from training.cli import train

train(prog_name="python -m training")
