"""Turn input as read into what a model reads; training and scoring use exactly the same code."""
