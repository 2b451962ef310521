"""Serving: the warm worker process, its engine, model versions and image cache. No training."""
