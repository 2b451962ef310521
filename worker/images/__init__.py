"""Fetches and decodes images from untrusted references. No torch."""
