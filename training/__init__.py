"""Train teachers, baselines and students: Hannun's CNN, residual LSTM, transformers, DeiT and block-by-block matching."""
