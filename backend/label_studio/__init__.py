"""Label Studio's own API and mask format."""
