"""From an untrusted image reference to an RGB picture. No torch."""
