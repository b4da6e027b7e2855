"""The study behind the software: the paper's tables and figures reproduced, with the controls it lacks."""
