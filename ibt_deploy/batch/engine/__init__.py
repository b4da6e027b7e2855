"""The engines that score the parts of a run: worker processes of one machine, or a Ray cluster."""
