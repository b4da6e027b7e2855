"""Train teachers (CNN, residual LSTM), baselines, and students distilled by block-by-block matching."""
