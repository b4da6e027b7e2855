"""The study behind the software: the paper's tables and figures, repeated, with the controls it lacks."""
