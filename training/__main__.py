"""``python -m training``: the commands of ``ibt train`` as a module, for ``torchrun``."""

from training.cli import train
from training.study.cli import reproduce

train.add_command(reproduce)
train(prog_name="python -m training")
