"""From what was read to what a model reads; training and scoring use the very same code."""
