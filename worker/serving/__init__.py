"""The segmentation worker: a warm model that answers jobs."""
