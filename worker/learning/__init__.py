"""Training runs: fine-tune a candidate, compare it with the serving version, decide."""
