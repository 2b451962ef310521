"""Rendered scenes with questions, answers and exact masks."""
