"""The HTTP service that implements Label Studio's ML backend protocol."""
