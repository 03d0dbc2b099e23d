"""Training: model loading, SFT, GRPO, rollouts, the completions log, checkpoints, launching."""
