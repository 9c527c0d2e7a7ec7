"""Training: schedules, the one loop, evaluation, batch-norm life, checkpoints and runs."""
