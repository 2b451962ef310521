"""Inference: from prompts and images to masks."""
