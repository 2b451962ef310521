"""Label Studio's API, and the format of its brush masks."""
