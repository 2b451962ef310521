"""Training: losses, packed batches, fine-tuned adapters."""
